"""Check that Triton would load a model with its config: it compares the two when it loads a version.

ONNX Runtime infers shapes when it loads a model. Triton compares the dims of each output in config.pbtxt with what it
finds, exactly: -1 in the config and 5 in ONNX Runtime is refused, and so is the reverse.

Source: CompareDimsSupported in
https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime_utils.cc
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from builder.errors import VerificationError
from builder.proof.session import Session
from builder.record import ServedTensor
from builder.tensors import TRITON_TYPES

_ELEMENTS = {f"tensor({'float' if name == 'FLOAT' else name.lower()})": kind for name, kind in TRITON_TYPES.items()}
"""Triton's names of element types, by ONNX Runtime's."""


def check_interface(
    where: Path, session: Session, inputs: Iterable[ServedTensor], outputs: Iterable[ServedTensor], *, has_batch: bool
) -> None:
    """Check that Triton would load a model with these inputs and outputs in its config.

    Args:
        where: The file, for messages.
        session: The model, open in ONNX Runtime.
        inputs: The inputs in the config.
        outputs: The outputs in the config.
        has_batch: Whether `max_batch_size` is above 0, so that the dims in the config leave out the batch.

    Raises:
        VerificationError: A name, a type or a shape differs.
    """
    faults = [fault for tensor in inputs for fault in _faults("input", tensor, session, has_batch=has_batch)]
    faults += [fault for tensor in outputs for fault in _faults("output", tensor, session, has_batch=has_batch)]
    if faults:
        what = f"Triton would refuse to load it: {'; '.join(faults)}"
        raise VerificationError(where, what, "publish the model again; if that does not help, report this error")


def tensors_of(
    session: Session, *, has_batch: bool
) -> tuple[tuple[ServedTensor, ...], tuple[ServedTensor, ...]] | None:
    """Return the inputs and outputs of a file as a config lists them; None if Triton has no type for one of them.

    Args:
        session: The file, open in ONNX Runtime.
        has_batch: Whether the dims leave out the first dimension.
    """
    inputs = [value.name for value in session.session.get_inputs()]
    if any(session.types[name] not in _ELEMENTS for name in (*inputs, *session.outputs)):
        return None

    def served(name: str) -> ServedTensor:
        return ServedTensor(name, name, _ELEMENTS[session.types[name]], session.shapes[name][1 if has_batch else 0 :])

    return tuple(map(served, inputs)), tuple(map(served, session.outputs))


def _faults(side: str, tensor: ServedTensor, session: Session, *, has_batch: bool) -> Iterator[str]:
    """Compare type and shape. For a dynamic dimension of an input, the config may have a number."""
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
