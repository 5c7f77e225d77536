"""Which axis of each input is the batch, and how many samples the model takes at once."""

from builder.batching.pins import Axes
from builder.errors import ModelError
from builder.model import Model, TensorSpec


def batch_axes_of(model: Model, asked: Axes) -> tuple[dict[str, int | None], int]:
    """Return the batch axis of every input, and the static batch they agree on; a symbolic batch counts as 1.

    An axis that was asked for may hold several rows of each sample: beside `dense [3, 4]`, the axis of `indices [15]`
    has 5 rows of each of 3 samples. This is not possible with a batch of 1, of which every size is a multiple.

    Args:
        model: The model.
        asked: Axes by input, as the user or the names in the file give them: axis 0 where they give none. None means
            that the input has no batch; each sample brings the whole input.

    Raises:
        ModelError: An input has no such axis, the inputs disagree, or several samples share an input without a batch.
    """
    _check_names(model, asked)
    axes = {spec.name: _axis(model, spec, asked.get(spec.name, 0)) for spec in model.inputs}
    sizes = _sizes(model, axes)
    static_batch = min(sizes.values(), default=1)
    folded = {name for name, size in sizes.items() if size != static_batch}
    if folded and (static_batch == 1 or not all(n in asked and sizes[n] % static_batch == 0 for n in folded)):
        raise _disagreement(model, axes)
    shared = [name for name, axis in axes.items() if axis is None]
    if static_batch > 1 and shared:
        raise ModelError(
            model.path,
            f"all {static_batch} samples of its static batch share the input {', '.join(shared)}, "
            "so one sample cannot bring its own",
            "export it with a batch of 1",
            is_about_batch=True,
        )
    return axes, static_batch


def _sizes(model: Model, axes: Axes) -> dict[str, int]:
    """Return the size of the batch's axis, by input, where it is a number."""
    dims = {spec.name: spec.shape[axis] for spec in model.inputs if (axis := axes[spec.name]) is not None}
    return {name: dim for name, dim in dims.items() if isinstance(dim, int)}


def _check_names(model: Model, asked: Axes) -> None:
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
    if not rank:
        what = f"input {spec.name!r} is a scalar, so it has no axis for the batch"
        raise ModelError(model.path, what, "export it with a batch in every input", is_about_batch=True)
    if not -rank <= asked < rank:
        what = f"input {spec.name!r} {list(spec.shape)} has no axis {asked}"
        raise ModelError(model.path, what, f"name an axis from 0 to {rank - 1}", is_about_batch=True)
    return asked % rank


def _disagreement(model: Model, axes: Axes) -> ModelError:
    listed = ", ".join(
        f"{s.name} {list(s.shape)}" + (f" (axis {a})" if (a := axes[s.name]) else "") for s in model.inputs
    )
    return ModelError(
        model.path,
        f"the inputs have different batches: {listed}",
        "export it with the same batch in every input",
        is_about_batch=True,
    )
