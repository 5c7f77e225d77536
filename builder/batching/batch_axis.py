"""Give a model of a fixed batch size a symbolic batch on axis 0 of every input and output."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.batching.batched import BatchedModel, BatchedTensor, Rewrite
from builder.batching.control_flow import CONTROL_FLOW
from builder.batching.ends import Outputs, add_input
from builder.batching.input_axes import batch_axes_of
from builder.batching.keeping import keep_batched
from builder.batching.layout import Shape
from builder.batching.rule import Refusal
from builder.batching.walk import Walk
from builder.errors import ModelError
from builder.model import Model, TensorSpec, inlined, label

OLDEST_IR_VERSION = 4
"""Before it, every initializer had to be listed as an input too."""


def add_batch_axis(model: Model, *, batch_axes: Mapping[str, int | None] | None = None) -> BatchedModel:
    """Make axis 0 of every input and output the symbolic batch.

    A model that has a symbolic batch already stays as it is; the proof finds out whether its samples are independent.

    Args:
        model: A model with a static batch, or a symbolic one.
        batch_axes: The axis of the batch, for inputs that do not have it on axis 0; None for an input without a batch,
            of which each sample brings its own.

    Raises:
        ModelError: A node mixes samples or has no rule. The message lists every such node.
    """
    axes, static_batch = batch_axes_of(model, batch_axes or {})
    if _is_batched(model, axes):
        return keep_batched(model)
    source = inlined(model.ir, where=model.path)
    walk = Walk(static_batch, source.opset_imports, CONTROL_FLOW)
    walk.writer.emit.reserve([t.name for t in (*model.inputs, *model.outputs)])
    graph_inputs, inputs = _add_inputs(walk, model, source.graph, axes)
    walk.walk(source.graph)
    graph_outputs, outputs = _add_outputs(walk, model, source.graph)
    batched = _assembled(walk, source, graph_inputs, graph_outputs)
    rewrites = tuple(Rewrite(c.node.name or "", c.node.op_type, c.what) for c in walk.changes)
    return BatchedModel(model, batched, inputs, outputs, static_batch, False, rewrites)


def _is_batched(model: Model, axes: Mapping[str, int | None]) -> bool:
    """Return whether axis 0 of every input and output is symbolic already.

    Raises:
        ModelError: Other axes are symbolic while the batch is not, on some input or output.
    """
    specs = (*model.inputs, *model.outputs)
    if all(spec.shape and isinstance(spec.shape[0], str) for spec in specs) and set(axes.values()) == {0}:
        return True
    for spec in model.inputs:
        symbolic = [i for i, d in enumerate(spec.shape) if isinstance(d, str) and i != axes[spec.name]]
        if symbolic:
            raise ModelError(
                model.path,
                f"input {spec.name!r} {list(spec.shape)} has symbolic axes {symbolic}, but axis 0 of some input or "
                "output is not a symbolic batch",
                "export it with a symbolic batch too, or with all axes static",
            )
    return False


def _add_inputs(
    walk: Walk, model: Model, graph: ir.Graph, axes: Mapping[str, int | None]
) -> tuple[list[ir.Value], tuple[BatchedTensor, ...]]:
    originals = {v.name: v for v in graph.inputs}
    values, tensors = [], []
    for spec in model.inputs:
        axis, shape = axes[spec.name], _static_shape(spec)
        original = originals[spec.name]
        value, walk.operands[original] = add_input(walk.writer, original, spec.dtype, shape, axis)
        dims = shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
        values.append(value)
        tensors.append(BatchedTensor(spec.name, spec.name, spec.dtype, dims, shape, axis))
    walk.writer.emit.measure_batch_on(values[0])
    return values, tuple(tensors)


def _static_shape(spec: TensorSpec) -> Shape:
    """Return the static shape; a batch that is symbolic already is analysed as 1."""
    return tuple(d if isinstance(d, int) else 1 for d in spec.shape)


def _add_outputs(walk: Walk, model: Model, graph: ir.Graph) -> tuple[list[ir.Value], tuple[BatchedTensor, ...]]:
    """Make the outputs.

    Raises:
        ModelError: A node or an output was refused; all of them are listed.
    """
    problems = [f"{label(r.node)}: {r.reason}" for r in walk.refusals]
    outputs = Outputs(walk.writer, walk.static_batch)
    values, tensors = [], []
    for spec, original in zip(model.outputs, graph.outputs, strict=True):
        if walk.is_skipped(original):
            continue
        try:
            operand = walk.operand(original)
            value, batch = outputs.add(original, operand)
        except Refusal as refusal:
            problems.append(str(refusal))
            continue
        dims, place = batch.dims(operand.shape), (batch.axis, batch.rows, batch.outer)
        values.append(value)
        tensors.append(BatchedTensor(spec.name, spec.name, spec.dtype, dims, operand.shape, *place))
    if problems:
        raise _refused(model, problems)
    return values, tuple(tensors)


def _refused(model: Model, problems: Sequence[str]) -> ModelError:
    listed = "\n".join(f"    {problem}" for problem in problems)
    return ModelError(
        model.path,
        f"the samples of its batch cannot be separated:\n{listed}",
        "export it without these nodes, run each sample by itself with --per-sample, or publish it with --static",
    )


def _assembled(walk: Walk, source: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    """Return the rewritten graph as a model, with the original's metadata."""
    emit = walk.writer.emit
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
    return batched
