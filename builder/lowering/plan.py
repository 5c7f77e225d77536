"""Decide which nodes compute in fp16 or bf16, and which stay in fp32.

A node is lowered when its ONNX schema accepts the low precision, its values fit the format, and it does not need full
precision. Take fp16, which holds values up to 65504 and whole numbers up to 2048, and this end of a network:

    h = MatMul(x, w)     its values reached 3.0 on the samples: lowered
    b = Mul(h, 1e6)      the constant 1e6 does not fit, and neither does b: fp32, "values too large"
    y = Div(b, 1e6)      takes b: fp32, "values too large"
    a = Mul(p, 100.0)    leads up to an angle: fp32, "needs full precision"
    s = Sin(a)           a rounding error of 0.5 in an angle of 1000 changes everything: fp32, "needs full precision"

The limit for measured values is lower than the format's own (see `HEADROOM`), because other samples may be larger.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from builder.model import operator

Operator = tuple[str, str]
"""An operator's domain and type, as `builder.model.operator` gives them."""


@dataclass(frozen=True, slots=True)
class Format:
    """A floating-point format.

    Attributes:
        dtype: The ONNX type.
        numpy: The NumPy type.
        largest: The largest finite value.
        smallest: The smallest positive value that is stored with all its digits.
        whole: Every whole number up to this one is exact.
    """

    dtype: ir.DataType
    numpy: Any
    largest: float
    smallest: float
    whole: int


FORMATS: Mapping[str, Format] = {
    "fp16": Format(ir.DataType.FLOAT16, np.float16, 65504.0, 2.0**-14, 2**11),
    "bf16": Format(ir.DataType.BFLOAT16, ml_dtypes.bfloat16, 3.38e38, 2.0**-126, 2**8),
}
"""The low precisions, by name."""

NEWEST = 22
"""The newest opset that a model is raised to. It is the one in which convolutions, poolings and recurrent networks got
bf16, and TensorRT and the ONNX Runtime of this project support it."""

HEADROOM = 8.0
"""Values may become this many times larger than on the samples that were run."""


def _onnx(*op_types: str) -> frozenset[Operator]:
    return frozenset(("", op_type) for op_type in op_types)


FULL_PRECISION: Collection[Operator] = _onnx(
    "Sin", "Cos", "Tan", "CumSum", "Range", "GridSample", "AffineGrid", "RoiAlign"
)
"""Operators that stay in fp32: a small error in an angle, a running sum or a coordinate becomes a large one."""

EXACT_INPUTS: Collection[Operator] = _onnx("Sin", "Cos", "Tan", "GridSample", "RoiAlign") | {
    ("com.microsoft", "GridSample")
}
"""Operators on angles and coordinates: the arithmetic that makes their inputs stays in fp32 too."""

EXACT_ARITHMETIC: Collection[Operator] = _onnx(
    *("Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "Div", "Einsum", "Expand", "Flatten", "Floor", "Gather", "Gemm"),
    *("Identity", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Reciprocal", "Reshape", "Round", "Slice", "Split"),
    *("Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"),
)
"""Operators that may compute angles, coordinates or whole numbers, so that they are followed back from there."""

QUANTIZERS: Collection[Operator] = _onnx("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
"""Operators between floats and quantized values, which stay as they are."""

_FEATURE_WEIGHTS = 4096
"""A product with more weights than this makes features, not coordinates, so that it need not be exact."""

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(slots=True)
class Plan:
    """Which nodes compute in the low precision.

    Attributes:
        lowered: The positions of the inputs and of the outputs that are in it, for each node that computes in it.
        reasons: The reason for each other node with fp32 outputs.
        opsets: The later opset that each of those nodes needs which could be in it for all other reasons.
    """

    lowered: dict[ir.Node, tuple[frozenset[int], frozenset[int]]] = field(default_factory=dict)
    reasons: dict[ir.Node, str] = field(default_factory=dict)
    opsets: dict[ir.Node, int] = field(default_factory=dict)

    def weights(self, *, but: Collection[str] = frozenset()) -> Iterator[tuple[ir.Value, bool]]:
        """Yield the fp32 constants of the nodes, and whether each is taken in the low precision.

        Args:
            but: The names of nodes whose constants are left out.
        """
        for node in self.reasons:
            if node.name not in but:
                yield from ((value, False) for value in _floats(node) if value.const_value is not None)
        for node, (inputs, _) in self.lowered.items():
            for position in inputs:
                value = node.inputs[position]
                if value is not None and value.const_value is not None:
                    yield value, True


def make_plan(model: ir.Model, low: Format, largest: Mapping[str, float], keep: Collection[str] = frozenset()) -> Plan:
    """Decide for every node with fp32 outputs.

    Args:
        model: The graph.
        low: The format.
        largest: The largest magnitude of each value, by name.
        keep: The names of nodes that stay in fp32 whatever else is true of them.
    """
    plan = Plan()
    exact = _exact_nodes(model.graph)
    for node in model.graph:
        if not any(is_float(value) for value in node.outputs):
            continue
        positions = _low_positions(node, model.opset_imports, low)
        unfit = "needs full precision" if operator(node) in FULL_PRECISION or node in exact else ""
        unfit = unfit or next(filter(None, (_unfit(value, low, largest) for value in _floats(node))), "")
        if node.name in keep:
            plan.reasons[node] = "TensorRT refuses it in this precision"
        elif positions is None:
            later = None if unfit else _later_opset(node, model.opset_imports, low)
            plan.reasons[node] = "operator does not support it" if later is None else f"needs opset {later}"
            if later is not None:
                plan.opsets[node] = later
        elif unfit:
            plan.reasons[node] = unfit
        else:
            plan.lowered[node] = positions
    return plan


def is_float(value: ir.Value | None) -> bool:
    """Return whether a value is an fp32 tensor."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def size_of(value: ir.Value) -> int:
    """Return the number of elements of a constant, or 0 for any other value."""
    return 0 if value.const_value is None else value.const_value.size


def _floats(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in (*node.inputs, *node.outputs) if value is not None and is_float(value))


# ---------------------------------------------------------------- what the operator supports


def _low_positions(
    node: ir.Node, opsets: Mapping[str, int], low: Format
) -> tuple[frozenset[int], frozenset[int]] | None:
    """Return which inputs and outputs are in the low precision when the node computes in it, or None if it cannot.

    In a schema, type variables say which inputs and outputs have the same type. `Where(condition: B, X: T, Y: T) -> T`
    may have fp16 for T, so that its positions are the inputs {1, 2} and the output {0}. An output is only lowered
    together with an input of its type variable.

    Source: https://onnx.ai/onnx/repo-docs/IR.html#standard-data-types and each operator's type constraints
    """
    has_subgraphs = any(attribute.type in _GRAPHS for attribute in node.attributes.values())
    is_typed = all(value is None or value.dtype is not None for value in (*node.inputs, *node.outputs))
    if operator(node) in QUANTIZERS or has_subgraphs or not is_typed:
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None
    taken, made = _variables(node.inputs, schema.inputs), _variables(node.outputs, schema.outputs)
    lowered = _variables_that_allow(schema, low) & set(taken.values())
    inputs = frozenset(position for position, variable in taken.items() if variable in lowered)
    outputs = frozenset(position for position, variable in made.items() if variable in lowered)
    return (inputs, outputs) if inputs and outputs else None


def _later_opset(node: ir.Node, opsets: Mapping[str, int], low: Format) -> int | None:
    """Return the first later opset, up to `NEWEST`, in which the node can compute in the low precision."""
    if node.domain or "" not in opsets:
        return None
    later = range(opsets[""] + 1, NEWEST + 1)
    return next((opset for opset in later if _low_positions(node, {**opsets, "": opset}, low) is not None), None)


def _variables_that_allow(schema: onnx.defs.OpSchema, low: Format) -> set[str]:
    """Return the type variables of a schema that may be the low precision."""
    wanted = "tensor(float16)" if low.dtype == ir.DataType.FLOAT16 else "tensor(bfloat16)"
    return {c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs}


def _variables(values: Sequence[ir.Value | None], formals: Sequence[Any]) -> dict[int, str]:
    """Return the type variable of each fp32 value, by position; the last formal parameter may be repeated."""
    return {i: formals[min(i, len(formals) - 1)].type_str for i, value in enumerate(values) if is_float(value)}


# ---------------------------------------------------------------- which values fit


def _unfit(value: ir.Value, low: Format, largest: Mapping[str, float]) -> str | None:
    """Return why a value does not fit the format, or None if it does."""
    magnitude, limit = _magnitude_and_limit(value, low, largest)
    if not magnitude <= limit:  # also true for NaN
        return "values too large"
    return "values too small" if 0 < magnitude < low.smallest else None


def _magnitude_and_limit(value: ir.Value, low: Format, largest: Mapping[str, float]) -> tuple[float, float]:
    if value.const_value is not None:
        return float(np.max(np.abs(value.const_value.numpy()), initial=0.0)), low.largest
    producer = value.producer()
    is_whole = producer is not None and operator(producer) == ("", "Cast") and not is_float(producer.inputs[0])
    return largest.get(str(value.name), 0.0), low.whole if is_whole else low.largest / HEADROOM


# ---------------------------------------------------------------- what has to be exact


def _exact_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that compute angles, coordinates and whole numbers, going back from where those are used.

    In `Gather(table, Cast<int64>(Floor(Mul(x, 9))))` the cast makes whole numbers, and going back from it finds Floor
    and Mul, and then whatever makes x, unless that is a product with many weights, which makes features.
    """
    found: set[ir.Node] = set()
    queue = deque(node for node in graph if operator(node) in EXACT_INPUTS or _makes_whole_numbers(node))
    while queue:
        for producer in _float_producers(queue.popleft()):
            if producer not in found and _may_be_exact(producer):
                found.add(producer)
                queue.append(producer)
    return found


def _float_producers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None and is_float(value) else None
        if producer is not None:
            yield producer


def _may_be_exact(node: ir.Node) -> bool:
    weights = sum(size_of(value) for value in node.inputs if value is not None)
    return operator(node) in EXACT_ARITHMETIC and weights <= _FEATURE_WEIGHTS


def _makes_whole_numbers(node: ir.Node) -> bool:
    made = node.outputs[0].dtype
    is_cast_of_float = operator(node) == ("", "Cast") and is_float(node.inputs[0])
    return is_cast_of_float and made is not None and made.is_integer()
