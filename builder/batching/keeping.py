"""Keep a model as it is, because its batch is already dynamic or it will be served without one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from builder.batching.attempt import Attempt
from builder.batching.batched import BatchedModel, BatchedTensor
from builder.batching.pins import Pins
from builder.batching.rules import RANDOM, REFUSED, WITHOUT_RANDOM
from builder.errors import ModelError
from builder.model import Dim, Model, TensorSpec, label, operator

BATCH = "batch"
"""The name of the batch in the shapes of a file."""


def keep_static(model: Model) -> BatchedModel:
    """Keep a model without batching: `max_batch_size` 0 for Triton.

    Raises:
        ModelError: It draws random numbers.
    """
    refuse_random(model)
    return _kept(model, _whole, is_static=True)


def refuse_random(model: Model) -> None:
    """Refuse a model that draws random numbers, because its answers cannot be compared.

    Raises:
        ModelError: It draws random numbers.
    """
    for graph in (model.ir.graph, *(function.graph for function in model.ir.functions.values())):
        for node in graph.all_nodes():
            domain, op_type = operator(node)
            if not domain and op_type in RANDOM:
                what = f"{label(node)}: {REFUSED[domain, op_type]}"
                raise ModelError(model.path, what, WITHOUT_RANDOM)


def keep_batched(attempt: Attempt) -> BatchedModel:
    """Keep a model whose batch is dynamic already, as an attempt has shown.

    The answers to compare with are the original's to one sample at a time. Shapes that the file declares wrongly are
    corrected.
    """
    model = attempt.model
    kept = _kept(model, _without_batch, is_static=False)
    seen = {str(value.name): operand.shape for value, operand in attempt.walk.operands.items() if value.name}
    for node in kept.ir.graph.all_nodes():
        for value in node.outputs:
            is_output = value.is_graph_output() and value.graph is kept.ir.graph
            if not is_output and _contradicts(value.shape, seen.get(str(value.name))):
                value.shape = None
    found = {tensor.original: tensor.original_shape for tensor in attempt.outputs}
    shapes = [_declared(spec, found.get(spec.name, spec.shape), attempt.pins) for spec in model.outputs]
    for value, spec, shape in zip(kept.ir.graph.outputs, model.outputs, shapes, strict=True):
        if shape != spec.shape:
            value.shape = ir.Shape(shape)
    outputs = tuple(
        replace(tensor, dims=shape[1:], original_shape=(1, *shape[1:]))
        for tensor, shape in zip(kept.outputs, shapes, strict=True)
    )
    return replace(kept, outputs=outputs, is_kept=True, undecided=tuple(map(str, attempt.problems)))


def _contradicts(declared: ir.Shape | None, seen: Sequence[Dim] | None) -> bool:
    """Return whether a declared shape has another number somewhere, or another number of axes."""
    if declared is None or seen is None:
        return False
    return len(declared) != len(seen) or any(
        isinstance(one, int) and one != other for one, other in zip(declared, seen, strict=True)
    )


def _declared(spec: TensorSpec, seen: Sequence[Dim], pins: Pins) -> tuple[Dim, ...]:
    """Return the shape of an output: what the file declares where it is right, or else what was seen.

    A wrong number is replaced by the one that was seen. If other axes of the model are dynamic, it may depend on them,
    and so it becomes dynamic too.
    """
    if len(spec.shape) != len(seen):
        others = range(1, len(seen))
        return (BATCH, *(f"{spec.name}_{axis}" if pins.sizes else seen[axis] for axis in others))
    dims = [
        dim if isinstance(dim, str) or dim == found else f"{spec.name}_{axis}" if pins.sizes else found
        for axis, (dim, found) in enumerate(zip(spec.shape, seen, strict=True))
    ]
    return (dims[0] if isinstance(dims[0], str) and dims[0] == spec.shape[0] else BATCH, *dims[1:])


def _kept(model: Model, tensor: Callable[[TensorSpec], BatchedTensor], *, is_static: bool) -> BatchedModel:
    return BatchedModel(
        original=model,
        ir=model.ir.clone(),
        inputs=tuple(map(tensor, model.inputs)),
        outputs=tuple(map(tensor, model.outputs)),
        static_batch=1,
        is_static=is_static,
        rewrites=(),
    )


def _whole(spec: TensorSpec) -> BatchedTensor:
    return BatchedTensor(spec.name, spec.name, spec.dtype, spec.shape, spec.shape, None)


def _without_batch(spec: TensorSpec) -> BatchedTensor:
    dims = spec.shape[1:]
    return BatchedTensor(spec.name, spec.name, spec.dtype, dims, (1, *dims), 0)
