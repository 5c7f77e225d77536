"""The sizes of dynamic axes that the caller asks for, with `--size`."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from builder.arrays import read_npz
from builder.batching import BatchedModel
from builder.errors import ModelError
from builder.model import Model, TensorSpec
from builder.samples.sizes import Sizes, free_names
from builder.tensors import Array, Arrays


def ask_sizes(model: Model, asked: Mapping[str, int]) -> Model:
    """Return the model with the sizes that its samples are to have.

    Args:
        model: The model.
        asked: Sizes by the name that the axis has in the file, or by `INPUT:AXIS`, counted from 0 in the file.

    Raises:
        ModelError: There is no such axis, it has another size in the file, or one axis is given two sizes.
    """
    if not asked:
        return model
    sizes: dict[str, int] = {}
    for text, size in asked.items():
        dim = _dimension(model, text)
        known = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
        if isinstance(dim, int) and dim != size:
            what = f"--size {text}={size}: that axis always has size {dim} in this file"
            fix = f"leave it out, or name an axis that is dynamic in the file{_names(model)}"
            raise ModelError(model.path, what, fix)
        if known != size:
            raise ModelError(model.path, f"--size gives the axis {dim!r} two sizes, {known} and {size}", "give it one")
    return replace(model, sizes=sizes)


def _dimension(model: Model, text: str) -> int | str:
    """Return the size or the name of an axis in the file.

    Raises:
        ModelError: There is no such axis.
    """
    if text in free_names(model):
        return text
    tensor, _, axis = text.rpartition(":")
    spec = next((spec for spec in model.inputs if spec.name == tensor), None)
    if spec is not None and axis.isdigit() and int(axis) < len(spec.shape):
        return spec.shape[int(axis)]
    what = f"--size names {text!r}, which is no dynamic axis of an input"
    named = _names(model)
    fix = f"use one of its dynamic axes{named}" if named else "leave out --size: no axis of an input is dynamic"
    raise ModelError(model.path, what, fix)


def _names(model: Model) -> str:
    """Return the names that can be given, with what each is on; empty if there are none.

    Axis 0 is listed only where its name is on another axis too: it is the batch in most files.
    """
    places: dict[str, list[str]] = {}
    for spec in model.inputs:
        for axis, dim in _symbolic(spec):
            places.setdefault(dim, []).append(f"{spec.name}:{axis}")
    others = {name: at for name, at in places.items() if any(not place.endswith(":0") for place in at)} or places
    return f": {', '.join(f'{name} ({at[0]})' for name, at in others.items())}" if others else ""


def _symbolic(spec: TensorSpec) -> Iterable[tuple[int, str]]:
    return ((axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, str))


def ask_sizes_of(model: Model, path: Path, batch_axes: Mapping[str, int | None]) -> Model:
    """Return the model with the sizes of the caller's samples, as far as the file of samples shows them.

    What is wrong with that file is said by `read_samples`, which knows where the batch of each input is.
    """
    with suppress(OSError, ValueError):
        arrays = read_npz(path)
        sizes: dict[str, int] = {}
        for spec in model.inputs:
            array = arrays.get(spec.name, arrays.get(f"input:{spec.name}"))
            axis = batch_axes.get(spec.name, 0)
            dims = spec.shape if axis is None else (*spec.shape[:axis], *spec.shape[axis + 1 :])
            if array is not None and array.ndim == 1 + len(dims):
                sizes |= {dim: size for dim, size in zip(dims, array.shape[1:], strict=True) if isinstance(dim, str)}
        return replace(model, sizes={**model.sizes, **{name: size for name, size in sizes.items() if size > 0}})
    return model


def sizes_of(batched: BatchedModel, samples: Arrays) -> dict[str, int]:
    """Return the sizes of dynamic axes in samples, `[rows, *dims]` by input, by their names in the file."""
    return {
        dim: size
        for tensor in batched.inputs
        for dim, size in zip(tensor.static_dims, samples[tensor.name].shape[1:], strict=True)
        if isinstance(dim, str)
    }


def resized(batched: BatchedModel, samples: Arrays, sizes: Sizes, *, rows: int) -> dict[str, Array]:
    """Return a few samples with other sizes of dynamic axes: shorter ones are cut, longer ones begin again.

    Args:
        batched: The model.
        samples: The caller's samples, `[rows, *dims]` by input.
        sizes: The sizes, by the axes' names in the file.
        rows: How many samples.
    """
    found: dict[str, Array] = {}
    for tensor in batched.inputs:
        array = samples[tensor.name][:rows]
        for axis, dim in enumerate(tensor.static_dims, start=1):
            if isinstance(dim, str) and dim in sizes and array.shape[axis]:
                array = np.take(array, np.arange(sizes[dim]), axis=axis, mode="wrap")
        found[tensor.name] = array
    return found


def refuse_batch_sizes(batched: BatchedModel) -> None:
    """Check that the sizes that were asked for are not those of the batch.

    Raises:
        ModelError: One of them is.
    """
    shapes = {spec.name: spec.shape for spec in batched.original.inputs}
    for tensor in batched.inputs:
        shape = shapes[tensor.original]
        name = None if tensor.batch_axis is None else shape[tensor.batch_axis]
        if name in batched.original.sizes:
            what = f"--size names {name!r}, which is the batch, and the batch is proven at several sizes"
            fix = f"leave {name} out of --size; --max-batch-size sets the largest batch"
            raise ModelError(batched.original.path, what, fix)
