"""Which axis of each input is the batch, and how many samples the model takes at once."""

from collections.abc import Mapping

from builder.errors import ModelError
from builder.model import Model, TensorSpec


def batch_axes_of(model: Model, asked: Mapping[str, int | None]) -> tuple[dict[str, int | None], int]:
    """Return the batch axis of every input, and the static batch they agree on; a symbolic batch counts as 1.

    Args:
        model: The model.
        asked: Axes by input, as the user gave them: axis 0 where they gave none. None means that the input has no
            batch; each sample brings the whole input.

    Raises:
        ModelError: An input has no such axis, the inputs disagree, or several samples share an input without a batch.
    """
    _check_names(model, asked)
    axes = {spec.name: _axis(model, spec, asked.get(spec.name, 0)) for spec in model.inputs}
    static_batch = _static_batch(model, axes)
    shared = [name for name, axis in axes.items() if axis is None]
    if static_batch > 1 and shared:
        raise ModelError(
            model.path,
            f"all {static_batch} samples of its static batch share the input {', '.join(shared)}, "
            "so one sample cannot bring its own",
            "export it with a batch of 1, or give the value with --constant INPUT=FILE.npy",
        )
    return axes, static_batch


def _check_names(model: Model, asked: Mapping[str, int | None]) -> None:
    known = {spec.name for spec in model.inputs}
    if not known:
        raise ModelError(model.path, "the graph has no inputs, so it has no batch", "export it with an input")
    for name in asked.keys() - known:
        what = f"--batch-axis names {name!r}, which is not an input"
        raise ModelError(model.path, what, f"use one of its inputs: {', '.join(sorted(known))}")


def _axis(model: Model, spec: TensorSpec, asked: int | None) -> int | None:
    """Return the axis, counted from the front."""
    rank = len(spec.shape)
    if asked is None:
        return None
    if not -rank <= asked < rank:
        raise ModelError(
            model.path,
            f"input {spec.name!r} {list(spec.shape)} has no axis {asked} for the batch",
            "name the axis with --batch-axis INPUT=AXIS, or publish it with --static",
        )
    return asked % rank


def _static_batch(model: Model, axes: Mapping[str, int | None]) -> int:
    dims = [spec.shape[axis] for spec in model.inputs if (axis := axes[spec.name]) is not None]
    sizes = {dim for dim in dims if isinstance(dim, int)}
    if not dims:
        raise ModelError(
            model.path,
            "no input has a batch, because --batch-axis says so for every input",
            "leave out --batch-axis INPUT=none for one of them, or publish it with --static",
        )
    if len(sizes) > 1 or 0 in sizes:
        listed = ", ".join(f"{s.name} {list(s.shape)} (axis {axes[s.name]})" for s in model.inputs)
        raise ModelError(
            model.path,
            f"the inputs have different batches: {listed}",
            "name the batch's axis with --batch-axis INPUT=AXIS, give an input without a batch a value with "
            "--constant INPUT=FILE.npy, let each sample bring its own with --batch-axis INPUT=none, or publish it "
            "with --static",
        )
    return sizes.pop() if sizes else 1
