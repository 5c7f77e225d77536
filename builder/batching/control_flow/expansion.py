"""What the handlers share: they read constants, and walk single nodes or copies of a body."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.rule import Operand, Refusal, given
from builder.batching.statics import evaluate
from builder.batching.walk import Walk
from builder.tensors import Array


def constant_of(operand: Operand, what: str) -> Array:
    """Return the value of an operand that decides how the walk goes on; `what` says what it decides.

    Raises:
        Refusal: It depends on the samples, or cannot be computed.
    """
    if operand.batch is not None:
        raise Refusal(f"{what} depends on the samples")
    array = evaluate(operand)
    if array is None:
        raise Refusal(f"{what} cannot be computed")
    if operand.is_sized:
        raise Refusal(f"{what} depends on the size of a dynamic axis")
    return array


def constant_input(walk: Walk, node: ir.Node, index: int, what: str) -> Array | None:
    """Return the value of an optional input that decides how the walk goes on; None where it is left out."""
    value = given(node.inputs, index)
    return None if value is None else constant_of(walk.operand(value), what)


def position(walk: Walk, node: ir.Node, index: int, length: int, *, default: int, last: int) -> int:
    """Return a position in a sequence, counted from the front.

    Args:
        walk: The walk.
        node: A node that takes a position; a negative one counts from the end.
        index: Which of its inputs that is.
        length: Members of the sequence.
        default: The position where the input is left out.
        last: The last position that the node can use.

    Raises:
        Refusal: It depends on the samples, or there is no such position.
    """
    array = constant_input(walk, node, index, "a position in a sequence")
    asked = default if array is None else int(array.reshape(-1)[0])
    found = asked + length if asked < 0 else asked
    if not 0 <= found <= last:
        raise Refusal(f"position {asked} is outside the sequence of {length}")
    return found


def alias(walk: Walk, operand: Operand) -> ir.Value:
    """Return a value that represents an operand, so that nodes made here can read it."""
    value = ir.Value(name=operand.name)
    walk.operands[value] = operand
    return value


def run(walk: Walk, op_type: str, inputs: Sequence[ir.Value], **attributes: int) -> Operand:
    """Walk one node made here; returns its output.

    Raises:
        Skipped: The node was refused.
    """
    attrs = [ir.Attr(k, ir.AttributeType.INT, v) for k, v in attributes.items()]
    node = ir.Node("", op_type, inputs, attrs, name=op_type)
    node.outputs[0].name = f"{op_type.lower()}.written_out"
    walk.walk([node])
    return walk.operand(node.outputs[0])


def stack(walk: Walk, rows: Sequence[Operand], *, axis: int) -> Operand:
    """Join one value of every iteration along a new axis."""
    if not rows:
        raise Refusal("there is nothing to join: it never runs, or its sequence is empty")
    return run(walk, "Concat", [_unsqueezed(walk, row, axis) for row in rows], axis=axis)


def _unsqueezed(walk: Walk, operand: Operand, axis: int) -> ir.Value:
    where = axis + operand.rank + 1 if axis < 0 else axis
    target = (*operand.shape[:where], 1, *operand.shape[where:])
    return alias(walk, reshaped(walk, operand, target))


def reshaped(walk: Walk, operand: Operand, target: Sequence[int]) -> Operand:
    """Return the operand in another static shape."""
    shape = alias(walk, Operand.known(np.asarray(target, np.int64), "shape"))
    return run(walk, "Reshape", [alias(walk, operand), shape])


def picked(walk: Walk, value: ir.Value, axis: int, indices: Array, name: str) -> Operand:
    """Return the part of a value at constant indices along one axis."""
    where = alias(walk, Operand.known(indices.astype(np.int64), name))
    return run(walk, "Gather", [value, where], axis=axis)


def walk_body(walk: Walk, body: ir.Graph, operands: Sequence[Operand]) -> list[Operand]:
    """Walk a copy of a body on these inputs; returns its outputs.

    Raises:
        Skipped: An output depends on a node that was refused.
        Refusal: The body takes another number of inputs.
    """
    if len(body.inputs) != len(operands):
        raise Refusal(f"its body takes {len(body.inputs)} inputs, but it is given {len(operands)}")
    graph = body.clone(allow_outer_scope_values=True)
    for value in graph.initializers.values():
        walk.operand(value)
    walk.operands.update(zip(graph.inputs, operands, strict=True))
    walk.walk(graph)
    return [walk.operand(v) for v in graph.outputs]
