"""The samples a model is proven with: drawn at random from what its inputs may hold, or the caller's own."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel, BatchedTensor
from builder.errors import ModelError
from builder.model import fits, stored_dtype
from builder.samples.domains import (
    Choices,
    Constant,
    Domain,
    Integers,
    Lengths,
    Mask,
    Normal,
    Unit,
    find_domains,
)
from builder.tensors import Array

_FREE_SIZES = (32, 64, 224, 8)
"""What a dimension that the model leaves open is tried with."""


def draw(batched: BatchedModel, *, rows: int, sizes: Mapping[str, int] | None = None) -> Iterator[dict[str, Array]]:
    """Draw samples for every input, `[rows, *dims]` by the input's name.

    The first are what the graph suggests; each further set is more cautious, for models that cannot run the
    one before. The same model gives the same samples, whatever its inputs are called. Dimensions that were made
    dynamic have the original's size, or the one in `sizes`, by name.
    """
    domains = find_domains(batched.original)
    seed = int(batched.original.sha256[:16], 16)
    shapes = {tensor.name: _shape(tensor, sizes or {}) for tensor in batched.inputs}
    is_open = any(isinstance(dim, str) for shape in shapes.values() for dim in shape)
    for caution in range(3):
        for size in _FREE_SIZES if is_open else _FREE_SIZES[:1]:
            yield {
                tensor.name: _draw(
                    tensor,
                    _cautious(domains[tensor.original], tensor.dtype, caution),
                    shape=(rows, *(dim if isinstance(dim, int) else size for dim in shapes[tensor.name])),
                    rng=np.random.default_rng([seed, position]),
                )
                for position, tensor in enumerate(batched.inputs)
            }


def _shape(tensor: BatchedTensor, sizes: Mapping[str, int]) -> tuple[int | str, ...]:
    """One sample's shape; a string where any size will do."""
    pairs = zip(tensor.dims, tensor.static_dims, strict=True)
    return tuple(sizes.get(dim, static) if isinstance(dim, str) else dim for dim, static in pairs)


def _cautious(domain: Domain, dtype: ir.DataType, caution: int) -> Domain:
    """A narrower domain: full lengths, nothing masked, positive floats; then small numbers too."""
    if caution == 0:
        return domain
    match domain:
        case Lengths(longest):
            return Constant(longest)
        case Mask():
            # A boolean may say what to keep or what to hide.
            return Constant(caution - 1 if dtype == ir.DataType.BOOL else 1)
        case Normal():
            return Unit()
        case Integers(low, high) if caution == 2:
            return Integers(max(low, 0), min(high, 1))
    return domain


def _draw(tensor: BatchedTensor, domain: Domain, *, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    values: Array
    match domain:
        case Normal():
            values = rng.standard_normal(shape, np.float32)
        case Unit():
            values = rng.random(shape, np.float32)
        case Integers(low, high):
            values = rng.integers(low, high, shape, endpoint=True)
        case Lengths(longest):
            values = rng.integers(1, longest, shape, endpoint=True)
            values[:1] = longest
        case Mask():
            values = _draw_mask(shape, rng, both=tensor.dtype == ir.DataType.BOOL)
        case Choices(choices):
            values = rng.choice(np.array(choices), shape)
        case Constant(value):
            values = np.full(shape, value)
    if tensor.dtype == ir.DataType.BFLOAT16:
        return values.astype(tensor.dtype.numpy()).view(np.uint16)
    return values.astype(stored_dtype(tensor.dtype), copy=False)


def _draw_mask(shape: tuple[int, ...], rng: np.random.Generator, *, both: bool) -> Array:
    """Ones, at least half of the last axis, then zeros; with `both`, at least one zero too.

    The first row is all ones otherwise, as most requests are.
    """
    if len(shape) == 1 or shape[-1] == 1:
        return rng.integers(0, 2, shape) if both else np.ones(shape)
    width = shape[-1]
    kept = rng.integers(max(1, width // 2), width - both, (*shape[:-1], 1), endpoint=True)
    if not both:
        kept[:1] = width
    return np.arange(width) < kept


# ---------------------------------------------------------------- the caller's own


def read_samples(path: Path, batched: BatchedModel) -> dict[str, Array]:
    """Read the caller's samples, `[rows, *dims]` for every input, from an `.npz`.

    An array is named like the input, by its new name or its original one, or `input:NAME` as in a reference.
    Arrays of other names are left alone.

    Raises:
        ModelError: The file is unreadable, or an array is missing or does not fit its input.
    """
    arrays = _read_npz(path)
    samples = {tensor.name: _pick(arrays, tensor, path) for tensor in batched.inputs}
    rows = {name: len(array) for name, array in samples.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {n}" for name, n in rows.items())
        raise ModelError(path, f"the inputs differ in their number of rows: {counts}", "give every input as many")
    if min(rows.values(), default=2) < (1 if batched.is_static else 2):
        raise ModelError(path, "there are too few rows to tell samples apart", "give at least 2 different samples")
    return samples


def _read_npz(path: Path) -> Mapping[str, Array]:
    fix = "write it with numpy.savez(FILE, NAME=array[rows, *dims], ...), strings as numpy.str_"
    try:
        stream = path.open("rb")
    except OSError as error:
        what = f"these samples cannot be read: {error.strerror}"
        raise ModelError(path, what, "check the path and its permissions") from error
    try:
        with stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ModelError(path, "holds one array without a name", fix)
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(path, f"these samples cannot be read: {error}", fix) from error


def _pick(arrays: Mapping[str, Array], tensor: BatchedTensor, path: Path) -> Array:
    named = (tensor.name, tensor.original, f"input:{tensor.name}", f"input:{tensor.original}")
    array = next((arrays[name] for name in named if name in arrays), None)
    wanted = f"{stored_dtype(tensor.dtype).name}[rows{''.join(f', {dim}' for dim in tensor.dims)}]"
    if array is None:
        found = ", ".join(arrays) or "nothing"
        raise ModelError(path, f"there is no array for the input {tensor.name!r}; found {found}", f"add {wanted}")
    if not fits(array, tensor.dtype, ("rows", *tensor.dims)):
        found = f"{array.dtype.name}{list(array.shape)}"
        raise ModelError(path, f"the array for the input {tensor.name!r} is {found}", f"give {wanted}")
    return array
