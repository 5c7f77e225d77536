"""Operators that read or write at indices."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Attribute, Emitter
from builder.batching.layout import DROPPED, Batch, Dropped, Placed
from builder.batching.numbering import names_its_sample
from builder.batching.rule import Decomposition, Op, Operand, Plan, Refusal, Static, Wanted, given, per_sample, required
from builder.batching.rules.axes import parallel, sample_indices, settle
from builder.batching.rules.decompose import append, constant, gather_alone
from builder.batching.rules.inference import Inputs
from builder.batching.rules.registry import ai_onnx, table
from builder.batching.statics import evaluate

BATCH_DIMS_EXIST_SINCE = 12
"""The opset that gave GatherND its attribute `batch_dims`."""


def gather(op: Op) -> Plan | Decomposition:
    """Gather: samples at constant indices, a constant table with samples as indices, or each sample at its own.

    Source: https://onnx.ai/onnx/operators/onnx__Gather.html
    """
    data, indices = op.operand(0), op.operand(1)
    axis = op.axis(0, data.rank)
    if data.batch is None:
        if indices.offset is not None:
            op.refuse("it reads a table at the positions that samples have in the static batch")
        return look_up(op, axis)
    if indices.batch is None:
        if op.static_batch > 1 and data.batch.is_on(axis) and indices.rank > 1:
            return _take_flat(op, axis)
        return _take(op, axis, data.batch)
    return _gather_per_sample(op, axis)


def look_up(op: Op, axis: int, *, attribute: str = "axis") -> Plan:
    """Look up samples in a table that is a constant: `[*before, a, *after], [N, *i] -> [*before, N, *i, *after]`."""
    _, batch = op.samples(1)
    result = batch.moved(lambda at: at + axis)
    if not batch.lifted:
        return Plan([result])
    node = op.node

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        attributes: dict[str, Attribute] = {**node.attributes, attribute: axis}
        names = [v.name for v in node.outputs]
        (found,) = emit.node(node.op_type, inputs, attributes, outputs=names, domain=node.domain, like=node)
        order = list(range(len(op.outputs[0]) + 1))
        order.insert(0, order.pop(axis))
        return [emit.transpose(found, order)]

    return Plan([result], build=build)


def _take(op: Op, axis: int, batch: Batch) -> Plan | Decomposition:
    """Take constant indices of the samples.

    Along the batch's axis they must be the same rows of every sample: with B = 3 and data `[6, 8]`, 2 rows to a sample,
    `[0, 2, 4]` is row 0 of each. The data is lifted, `[N, 2, 8]`, and row 0 taken along its axis 1.
    """
    data, indices = op.operand(0), op.operand(1)
    if isinstance(batch, Dropped) or axis != batch.axis:
        moved = batch.moved(lambda at: at + indices.rank - 1 if at > axis else at)
        return Plan([moved], attributes={"axis": axis + batch.lifted})
    chosen = op.constant(1).astype(np.int64) % max(data.shape[axis], 1)
    nodes: list[ir.Node] = []
    given: dict[ir.Value, Operand] = {}
    own = gather_alone(nodes, given, op, chosen, axis)
    return _take_rows(op, axis, batch, chosen.ravel().tolist()) if own is None else Decomposition(nodes, [own], given)


def _take_rows(op: Op, axis: int, batch: Placed, listed: list[int]) -> Plan:
    """Take rows along the batch's axis, counted from the front: the same of every sample."""
    indices, size = op.operand(1), op.operand(0).shape[axis]
    result: Batch
    if indices.rank == 0 and op.static_batch == 1:
        rows, result = listed, DROPPED
    elif listed == list(range(size)) and indices.rank == 1:
        return Plan([batch], build=lambda emit, inputs: emit.node("Identity", inputs[:1]))
    else:
        rows, taken = sample_indices(op, listed, batch)
        result = settle(op, taken.lift(), axis, op.outputs[0])
    picked = np.asarray(rows, np.int64).reshape(indices.shape if op.static_batch == 1 else (-1,))
    return Plan([result], {0: batch.lift(), 1: picked}, {"axis": axis + 1})


def _take_flat(op: Op, axis: int) -> Decomposition:
    """Take the indices as one vector, then reshape: with B = 2, `[[0], [1]]` of `[2, 8]` as `[0, 1]`, then `[2, 1, 8]`.

    Along one axis `sample_indices` can tell the samples apart.
    """
    nodes: list[ir.Node] = []
    flat = constant(nodes, op.constant(1).ravel())
    rows = append(nodes, "Gather", [op.node.inputs[0], flat], attributes={"axis": axis})
    shape = constant(nodes, np.asarray(op.outputs[0], np.int64))
    return Decomposition(nodes, [append(nodes, "Reshape", [rows, shape])])


def _gather_per_sample(op: Op, axis: int) -> Plan:
    """Let each sample read its own data at its own indices: Gather becomes GatherND with one batch axis.

    `[N, *before, a, *after], [N, *i] -> [N, *before, *i, *after]`. Of data `[N, 4, 7, 8]` at indices `[N, 3]` for the
    axis of 7, that axis is moved to the front, `[N, 7, 4, 8]`. GatherND then gives `[N, 3, 4, 8]`, and the new axis is
    moved back: `[N, 4, 3, 8]`.
    """
    (data, held), (indices, where) = op.samples(0), op.samples(1)
    if op.static_batch > 1:
        _refuse_others(op, axis)
    needs(op, BATCH_DIMS_EXIST_SINCE)
    before, count = axis, indices.rank
    samples = data.sample

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        rank = len(samples) + 1
        order = [0, before + 1, *(i for i in range(1, rank) if i != before + 1)]
        values = emit.transpose(required(inputs, 0), order)
        at = emit.reshape(_not_negative(emit, required(inputs, 1), samples[axis]), (-1, *indices.sample, 1))
        (found,) = emit.node("GatherND", [values, at], {"batch_dims": 1})
        order = [
            0,
            *range(1 + count, 1 + count + before),
            *range(1, 1 + count),
            *range(1 + count + before, rank + count - 1),
        ]
        return [emit.transpose(found, order)]

    result = where.lift().moved(lambda place: place + axis)
    return Plan([result], {0: held.lift(), 1: where.lift()}, build=build)


def _refuse_others(op: Op, axis: int) -> None:
    """Refuse indices that are not known to be those of each sample's own rows."""
    (_, held), indices = op.samples(0), op.operand(1)
    if isinstance(held, Dropped) or held.axis != axis:
        op.refuse("it reads every sample at the indices of every other sample")
    if held.outer != 1 or not names_its_sample(indices, op.static_batch, step=held.inner):
        op.refuse("it picks from all samples of the batch")


def _not_negative(emit: Emitter, indices: ir.Value, size: int) -> ir.Value:
    """Count indices from the front, as `int64`."""
    (wide,) = emit.node("Cast", [indices], {"to": int(ir.DataType.INT64)})
    zero, length = emit.constant(np.asarray(0, np.int64)), emit.constant(np.asarray(size, np.int64))
    (negative,) = emit.node("Less", [wide, zero])
    (shifted,) = emit.node("Add", [wide, length])
    return emit.node("Where", [negative, shifted, wide])[0]


def needs(op: Op, opset: int) -> None:
    """Refuse a model whose opset does not have what the rewritten node needs."""
    if op.opset < opset:
        op.refuse(f"with a dynamic batch it needs opset {opset}, and the model has opset {op.opset}")


def gather_elements(op: Op) -> Plan:
    """GatherElements along an axis other than the batch's, along the batch's at each sample's own rows, or in a table.

    Source: https://onnx.ai/onnx/operators/onnx__GatherElements.html
    """
    indices, lead = op.operand(1), _lead(op, op.axis(0, op.operand(0).rank))
    if op.operand(0).batch is None and indices.offset is None and lead is not None:
        return Plan([lead.lift()], {0: DROPPED, 1: lead.lift()}, {"axis": lead.axis + 1})
    return _in_own_rows(op, result=1) or _along(op)


def scatter_elements(op: Op) -> Plan:
    """ScatterElements, Scatter: as GatherElements, and updates without elements change nothing.

    Source: https://onnx.ai/onnx/operators/onnx__ScatterElements.html
    """
    batch = op.operand(0).batch
    if batch is not None and 0 in op.operand(2).shape:
        return Plan([batch], build=lambda emit, inputs: emit.node("Identity", inputs[:1]))
    return _in_own_rows(op, result=0) or _along(op)


def _along(op: Op) -> Plan:
    """Read or write along an axis that does not hold the batch, which all inputs have in common.

    With B = 1 the data may have several rows there, which are all those of the one sample.
    """
    data = op.operand(0)
    axis = op.axis(0, data.rank)
    if op.operand(1).offset is not None:
        op.refuse("its indices do not name the rows of each sample")
    if op.static_batch == 1 and _are_one_samples_rows(op, axis):
        return Plan([DROPPED], each_lifted(op), {"axis": axis + 1})
    forms = [parallel(op, b, [axis], "reads or writes along") for *_, b in op.batched()]
    first = forms[0]
    are_together = len({b.place for b in forms}) == 1
    if are_together and isinstance(first, Placed) and _have_one_size(op, first.axis):
        want = replace(first, lifted=any(b.lifted for b in forms), certain=all(b.certain for b in forms))
        return Plan([want], dict.fromkeys(range(len(op.inputs)), want), {"axis": axis + want.lifted})
    if op.static_batch > 1:
        op.refuse("its inputs hold the samples in different places")
    return Plan([DROPPED], each_lifted(op), {"axis": axis + 1})


def _are_one_samples_rows(op: Op, axis: int) -> bool:
    """Return whether the data has several rows on this axis, and some input has its batch of 1 there too."""
    data = op.operand(0)
    are_rows = data.shape[axis] > 1 and (data.batch is None or data.batch.is_on(axis))
    return are_rows and any(batch.is_on(axis) for *_, batch in op.batched())


def _in_own_rows(op: Op, *, result: int) -> Plan | None:
    """Read or write along the batch's axis (B > 1), if the indices of every sample name rows of its own.

    With B = 2 and data `[2 * 4]`, 4 rows to a sample, the indices `[2, 0, 6, 4]` are `[2, 0]` for both samples, plus
    4 for the second one. The data is lifted, `[N, 4]`, and so are the indices, `[N, 2]`.

    Args:
        op: The node: data, indices, and for a scatter the updates.
        result: The input whose shape the output has.

    Returns:
        None if the axis does not hold the batch.
    """
    data, indices = op.operand(0), op.operand(1)
    axis = op.axis(0, data.rank)
    lead = _lead(op, axis)
    if op.static_batch == 1 or lead is None:
        return None
    held = data.batch or Placed(axis, 1, data.shape[axis] // op.static_batch)
    if not isinstance(held, Placed) or held.axis != axis:
        return None
    if indices.batch is None and indices.offset is None:
        per_sample(op, indices, axis, lead)  # raises DifferentRows, so that the indices come back with their offset
    names_own = names_its_sample(indices, op.static_batch, step=held.inner, batch=lead)
    if held.outer != 1 or not names_own or not _are_rows(op, indices, held.inner):
        op.refuse(f"it reads or writes along axis {axis}, which holds the batch, and not each sample's own rows")
    place = held.lift()
    wants: dict[int, Wanted] = {0: place, **dict.fromkeys(range(1, len(op.inputs)), lead.lift())}
    return Plan([(place, lead.lift())[result]], wants, {"axis": axis + 1})


def _lead(op: Op, axis: int) -> Placed | None:
    """Return where indices and updates have the batch, if that is on `axis` for all of them; a constant follows."""
    shape = op.operand(1).shape
    found = {b.place: b for i, _, b in op.batched() if i > 0}
    if not found and shape[axis] % op.static_batch == 0:
        return Placed(axis, 1, shape[axis] // op.static_batch)
    lead = next(iter(found.values())) if len(found) == 1 else None
    return lead.lower() if isinstance(lead, Placed) and lead.axis == axis else None


def _are_rows(op: Op, indices: Operand, rows: int) -> bool:
    """Return whether indices, without their offset, are rows of one sample; those that hold samples pass unchecked."""
    plain = None if indices.batch is not None else op.evaluate(indices)
    return plain is None or bool((plain >= 0).all() and (plain < rows).all())


def _have_one_size(op: Op, axis: int) -> bool:
    """Return whether all inputs have the same size on an axis; GatherElements allows fewer indices than data."""
    return len({operand.shape[axis] for operand in op.inputs if operand is not None}) == 1


def each_lifted(op: Op) -> dict[int, Wanted]:
    """Lift every input; one without samples is repeated for each of them (B = 1)."""
    operands = enumerate(op.inputs)
    return {i: o.batch.lift() if o.batch is not None else DROPPED for i, o in operands if o is not None}


def compress(op: Op) -> Plan:
    """Compress: along an axis other than the batch's, with a constant condition."""
    operand = op.operand(0)
    batch = operand.batch
    if batch is None or "axis" not in op.node.attributes:
        op.refuse("it selects from the elements of all samples")
    axis = op.axis(0, operand.rank)
    form = parallel(op, batch, [axis], "selects along")
    return Plan([form], {0: form}, {"axis": axis + form.lifted})


def _compressed(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the shape: as many elements along `axis` as the condition is true for."""
    data, condition = required(inputs, 0), given(inputs, 1)
    kept = None if condition is None or condition.batch is not None else evaluate(condition)
    if kept is None:
        raise Refusal("the size of its output depends on the values of the samples")
    count = int(np.count_nonzero(kept))
    if "axis" not in node.attributes:
        return [(data.dtype, (count,))]
    axis = node.attributes["axis"].as_int() % data.rank
    return [(data.dtype, (*data.shape[:axis], count, *data.shape[axis + 1 :]))]


OPERATORS = table(
    ai_onnx("Gather", rule=gather),
    ai_onnx("GatherElements", rule=gather_elements),
    ai_onnx("ScatterElements", "Scatter", rule=scatter_elements),
    ai_onnx("Compress", rule=compress, shape=_compressed),
)
