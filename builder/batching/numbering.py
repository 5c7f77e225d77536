"""Numbers of samples baked into indices: `arange(B) * T + index` reads each sample's own row of `[B * T, ...]`.

A constant that differs from sample to sample cannot be cut to one. Where it is a whole number that only moves an
index, it is taken apart: `value = plain + ahead`, with `plain` the same for every sample and `ahead` zero for the
first. The rewritten graph holds `plain`; `ahead` is followed through what is linear, until an operator reads the sum as
the index of the very sample it stands for. Anything else that reads it is refused.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from builder.batching.layout import Placed
from builder.batching.rule import Computed, DifferentRows, Operand, Refusal
from builder.batching.statics import evaluate
from builder.tensors import Array

LINEAR = frozenset(
    [
        "Add",
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Identity",
        "Mul",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Operators that give the sum of what they give for `plain` and for `ahead`."""

INDEXED = {"Gather": 1, "GatherND": 1, "ScatterND": 1}
"""Operators that read indices, and which input these are; their rules look at `ahead`."""

BLIND = frozenset(["Shape", "Size"])
"""Operators that look at no value."""


def check(node: ir.Node, inputs: Sequence[Operand | None]) -> None:
    """Refuse an operator that would read `plain` for the value.

    Raises:
        Refusal: It is none of those that can be followed.
    """
    where = [i for i, o in enumerate(inputs) if o is not None and o.ahead is not None]
    if not where or node.op_type in BLIND or where == [INDEXED.get(node.op_type)]:
        return
    if node.domain or node.op_type not in LINEAR or not _is_linear(node, inputs):
        raise Refusal("it computes with the numbers that samples have in their batch")


def _is_linear(node: ir.Node, inputs: Sequence[Operand | None]) -> bool:
    if node.op_type == "Cast":
        return node.attributes["to"].as_int() in (ir.DataType.INT32, ir.DataType.INT64)
    return node.op_type != "Mul" or _scales(inputs)


def _scales(inputs: Sequence[Operand | None]) -> bool:
    """A product with a constant."""
    return sum(o is not None and o.batch is not None for o in inputs) == 1


def apart(node: ir.Node, inputs: Sequence[Operand | None], found: DifferentRows) -> list[Operand | None]:
    """The inputs with the constant that has different rows taken apart.

    Raises:
        DifferentRows: It is no index, or the operator is not linear in it.
    """
    operand, rows = found.operand, found.rows
    if node.domain or node.op_type not in ("Add", "Sub", "Concat") or rows.dtype.kind not in "iu":
        raise found
    plain = np.ascontiguousarray(np.broadcast_to(rows.take([0], found.axis), rows.shape)).reshape(operand.shape)
    ahead = (rows - rows.take([0], found.axis)).reshape(operand.shape)
    known = Operand(operand.name, operand.dtype, operand.shape, origin=plain, ahead=ahead)
    return [known if o is operand else o for o in inputs]


def follow(node: ir.Node, opset: int, inputs: Sequence[Operand | None], result: Operand) -> None:
    """Say how far a linear operator's result is ahead.

    Raises:
        Refusal: It cannot be computed.
    """
    if node.op_type not in LINEAR or all(o is None or o.ahead is None for o in inputs):
        return
    moved = [_moved(o, node) for o in inputs]
    origin = Computed(node, opset, tuple(moved), 0)
    array = evaluate(Operand(result.name, result.dtype, result.shape, origin=origin))
    if array is None:
        raise Refusal("how it moves the numbers of samples cannot be computed")
    result.ahead = array if array.any() else None


def _moved(operand: Operand | None, node: ir.Node) -> Operand | None:
    """What an input adds for each sample: nothing, if it holds samples and no numbers; itself, if it says how to."""
    if operand is None:
        return None
    if operand.ahead is not None:
        return replace(operand, origin=operand.ahead, computed=None, batch=None)
    adds = node.op_type in ("Add", "Sub", "Concat")
    if operand.batch is None and not adds:
        return operand
    return replace(operand, origin=np.zeros(operand.shape, operand.dtype.numpy()), computed=None, batch=None)


def names_its_sample(operand: Operand, static_batch: int, *, step: int, column: int | None = None) -> bool:
    """Whether the operand is ahead by `step` times the number of its sample (in one column of its last axis alone)."""
    batch, ahead = operand.batch, operand.ahead
    if ahead is None or not isinstance(batch, Placed):
        return False
    length = operand.shape[batch.axis]
    numbers = np.arange(length) // batch.inner % static_batch
    wanted: Array = np.zeros(operand.shape, np.int64)
    by_axis = (step * numbers).reshape([-1 if i == batch.axis else 1 for i in range(operand.rank)])
    if column is None:
        wanted[...] = by_axis
    else:
        wanted[..., column] = np.broadcast_to(by_axis, operand.shape)[..., column]
    return np.array_equal(ahead, wanted)
