"""Make the nodes of a rule that splits an operator into others."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Attribute
from builder.batching.layout import Placed
from builder.batching.rule import Op, Operand
from builder.batching.unrolled import alone, sample_of
from builder.tensors import Array

AXES_ARE_INPUTS_SINCE = 13
"""From this opset on, Squeeze, Unsqueeze and ReduceSum take their axes as an input."""


def append(
    nodes: list[ir.Node],
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    axes: Sequence[int] | None = None,
    opset: int = 1,
    attributes: Mapping[str, Attribute] | None = None,
) -> ir.Value:
    """Append a node with one output; its `axes` become an attribute or an input, as the opset asks."""
    attrs = dict(attributes or {})
    given = list(inputs)
    if axes is not None and opset < AXES_ARE_INPUTS_SINCE:
        attrs["axes"] = list(axes)
    elif axes is not None:
        given.append(constant(nodes, np.asarray(axes, np.int64)))
    made = [v if isinstance(v, ir.Attr) else ir.convenience.convert_attribute(k, v) for k, v in attrs.items()]
    node = ir.Node("", op_type, given, made)
    node.outputs[0].name = f"{op_type.lower()}.{len(nodes)}"
    nodes.append(node)
    return node.outputs[0]


def constant(nodes: list[ir.Node], array: Array) -> ir.Value:
    """Append a Constant."""
    node = ir.Node("", "Constant", [], [ir.Attr("value", ir.AttributeType.TENSOR, ir.tensor(array))])
    node.outputs[0].name = f"constant.{len(nodes)}"
    nodes.append(node)
    return node.outputs[0]


def gather_alone(
    nodes: list[ir.Node], given: dict[ir.Value, Operand], op: Op, indices: Array, axis: int
) -> ir.Value | None:
    """Append a Gather of rows of input 0 along the batch's axis, if they are all of one sample (see `unrolled`).

    Args:
        nodes: The nodes of the decomposition so far.
        given: Its operands; the sample is added.
        op: The node, which holds samples on `axis` of its input 0.
        indices: Along that axis, counted from the front.
        axis: The axis.
    """
    operand, batch = op.samples(0)
    found = sample_of(indices, batch, op.static_batch) if isinstance(batch, Placed) else None
    if found is None:
        return None
    sample, rows = found
    source = ir.Value(name=f"{operand.name}.{sample}")
    given[source] = alone(operand, sample)
    return append(nodes, "Gather", [source, constant(nodes, rows)], attributes={"axis": axis})


def scaled(nodes: list[ir.Node], value: ir.Value, factor: float, dtype: ir.DataType) -> ir.Value:
    """Append a product with a number, unless that is 1."""
    if factor == 1.0:
        return value
    return append(nodes, "Mul", [value, constant(nodes, scalar(factor, dtype))])


def scalar(number: float, dtype: ir.DataType) -> Array:
    """Return a number as an array of rank 0."""
    made: Array = np.asarray(number).astype(dtype.numpy())
    return made
