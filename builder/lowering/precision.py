"""Let a graph compute in fp16 or bf16, and keep in fp32 what would lose too much.

`plan` decides which nodes are lowered; casts are inserted where values go from one precision to the other. Inputs and
outputs keep their types.

Two graphs are made. Besides the one to publish, there is a *rounded copy*: the same arithmetic in fp32, with every
value rounded to the low precision. It shows what a GPU will answer. ONNX Runtime on a CPU cannot: it does not round
between fp16 operators (a value of 1e5 survives unharmed), and has no bf16 operators at all.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.batching import BatchedModel, Rewrite
from builder.errors import BuilderError, ModelError, VerificationError
from builder.lowering.edges import Edges
from builder.lowering.magnitudes import largest_values
from builder.lowering.plan import FORMATS, Format, Plan, make_plan, size_of
from builder.lowering.preparing import prepared
from builder.lowering.raising import CannotRaiseError, raised
from builder.lowering.request import Precision
from builder.proof import one_line, onnxruntime_errors
from builder.tensors import Arrays

ENOUGH = 0.5
"""The part of the weights that must be in the low precision; with less, the model is refused.

The weights of nodes that the caller keeps in fp32 do not count: they could be in it, but for what will run the model.
"""


@dataclass(frozen=True, slots=True)
class Reduction:
    """What was done to the graph.

    Attributes:
        precision: The precision that was asked for.
        nodes: The number of nodes that compute in it.
        weights: The part of the weights stored in it, 0 to 1.
        kept: The nodes that stay in fp32: their number by reason and operator.
        raised: For a model in a later opset, what became of it: `opset 17 became 22`; otherwise empty.
    """

    precision: Precision
    nodes: int
    weights: float
    kept: Mapping[str, Mapping[str, int]]
    raised: str = ""

    def __str__(self) -> str:
        stayed = f"; still in fp32: {self.list_kept()}" if self.kept else ""
        raised = f"; {self.raised}, in which more operators support it" if self.raised else ""
        return f"{self.nodes} nodes and {self.weights:.0%} of the weights in {self.precision}{raised}{stayed}"

    def list_kept(self) -> str:
        """List the nodes that stay in fp32: `3 Conv, 1 Relu (operator does not support it); 1 Sin (needs …)`."""
        return "; ".join(
            f"{', '.join(f'{n} {op_type}' for op_type, n in found.items())} ({reason})"
            for reason, found in self.kept.items()
        )


@dataclass(frozen=True, slots=True)
class ReducedModel:
    """A model that computes in a lower precision.

    Attributes:
        batched: The model. Its inputs and outputs have the types that they had.
        rounded: Its rounded copy in fp32.
        reduction: What was done.
    """

    batched: BatchedModel
    rounded: ir.Model
    reduction: Reduction


def reduce_precision(
    batched: BatchedModel,
    precision: Literal["fp16", "bf16"],
    *,
    samples: Arrays | None = None,
    keep: Collection[str] = frozenset(),
    raise_to: int = 0,
) -> ReducedModel:
    """Let the model compute in fp16 or bf16 wherever that keeps its answers.

    Args:
        batched: The model, with its final names.
        precision: The precision to compute in.
        samples: The user's samples, `[rows, *dims]` by input. Random ones are drawn if it is None.
        keep: The names of nodes that stay in fp32.
        raise_to: The newest opset that the model is raised to if more of it can be lowered then; 0 if it is to stay.

    Raises:
        ModelError: Too little of the model can compute in it, or the model fails on every sample.
    """
    low = FORMATS[precision]
    chosen = _choose(batched, low, samples, keep, raise_to)
    model, plan = chosen.model, chosen.plan
    reduction = _describe(plan, precision, chosen.raised)
    if not plan.lowered or _lowered_part(plan, but=keep) < ENOUGH:
        raise _too_little(batched.original.path, reduction, chosen, raise_to)
    rounded = model.clone()
    _lower(rounded, make_plan(rounded, low, chosen.largest, keep), low, is_rounded=True)
    _lower(model, plan, low, is_rounded=False)
    rewrites = (*batched.rewrites, Rewrite("", "Cast", str(reduction)))
    return ReducedModel(replace(batched, ir=model, rewrites=rewrites), rounded, reduction)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The graph to lower, in its own opset or a later one.

    Attributes:
        model: The graph.
        largest: The largest magnitude of each value, by name.
        plan: What is lowered.
        raised: For a later opset, what became of it: `opset 17 became 22`; otherwise empty.
        why_not: Why the opset that more nodes need cannot be had, if it was tried.
    """

    model: ir.Model
    largest: Mapping[str, float]
    plan: Plan
    raised: str = ""
    why_not: str = ""

    def is_less_than(self, other: "_Choice") -> bool:
        """Return whether more is lowered in another form."""
        mine, others = ((_lowered_part(of.plan), len(of.plan.lowered)) for of in (self, other))
        return mine < others


def _choose(
    batched: BatchedModel, low: Format, samples: Arrays | None, keep: Collection[str], raise_to: int
) -> _Choice:
    """Return the graph in the latest opset, up to `raise_to`, that lets more of it be lowered; or in its own."""
    where = batched.original.path
    model = prepared(batched.ir, where)
    largest = largest_values(batched, model, samples)
    own = _Choice(model, largest, make_plan(model, low, largest, keep))
    failures: tuple[type[Exception], ...] = (CannotRaiseError, ModelError, VerificationError, *onnxruntime_errors())
    for opset in sorted(set(own.plan.opsets.values()), reverse=True):
        if opset > raise_to:
            continue
        try:
            higher = raised(model, opset, where=where)
            largest = largest_values(batched, higher, samples)
        except failures as error:
            own = replace(own, why_not=own.why_not or f"it cannot be converted to opset {opset}: {_reason(error)}")
            continue
        became = f"opset {model.opset_imports['']} became {opset}"
        found = _Choice(higher, largest, make_plan(higher, low, largest, keep), became)
        if own.is_less_than(found):
            return found
    return own


def _reason(error: Exception) -> str:
    return str(error.what).splitlines()[0] if isinstance(error, BuilderError) else one_line(error)


def _too_little(where: Path, reduction: Reduction, chosen: _Choice, raise_to: int) -> ModelError:
    precision = reduction.precision
    if reduction.nodes:
        what = f"less than half of the weights can be in {precision}: {reduction}"
    else:
        what = f"nothing in this model can be in {precision}: {reduction.list_kept() or 'it has no fp32 values'}"
    ways = ["leave out --precision"]
    if precision == "bf16":
        ways.append("try --precision fp16, which more operators support")
    if needed := max(chosen.plan.opsets.values(), default=0):
        if chosen.why_not:
            what += f"; {chosen.why_not}"
            ways.append(f"export the model with opset {needed}")
        elif not raise_to:
            ways.append("publish it for TensorRT with --format tensorrt or --accelerator tensorrt")
        elif raise_to < needed:
            what += f"; this Triton accepts opset {raise_to}"
            ways.append(f"name a --triton that accepts opset {needed}")
    fix = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])}, or {ways[-1]}"
    return ModelError(where, what, fix)


def _lowered_part(plan: Plan, *, but: Collection[str] = frozenset()) -> float:
    """Return the part of the weights in the low precision, without those of some nodes."""
    weights = dict(plan.weights(but=but))
    total = sum(map(size_of, weights))
    stored = sum(size_of(value) for value, is_lowered in weights.items() if is_lowered)
    return stored / total if total else 1.0


def _describe(plan: Plan, precision: Precision, raised: str) -> Reduction:
    kept: dict[str, Counter[str]] = {}
    for node, reason in plan.reasons.items():
        kept.setdefault(reason, Counter())[node.op_type] += 1
    return Reduction(precision, len(plan.lowered), _lowered_part(plan), kept, raised)


# ---------------------------------------------------------------- the graph itself


Use = tuple[ir.Node, int]
"""A node and the position of one of its inputs."""


def _lower(model: ir.Model, plan: Plan, low: Format, *, is_rounded: bool) -> None:
    """Let the nodes of the plan compute in the low precision.

    With `is_rounded` they still compute in fp32, but every value that they take or make is rounded.
    """
    edges = Edges(model)
    made = {node.outputs[i]: None for node, (_, outputs) in plan.lowered.items() for i in outputs}
    taken = [(node, i) for node, (inputs, _) in plan.lowered.items() for i in sorted(inputs)]
    entering = [(node, i) for node, i in taken if node.inputs[i] not in made]
    if is_rounded:
        _round_outputs(edges, made, low)
    else:
        _narrow_outputs(edges, made, set(taken), low)
    converted: dict[ir.Value, ir.Value] = {}
    for node, position in entering:
        value = node.inputs[position]
        assert value is not None
        if value not in converted:
            converted[value] = _converted(edges, value, low, is_rounded=is_rounded)
        node.replace_input_with(position, converted[value])
    RemoveUnusedNodesPass()(model)


def _narrow_outputs(edges: Edges, made: Iterable[ir.Value], inside: set[Use], low: Format) -> None:
    """Give the values that lowered nodes make the low precision; cast them back for every other use."""
    for value in made:
        outside = [use for use in value.uses() if use not in inside]
        if outside or value.is_graph_output():
            edges.replace(value, edges.cast(value, ir.DataType.FLOAT), outside)
        value.type = ir.TensorType(low.dtype)  # a new type, because copies of a graph share the old one


def _round_outputs(edges: Edges, made: Iterable[ir.Value], low: Format) -> None:
    """Round the values that lowered nodes make, wherever they are used."""
    for value in made:
        uses = list(value.uses())
        if uses or value.is_graph_output():
            edges.replace(value, _converted(edges, value, low, is_rounded=True), uses)


def _converted(edges: Edges, value: ir.Value, low: Format, *, is_rounded: bool) -> ir.Value:
    """Return an fp32 value in the low precision, or with `is_rounded` back in fp32 after rounding."""
    if value.const_value is not None:
        narrow = value.const_value.numpy().astype(low.numpy)
        return edges.constant(value, narrow.astype(np.float32) if is_rounded else narrow)
    narrowed = edges.cast(value, low.dtype)
    return edges.cast(narrowed, ir.DataType.FLOAT) if is_rounded else narrowed
