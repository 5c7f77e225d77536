"""Operators that join, cut and pad along an axis."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import accumulate

import numpy as np
import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, Dropped, Placed
from builder.batching.rule import Decomposition, Op, Operand, Plan, Wanted
from builder.batching.rules.axes import normalized, only_batched, sample_indices
from builder.batching.rules.decompose import append, constant, gather_alone
from builder.batching.rules.registry import MICROSOFT, ai_onnx, table

SLICE_TAKES_INPUTS_SINCE = 10
"""From this opset on Slice takes its starts, ends, axes and steps as inputs."""

SPLIT_TAKES_SIZES_SINCE = 13
"""From this opset on Split takes the sizes of its parts as an input."""

PADS_ARE_INPUTS_SINCE = 11
"""From this opset on Pad takes its pads as an input."""

PAD_TAKES_AXES_SINCE = 18
"""From this opset on Pad takes the axes to pad as an input."""


def concat(op: Op) -> Plan | Decomposition:
    """Concat: inputs without samples are repeated for each sample; along the batch's axis, rows of a sample are joined.

    Inputs without elements add nothing, and are left out.

    Source: https://onnx.ai/onnx/operators/onnx__Concat.html
    """
    filled = [i for i in range(len(op.inputs)) if 0 not in op.operand(i).shape]
    if len(filled) == len(op.inputs):
        return concat_of(op, filled)
    values = [op.value(i) for i in filled]
    nodes: list[ir.Node] = []
    if len(values) > 1:
        return Decomposition(nodes, [append(nodes, "Concat", values, attributes=op.node.attributes)])
    return Decomposition(nodes, values)


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


@dataclass(frozen=True, slots=True)
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

    def with_bounds(self, k: int, start: int, end: int, step: int) -> "_Cuts":
        """Return the cuts with other bounds for the axis of cut `k`."""
        starts, ends, steps = list(self.starts), list(self.ends), list(self.steps)
        starts[k], ends[k], steps[k] = start, end, step
        return _Cuts(starts, ends, self.axes, steps)

    def only(self, kept: Sequence[int]) -> "_Cuts":
        """Return some of the cuts."""
        starts, ends, axes, steps = ([values[k] for k in kept] for values in astuple(self))
        return _Cuts(starts, ends, axes, steps)


def slice_(op: Op) -> Plan | Decomposition:
    """Slice axes other than the batch's as before; on that axis it must take the same rows of every sample.

    Source: https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    operand, cuts = op.operand(0), _cuts(op)
    batch = only_batched(op, 0, role="bounds")
    at = next((k for k, axis in enumerate(cuts.axes) if batch.is_on(axis)), None)
    if at is None or isinstance(batch, Dropped):
        return _slice_plan(op, batch, batch, cuts)
    indices, others = cuts.indices(at, operand.shape[batch.axis]), [k for k in range(len(cuts.axes)) if k != at]
    if list(indices) == list(range(operand.shape[batch.axis])):
        return _slice_plan(op, batch, batch, cuts.only(others))
    nodes: list[ir.Node] = []
    given: dict[ir.Value, Operand] = {}
    own = gather_alone(nodes, given, op, np.asarray(indices, np.int64), batch.axis)
    if own is not None:
        return Decomposition(nodes, [_sliced(nodes, op, own, cuts.only(others))], given)
    rows, taken = sample_indices(op, indices, batch)
    bounds = _bounds_of(rows)
    if bounds is None:
        op.refuse("it takes rows of each sample that are not evenly spaced")
    return _slice_plan(op, batch.lift(), taken.lift(), cuts.with_bounds(at, *bounds))


def _sliced(nodes: list[ir.Node], op: Op, value: ir.Value, cuts: _Cuts) -> ir.Value:
    """Append a Slice of `value`, unless there is nothing to cut."""
    if not cuts.axes:
        return value
    if op.opset < SLICE_TAKES_INPUTS_SINCE:
        attributes = {"starts": cuts.starts, "ends": cuts.ends, "axes": cuts.axes}
        return append(nodes, "Slice", [value], attributes=attributes)
    lists = [constant(nodes, np.asarray(listed, np.int64)) for listed in astuple(cuts)]
    return append(nodes, "Slice", [value, *lists])


def _bounds_of(rows: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the start, end and step that take `rows`, or None."""
    if not rows:
        return 0, 0, 1
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


def split(op: Op) -> Plan | Decomposition:
    """Split axes other than the batch's as before; on that axis every part must hold the same rows of every sample."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="sizes")
    axis = op.axis(0, operand.rank)
    if isinstance(batch, Dropped) or axis != batch.axis:
        return Plan([batch] * len(op.outputs), {}, {"axis": axis + batch.lifted})
    sizes = [shape[axis] for shape in op.outputs]
    return _split_apart(op, axis, sizes) or _split_rows(op, axis, batch, sizes)


def _split_apart(op: Op, axis: int, sizes: Sequence[int]) -> Decomposition | None:
    """Split into parts that are rows of one sample each."""
    nodes: list[ir.Node] = []
    given: dict[ir.Value, Operand] = {}
    ends = zip(sizes, accumulate(sizes), strict=True)
    parts = [gather_alone(nodes, given, op, np.arange(end - size, end), axis) for size, end in ends]
    found = [part for part in parts if part is not None]
    return Decomposition(nodes, found, given) if len(found) == len(parts) else None


def _split_rows(op: Op, axis: int, batch: Placed, sizes: Sequence[int]) -> Plan:
    """Split the batch's axis into parts that hold the same rows of every sample."""
    results, parts, start = [], [], 0
    for size in sizes:
        rows, taken = sample_indices(op, range(start, start + size), batch)
        results.append(taken.lift())
        parts.append(len(rows))
        start += size
        if rows != list(range(sum(parts[:-1]), sum(parts))):
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


OPERATORS = table(
    ai_onnx("Concat", rule=concat, since=4),
    ai_onnx("Slice", rule=slice_),
    ai_onnx("Split", rule=split),
    ai_onnx("Pad", rule=pad, since=2),
)
