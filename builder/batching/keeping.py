"""Keep a model as it is, because its batch is already dynamic or it will be served without one."""

from collections.abc import Callable

from builder.batching.batched import BatchedModel, BatchedTensor
from builder.batching.rules import RANDOM, REFUSED
from builder.errors import ModelError
from builder.model import Model, TensorSpec, label, operator


def keep_static(model: Model) -> BatchedModel:
    """Keep a model without batching: `max_batch_size` 0 for Triton.

    Raises:
        ModelError: It draws random numbers.
    """
    for graph in (model.ir.graph, *(function.graph for function in model.ir.functions.values())):
        for node in graph.all_nodes():
            domain, op_type = operator(node)
            if not domain and op_type in RANDOM:
                what = f"{label(node)}: {REFUSED[domain, op_type]}"
                raise ModelError(model.path, what, "export it without its random operators")
    return _kept(model, _whole, is_static=True)


def keep_batched(model: Model) -> BatchedModel:
    """Keep a model whose batch is already dynamic. Its answers to one sample at a time are the original's answers."""
    return _kept(model, _without_batch, is_static=False)


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
