"""Static shapes of operators for which ONNX has no schema or no inference: what several families need.

A family module states the shapes of its own operators beside their rules; the makers here serve more than one of them.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from builder.batching.layout import Shape
from builder.batching.rule import Infer, Malformed, Operand, Refusal, Static, Undecided, required
from builder.batching.statics import evaluate, infer
from builder.tensors import Array

Inputs = Sequence[Operand | None]

BORROWED_OPSET = 17
"""The opset of the ai.onnx operators whose inference is borrowed."""


def constant_value(inputs: Inputs, index: int) -> Array:
    """Return the value of an input that decides a shape.

    Raises:
        Refusal: It is computed from the samples, or cannot be computed.
    """
    operand = required(inputs, index)
    found = None if operand.batch is not None else evaluate(operand)
    if found is None:
        raise Refusal(f"its output's shape depends on input {index} ({operand.name!r}), which is not a constant")
    return found


def integer(node: ir.Node, name: str, default: int = 0) -> int:
    """Return an attribute that is a whole number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.value)


def has_schema(operator: tuple[str, str]) -> bool:
    """Return whether ONNX defines the operator, given as domain and type, in any opset it still knows."""
    domain, op_type = operator
    return bool(onnx.defs.has(op_type, domain))


def unknown(node: ir.Node, inputs: Inputs) -> Static:
    """Refuse an operator that has a rule, but neither a schema in ONNX nor a shape in its entry."""
    raise Undecided("the shape of its output is not known to this program; please report it")


def same_as_first(node: ir.Node, inputs: Inputs) -> Static:
    """Give every output the type and shape of the first input."""
    first = required(inputs, 0)
    return [(first.dtype, first.shape)] * len(node.outputs)


def broadcast_shapes(*shapes: Shape) -> Shape:
    """Broadcast shapes against each other.

    Raises:
        Malformed: They do not fit.
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise Malformed(f"its inputs do not broadcast: {error}") from error


def broadcast(*members: int) -> Infer:
    """Make a shape that is the inputs `members` broadcast against each other, of the type of the last of them."""

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        found = broadcast_shapes(*(required(inputs, i).shape for i in members))
        return [(required(inputs, members[-1]).dtype, found)]

    return shape


def borrowed(op_type: str, *members: int, drop: Sequence[str] = ()) -> Infer:
    """Make the shape that an ai.onnx operator has for the inputs `members`, without the attributes `drop`."""

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        kept = [a for k, a in node.attributes.items() if k not in drop and not k.startswith("activation")]
        return stand_in(op_type, [required(inputs, i) for i in members], kept)

    return shape


def stand_in(op_type: str, inputs: Sequence[Operand], attributes: Sequence[ir.Attr]) -> Static:
    """Infer the output of an ai.onnx operator on these inputs."""
    node = ir.Node("", op_type, [None] * len(inputs), attributes, num_outputs=1)
    node.outputs[0].name = "y"
    return infer(node, inputs, {"": BORROWED_OPSET})


def pooled(op_type: str) -> Infer:
    """Make the shape that an ai.onnx pooling operator, which takes floats alone, has for input 0 of any type."""
    on_floats = borrowed(op_type, 0, drop=["channels_last"])

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        first = required(inputs, 0)
        ((_, found),) = on_floats(node, [Operand(first.name, ir.DataType.FLOAT, first.shape, first.batch)])
        return [(first.dtype, found)]

    return shape


def channels_last(shape_of: Infer, weights: int | None = None) -> Infer:
    """Make the same shape with input 0 and the output in NHWC order, and the weights of Nhwc operators in it too."""

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        is_nhwc = node.op_type.startswith("Nhwc")
        if not (integer(node, "channels_last") or is_nhwc):
            return shape_of(node, inputs)
        turned = [_channels_first(required(inputs, 0)), *inputs[1:]]
        if weights is not None and is_nhwc:
            turned[weights] = _channels_first(required(inputs, weights))
        ((dtype, found),) = shape_of(node, turned)
        return [(dtype, (found[0], *found[2:], found[1]))]

    return shape


def _channels_first(operand: Operand) -> Operand:
    """Return the operand as if it lay in NCHW order: `[1, 5, 7, 3] -> [1, 3, 5, 7]`."""
    shape = operand.shape
    return Operand(operand.name, operand.dtype, (shape[0], shape[-1], *shape[1:-1]), operand.batch)
