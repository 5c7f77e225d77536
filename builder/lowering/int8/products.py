"""Find the products of matrices that can be computed on integers: values of the model times constant weights."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx_ir as ir

from builder.lowering.int8.reasons import KEPT, SLOW
from builder.model import operator
from builder.tensors import Array

LARGEST_SUM = 2**31
"""What a sum of integers must stay below."""

PRODUCTS = {("", "MatMul"), ("", "Gemm")}

LOOKUPS = {("", "Gather"), ("", "GatherElements"), ("", "GatherND")}

OTHERS = {("", "LSTM"), ("", "GRU"), ("", "RNN"), ("", "Einsum")}

SLOWER = {("", "Conv"), ("", "ConvTranspose")}
"""Operators that ONNX Runtime computes faster in fp32 on a CPU.

A ConvInteger took 2.5 to 6 times as long as the Conv in fp32 (ONNX Runtime 1.31.1, AVX2), see docs/tensorrt.md.
"""

_WITH_WEIGHTS = PRODUCTS | LOOKUPS | OTHERS | SLOWER

_REARRANGES = {("", "Identity"), ("", "Transpose")}
"""Operators that make weights of weights: exporters write them where layers share theirs."""

_NEVER_NEGATIVE = {"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"}
_KEEPS_SIGN = {
    *("AveragePool", "Dropout", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "ReduceMax"),
    *("ReduceMean", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
}


@dataclass(frozen=True, slots=True)
class Product:
    """A node that multiplies values, `float[..., K]`, by constant weights.

    Attributes:
        node: The node, a MatMul or a Gemm.
        weights: The weights, `float32[..., K, n]`: those of a Gemm are transposed and multiplied by alpha.
        is_never_negative: Whether the values are known to be 0 or larger.
    """

    node: ir.Node
    weights: Array
    is_never_negative: bool

    @property
    def values(self) -> ir.Value:
        """What is multiplied by the weights now: it is another value once the node that made it was replaced."""
        return cast(ir.Value, self.node.inputs[0])


@dataclass(frozen=True, slots=True)
class Found:
    """The products of a graph, and the other nodes that have weights.

    Attributes:
        products: Those that can be computed on integers.
        reasons: The reason for each other node that has weights or multiplies matrices.
        part: The part of all weights that is in the products, 0 to 1. Weights that several nodes have count once, and
            tables that are only looked up do not count.
    """

    products: tuple[Product, ...]
    reasons: Mapping[ir.Node, str]
    part: float


def find_products(model: ir.Model, keep: Collection[str] = frozenset(), slow: Collection[str] = frozenset()) -> Found:
    """Look at every node of the main graph that has weights: a constant matrix of fp32 numbers, or one of more axes.

    Args:
        model: The model.
        keep: The names of nodes that stay in fp32 whatever else is true of them.
        slow: The names of those that stay in fp32 because they are faster there.
    """
    products: list[Product] = []
    reasons: dict[ir.Node, str] = {}
    for node in _with_weights(model.graph):
        found = _product(node)
        if node.name in keep:
            reasons[node] = KEPT
        elif node.name in slow and isinstance(found, Product):
            reasons[node] = SLOW
        elif isinstance(found, Product):
            products.append(found)
        else:
            reasons[node] = found
    nodes = [product.node for product in products]
    total = _count_weights([*nodes, *reasons])
    return Found(tuple(products), reasons, _count_weights(nodes) / total if total else 1.0)


def _with_weights(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes with weights, and products of which both factors depend on the input."""
    for node in graph:
        is_product = operator(node) in PRODUCTS and any(map(_is_floating, node.outputs))
        may_have_weights = operator(node) in _WITH_WEIGHTS or node.domain or _has_graphs(node)
        if is_product or (may_have_weights and any(map(_size, _taken(node)))):
            yield node


def _has_graphs(node: ir.Node) -> bool:
    return any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())


def _taken(node: ir.Node) -> Iterator[ir.Value | None]:
    """Yield the inputs of a node, and those of the nodes inside it; for a constant made of another one, that one."""
    yield from map(_source, node.inputs)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                yield from inner.inputs


def _source(value: ir.Value | None) -> ir.Value | None:
    node = None if value is None else value.producer()
    return value if node is None or operator(node) not in _REARRANGES else _source(node.inputs[0])


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _is_floating(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def _size(value: ir.Value | None) -> int:
    """Return the number of elements of a constant matrix of floats, or of one with more axes; otherwise 0."""
    tensor = None if value is None else value.const_value
    if tensor is None or not tensor.dtype.is_floating_point():
        return 0
    is_matrix = tensor.size > max(tensor.shape.numpy(), default=1)
    return tensor.size if is_matrix else 0


def _count_weights(nodes: Iterable[ir.Node]) -> int:
    return sum(map(_size, {value for node in nodes if operator(node) not in LOOKUPS for value in _taken(node)}))


def _product(node: ir.Node) -> Product | str:
    """Return the product, or why the node stays in fp32."""
    if reason := _other(node):
        return reason
    values, factor = node.inputs[0], node.inputs[1]
    if not (_is_float(values) and _is_float(factor)):
        return "not in fp32"
    if constant_of(values) is not None:
        return "the first factor is constant"
    weights = constant_of(factor)
    if weights is None:
        return "has no weights"
    if node.op_type == "Gemm":
        weights = _weights_of_gemm(node, weights)
    if weights.ndim < 2 or not weights.size:
        return "multiplies by a vector"
    if not np.isfinite(weights).all():
        return "weights are not finite"
    if weights.shape[-2] * 255 * 64 >= LARGEST_SUM:
        return "sums could overflow"
    return Product(node, weights, _is_never_negative(values))


def _other(node: ir.Node) -> str | None:
    """Return why a node stays in fp32 that is no product; None if it is one."""
    if _has_graphs(node):
        return "is a loop or a branch"
    if not any(map(_is_float, node.outputs)):
        return "not in fp32"
    if operator(node) in SLOWER:
        return SLOW
    if operator(node) in LOOKUPS:
        return "computes nothing"
    return None if operator(node) in PRODUCTS else "has no form on integers with a scale for each row"


def _weights_of_gemm(node: ir.Node, weights: Array) -> Array:
    alpha = node.attributes.get_float("alpha", 1.0)
    turned = weights.T if node.attributes.get_int("transB", 0) else weights
    scaled: Array = turned * np.float32(alpha)
    return scaled


def constant_of(value: ir.Value | None) -> Array | None:
    """Return a constant, also one that a Transpose or an Identity makes of another one, or None."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or operator(node) not in _REARRANGES:
        return None
    source = constant_of(node.inputs[0])
    if source is None or node.op_type == "Identity":
        return source
    return source.transpose(node.attributes.get_ints("perm", list(reversed(range(source.ndim)))))


def _is_never_negative(value: ir.Value | None) -> bool:
    """Return whether a value is made by an operator whose answers are 0 or larger."""
    while value is not None and (node := value.producer()) is not None and not node.domain:
        if node.op_type in _NEVER_NEGATIVE:
            return True
        if node.op_type not in _KEEPS_SIGN:
            return False
        value = node.inputs[0]
    return False
