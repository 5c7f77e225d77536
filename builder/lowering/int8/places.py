"""Decide which nodes can compute on integers, and where values are quantized.

A convolution or a product of matrices is quantized with constant weights: an integer for each weight, with a scale for
each output channel. What it takes is quantized right before it:

    x ─ QuantizeLinear ─ DequantizeLinear ─ Conv ─ Relu ─ …
                   w ─ DequantizeLinear ────┘

ONNX Runtime and TensorRT fuse such a group into one kernel on integers. They want different places for the rest:

- ONNX Runtime on a CPU has convolutions from integers to integers only. So what a convolution makes is quantized too,
  behind its activation. A sum or a concatenation of such values then runs on integers, because all around it is
  quantized. A product of matrices has a kernel that makes floats, so what it makes stays as it is.
- TensorRT quantizes what a convolution makes by itself where the next one takes it. In a sum with a convolution it
  fuses the convolution, so the other term should be quantized.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html,
"Q/DQ Placement Recommendations"; https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from builder.lowering.request import Runtime
from builder.model import operator

PRODUCTS = (("", "Conv"), ("", "Gemm"), ("", "MatMul"))
"""The operators that have kernels on integers."""

UNBOUNDED = "values are infinite, NaN or beyond 1e30"

_OTHER_PRODUCTS = frozenset(("", op_type) for op_type in ("ConvTranspose", "Einsum", "GRU", "LSTM", "RNN"))
"""Operators that multiply by their weights too, and of which ONNX Runtime has none on integers."""

_ACTIVATIONS = (("", "Relu"), ("", "Clip"))
"""What is fused into a convolution."""

_OF_IMAGES = frozenset(
    ("", op_type)
    for op_type in (
        *("Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool"),
        *("Pad", "Relu", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    )
)
"""Operators that run on integers between convolutions, because all around them is quantized."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a graph can be quantized.

    Attributes:
        units: The nodes that can be, by name: for each, the names of all that have the same weights, itself included.
        reasons: Why each other node with weights, or product of matrices, cannot be.
        outputs: Values to quantize because of the node that makes them, by that node's name.
        beside: Values to quantize because they are added to what a node makes, by that node's name.
    """

    units: Mapping[str, tuple[str, ...]]
    reasons: Mapping[ir.Node, str]
    outputs: Mapping[str, ir.Value]
    beside: Mapping[str, ir.Value]

    def without(self, graph: ir.Graph, endless: Collection[str]) -> "Places":
        """Return the places without nodes that take or make one of these values."""
        gone: set[str] = set()
        for node in graph:
            name = str(node.name)
            made = self.outputs.get(name)
            touched = {value.name for value in (*node.inputs[:1], made) if value is not None}
            if name in self.units and touched & set(endless):
                gone |= set(self.units[name])
        return Places(
            {name: unit for name, unit in self.units.items() if name not in gone},
            {**self.reasons, **{node: UNBOUNDED for node in graph if node.name in gone}},
            {name: value for name, value in self.outputs.items() if name not in gone},
            {name: value for name, value in self.beside.items() if name not in gone and value.name not in endless},
        )

    def values(self, graph: ir.Graph) -> dict[str, ir.Value]:
        """Return the values that are quantized, by name."""
        taken = [node.inputs[0] for node in graph if node.name in self.units]
        found = [*taken, *self.outputs.values(), *self.beside.values()]
        return {str(value.name): value for value in found if value is not None}


def find_places(graph: ir.Graph, runtime: Runtime) -> Places:
    """Decide for every node of a graph whose constants are initializers and whose nodes have names."""
    whys = {node: _why_not(node, runtime) for node in graph if is_product(node)}
    able = [node for node, why in whys.items() if why is None]
    by_weights: dict[ir.Value | None, list[str]] = {}
    for node in able:
        by_weights.setdefault(node.inputs[1], []).append(str(node.name))
    convolutions = [node for node in able if node.op_type == "Conv"]
    return Places(
        {name: tuple(names) for names in by_weights.values() for name in names},
        {node: why for node, why in whys.items() if why is not None},
        {str(node.name): _behind(node) for node in convolutions} if runtime == "cpu" else {},
        dict(_other_terms(convolutions)) if runtime == "tensorrt" else {},
    )


def is_of_images(value: ir.Value | None) -> bool:
    """Return whether a value comes from convolutions, through nothing but operators that run on integers between them.

    What makes it is quantized too then, so that whoever takes it can take the quantized value.
    """
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        found = stack.pop()
        node = None if found is None else found.producer()
        if found is None or node is None or found in seen or operator(node) not in _OF_IMAGES:
            continue
        if operator(node) == ("", "Conv"):
            return True
        seen.add(found)
        stack += node.inputs
    return False


def weights_of_products(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Yield the fp32 weights of products; tables that are only looked up, or added, are left out."""
    for node in graph:
        if is_product(node):
            for value in node.inputs:
                if value is not None and value.const_value is not None and value.dtype == ir.DataType.FLOAT:
                    yield node, value


def is_product(node: ir.Node) -> bool:
    """Return whether a node multiplies by weights, or two matrices that are both computed."""
    if operator(node) in PRODUCTS:
        return True
    has_weights = any(
        value is not None
        and value.const_value is not None
        and value.dtype == ir.DataType.FLOAT
        and sum(size != 1 for size in value.const_value.shape) > 1
        for value in node.inputs
    )
    return has_weights and (operator(node) in _OTHER_PRODUCTS or bool(node.domain))


def _why_not(node: ir.Node, runtime: Runtime) -> str | None:
    """Return why a node cannot compute on integers."""
    if operator(node) not in PRODUCTS and not (runtime == "tensorrt" and node.op_type == "ConvTranspose"):
        return "operator does not support it"
    taken, weights, *bias = node.inputs
    if taken is None or taken.dtype != ir.DataType.FLOAT:
        return "values are not fp32"
    if taken.const_value is not None:
        return "weights are the first factor"
    if taken.is_graph_input() and taken.is_graph_output():
        return "takes an input that is an output too"
    if any(value is not None and value.const_value is None for value in bias):
        return "bias is not constant"
    return _why_not_with(node, weights)


def _why_not_with(node: ir.Node, weights: ir.Value | None) -> str | None:
    """Return why a product with these weights cannot be computed on integers."""
    if weights is None or weights.const_value is None or weights.dtype != ir.DataType.FLOAT:
        return "no constant weights"
    if node.op_type in ("Gemm", "MatMul") and len(weights.const_value.shape) != 2:
        return "weights are not a matrix"
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0:
        return "transposed product"
    return None if np.isfinite(weights.const_value.numpy()).all() else "weights are infinite or NaN"


def _behind(node: ir.Node) -> ir.Value:
    """Return what a convolution makes, behind the activation that is fused into it."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) == 1 and not value.is_graph_output() and operator(uses[0][0]) in _ACTIVATIONS and uses[0][1] == 0:
        return uses[0][0].outputs[0]
    return value


def _other_terms(convolutions: Collection[ir.Node]) -> Iterator[tuple[str, ir.Value]]:
    """Yield the other term of each sum with what a convolution makes; if both are convolutions, of the later one."""
    sums: dict[ir.Node, tuple[str, ir.Value]] = {}
    for node in convolutions:
        for user, position in node.outputs[0].uses():
            other = user.inputs[1 - position] if operator(user) == ("", "Add") else None
            if other is not None and other.const_value is None and len(list(node.outputs[0].uses())) == 1:
                sums[user] = (str(node.name), other)
    yield from sums.values()
