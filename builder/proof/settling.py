"""Make a model declare the shapes that its values have.

Servers compare a config with the shapes that ONNX Runtime finds when it loads the file. It infers shapes, so it can
find more than the file says, and the file can be wrong. So dimensions that contradict the original's answers are made
dynamic. Then the sizes that ONNX Runtime finds for dynamic ones are written into the file, so that every release of it
reads them there.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product

import onnx_ir as ir

from builder.batching import BatchedModel, BatchedTensor
from builder.proof.rewritten import Rewritten
from builder.proof.session import Session, onnxruntime_warnings, run_errors, stale_shapes
from builder.tensors import Arrays


def open_settled(
    batched: BatchedModel, rounded: ir.Model | None, references: Sequence[Arrays], *, is_lowered: bool
) -> tuple[Rewritten, list[Session]]:
    """Open the model, with only the shapes declared that its values have.

    The graphs are changed in place: use only what is returned.

    Args:
        batched: The rewritten model.
        rounded: The same model in fp32 with every value rounded, or None.
        references: Samples and the original's answers: one for each choice of sizes for the dynamic dimensions.
        is_lowered: Whether its precision was lowered.

    Returns:
        The model, and its sessions as `Rewritten.open_sessions` returns them.

    Raises:
        VerificationError: ONNX Runtime cannot load the model.
    """
    batched = _corrected(batched, references)
    with onnxruntime_warnings() as warnings:
        model, sessions = _open_as_seen(batched, rounded, is_lowered=is_lowered)
        for session, reference in product(sessions, references):
            _run_first(session, reference, is_static=batched.is_static)
    if not any(stale_shapes(warnings)):
        return model, sessions
    for wrong in filter(None, (batched.ir, rounded)):
        _forget_shapes(wrong)
    return _open_as_seen(_corrected(model.batched, references), rounded, is_lowered=is_lowered)


def _open_as_seen(
    batched: BatchedModel, rounded: ir.Model | None, *, is_lowered: bool
) -> tuple[Rewritten, list[Session]]:
    """Open the model, with its outputs declared as ONNX Runtime finds them."""
    model = Rewritten.of(batched, rounded, is_lowered=is_lowered)
    sessions = model.open_sessions()
    seen = _as_seen_by(sessions[0], batched)
    if seen is not batched:
        model = Rewritten.of(seen, rounded, is_lowered=is_lowered)
        sessions = model.open_sessions()
    return model, sessions


def _run_first(session: Session, reference: Arrays, *, is_static: bool) -> None:
    """Run the first sample, so that ONNX Runtime warns of wrong shapes. Other errors are left to the proof."""
    rows = {key.removeprefix("input:"): array[:1] for key, array in reference.items() if key.startswith("input:")}
    with suppress(*run_errors()):
        session.run({name: array[0] for name, array in rows.items()} if is_static else rows)


def _corrected(batched: BatchedModel, references: Sequence[Arrays]) -> BatchedModel:
    """Make the dims of outputs dynamic that are declared wrongly: a wrong number, or all dims if the rank is wrong."""
    outputs: Sequence[BatchedTensor] = batched.outputs
    for reference in references:
        outputs = [_corrected_output(tensor, reference[f"output:{tensor.name}"].shape[1:]) for tensor in outputs]
    return _with_outputs(batched, outputs)


def _corrected_output(tensor: BatchedTensor, found: Sequence[int]) -> BatchedTensor:
    if len(found) != len(tensor.dims):
        return replace(tensor, dims=tuple(f"{tensor.name}_{axis}" for axis in range(len(found))))
    fits = [isinstance(dim, str) or dim == size for dim, size in zip(tensor.dims, found, strict=True)]
    return replace(
        tensor,
        dims=tuple(dim if fits[axis] else f"{tensor.name}_{axis}" for axis, dim in enumerate(tensor.dims)),
    )


def _as_seen_by(session: Session, batched: BatchedModel) -> BatchedModel:
    """Return the model with the sizes that ONNX Runtime finds for dynamic dims of its outputs."""

    def seen(tensor: BatchedTensor) -> BatchedTensor:
        found = session.shapes[tensor.name][0 if batched.is_static else 1 :]
        if len(found) != len(tensor.dims):
            return tensor  # `check_interface` reports it
        pairs = zip(tensor.dims, found, strict=True)
        return replace(tensor, dims=tuple(size if isinstance(dim, str) and size > 0 else dim for dim, size in pairs))

    return _with_outputs(batched, [seen(tensor) for tensor in batched.outputs])


def _with_outputs(batched: BatchedModel, outputs: Sequence[BatchedTensor]) -> BatchedModel:
    """Return the model with these outputs; the same object if nothing changes."""
    if tuple(outputs) == batched.outputs:
        return batched
    values = {value.name: value for value in batched.ir.graph.outputs}
    for old, new in zip(batched.outputs, outputs, strict=True):
        if old.dims != new.dims:
            value = values[new.name]
            batch = [] if batched.is_static or value.shape is None else value.shape[:1]
            value.shape = ir.Shape([*batch, *new.dims])
    return replace(batched, outputs=tuple(outputs))


def _forget_shapes(model: ir.Model) -> None:
    """Remove in place the shapes declared for values inside the graph, because some are wrong."""
    for graph in model.graphs():
        ends = {*graph.inputs, *graph.outputs}
        for value in (output for node in graph for output in node.outputs if output not in ends):
            value.shape = None
