"""What nodes that steer the walk are made of: values known now, and nodes made on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from builder.batching.rule import Operand, Refusal
from builder.batching.statics import evaluate

if TYPE_CHECKING:
    from builder.batching.walk import Walk
    from builder.tensors import Array

Results = Sequence[Operand | None]
Steer = Callable[["Walk", ir.Node], Results]


def known(array: Array, name: str) -> Operand:
    """An operand whose value was computed here."""
    dtype = ir.DataType.STRING if array.dtype.kind in "OUS" else ir.DataType.from_numpy(array.dtype)
    return Operand(name, dtype, array.shape, origin=array)


def value_of(walk: Walk, value: ir.Value | None, what: str) -> Array | None:
    """The constant value of an input that steers; None where it is left out."""
    return None if value is None else constant_of(walk.operand(value), what)


def constant_of(operand: Operand, what: str) -> Array:
    """The constant value of an operand that steers."""
    if operand.batch is not None:
        raise Refusal(f"{what} depends on the samples")
    array = evaluate(operand)
    if array is None:
        raise Refusal(f"{what} cannot be computed")
    return array


def alias(walk: Walk, operand: Operand | None) -> ir.Value:
    """A value that stands for an operand in nodes made here."""
    value = ir.Value(name=operand.name if operand is not None else "refused")
    walk.operands[value] = operand
    return value


def run(walk: Walk, op_type: str, inputs: Sequence[ir.Value], **attributes: int) -> Operand | None:
    """Walk one node made here; returns its output."""
    attrs = [ir.Attr(k, ir.AttributeType.INT, v) for k, v in attributes.items()]
    node = ir.Node("", op_type, inputs, attrs, name=op_type)
    node.outputs[0].name = f"{op_type.lower()}.written_out"
    walk.walk([node])
    return walk.operands[node.outputs[0]]


def stack(walk: Walk, rows: Results, *, axis: int) -> Operand | None:
    """Join one value of every iteration along a new axis."""
    if not rows:
        raise Refusal("a loop that never runs has no outputs to join")
    known_rows = [r for r in rows if r is not None]
    if len(known_rows) < len(rows):
        return None
    return run(walk, "Concat", [_unsqueezed(walk, r, axis) for r in known_rows], axis=axis)


def _unsqueezed(walk: Walk, operand: Operand, axis: int) -> ir.Value:
    where = axis + operand.rank + 1 if axis < 0 else axis
    target = (*operand.shape[:where], 1, *operand.shape[where:])
    return alias(walk, reshaped(walk, operand, target))


def reshaped(walk: Walk, operand: Operand, target: Sequence[int]) -> Operand | None:
    """The operand in another static shape."""
    shape = alias(walk, known(np.asarray(target, np.int64), "shape"))
    return run(walk, "Reshape", [alias(walk, operand), shape])


def position(walk: Walk, node: ir.Node, index: int, length: int, *, default: int) -> int:
    """A constant input that counts from the front, or from the end where it is negative."""
    array = value_of(walk, node.inputs[index] if index < len(node.inputs) else None, "a position in a sequence")
    if array is None:
        return default
    found = int(array.reshape(-1)[0])
    if not -length <= found <= length:
        raise Refusal(f"position {found} is outside the sequence of {length}")
    return found + length if found < 0 else found


def walk_body(walk: Walk, body: ir.Graph, operands: Results) -> tuple[Sequence[ir.Value], list[Operand | None]]:
    """Walk a copy of the body on these inputs."""
    if len(body.inputs) != len(operands):
        raise Refusal(f"its body takes {len(body.inputs)} inputs, and gets {len(operands)}")
    graph = body.clone(allow_outer_scope_values=True)
    for value in graph.initializers.values():
        walk.operand(value)
    walk.operands.update(zip(graph.inputs, operands, strict=True))
    walk.walk(graph)
    return graph.outputs, [walk.operands[v] if v in walk.operands else walk.operand(v) for v in graph.outputs]
