"""One attempt to make the batch dynamic: a walk over the whole graph, with a number for every symbolic dimension."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.batching.batched import OLDEST_IR_VERSION, BatchedModel, BatchedTensor, Rewrite
from builder.batching.control_flow import CONTROL_FLOW
from builder.batching.ends import Outputs, add_input
from builder.batching.pins import Axes, Pins
from builder.batching.rule import Refusal, Undecided
from builder.batching.walk import FreeAxes, Walk
from builder.model import Model, keep_inner_apart, label, node_names


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an attempt failed at one place.

    Attributes:
        where: The node; empty for an output, which the refusal names.
        refusal: The reason.
    """

    where: str
    refusal: Refusal

    def __str__(self) -> str:
        return f"{self.where}: {self.refusal}" if self.where else str(self.refusal)

    @property
    def is_undecided(self) -> bool:
        """Whether the samples may be independent there after all."""
        return isinstance(self.refusal, Undecided)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one walk found.

    Attributes:
        model: The model.
        pins: The numbers it was walked with.
        walk: The walk.
        graph_inputs: The inputs of the rewritten graph.
        graph_outputs: Its outputs; without those that were refused.
        inputs: Where the samples are in each input.
        outputs: Where the samples are in each output; without those that were refused.
        problems: What was refused; empty if the attempt succeeded.
    """

    model: Model
    pins: Pins
    walk: Walk
    graph_inputs: Sequence[ir.Value]
    graph_outputs: Sequence[ir.Value]
    inputs: tuple[BatchedTensor, ...]
    outputs: tuple[BatchedTensor, ...]
    problems: tuple[Problem, ...]

    def rewritten(self, source: ir.Model) -> BatchedModel:
        """Return the rewritten model; `source` is the model without functions that was walked."""
        batched = _assembled(self.walk, source, self.graph_inputs, self.graph_outputs)
        rewrites = tuple(Rewrite(c.node.name or "", c.node.op_type, c.what) for c in self.walk.changes)
        return BatchedModel(self.model, batched, self.inputs, self.outputs, self.pins.batch, False, rewrites)


def attempt(
    model: Model, source: ir.Model, pins: Pins, free: FreeAxes | None = None, *, has_free_batch: bool = False
) -> Attempt:
    """Walk a model at certain sizes.

    Args:
        model: The model.
        source: The same without functions; its graph is walked.
        pins: The sizes.
        free: The dynamic axes of each value, besides the batch; shapes that have one are read at run time.
        has_free_batch: Whether the batch size stands for any size, so that no value may depend on it.
    """
    walk = Walk(pins.batch, source.opset_imports, CONTROL_FLOW, free, has_free_batch=has_free_batch)
    walk.writer.emit.reserve([t.name for t in (*model.inputs, *model.outputs)])
    walk.writer.emit.reserve_for_nodes(node_names(source))
    graph_inputs, inputs = _add_inputs(walk, model, source.graph, pins)
    walk.walk(source.graph)
    problems = [Problem(label(r.node), r.refusal) for r in walk.refusals]
    graph_outputs, outputs = _add_outputs(walk, model, source.graph, pins.axes, problems)
    return Attempt(model, pins, walk, graph_inputs, graph_outputs, inputs, outputs, tuple(problems))


def _add_inputs(
    walk: Walk, model: Model, graph: ir.Graph, pins: Pins
) -> tuple[list[ir.Value], tuple[BatchedTensor, ...]]:
    originals = {v.name: v for v in graph.inputs}
    values, tensors = [], []
    for spec in model.inputs:
        axis, shape = pins.axes[spec.name], pins.shape(spec)
        original = originals[spec.name]
        value, walk.operands[original], tensor = add_input(walk.writer, spec, original, shape, axis, pins.batch)
        values.append(value)
        tensors.append(tensor)
    walk.writer.emit.measure_batch_on(values[0])
    return values, tuple(tensors)


def _add_outputs(
    walk: Walk, model: Model, graph: ir.Graph, axes: Axes, problems: list[Problem]
) -> tuple[list[ir.Value], tuple[BatchedTensor, ...]]:
    """Make the outputs; what prevents one is added to the problems."""
    outputs = Outputs(walk.writer, walk.static_batch, is_whole=set(axes.values()) == {None})
    values, tensors = [], []
    for spec, original in zip(model.outputs, graph.outputs, strict=True):
        if walk.is_skipped(original):
            continue
        try:
            operand = walk.operand(original)
            value, tensor = outputs.add(spec, original, operand)
        except Refusal as refusal:
            problems.append(Problem("", refusal))
            continue
        values.append(value)
        tensors.append(tensor)
    return values, tuple(tensors)


def _assembled(walk: Walk, source: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    """Return the rewritten graph as a model, with the original's metadata."""
    emit = walk.writer.emit
    emit.name_nodes()
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=emit.nodes,
        initializers=list(emit.initializers.values()),
        opset_imports=source.opset_imports,
        name=source.graph.name,
        doc_string=source.graph.doc_string,
        metadata_props=source.graph.metadata_props,
    )
    batched = ir.Model(
        graph,
        ir_version=max(source.ir_version, OLDEST_IR_VERSION),
        producer_name=source.producer_name,
        producer_version=source.producer_version,
        domain=source.domain,
        model_version=source.model_version,
        doc_string=source.doc_string,
        metadata_props=source.metadata_props,
    )
    RemoveUnusedNodesPass()(batched)
    keep_inner_apart(graph)
    return batched
