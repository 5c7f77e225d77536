"""Let a graph compute in fp16 or bf16, and leave in fp32 what would not survive it.

What an operator takes is read from its ONNX schema, what its values are from a run of the fp32 graph on samples.
Inputs and outputs keep their types. Beside the graph stands its *rounded twin*: the same arithmetic in fp32 with
every value rounded to the low precision. ONNX Runtime on a CPU does not round between fp16 operators (a value of
1e5 passes unharmed) and has no bf16 operators at all, so that only the twin shows what a GPU will answer.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass, ShapeInferencePass

from builder.batching import BatchedModel, Rewrite
from builder.errors import ModelError
from builder.lowering.edges import Edges
from builder.model.opsets import inlined
from builder.proof.session import one_line, onnxruntime_errors, onnxruntime_warnings, open_rewritten
from builder.samples import draw
from builder.tensors import Array, Arrays

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, slots=True)
class _Format:
    """A floating-point format.

    Attributes:
        dtype: ONNX's.
        numpy: NumPy's.
        largest: The largest finite value.
        smallest: The smallest value above 0 with all digits.
        whole: Every whole number up to this is exact.
    """

    dtype: ir.DataType
    numpy: Any
    largest: float
    smallest: float
    whole: int


_FORMATS: Mapping[str, _Format] = {
    "fp16": _Format(ir.DataType.FLOAT16, np.float16, 65504.0, 2.0**-14, 2**11),
    "bf16": _Format(ir.DataType.BFLOAT16, ml_dtypes.bfloat16, 3.38e38, 2.0**-126, 2**8),
}

HEADROOM = 8.0
"""Values of other samples may be larger than those seen by this factor."""

SAMPLE_ROWS = 8
ENOUGH = 0.5
"""The part of the weights that has to be in the low precision for it to count as reached."""

_SENSITIVE = frozenset({"Sin", "Cos", "Tan", "CumSum", "Range", "GridSample", "AffineGrid", "RoiAlign"})
"""Angles, running sums and coordinates: a rounding of their input is not a rounding of their output."""

_ADDRESSING = frozenset({"Sin", "Cos", "Tan", "GridSample", "RoiAlign"})
"""What leads up to them keeps its digits too, as does what leads up to whole numbers."""

_CARRIERS = frozenset(
    {"Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "Div", "Einsum", "Expand", "Flatten", "Floor", "Gather", "Gemm",
     "Identity", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Reciprocal", "Reshape", "Round", "Slice", "Split",
     "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"}
)  # fmt: skip
_FEATURE_WEIGHTS = 4096
"""A product with more weights than this makes features, not positions."""

_LEFT_ALONE = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True, slots=True)
class Reduction:
    """What became of the graph.

    Attributes:
        precision: That was asked for.
        nodes: How many nodes compute in it.
        weights: The part of the weights stored in it, 0 to 1.
        kept: Why nodes stayed in fp32: reason to operators and their number.
    """

    precision: Precision
    nodes: int
    weights: float
    kept: Mapping[str, Mapping[str, int]]

    def __str__(self) -> str:
        kept = [
            f"{', '.join(f'{n} {op}' for op, n in found.items())} ({reason})" for reason, found in self.kept.items()
        ]
        stayed = f"; in fp32: {'; '.join(kept)}" if kept else ""
        return f"{self.nodes} nodes and {self.weights:.0%} of the weights in {self.precision}{stayed}"


@dataclass(frozen=True, slots=True)
class ReducedModel:
    """A model that computes in a lower precision.

    Attributes:
        batched: The model; its inputs and outputs have the types they had.
        rounded: Its twin in fp32.
        reduction: What was done.
    """

    batched: BatchedModel
    rounded: ir.Model
    reduction: Reduction


def reduce_precision(
    batched: BatchedModel, precision: Literal["fp16", "bf16"], *, samples: Arrays | None = None
) -> ReducedModel:
    """Let the model compute in fp16 or bf16 wherever that keeps its answers.

    Args:
        batched: With its final names.
        precision: To compute in.
        samples: The caller's own, `[rows, *dims]` by input; drawn otherwise.

    Raises:
        ModelError: Too little of the model can.
    """
    low = _FORMATS[precision]
    model = _prepare(batched.ir, batched.original.path)
    largest = _largest_values(batched, model, samples)
    plan = _plan(model, low, largest)
    reduction = _describe(plan, precision)
    if not plan.lowered or reduction.weights < ENOUGH:
        raise ModelError(
            batched.original.path,
            f"{precision} is not reached: {reduction}",
            f"leave --precision out, or ask for fp16: few operators of opset {_opset(model)} take bf16",
        )
    twin = model.clone()
    _lower(twin, _plan(twin, low, largest), low, is_rounded=True)
    _lower(model, plan, low, is_rounded=False)
    rewrites = (*batched.rewrites, Rewrite("", "Cast", str(reduction)))
    return ReducedModel(replace(batched, ir=model, rewrites=rewrites), twin, reduction)


def _prepare(source: ir.Model, where: Path) -> ir.Model:
    """A copy with no functions, its constants among the initializers and every value typed."""
    model = inlined(source, where=where)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for number, node in enumerate(model.graph):
        for output in node.outputs:
            output.name = output.name or f"unnamed_{number}"
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.type = ir.TensorType(value.const_value.dtype)
    return model


def _opset(model: ir.Model) -> int:
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


# ---------------------------------------------------------------- how large values become


def _largest_values(batched: BatchedModel, model: ir.Model, samples: Arrays | None) -> dict[str, float]:
    """The largest magnitude of every fp32 value the nodes make, by name, over some samples.

    Raises:
        ModelError: The fp32 model answers none of them.
    """
    watched = [value for node in model.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT]
    probe = model.clone()
    if not watched:
        return {}
    by_name = {value.name: value for node in probe.graph for value in node.outputs}
    names = {f"largest_magnitude_{i}": str(value.name) for i, value in enumerate(watched)}
    probe.graph.outputs.clear()
    for probe_name, name in names.items():
        magnitude = ir.node("Abs", [by_name[name]])
        largest = ir.node("ReduceMax", [magnitude.outputs[0]], {"keepdims": 0})
        largest.outputs[0].name = probe_name
        largest.outputs[0].type, largest.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        probe.graph.extend([magnitude, largest])
        probe.graph.outputs.append(largest.outputs[0])
    path = batched.original.path
    reason = ""
    with onnxruntime_warnings():
        session = open_rewritten(ir.to_proto(probe).SerializeToString(), where=path, folder=path.parent)
        for inputs in [_rows(samples)] if samples is not None else draw(batched, rows=SAMPLE_ROWS):
            feeds = {name: rows[0] for name, rows in inputs.items()} if batched.is_static else inputs
            try:
                found = session.run(feeds)
            except onnxruntime_errors() as error:
                reason = reason or one_line(error)
                continue
            return {names[probe_name]: float(magnitude) for probe_name, magnitude in found.items()}
    what = f"it answers no samples, so how large its values become is not known: {reason}"
    raise ModelError(path, what, "give inputs that it can answer with --samples FILE.npz")


def _rows(samples: Arrays) -> dict[str, Array]:
    return {name: rows[:SAMPLE_ROWS] for name, rows in samples.items()}


# ---------------------------------------------------------------- which nodes compute in it


@dataclass(slots=True)
class _Plan:
    """Which nodes compute in the low precision.

    Attributes:
        lowered: For each such node, the positions of the inputs and of the outputs that are in it.
        reasons: Why each other node that handles fp32 values does not.
    """

    lowered: dict[ir.Node, tuple[frozenset[int], frozenset[int]]] = field(default_factory=dict)
    reasons: dict[ir.Node, str] = field(default_factory=dict)


def _plan(model: ir.Model, low: _Format, largest: Mapping[str, float]) -> _Plan:
    plan = _Plan()
    exact = _need_all_digits(model.graph)
    for node in model.graph:
        if not any(_is_float(value) for value in node.outputs):
            continue
        positions = _positions(node, model.opset_imports, low)
        if positions is None:
            plan.reasons[node] = "takes no such type"
        elif node.op_type in _SENSITIVE or node in exact:
            plan.reasons[node] = "needs all digits"
        elif reason := next(filter(None, (_unfit(value, low, largest) for value in _floats(node))), None):
            plan.reasons[node] = reason
        else:
            plan.lowered[node] = positions
    return plan


def _floats(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in (*node.inputs, *node.outputs) if value is not None and _is_float(value))


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def _positions(node: ir.Node, opsets: Mapping[str, int], low: _Format) -> tuple[frozenset[int], frozenset[int]] | None:
    """Which inputs and outputs are in the low precision when the node is; None when it cannot be.

    They are those of a type variable of the operator's schema that allows it; an output follows the inputs.
    Source: https://onnx.ai/onnx/repo-docs/IR.html#standard-data-types and each operator's type constraints
    """
    if node.op_type in _LEFT_ALONE or any(a.type in _GRAPHS for a in node.attributes.values()):
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None
    wanted = "tensor(float16)" if low.dtype == ir.DataType.FLOAT16 else "tensor(bfloat16)"
    allowing = {c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs}

    def variables(values: Sequence[ir.Value | None], formals: Sequence[Any]) -> dict[int, str]:
        return {i: formals[min(i, len(formals) - 1)].type_str for i, value in enumerate(values) if _is_float(value)}

    if any(value is not None and value.dtype is None for value in (*node.inputs, *node.outputs) if value is not None):
        return None
    given = variables(node.inputs, schema.inputs)
    made = variables(node.outputs, schema.outputs)
    shared = allowing & set(given.values())
    inputs = frozenset(i for i, variable in given.items() if variable in shared)
    outputs = frozenset(i for i, variable in made.items() if variable in shared)
    return (inputs, outputs) if inputs and outputs else None


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _unfit(value: ir.Value, low: _Format, largest: Mapping[str, float]) -> str | None:
    """Why a value does not fit the format."""
    constant = value.const_value
    if constant is not None:
        magnitude = float(np.max(np.abs(constant.numpy()), initial=0.0))
        limit = low.largest
    else:
        magnitude, limit = largest.get(str(value.name), 0.0), low.largest / HEADROOM
        producer = value.producer()
        if producer is not None and producer.op_type == "Cast" and not _is_float(producer.inputs[0]):
            limit = low.whole
    if not magnitude <= limit:
        return "values too large"
    return "values too small" if 0 < magnitude < low.smallest else None


def _need_all_digits(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that lead up to angles, coordinates and whole numbers by plain arithmetic."""
    found: set[ir.Node] = set()
    ahead = deque(node for node in graph if node.op_type in _ADDRESSING or _makes_whole_numbers(node))
    while ahead:
        for value in ahead.popleft().inputs:
            producer = value.producer() if value is not None and _is_float(value) else None
            if producer is None or producer in found or producer.op_type not in _CARRIERS:
                continue
            if sum(_size(given) for given in producer.inputs if given is not None) <= _FEATURE_WEIGHTS:
                found.add(producer)
                ahead.append(producer)
    return found


def _makes_whole_numbers(node: ir.Node) -> bool:
    made = node.outputs[0].dtype
    return node.op_type == "Cast" and _is_float(node.inputs[0]) and made is not None and made.is_integer()


def _describe(plan: _Plan, precision: Precision) -> Reduction:
    weights = dict(_weights(plan))
    total, stored = sum(map(_size, weights)), sum(_size(value) for value, is_lowered in weights.items() if is_lowered)
    kept: dict[str, Counter[str]] = {}
    for node, reason in plan.reasons.items():
        kept.setdefault(reason, Counter())[node.op_type] += 1
    return Reduction(precision, len(plan.lowered), stored / total if total else 1.0, kept)


# ---------------------------------------------------------------- the graph itself


def _size(value: ir.Value) -> int:
    """How many numbers a constant holds; 0 for what is none."""
    return 0 if value.const_value is None else value.const_value.size


def _weights(plan: _Plan) -> Iterator[tuple[ir.Value, bool]]:
    """Constants that nodes of the plan take in fp32, and whether they take them in the low precision."""
    for node in plan.reasons:
        yield from ((value, False) for value in _floats(node) if value.const_value is not None)
    for node, (inputs, _) in plan.lowered.items():
        for position in inputs:
            value = node.inputs[position]
            if value is not None and value.const_value is not None:
                yield value, True


def _lower(model: ir.Model, plan: _Plan, low: _Format, *, is_rounded: bool) -> None:
    """Put the nodes of the plan into the low precision.

    With `is_rounded` they go on computing in fp32, all they take and make rounded to the low precision.
    """
    edges = Edges(model.graph)

    def convert(value: ir.Value) -> ir.Value:
        if value.const_value is not None:
            narrow = value.const_value.numpy().astype(low.numpy)
            return edges.constant(value, narrow.astype(np.float32) if is_rounded else narrow)
        narrowed = edges.cast(value, low.dtype)
        return edges.cast(narrowed, ir.DataType.FLOAT) if is_rounded else narrowed

    made = {node.outputs[i]: None for node, (_, outputs) in plan.lowered.items() for i in outputs}
    taken = [(node, i) for node, (inputs, _) in plan.lowered.items() for i in sorted(inputs)]
    entering = [(node, i, value) for node, i in taken if (value := node.inputs[i]) is not None and value not in made]
    inside = set() if is_rounded else set(taken)
    for value in made:
        leaving = [use for use in value.uses() if use not in inside]
        if leaving or value.is_graph_output():
            edges.replace(value, convert(value) if is_rounded else edges.cast(value, ir.DataType.FLOAT), leaving)
        if not is_rounded:
            value.type = ir.TensorType(low.dtype)  # not its dtype: copies of a graph share types
    converted: dict[ir.Value, ir.Value] = {}
    for node, position, value in entering:
        if value not in converted:
            converted[value] = convert(value)
        node.replace_input_with(position, converted[value])
    RemoveUnusedNodesPass()(model)
