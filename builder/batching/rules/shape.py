"""Operators that lay out elements anew: reshape, transpose, join, cut, repeat."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter, stored
from builder.batching.layout import DROPPED, Batch, Dropped, Placed, Shape, choose, padded, placements
from builder.batching.rule import Known, Op, Plan, Wanted, required
from builder.batching.rules.axes import normalized, only_batched, sample_indices
from builder.batching.rules.registry import ai_onnx, table


def reshaped(op: Op, target: Shape, *, grows: int | None = None) -> tuple[Batch, Batch]:
    """How the data's batch goes through a reshape to the static `target`.

    Returns:
        The form to bring the data to, and the batch of the result.
    """
    operand, batch = op.samples(0)
    found = placements(operand.shape, batch, target, op.static_batch) if isinstance(batch, Placed) else []
    if isinstance(batch, Dropped) or not found:
        if op.static_batch > 1:
            op.refuse(f"it splits the batch over several axes: {list(operand.shape)} to {list(target)}")
        return batch.lift(), DROPPED
    chosen = choose(operand.shape, batch, target, found, grows=grows)
    if op.static_batch > 1:
        chosen = replace(chosen, certain=True)
    return batch, replace(chosen, lifted=batch.lifted)


def reshape(op: Op) -> Plan:
    """Reshape: the batch keeps its place among the elements, so the target follows from the static shapes.

    `[N, 3, 8, 8]` to a static `[1, 192]` becomes `[-1, 192]`; `[N, 64, 49, 32]` to `[64, 49, 32]` becomes
    `[-1, 49, 32]`.

    Source: https://onnx.ai/onnx/operators/onnx__Reshape.html
    """
    target = op.outputs[0]
    given = op.shown(1) if len(op.inputs) > 1 else np.asarray(op.attribute("shape", ()))
    grows = None
    if given is not None and -1 in given:
        grows = given.ravel().tolist().index(-1)
    source, result = reshaped(op, target, grows=grows)
    wanted = np.asarray(result.target(target), np.int64)
    what = ""
    if given is not None and given.shape == wanted.shape and (given != wanted).any():
        what = f"shape {given.tolist()} became {wanted.tolist()}"
    return Plan([result], {0: source, 1: wanted}, build=_build_reshape, what=what)


def _build_reshape(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
    data, target = required(inputs, 0), required(inputs, 1)
    return [emit.reshape(data, stored(target).numpy().tolist())]


def flatten(op: Op) -> Plan:
    """Flatten to two axes; it follows N by itself while the batch is on axis 0 and `axis` is behind it."""
    operand, batch = op.samples(0)
    axis = op.axis(1, operand.rank)
    source, result = reshaped(op, op.outputs[0], grows=0)
    if not batch.lifted and batch.axis == 0 and axis == 1 and result.is_on(0):
        return Plan([result])
    wanted = np.asarray(result.target(op.outputs[0]), np.int64)
    return Plan([result], {0: source, 1: wanted}, build=_build_reshape, what=f"flattens to {wanted.tolist()}")


def squeeze(op: Op) -> Plan:
    """Squeeze axes of one. The batch of one is dropped with them only where every sample is lifted."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="axes")
    given = op.constant_or_none(1)
    listed = given.ravel().tolist() if given is not None else op.attribute("axes", ())
    axes = normalized(listed, operand.rank) or [i for i, d in enumerate(operand.shape) if d == 1]
    return _drop_axes(op, batch, axes)


def _drop_axes(op: Op, batch: Batch, axes: Sequence[int]) -> Plan:
    shape = op.outputs[0]
    result = DROPPED if batch.is_on(*axes) else batch.moved(lambda axis: axis - sum(a < axis for a in axes))
    source = batch.lift() if isinstance(result, Dropped) else batch
    return Plan([result], {0: source, 1: np.asarray(result.target(shape), np.int64)}, build=_build_reshape)


def unsqueeze(op: Op) -> Plan:
    """Unsqueeze: axes of one are put in."""
    given = op.constant_or_none(1)
    return unsqueeze_at(op, given.ravel().tolist() if given is not None else op.attribute("axes", ()))


def unsqueeze_at(op: Op, listed: Sequence[int]) -> Plan:
    """Put in axes of one; the batch moves behind those before it."""
    batch = only_batched(op, 0, role="axes")
    shape = op.outputs[0]
    axes = set(normalized(listed, len(shape)))
    kept = [i for i in range(len(shape)) if i not in axes]
    result = batch.moved(lambda axis: kept[axis])
    return Plan([result], {1: np.asarray(result.target(shape), np.int64)}, build=_build_reshape)


def transpose(op: Op) -> Plan:
    """Transpose: `perm` carries the batch along; lifted, the samples are transposed."""
    operand, batch = op.samples(0)
    perm = list(op.attribute("perm", None) or range(operand.rank)[::-1])
    if sorted(perm) != list(range(operand.rank)):
        op.refuse(f"perm {perm} is no order of its input's {operand.rank} axes")
    result = batch.moved(perm.index)
    if batch.lifted:
        perm = [0, *(p + 1 for p in perm)]
    return Plan([result], attributes={"perm": perm})


def expand(op: Op) -> Plan:
    """Expand: 1 in the target keeps an axis as it is, so the batch's axis becomes 1 there."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="shape")
    shape = op.outputs[0]
    shift = len(shape) - operand.rank
    result = batch.moved(lambda axis: axis + shift)
    if isinstance(result, Placed) and shape[result.axis] != result.rows * op.static_batch:
        if op.static_batch > 1:
            op.refuse("it repeats the batch itself")
        result = DROPPED
    if not result.lifted:
        given, what = op.shown(1), ""
        target = np.asarray([1 if i == result.axis else d for i, d in enumerate(shape)], np.int64)
        if given is not None and op.static_batch > 1:
            what = f"shape {given.tolist()} became {target.tolist()}"
        return Plan([result], {1: target}, what=what)
    sample = result.sample_shape(shape)
    return Plan([result], {0: padded(batch, operand.shape, len(shape)), 1: np.asarray((1, *sample), np.int64)})


def tile(op: Op) -> Plan:
    """Tile: repeats along the batch's axis come before the samples: `[o * N * i] -> [r * o * N * i]`."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="repeats")
    repeats = op.constant(1).ravel().tolist()
    if operand.rank != len(repeats):
        op.refuse(f"it repeats {len(repeats)} axes of an input that has {operand.rank}")
    result = batch
    if isinstance(batch, Placed) and repeats[batch.axis] != 1:
        result = replace(batch, outer=batch.outer * repeats[batch.axis])
    if batch.lifted:
        return Plan([result], {1: np.asarray([1, *repeats], np.int64)})
    return Plan([result])


def concat(op: Op) -> Plan:
    """Concat: inputs without samples are repeated for each; along the batch's axis the rows of a sample add up.

    Source: https://onnx.ai/onnx/operators/onnx__Concat.html
    """
    return concat_of(op, range(len(op.inputs)))


def concat_of(op: Op, members: Sequence[int]) -> Plan:
    """Join the inputs `members`; all others must be without samples."""
    for i, operand, _ in op.batched():
        if i not in members:
            op.refuse(f"its input {i} ({operand.name!r}) depends on the samples")
    axis = op.axis(0, len(op.outputs[0]))
    found = [b for *_, b in op.batched()]
    first = found[0]
    certain = all(b.certain for b in found)
    if op.static_batch > 1 and len({b.axis for b in found if isinstance(b, Placed)}) > 1:
        op.refuse("its inputs have the batch on different axes")
    if first.is_on(axis):
        return _concat_rows(op, members, axis, certain=certain)
    same = all(b.place == first.place for b in found)
    if not same and op.static_batch > 1:
        op.refuse("its inputs hold the samples in different orders")
    want: Batch = DROPPED
    if same and isinstance(first, Placed):
        agree = len({op.operand(i).shape[first.axis] for i in members}) == 1
        in_place = agree and not any(b.lifted for b in found)
        want = replace(first, lifted=not in_place, certain=certain)
    return Plan([want], dict.fromkeys(members, want), {"axis": axis + want.lifted})


def _concat_rows(op: Op, members: Sequence[int], axis: int, *, certain: bool) -> Plan:
    """Along the batch's axis: `[o1 * N, ...] + [o2 * N, ...] -> [(o1 + o2) * N, ...]`.

    A constant belongs there if it holds the same rows for every sample.
    """
    wants: dict[int, Wanted] = {}
    rows = 0
    lifted = any(b.lifted or b.inner != 1 for *_, b in op.batched())
    for i in members:
        operand = op.operand(i)
        if operand.shape[axis] % op.static_batch:
            op.refuse(f"it joins other rows ({operand.name!r}) to the batch")
        own = operand.shape[axis] // op.static_batch
        if op.static_batch > 1 and operand.batch is not None and operand.batch.order[1] != 1:
            op.refuse(f"it joins other rows ({operand.name!r}) to the batch")
        wants[i] = Placed(axis, own, 1, lifted=lifted)
        rows += own
    certain = certain and all(op.operand(i).batch is not None for i in members)
    return Plan([Placed(axis, rows, 1, lifted=lifted, certain=certain)], wants, {"axis": axis + lifted})


def slice_(op: Op) -> Plan:
    """Slice: along other axes it stays; along the batch's axis it must take the same rows of every sample.

    Source: https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    operand = op.operand(0)
    batch = only_batched(op, 0, role="bounds")
    starts, ends, axes, steps = _bounds(op)
    rows: list[int] | None = None
    kept = []
    for k, axis in enumerate(axes):
        if isinstance(batch, Dropped) or axis != batch.axis:
            kept.append(k)
            continue
        indices = (
            range(operand.shape[axis])[starts[k] : ends[k] : steps[k]]
            if steps[k] > 0
            else _backwards(operand.shape[axis], starts[k], ends[k], steps[k])
        )
        if list(indices) != list(range(operand.shape[axis])):
            rows, taken = sample_indices(op, list(indices), batch)
    if rows is None and not batch.lifted:
        return _slice_plan(op, batch, batch, starts, ends, axes, steps, kept)
    form = batch.lift()
    if rows is None:
        return _slice_plan(op, form, form, starts, ends, axes, steps, kept)
    result = taken.lift()
    cut = _run(rows)
    if cut is None:
        op.refuse("it takes rows of each sample that are no slice")
    at = axes.index(result.axis)
    starts[at], ends[at], steps[at] = cut
    return _slice_plan(op, form, result, starts, ends, axes, steps, range(len(axes)))


def _backwards(size: int, start: int, end: int, step: int) -> Sequence[int]:
    """Indices of a slice with a negative step; an end below -size means down to the first element."""
    return range(size)[start : None if end < -size else end : step]


def _run(rows: Sequence[int]) -> tuple[int, int, int] | None:
    """Start, end and step that give `rows`, or None."""
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    if step == 0 or list(rows) != list(range(rows[0], rows[0] + step * len(rows), step)):
        return None
    end = rows[-1] + (1 if step > 0 else -1)
    return rows[0], end if end >= 0 else -(2**31), step


def _bounds(op: Op) -> tuple[list[int], list[int], list[int], list[int]]:
    rank = op.operand(0).rank
    if op.opset >= 10:
        starts, ends = op.constant(1).ravel().tolist(), op.constant(2).ravel().tolist()
        axes = op.constant_or_none(3)
        steps = op.constant_or_none(4)
        listed = axes.ravel().tolist() if axes is not None else range(len(starts))
        stride = steps.ravel().tolist() if steps is not None else [1] * len(starts)
    else:
        starts, ends = list(op.attribute("starts")), list(op.attribute("ends"))
        listed = op.attribute("axes", None) or range(len(starts))
        stride = [1] * len(starts)
    return starts, ends, normalized(listed, rank), stride


def _slice_plan(
    op: Op,
    form: Batch,
    result: Batch,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int],
    steps: Sequence[int],
    kept: Sequence[int],
) -> Plan:
    if not kept:
        return Plan([result], {0: form}, build=lambda emit, inputs: emit.node("Identity", inputs[:1]))
    lists = [[values[k] for k in kept] for values in (starts, ends, [a + form.lifted for a in axes], steps)]
    if op.opset >= 10:
        return Plan([result], {0: form, **{1 + i: np.asarray(v, np.int64) for i, v in enumerate(lists)}})
    return Plan([result], {0: form}, {"starts": lists[0], "ends": lists[1], "axes": lists[2]})


def split(op: Op) -> Plan:
    """Split: along the batch's axis every part must hold whole rows of every sample."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="sizes")
    axis = op.axis(0, operand.rank)
    if isinstance(batch, Dropped) or axis != batch.axis:
        return Plan([batch] * len(op.outputs), {}, {"axis": axis + batch.lifted})
    sizes = [shape[axis] for shape in op.outputs]
    results, parts, start = [], [], 0
    for size in sizes:
        rows, taken = sample_indices(op, range(start, start + size), batch)
        results.append(taken.lift())
        parts.append(len(rows))
        start += size
        if rows != list(range(rows[0], rows[0] + len(rows))) or rows[0] != sum(parts[:-1]):
            op.refuse("it cuts between rows of one sample that do not lie together")
    if op.opset >= 13:
        attributes = {"axis": axis + 1, "num_outputs": None}
        return Plan(results, {0: batch.lift(), 1: np.asarray(parts, np.int64)}, attributes)
    return Plan(results, {0: batch.lift()}, {"axis": axis + 1, "split": parts})


def pad(op: Op) -> Plan:
    """Pad: nothing may be put beside the samples, but the rows of one may be padded once it is lifted.

    Source: https://onnx.ai/onnx/operators/onnx__Pad.html
    """
    operand = op.operand(0)
    batch = only_batched(op, 0, role="padding")
    rank = operand.rank
    by_input = op.opset >= PADS_AS_INPUT or op.node.domain == "com.microsoft"
    given = op.constant(1).ravel().tolist() if by_input else list(op.attribute("pads"))
    listed = op.constant_or_none(3) if op.opset >= 18 else None
    axes = normalized(listed.ravel().tolist(), rank) if listed is not None else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = given[k], given[k + len(axes)]
    form = batch
    if isinstance(batch, Placed) and (before[batch.axis] or after[batch.axis]):
        if op.static_batch > 1 or batch.rows == 1:
            op.refuse("it puts rows beside the samples of the batch")
        form = DROPPED
    if form.lifted:
        before, after = [0, *before], [0, *after]
    pads = [*before, *after]
    if by_input:
        return Plan([form], {0: form, 1: np.asarray(pads, np.int64), **({3: None} if listed is not None else {})})
    return Plan([form], {0: form}, {"pads": pads})


PADS_AS_INPUT = 11
"""From this opset on Pad takes its pads as an input."""


def shape_of(op: Op) -> Known:
    """Shape: a constant of the static model. Who reads it is told the batch by its own rule."""
    full = op.operand(0).shape
    start, end = int(op.attribute("start", 0)), op.attribute("end", None)
    return Known([np.asarray(full[start : None if end is None else int(end)], np.int64)])


def size_of(op: Op) -> Known:
    """Size: a constant of the static model."""
    return Known([np.asarray(math.prod(op.operand(0).shape), np.int64)])


def eye_like(op: Op) -> Known:
    """EyeLike: of its input it reads the shape only."""
    operand = op.operand(0)
    dtype = op.attribute("dtype", int(operand.dtype))
    kind = type(operand.dtype)(dtype).numpy()
    return Known([np.eye(operand.shape[0], operand.shape[1], k=int(op.attribute("k", 0)), dtype=kind)])


OPERATORS = table(
    ai_onnx("Reshape", rule=reshape),
    ai_onnx("Flatten", rule=flatten),
    ai_onnx("Squeeze", rule=squeeze),
    ai_onnx("Unsqueeze", rule=unsqueeze),
    ai_onnx("Transpose", rule=transpose),
    ai_onnx("Expand", rule=expand),
    ai_onnx("Tile", rule=tile, since=6),
    ai_onnx("Concat", rule=concat, since=4),
    ai_onnx("Slice", rule=slice_),
    ai_onnx("Split", rule=split),
    ai_onnx("Pad", rule=pad, since=2),
    ai_onnx("Shape", rule=shape_of),
    ai_onnx("Size", rule=size_of),
    ai_onnx("EyeLike", rule=eye_like),
)
