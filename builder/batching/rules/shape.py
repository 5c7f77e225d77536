"""Operators that arrange elements: reshape, transpose, join, cut, repeat."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter, stored
from builder.batching.layout import DROPPED, Batch, Dropped, Placed, Shape, choose, padded, placements
from builder.batching.rule import Known, Op, Plan, Wanted, required
from builder.batching.rules.axes import normalized, only_batched, sample_indices
from builder.batching.rules.registry import MICROSOFT, ai_onnx, table

SLICE_TAKES_INPUTS_SINCE = 10
"""From this opset on Slice takes its starts, ends, axes and steps as inputs."""

SPLIT_TAKES_SIZES_SINCE = 13
"""From this opset on Split takes the sizes of its parts as an input."""

PADS_ARE_INPUTS_SINCE = 11
"""From this opset on Pad takes its pads as an input."""

PAD_TAKES_AXES_SINCE = 18
"""From this opset on Pad takes the axes to pad as an input."""


def reshaped(op: Op, target: Shape, *, grows: int | None = None) -> tuple[Batch, Batch]:
    """Follow the data's batch through a reshape to the static `target`.

    A reshape moves no element, so the product of the sizes in front of the batch stays what it was. For a static
    `[1, 64, 49, 32]` with the batch on axis 0 it is 1; in `[64, 49, 32]` the batch is then on axis 0 too, in front of
    the 64: `outer` is 1, `inner` 64, and the rewritten value is `[N * 64, 49, 32]`. For a static `[64, 1, 32]` with
    the batch on axis 1 it is 64; in `[64, 32]` the batch is either behind the 64 (`[64 * N, 32]`) or in front of the
    32 (`[64, N * 32]`), and `choose` picks one.

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
    """Reshape to a target that follows from the static shapes: the batch keeps its place among the elements.

    `[N, 3, 8, 8]` to a static `[1, 192]` becomes `[-1, 192]`. `[N, 64, 49, 32]` to a static `[64, 49, 32]` becomes
    `[-1, 49, 32]`, where axis 0 holds 64 rows of each sample.

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
    """Flatten: unchanged if the batch is axis 0 and `axis` is 1; otherwise a Reshape."""
    operand, batch = op.samples(0)
    axis = op.axis(1, operand.rank)
    source, result = reshaped(op, op.outputs[0], grows=0)
    if not batch.lifted and batch.axis == 0 and axis == 1 and result.is_on(0):
        return Plan([result])
    wanted = np.asarray(result.target(op.outputs[0]), np.int64)
    return Plan([result], {0: source, 1: wanted}, build=_build_reshape, what=f"flattens to {wanted.tolist()}")


def squeeze(op: Op) -> Plan:
    """Squeeze removes axes of size 1; if one of them is the batch's (B = 1), samples are lifted first: `[N, *s]`."""
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
    """Unsqueeze inserts axes of size 1."""
    given = op.constant_or_none(1)
    return unsqueeze_at(op, given.ravel().tolist() if given is not None else op.attribute("axes", ()))


def unsqueeze_at(op: Op, listed: Sequence[int]) -> Plan:
    """Insert axes of size 1: the batch moves to the right by those in front of it."""
    batch = only_batched(op, 0, role="axes")
    shape = op.outputs[0]
    axes = set(normalized(listed, len(shape)))
    kept = [i for i in range(len(shape)) if i not in axes]
    result = batch.moved(lambda axis: kept[axis])
    return Plan([result], {1: np.asarray(result.target(shape), np.int64)}, build=_build_reshape)


def transpose(op: Op) -> Plan:
    """Transpose moves the batch's axis like any other; where samples are lifted, N stays in front."""
    operand, batch = op.samples(0)
    perm = list(op.attribute("perm", None) or range(operand.rank)[::-1])
    if sorted(perm) != list(range(operand.rank)):
        op.refuse(f"perm {perm} is not an order of its input's {operand.rank} axes")
    result = batch.moved(perm.index)
    if batch.lifted:
        perm = [0, *(p + 1 for p in perm)]
    return Plan([result], attributes={"perm": perm})


def expand(op: Op) -> Plan:
    """Expand to a target with 1 on the batch's axis: Expand leaves an axis as it is where the target has 1."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="shape")
    shape = op.outputs[0]
    shift = len(shape) - operand.rank
    result = batch.moved(lambda axis: axis + shift)
    if isinstance(result, Placed) and shape[result.axis] != result.rows * op.static_batch:
        if op.static_batch > 1:
            op.refuse("it repeats the samples of the batch")
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
    """Tile: r repeats of the batch's axis give each sample r times as many rows: `[N * i] -> [r * N * i]`."""
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
    """Concat: inputs without samples are repeated for each sample; along the batch's axis, rows of a sample are joined.

    Source: https://onnx.ai/onnx/operators/onnx__Concat.html
    """
    return concat_of(op, range(len(op.inputs)))


def concat_of(op: Op, members: Sequence[int]) -> Plan:
    """Join the inputs `members`; all others must be without samples.

    A class token `[1, 1, 8]`, joined to `[N, 49, 8]` along axis 1, is repeated: `[N, 1, 8]`, and the result is
    `[N, 50, 8]`. If the samples lie in different places (B = 1), all are lifted, and the axis is one to the right.
    """
    for i, operand, _ in op.batched():
        if i not in members:
            op.refuse(f"its input {i} ({operand.name!r}) depends on the samples")
    axis = op.axis(0, len(op.outputs[0]))
    batches = [b for *_, b in op.batched()]
    if op.static_batch > 1 and len({b.axis for b in batches if isinstance(b, Placed)}) > 1:
        op.refuse("its inputs have the batch on different axes")
    if batches[0].is_on(axis):
        return _concat_rows(op, members, axis)
    want = _concat_form(op, members)
    return Plan([want], dict.fromkeys(members, want), {"axis": axis + want.lifted})


def _concat_form(op: Op, members: Sequence[int]) -> Batch:
    """Return a place and form that all members can be brought to, the batch being on another axis than the joined."""
    batches = [b for *_, b in op.batched()]
    first = batches[0]
    if any(b.place != first.place for b in batches):
        if op.static_batch > 1:
            op.refuse("its inputs hold the samples in different orders")
        return DROPPED
    if isinstance(first, Dropped):
        return DROPPED
    have_one_size = len({op.operand(i).shape[first.axis] for i in members}) == 1
    is_in_place = have_one_size and not any(b.lifted for b in batches)
    return replace(first, lifted=not is_in_place, certain=all(b.certain for b in batches))


def _concat_rows(op: Op, members: Sequence[int], axis: int) -> Plan:
    """Join along the batch's axis: `[o1 * N, ...] + [o2 * N, ...] -> [(o1 + o2) * N, ...]`.

    The order of the elements says whose they are. With B = 2, an axis of 6 that holds 3 rows in front of the samples is
    `r0s0 r0s1 r1s0 r1s1 r2s0 r2s1`. Two more elements `r3s0 r3s1` behind it make an axis of 8 with 4 rows: the rows
    add up, `outer` 3 + 1. With the rows behind the samples, `s0r0 s0r1 s0r2 s1r0 s1r1 s1r2`, the new elements would
    not be next to the rows of their sample, so `inner` must be 1 (with B = 1 there is no other sample). A constant may
    be a member if it holds the same rows for every sample.
    """
    wants: dict[int, Wanted] = {}
    rows = 0
    lifted = any(b.lifted or b.inner != 1 for *_, b in op.batched())
    for i in members:
        operand = op.operand(i)
        has_rows_behind = operand.batch is not None and operand.batch.order[1] != 1
        if operand.shape[axis] % op.static_batch or (op.static_batch > 1 and has_rows_behind):
            op.refuse(f"it joins rows of {operand.name!r} to the samples of the batch")
        own = operand.shape[axis] // op.static_batch
        wants[i] = Placed(axis, own, 1, lifted=lifted)
        rows += own
    certain = all(b.certain for *_, b in op.batched()) and all(op.operand(i).batch is not None for i in members)
    return Plan([Placed(axis, rows, 1, lifted=lifted, certain=certain)], wants, {"axis": axis + lifted})


@dataclass(slots=True)
class _Cuts:
    """What a Slice takes along each of its axes; the four lists are as long as each other."""

    starts: list[int]
    ends: list[int]
    axes: list[int]
    steps: list[int]

    def indices(self, k: int, size: int) -> Sequence[int]:
        """Return the indices that cut `k` takes of an axis of this size."""
        start, end, step = self.starts[k], self.ends[k], self.steps[k]
        # With a negative step, an end below -size means down to the first element, not counted from the end.
        return range(size)[start : None if step < 0 and end < -size else end : step]

    def only(self, kept: Sequence[int]) -> "_Cuts":
        """Return some of the cuts."""
        starts, ends, axes, steps = ([values[k] for k in kept] for values in astuple(self))
        return _Cuts(starts, ends, axes, steps)


def slice_(op: Op) -> Plan:
    """Slice axes other than the batch's as before; on that axis it must take the same rows of every sample.

    Source: https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    operand, cuts = op.operand(0), _cuts(op)
    batch = only_batched(op, 0, role="bounds")
    at = next((k for k, axis in enumerate(cuts.axes) if batch.is_on(axis)), None)
    if at is None or isinstance(batch, Dropped):
        return _slice_plan(op, batch, batch, cuts)
    indices = cuts.indices(at, operand.shape[batch.axis])
    if list(indices) == list(range(operand.shape[batch.axis])):
        return _slice_plan(op, batch, batch, cuts.only([k for k in range(len(cuts.axes)) if k != at]))
    rows, taken = sample_indices(op, indices, batch)
    bounds = _bounds_of(rows)
    if bounds is None:
        op.refuse("it takes rows of each sample that are not evenly spaced")
    cuts.starts[at], cuts.ends[at], cuts.steps[at] = bounds
    return _slice_plan(op, batch.lift(), taken.lift(), cuts)


def _bounds_of(rows: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the start, end and step that take `rows`, or None."""
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    if step == 0 or list(rows) != list(range(rows[0], rows[0] + step * len(rows), step)):
        return None
    end = rows[-1] + (1 if step > 0 else -1)
    return rows[0], end if end >= 0 else -(2**31), step


def _cuts(op: Op) -> _Cuts:
    rank = op.operand(0).rank
    if op.opset < SLICE_TAKES_INPUTS_SINCE:
        starts, ends = list(op.attribute("starts")), list(op.attribute("ends"))
        axes, steps = op.attribute("axes", None), None
    else:
        starts, ends = op.constant(1).ravel().tolist(), op.constant(2).ravel().tolist()
        axes, steps = ([] if v is None else v.ravel().tolist() for v in map(op.constant_or_none, (3, 4)))
    return _Cuts(starts, ends, normalized(axes or range(len(starts)), rank), steps or [1] * len(starts))


def _slice_plan(op: Op, form: Batch, result: Batch, cuts: _Cuts) -> Plan:
    """Plan a Slice of the data in this form by these cuts, axes being those of the static shape."""
    if not cuts.axes:
        return Plan([result], {0: form}, build=lambda emit, inputs: emit.node("Identity", inputs[:1]))
    axes = [axis + form.lifted for axis in cuts.axes]
    if op.opset < SLICE_TAKES_INPUTS_SINCE:
        return Plan([result], {0: form}, {"starts": cuts.starts, "ends": cuts.ends, "axes": axes})
    lists = (cuts.starts, cuts.ends, axes, cuts.steps)
    return Plan([result], {0: form, **{1 + i: np.asarray(v, np.int64) for i, v in enumerate(lists)}})


def split(op: Op) -> Plan:
    """Split axes other than the batch's as before; on that axis every part must hold the same rows of every sample."""
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
            op.refuse("it separates rows of a sample that are not next to each other")
    if op.opset >= SPLIT_TAKES_SIZES_SINCE:
        attributes = {"axis": axis + 1, "num_outputs": None}
        return Plan(results, {0: batch.lift(), 1: np.asarray(parts, np.int64)}, attributes)
    return Plan(results, {0: batch.lift()}, {"axis": axis + 1, "split": parts})


def pad(op: Op) -> Plan:
    """Pad axes other than the batch's as before; on that axis only several rows of one sample may be padded (B = 1).

    Source: https://onnx.ai/onnx/operators/onnx__Pad.html
    """
    batch = only_batched(op, 0, role="padding")
    before, after = _pads(op)
    form = batch
    if isinstance(batch, Placed) and (before[batch.axis] or after[batch.axis]):
        if op.static_batch > 1 or batch.rows == 1:
            op.refuse("it adds rows to the samples of the batch")
        form = DROPPED
    pads = [0, *before, 0, *after] if form.lifted else [*before, *after]
    if not _takes_pads(op):
        return Plan([form], {0: form}, {"pads": pads})
    has_axes = op.opset >= PAD_TAKES_AXES_SINCE and op.given(3) is not None
    return Plan([form], {0: form, 1: np.asarray(pads, np.int64), **({3: None} if has_axes else {})})


def _pads(op: Op) -> tuple[list[int], list[int]]:
    """Return how many elements are put in front of and behind each axis."""
    rank = op.operand(0).rank
    given = op.constant(1).ravel().tolist() if _takes_pads(op) else list(op.attribute("pads"))
    listed = op.constant_or_none(3) if op.opset >= PAD_TAKES_AXES_SINCE else None
    axes = normalized(listed.ravel().tolist(), rank) if listed is not None else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = given[k], given[k + len(axes)]
    return before, after


def _takes_pads(op: Op) -> bool:
    return op.opset >= PADS_ARE_INPUTS_SINCE or op.node.domain == MICROSOFT


def shape_of(op: Op) -> Known:
    """Shape: a constant of the static model; whatever reads it gets the batch of the call by its own rule."""
    full = op.operand(0).shape
    start, end = int(op.attribute("start", 0)), op.attribute("end", None)
    return Known([np.asarray(full[start : None if end is None else int(end)], np.int64)])


def size_of(op: Op) -> Known:
    """Size: a constant of the static model."""
    return Known([np.asarray(math.prod(op.operand(0).shape), np.int64)])


def eye_like(op: Op) -> Known:
    """EyeLike: a constant, since it reads only the shape of its input."""
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
