"""GatherND and ScatterND: tuples of indices, some of which may be the numbers of the samples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter
from builder.batching.layout import DROPPED, Batch, Dropped, Placed, Shape
from builder.batching.numbering import names_its_sample
from builder.batching.rule import Build, Op, Plan, Wanted
from builder.batching.rules.indexing import BATCH_DIMS_EXIST_SINCE, each_lifted, needs
from builder.batching.rules.numbers import sample_numbers
from builder.batching.rules.registry import ai_onnx, table
from builder.tensors import Array

RANGE_EXISTS_SINCE = 11
"""The opset that brought Range, which numbers the samples."""


def gather_nd(op: Op) -> Plan:
    """GatherND: `data [*b, *i, *s], indices [*b, *u, q] -> [*b, *u, *s]`, where q axes `i` are indexed.

    The batch may be in b, in u (of a table) or in s. If it is in i, the indices must be the numbers of the samples.
    With a batch of 1 each sample reads its own data through one more batch axis.

    Source: https://onnx.ai/onnx/operators/onnx__GatherND.html
    """
    data, indices = op.operand(0), op.operand(1)
    dims = int(op.attribute("batch_dims", 0))
    held, where = data.batch, indices.batch
    is_table = held is None and dims == 0 and indices.offset is None
    if is_table and where is not None and not where.is_on(indices.rank - 1):
        return Plan([where])
    kept = _among_batch_dims(op, dims) or _behind(op, held, dims)
    if kept is not None:
        return kept
    needs(op, BATCH_DIMS_EXIST_SINCE)
    if op.static_batch == 1:
        return Plan([_first_axis(op, where or held)], each_lifted(op), {"batch_dims": dims + 1})
    own = _own(op, held, indices.rank - 1, dims)
    if own is None or held is None:
        op.refuse("its indices do not make every sample read its own data in the same way")
    lifted = own.lead.lift()
    wants: dict[int, Wanted] = {0: held.lift(), 1: lifted if own.indices is None else own.indices}
    if own.indices is None:
        return Plan([lifted], wants, {"batch_dims": dims + 1})
    return Plan([lifted], wants, build=_gather_own(op, own.indices.shape, dims))


def _behind(op: Op, held: Batch | None, dims: int) -> Plan | None:
    """Keep the node as it is, if constants index axes in front of the batch's only.

    `data [5, N, 8]` at `indices [3, 1]` gives `[3, N, 8]`.
    """
    indices = op.operand(1)
    if indices.batch is not None or not isinstance(held, Placed):
        return None
    behind = held.axis - dims - indices.shape[-1]
    if behind < 0:
        return None
    lowered = held.lower()
    return Plan([lowered.at(indices.rank - 1 + behind)], {0: lowered})


def _among_batch_dims(op: Op, dims: int) -> Plan | None:
    """Keep the node, if the batch is on one axis of those that data and indices share."""
    first = op.batched()[0][2]
    if isinstance(first, Dropped) or first.axis >= dims or any(b.place != first.place for *_, b in op.batched()):
        return None
    want = replace(first, lifted=any(b.lifted for *_, b in op.batched()))
    if op.operand(1).offset is not None or (want.lifted and op.opset < BATCH_DIMS_EXIST_SINCE):
        return None
    return Plan([want], {0: want, 1: want}, {"batch_dims": dims + want.lifted})


def _first_axis(op: Op, source: Batch | None) -> Batch:
    """Return where the result has its batch (B = 1): where the indices had it, if that is still an axis of one."""
    if not isinstance(source, Placed) or source.rows != 1 or source.axis >= op.operand(1).rank - 1:
        return DROPPED
    same = op.outputs[0][source.axis] == 1
    return source.lift().certain_if(False) if same else DROPPED


@dataclass(frozen=True, slots=True)
class _Own:
    """How tuples of indices point at the data of the sample that they belong to.

    With B = 2, data `[2, 5, 8]` whose samples are on axis 0, and constant indices `[2, 3, 2]`:

        sample 0   (0, 1) (0, 4) (0, 2)
        sample 1   (1, 1) (1, 4) (1, 2)

    Column 0 is the number of the sample. Without it, both samples have the same tuples, so the indices of one sample
    are `[1, 3, 2]`: (0, 1) (0, 4) (0, 2). In data `[2 * 5, 8]`, 5 rows to a sample, the tuples are (1), (4), (2) and
    (6), (9), (7): the number of the sample times 5, plus a row.

    Attributes:
        column: The index that holds the number of the sample.
        rows: How many rows each sample has on the axis that it indexes.
        lead: Where the samples are among the tuples.
        indices: The constant indices of one sample; None when the indices hold samples themselves.
    """

    column: int
    rows: int
    lead: Placed
    indices: Array | None


def _own(op: Op, held: Batch | None, rank: int, dims: int, follower: Batch | None = None) -> _Own | None:
    """Find how the indices (input 1) point at every sample's own data, if they do.

    Args:
        op: The node.
        held: Where the data has its batch; None when it is a constant, the same for every sample.
        rank: Axes of tuples.
        dims: Axes in front of the indexed ones.
        follower: Where the updates of a ScatterND have their batch.
    """
    indices = op.operand(1)
    for column, rows in _sample_columns(op, held, dims):
        if indices.batch is not None:
            is_named = names_its_sample(indices, op.static_batch, step=rows, column=column)
            if is_named and isinstance(indices.batch, Placed) and indices.batch.axis != rank:
                return _Own(column, rows, indices.batch, None)
            continue
        for lead in _leads(indices.shape[:-1], op.static_batch, follower):
            cut = _cut(op.constant(1), lead, column, rows, op.static_batch)
            if cut is not None:
                return _Own(column, rows, lead, cut)
    return None


def _sample_columns(op: Op, held: Batch | None, dims: int) -> list[tuple[int, int]]:
    """Return which columns of the indices can be the numbers of the samples, and the rows a sample has there.

    It is the one that indexes the batch's axis; in constant data, any that indexes an axis with rows for each sample.
    """
    depth, shape = op.operand(1).shape[-1], op.operand(0).shape
    if held is None:
        shared = [(column, divmod(shape[dims + column], op.static_batch)) for column in range(depth)]
        return [(column, rows) for column, (rows, rest) in shared if rows and not rest]
    if isinstance(held, Dropped) or held.outer != 1 or not dims <= held.axis < dims + depth:
        return []
    return [(held.axis - dims, held.inner)]


def _leads(shape: Shape, static_batch: int, follower: Batch | None) -> list[Placed]:
    """Return where the samples can be among tuples `[*shape, q]`: on any axis that they share evenly."""
    if isinstance(follower, Placed):
        has_rows = follower.axis < len(shape) and shape[follower.axis] == follower.rows * static_batch
        return [follower.lower()] if has_rows else []
    if follower is not None:
        return []
    fitting = [(axis, d // static_batch) for axis, d in enumerate(shape) if d and d % static_batch == 0]
    return [Placed(a, *split) for (a, rows), first in product(fitting, (True, False)) for split in _split(rows, first)]


def _split(rows: int, first: bool) -> list[tuple[int, int]]:
    """Return how the rows of a sample can lie: behind the batch first, then in front of it."""
    return [(1, rows)] if first else [(rows, 1)] if rows > 1 else []


def _cut(indices: Array, lead: Placed, column: int, inner: int, static_batch: int) -> Array | None:
    """Cut constant indices `[..., outer * B * inner, ..., q]` to those of one sample; None if the samples differ."""
    axis = lead.axis
    before, after = indices.shape[:axis], indices.shape[axis + 1 :]
    grid = indices.reshape(*before, lead.outer, static_batch, lead.inner, *after).astype(np.int64)
    numbers = np.arange(static_batch).reshape([-1 if i == axis + 1 else 1 for i in range(grid.ndim - 1)])
    grid[..., column] -= numbers * inner
    first = grid.take([0], axis + 1)
    rows = first[..., column]
    are_of_the_sample = bool((rows >= 0).all() and (rows < inner).all())
    if (grid != first).any() or not are_of_the_sample:
        return None
    own: Array = first.reshape(*before, lead.rows, *after)
    return own


def _gather_own(op: Op, shape: Shape, dims: int) -> Build:
    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        data, own = inputs
        (spread,) = emit.node("Expand", [own, emit.shape_with_batch([None, *shape])])
        names = [v.name for v in op.node.outputs]
        return emit.node("GatherND", [data, spread], {"batch_dims": dims + 1}, outputs=names, like=op.node)

    return build


def scatter_nd(op: Op) -> Plan:
    """ScatterND, which has no batch axes: the number of each sample is put in front of its indices.

    Data `[N, *s]`, indices `[N, *i, q]`, updates `[N, *u]`: the indices become `[N, *i, 1 + q]`. For N = 2 and indices
    `[[4], [2]]` of both samples they are `[[0, 4], [0, 2]]` and `[[1, 4], [1, 2]]`.

    Source: https://onnx.ai/onnx/operators/onnx__ScatterND.html
    """
    data, indices, updates = op.operand(0), op.operand(1), op.operand(2)
    batch, depth = data.batch, indices.shape[-1]
    if batch is not None and 0 in updates.shape:
        return Plan([batch], build=lambda emit, inputs: emit.node("Identity", inputs[:1]))
    held = batch or _behind_tuples(updates.batch, indices.rank - 1, depth)
    if indices.batch is None and isinstance(held, Placed) and held.axis >= depth:
        lowered = held.lower()
        want = lowered.at(indices.rank - 1 + held.axis - depth)
        if updates.batch is None or updates.batch.place == want.place or op.static_batch == 1:
            return Plan([lowered], {0: lowered, 2: want})
    needs(op, RANGE_EXISTS_SINCE)
    if op.static_batch == 1:
        place = batch.lift() if batch is not None else DROPPED
        return Plan([place], each_lifted(op), build=_scatter_own(op, indices.shape))
    own = _own(op, batch, indices.rank - 1, 0, updates.batch)
    if own is None:
        op.refuse("its indices do not make every sample write its own data in the same way")
    place = batch.lift() if batch is not None else Placed(own.column, 1, own.rows, lifted=True)
    lead = own.lead.lift()
    wants: dict[int, Wanted] = {0: place, 1: lead if own.indices is None else own.indices, 2: lead}
    return Plan([place], wants, build=_scatter_own(op, lead.sample_shape(indices.shape)))


def _behind_tuples(batch: Batch | None, tuples: int, depth: int) -> Batch | None:
    """Return where constant data gets the samples that updates hold behind their tuples: `[*u, *s] -> [*i, *s]`."""
    if not isinstance(batch, Placed) or batch.axis < tuples:
        return None
    return batch.at(batch.axis - tuples + depth)


def _scatter_own(op: Op, shape: Shape) -> Build:
    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        values, where, updates = inputs
        lead = shape[:-1]
        column = sample_numbers(emit, len(lead) + 2)
        (column,) = emit.node("Expand", [column, emit.shape_with_batch([None, *lead, 1])])
        if where is not None and where.const_value is not None:
            (where,) = emit.node("Expand", [where, emit.shape_with_batch([None, *shape])])
        (full,) = emit.node("Concat", [column, where], {"axis": len(lead) + 1})
        names = [v.name for v in op.node.outputs]
        return emit.node("ScatterND", [values, full, updates], op.node.attributes, outputs=names, like=op.node)

    return build


OPERATORS = table(
    ai_onnx("GatherND", rule=gather_nd),
    ai_onnx("ScatterND", rule=scatter_nd),
)
