"""Give a model frozen at one batch size a symbolic batch on axis 0 of every input and output."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.batching.batched import (
    BatchedModel,
    BatchedTensor,
    Rewrite,
    batch_axes_of,
    keep_batched,
    keep_static,
)
from builder.batching.one_by_one import run_one_by_one
from builder.batching.rule import Refusal
from builder.batching.sizes import free_axes
from builder.batching.walk import Walk, label
from builder.errors import ModelError
from builder.model import Model, TensorSpec
from builder.model.opsets import inlined

__all__ = [
    "BatchedModel",
    "BatchedTensor",
    "Rewrite",
    "add_batch_axis",
    "free_axes",
    "keep_static",
    "run_one_by_one",
]

OLDEST_IR_VERSION = 4
"""Before it, every initializer had to be listed as an input too."""


def add_batch_axis(model: Model, *, batch_axes: Mapping[str, int | None] | None = None) -> BatchedModel:
    """Make axis 0 of every input and output the symbolic batch.

    A model whose batch is symbolic already stays as it is: whether its samples are independent is for the proof.

    Args:
        model: Loaded with a static batch, or a symbolic one.
        batch_axes: For inputs whose batch is not axis 0, the axis it is on; None where each sample brings its own.

    Raises:
        ModelError: Some node mixes samples or has no rule; every such node is listed.
    """
    axes, static_batch = batch_axes_of(model, batch_axes or {})
    if _is_batched(model, axes):
        return keep_batched(model)
    source = inlined(model.ir, where=model.path)
    values = {v.name: v for v in source.graph.inputs}
    walk = Walk(static_batch, source.opset_imports)
    walk.emit.reserve([t.name for t in (*model.inputs, *model.outputs)])
    graph_inputs, inputs = [], []
    for spec in model.inputs:
        axis, shape = axes[spec.name], _fixed(spec)
        graph_inputs.append(walk.add_input(values[spec.name], spec.dtype, shape, axis))
        dims = shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
        inputs.append(BatchedTensor(spec.name, spec.name, spec.dtype, dims, shape, axis))
    walk.emit.measure_batch_on(graph_inputs[0])
    walk.walk(source.graph)
    graph_outputs, outputs = _outputs(model, walk, source.graph.outputs)
    graph = ir.Graph(
        graph_inputs,
        graph_outputs,
        nodes=walk.emit.nodes,
        initializers=list(walk.emit.initializers.values()),
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
    rewrites = tuple(Rewrite(c.node.name or "", c.node.op_type, c.what) for c in walk.changes)
    return BatchedModel(model, batched, tuple(inputs), outputs, static_batch, False, rewrites)


def _is_batched(model: Model, axes: Mapping[str, int | None]) -> bool:
    """Whether axis 0 of every input and output is symbolic already.

    Raises:
        ModelError: Other axes are symbolic while the batch is not, on some input or output.
    """
    specs = (*model.inputs, *model.outputs)
    if all(spec.shape and isinstance(spec.shape[0], str) for spec in specs) and set(axes.values()) == {0}:
        return True
    for spec in model.inputs:
        free = [i for i, d in enumerate(spec.shape) if isinstance(d, str) and i != axes[spec.name]]
        if free:
            raise ModelError(
                model.path,
                f"input {spec.name!r} {list(spec.shape)} has symbolic axes {free}, but not every input and output has "
                "a symbolic batch on axis 0",
                "export it with a symbolic batch too, or with all axes static",
            )
    return False


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    """The static shape; a batch that is symbolic already is analysed as 1."""
    return tuple(d if isinstance(d, int) else 1 for d in spec.shape)


def _outputs(
    model: Model, walk: Walk, originals: Sequence[ir.Value]
) -> tuple[list[ir.Value], tuple[BatchedTensor, ...]]:
    values, tensors, problems = [], [], [f"{label(r.node)}: {r.reason}" for r in walk.refusals]
    for spec, original in zip(model.outputs, originals, strict=True):
        if walk.operands.get(original, original) is None:
            continue
        try:
            value, batch = walk.add_output(original)
        except Refusal as refusal:
            problems.append(str(refusal))
            continue
        values.append(value)
        shape = walk.operand(original).shape
        tensors.append(
            BatchedTensor(
                spec.name, spec.name, spec.dtype, batch.dims(shape), shape, batch.axis, batch.rows, batch.outer
            )
        )
    if problems:
        listed = "\n".join(f"    {p}" for p in problems)
        raise ModelError(
            model.path,
            f"the samples of its batch cannot be separated:\n{listed}",
            "export it without these nodes, run each row by itself with --per-sample, or publish it with --static",
        )
    return values, tuple(tensors)
