"""Make a model declare the shapes that a server will see: those that ONNX Runtime finds when it loads the file.

Triton compares the dims of each output in config.pbtxt with ONNX Runtime's, exactly: -1 in the config and 5 in ONNX
Runtime is refused, and so is the reverse. ONNX Runtime can know more than the file says, because it infers shapes, and
it drops what the file says wrongly. So what it finds is written into the file, where every release of it reads it.

Source: CompareDimsSupported in
https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime_utils.cc
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from builder.batching import BatchedModel, BatchedTensor
from builder.errors import VerificationError
from builder.proof.session import Session
from builder.record import ServedTensor
from builder.tensors import TRITON_TYPES, Arrays

_ELEMENTS = {f"tensor({'float' if name == 'FLOAT' else name.lower()})": kind for name, kind in TRITON_TYPES.items()}
"""Triton's names of element types, by ONNX Runtime's."""


def mend(batched: BatchedModel, reference: Arrays) -> BatchedModel:
    """Free what outputs declare wrongly: a number that the original's answers do not have, or all dims of another rank.

    The graph of `batched` is changed in place: use only what is returned.
    """
    return _with_outputs(batched, [_mended(t, reference[f"output:{t.name}"].shape[1:]) for t in batched.outputs])


def _mended(tensor: BatchedTensor, found: Sequence[int]) -> BatchedTensor:
    if len(found) != len(tensor.dims):
        return replace(tensor, dims=tuple(f"{tensor.name}_{axis}" for axis in range(len(found))))
    fits = [isinstance(dim, str) or dim == size for dim, size in zip(tensor.dims, found, strict=True)]
    return replace(
        tensor,
        dims=tuple(dim if fits[axis] else f"{tensor.name}_{axis}" for axis, dim in enumerate(tensor.dims)),
    )


def forget_shapes(model: ir.Model) -> None:
    """Remove in place what a file says about the shapes of the values inside its graph, because some of it is wrong."""
    for graph in model.graphs():
        ends = {*graph.inputs, *graph.outputs}
        for value in (output for node in graph for output in node.outputs if output not in ends):
            value.shape = None


def as_seen_by(session: Session, batched: BatchedModel) -> BatchedModel:
    """Return the model with the numbers that ONNX Runtime finds for free dims of its outputs.

    The graph of `batched` is changed in place: use only what is returned.
    """

    def seen(tensor: BatchedTensor) -> BatchedTensor:
        found = session.shapes[tensor.name][0 if batched.is_static else 1 :]
        if len(found) != len(tensor.dims):
            return tensor  # `check_interface` says so
        pairs = zip(tensor.dims, found, strict=True)
        return replace(tensor, dims=tuple(size if isinstance(dim, str) and size > 0 else dim for dim, size in pairs))

    return _with_outputs(batched, [seen(tensor) for tensor in batched.outputs])


def _with_outputs(batched: BatchedModel, outputs: Sequence[BatchedTensor]) -> BatchedModel:
    """Return the model with these outputs; it is the same one if they are."""
    if tuple(outputs) == batched.outputs:
        return batched
    values = {value.name: value for value in batched.ir.graph.outputs}
    for old, new in zip(batched.outputs, outputs, strict=True):
        if old.dims != new.dims:
            value = values[new.name]
            batch = [] if batched.is_static or value.shape is None else value.shape[:1]
            value.shape = ir.Shape([*batch, *new.dims])
    return replace(batched, outputs=tuple(outputs))


def check_interface(
    where: Path, session: Session, inputs: Iterable[ServedTensor], outputs: Iterable[ServedTensor], *, has_batch: bool
) -> None:
    """Check that Triton would load the model that a session has open with these inputs and outputs in its config.

    Raises:
        VerificationError: A name, a type or a shape differs.
    """
    faults = [fault for tensor in inputs for fault in _faults("input", tensor, session, has_batch=has_batch)]
    faults += [fault for tensor in outputs for fault in _faults("output", tensor, session, has_batch=has_batch)]
    if faults:
        what = f"Triton would refuse to load it: {'; '.join(faults)}"
        raise VerificationError(where, what, "publish the model again; if that does not help, report this error")


def _faults(side: str, tensor: ServedTensor, session: Session, *, has_batch: bool) -> Iterator[str]:
    """Compare type and shape. Where the model's input may have any size, the config may have a number."""
    if tensor.name not in session.shapes:
        yield f"the model has no {side} {tensor.name!r}"
        return
    found = _ELEMENTS.get(session.types[tensor.name], session.types[tensor.name])
    if found != tensor.data_type:
        yield f"{side} {tensor.name!r} is {tensor.data_type} in the config and {found} in the model"
    shape, wanted = session.shapes[tensor.name], (*([-1] if has_batch else []), *tensor.dims)
    fits = len(shape) == len(wanted) and all(
        size == dim or (size == -1 and side == "input") for size, dim in zip(shape, wanted, strict=True)
    )
    if not fits:
        yield f"{side} {tensor.name!r} has the shape {list(wanted)} in the config and {list(shape)} in the model"
