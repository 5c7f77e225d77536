"""Fold what surrounds a product into its weights, so that only the weights are quantized.

A weight behind Transpose or Identity becomes a constant, and the factors alpha and beta of a Gemm become part of it. So
does the normalization behind a convolution:

`BatchNormalization(Conv(x, w) + b)` is `Conv(x, w * k) + (b - mean) * k + shift`, where `k` is
`scale / sqrt(variance + epsilon)` for each output channel. ONNX Runtime does the same when it loads a model, but not
across QuantizeLinear.

Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from builder.lowering.edges import Edges
from builder.lowering.int8.places import PRODUCTS
from builder.lowering.int8.products import constant_of
from builder.model import operator
from builder.tensors import Array

EPSILON = 1e-5

_WEIGHTS, _BIAS = 1, 2


def fold_weights(model: ir.Model) -> None:
    """Give products constants in place of rearranged ones, and a Gemm without factors, in place."""
    edges = Edges(model)
    for node in model.graph:
        if operator(node) in PRODUCTS:
            for position, value in enumerate(node.inputs[_WEIGHTS:], start=_WEIGHTS):
                array = constant_of(value)
                if value is not None and array is not None and value.const_value is None:
                    node.replace_input_with(position, edges.constant(value, np.ascontiguousarray(array)))
        if operator(node) == ("", "Gemm") and all(map(_is_constant, node.inputs[_WEIGHTS:])):
            _multiply(edges, node, "alpha", _WEIGHTS)
            _multiply(edges, node, "beta", _BIAS)


def _multiply(edges: Edges, node: ir.Node, name: str, position: int) -> None:
    """Multiply a constant input of a Gemm by a factor, and take the factor away."""
    factor = node.attributes.get_float(name, 1.0)
    value = node.inputs[position] if len(node.inputs) > position else None
    if value is not None and value.const_value is not None and factor != 1:
        node.replace_input_with(position, edges.constant(value, value.const_value.numpy() * np.float32(factor)))
    node.attributes.pop(name, None)


def fold_normalization(model: ir.Model) -> None:
    """Fold every normalization with constants behind a convolution with constants that nothing else takes, in place."""
    edges = Edges(model)
    for node in list(model.graph):
        convolution = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if operator(node) == ("", "BatchNormalization") and convolution is not None and _is_foldable(node, convolution):
            _fold(model.graph, edges, node, convolution)


def _is_foldable(node: ir.Node, convolution: ir.Node) -> bool:
    value = convolution.outputs[0]
    constants = (*node.inputs[1:], *convolution.inputs[1:])
    is_training = "training_mode" in node.attributes and node.attributes["training_mode"].as_int() != 0
    return (
        operator(convolution) == ("", "Conv")
        and all(map(_is_constant, constants))
        and len(list(value.uses())) == 1
        and not value.is_graph_output()
        and not is_training
        and len(node.outputs) == 1
    )


def _is_constant(value: ir.Value | None) -> bool:
    """Return whether a value is an fp32 constant, or left out."""
    return value is None or (value.dtype == ir.DataType.FLOAT and value.const_value is not None)


def _fold(graph: ir.Graph, edges: Edges, node: ir.Node, convolution: ir.Node) -> None:
    weights = convolution.inputs[1]
    bias = convolution.inputs[2] if len(convolution.inputs) > 2 else None
    scale, shift, mean, variance = _arrays(node.inputs[1:])
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else EPSILON
    factor = scale / np.sqrt(variance + np.float32(epsilon))
    if weights is None or weights.const_value is None or node.inputs[2] is None:
        return
    array = weights.const_value.numpy()
    before = np.zeros_like(mean) if bias is None or bias.const_value is None else bias.const_value.numpy()
    folded = edges.constant(weights, array * factor.reshape(-1, *[1] * (array.ndim - 1)))
    moved = edges.constant(node.inputs[2], (before - mean) * factor + shift)
    inputs = [convolution.inputs[0], folded, moved]
    made = ir.node("Conv", inputs, convolution.attributes, name=convolution.name)
    made.outputs[0].type, made.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    graph.insert_before(convolution, made)
    edges.replace(node.outputs[0], made.outputs[0], list(node.outputs[0].uses()))
    graph.remove([node, convolution], safe=True)


def _arrays(values: Sequence[ir.Value | None]) -> list[Array]:
    return [value.const_value.numpy() for value in values if value is not None and value.const_value is not None]
