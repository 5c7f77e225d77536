"""Positions of samples that are baked into indices: `arange(B) * T + index` reads each sample's own rows.

A model exported for B = 3 samples of T = 4 rows each, folded to `[12, C]`, may read row 1 of every sample by the
constant indices `[1, 5, 9]`. They differ from sample to sample, so the constant cannot be cut to one sample's part. It
is split in two instead:

    [1, 5, 9]  =  [1, 1, 1]  +  [0, 4, 8]
      value         plain         offset

`plain` is the same for every sample, and `offset` is zero for the first. The rewritten graph holds `plain`. The offset
is followed through operators that are linear in it, until one reads the sum as an index. If the offset is then `step`
times the position of the sample (here `arange(3) * 4`), the node reads each sample's own rows, which in the rewritten
graph is `plain` on a batch axis. Everything else that reads a value with an offset is refused.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from builder.batching.layout import Batch, Placed, Shape
from builder.batching.rule import Computed, DifferentRows, Op, Operand, Refusal, required
from builder.batching.statics import evaluate
from builder.model import operator
from builder.tensors import Array

ADDING = frozenset(["Add", "Concat", "Sub"])
"""Linear operators that combine the offsets of their inputs."""

MOVING = frozenset(
    ["Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"]
)
"""Linear operators that only move elements of their first input; Concat, those of all inputs."""

LINEAR = ADDING | MOVING | frozenset(["Cast", "Mul"])
"""Operators whose result for `plain + offset` is the sum of their results for each."""

INDEXED = {
    **dict.fromkeys(["Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND"], 1),
    "CropAndResize": 2,
    "MaxRoiPool": 1,
    "MaxUnpool": 1,
    "RoiAlign": 2,
}
"""Operators that read indices, and which input these are; their rules check the offset."""

BLIND = frozenset(["Shape", "Size"])
"""Operators that read no value."""

LARGEST_WHOLE = 2048
"""Up to this number, fp16 holds every whole number."""

COUNTING = (ir.DataType.INT32, ir.DataType.INT64)
"""Types that hold every index."""


def check(node: ir.Node, inputs: Sequence[Operand | None]) -> None:
    """Refuse a node that would read `plain` as if it were the whole value.

    Raises:
        Refusal: An input has an offset, and this operator neither passes it on nor reads it as an index.
    """
    shifted = _shifted(inputs)
    if not shifted or node.op_type in BLIND or shifted == [INDEXED.get(node.op_type)]:
        return
    domain, op_type = operator(node)
    if domain or op_type not in LINEAR or not _is_linear(node, inputs):
        raise Refusal("it computes with positions of the samples in the static batch")


def _shifted(inputs: Sequence[Operand | None]) -> list[int]:
    return [i for i, o in enumerate(inputs) if o is not None and o.offset is not None]


def _is_linear(node: ir.Node, inputs: Sequence[Operand | None]) -> bool:
    """Return whether a linear operator is linear for these inputs.

    Whole numbers in floats are only moved, and cast to integers; that is exact, because `plain` is then a whole number
    wherever its offset is not 0. Adding could round.
    """
    if node.op_type == "Cast":
        return node.attributes["to"].as_int() in COUNTING
    if node.op_type == "Gather" and (_shifted(inputs) != [0] or required(inputs, 1).batch is not None):
        return False
    if node.op_type == "Mul" and sum(o is not None and o.batch is not None for o in inputs) != 1:  # not by a constant
        return False
    return node.op_type in MOVING or all(o is None or o.dtype in COUNTING for o in inputs)


def split(node: ir.Node, inputs: Sequence[Operand | None], found: DifferentRows) -> list[Operand | None]:
    """Return the inputs with the constant that has different rows split into `plain` and its offset.

    Raises:
        DifferentRows: The constant does not hold whole numbers, or the operator neither adds it nor reads it as an
            index.
    """
    operand, rows = found.operand, found.rows
    domain, op_type = operator(node)
    is_index = op_type in INDEXED and operand is required(inputs, INDEXED[op_type])
    are_counted = rows.dtype.kind in "iu" or (op_type in MOVING and _are_whole(rows))
    if domain or not (op_type in ADDING or is_index) or not are_counted:
        raise found
    first = rows.take([0], found.axis)
    plain = np.ascontiguousarray(np.broadcast_to(first, rows.shape)).reshape(operand.shape)
    offset = (rows - first).reshape(operand.shape)
    known = Operand(operand.name, operand.dtype, operand.shape, origin=plain, offset=offset)
    return [known if o is operand else o for o in inputs]


def _are_whole(rows: Array) -> bool:
    """Return whether floats are whole numbers that are small enough to be told apart, in fp16 too."""
    return rows.dtype.kind == "f" and bool((np.abs(rows) <= LARGEST_WHOLE).all() and (rows == np.trunc(rows)).all())


def follow(op: Op, result: Operand) -> None:
    """Give the result of a linear operator the offset that its inputs' offsets make.

    As the operator is linear, it is the result when every input is replaced by its offset. With the offset
    `[0, 4, 8]` above, `Mul` by 2 gives `[0, 8, 16]`, and `Add` of samples without an offset leaves it.

    Raises:
        Refusal: It cannot be computed.
    """
    shifted = _shifted(op.inputs)
    if op.node.op_type not in LINEAR or not shifted or shifted == [INDEXED.get(op.node.op_type)]:
        return
    offsets = tuple(_offset_of(o, op.node) for o in op.inputs)
    origin = Computed(op.node, op.opset, offsets, 0)
    array = evaluate(Operand(result.name, result.dtype, result.shape, origin=origin))
    if array is None:
        raise Refusal("what it does to positions of the samples in the static batch cannot be computed")
    result.offset = array if array.any() else None


def _offset_of(operand: Operand | None, node: ir.Node) -> Operand | None:
    """Return an input as it is when the offset is computed: its own, or zero.

    A constant that is not added has no offset but says what is done: a target shape, or the other factor of a product.
    """
    if operand is None:
        return None
    if operand.offset is not None:
        return replace(operand, origin=operand.offset, computed=None, batch=None)
    if operand.batch is None and node.op_type not in ADDING:
        return operand
    return replace(operand, origin=np.zeros(operand.shape, operand.dtype.numpy()), computed=None, batch=None)


def by_sample(shape: Shape, batch: Placed, static_batch: int, *, step: int) -> Array:
    """Return `int64[*shape]` that holds, for every element, `step` times the position of the sample it belongs to.

    On an axis of `outer * B * inner`, element k belongs to sample `k // inner % B`: with B = 3 and inner = 2, the
    samples are `0 0 1 1 2 2`.
    """
    samples, _ = batch.locate(np.arange(shape[batch.axis]), static_batch)
    along_batch = [-1 if axis == batch.axis else 1 for axis in range(len(shape))]
    return np.broadcast_to((step * samples).reshape(along_batch), shape)


def names_its_sample(
    operand: Operand, static_batch: int, *, step: int, column: int | None = None, batch: Batch | None = None
) -> bool:
    """Return whether the offset of every element is `step` times the position of the sample it belongs to.

    Args:
        operand: Indices with an offset.
        static_batch: B.
        step: How many rows each sample has on the axis that is indexed.
        column: The last axis holds tuples of indices, and only this one of a tuple may have an offset.
        batch: Where the samples are, if the indices are a constant.
    """
    place, offset = operand.batch or batch, operand.offset
    if offset is None or not isinstance(place, Placed):
        return False
    wanted = by_sample(operand.shape, place, static_batch, step=step)
    if column is not None:
        wanted = np.where(np.arange(operand.shape[-1]) == column, wanted, 0)
    return np.array_equal(offset, wanted)
