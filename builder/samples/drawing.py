"""Draw samples at random from the values that a model's inputs may hold, or read the samples that the user gives."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.arrays import read_npz
from builder.batching import BatchedModel, BatchedTensor
from builder.errors import ModelError
from builder.files import reason
from builder.model import fits, stored_dtype
from builder.samples.around import draw_around
from builder.samples.domains import Domains
from builder.samples.kinds import (
    Around,
    Choices,
    Constant,
    Domain,
    Integers,
    Lengths,
    Mask,
    Normal,
    Unit,
    in_words,
)
from builder.samples.labels import Labels, find_labels
from builder.samples.sizes import USUAL
from builder.tensors import Array

CAUTIONS = range(4)
"""How cautious samples can be: 0 follows what the graph suggests, 3 is for models that cannot run what came before."""

FEWEST_KINDS = 4
"""How many kinds of rows there are at least: usual ones, those on either side of a point, and mixed ones."""

GIVEN = "given"
"""What the user's own samples are called."""


class Samples(dict[str, Array]):
    """Samples by the input's name, `[rows, *dims]` each.

    Attributes:
        words: In a few words, what each input's samples are.
        labels: The right answers to them; None if they were drawn.
    """

    def __init__(self, arrays: Mapping[str, Array], words: Mapping[str, str], labels: Labels | None = None) -> None:
        super().__init__(arrays)
        self.words = words
        self.labels = labels


def draw(
    batched: BatchedModel, *, rows: int, sizes: Mapping[str, int] | None = None, is_traced: bool = False
) -> Iterator[Samples]:
    """Yield sets of samples, each with `[rows, *dims]` for every input, by the input's name.

    The first set follows what the graph suggests. Each further one is more cautious, for models that cannot run the set
    before. The same model always gets the same samples, even when its inputs are renamed.

    Args:
        batched: The model.
        rows: How many samples.
        sizes: The size of each dynamic dimension, by its name. A dimension without one has the size that the caller
            asked for, or its size in the original, or 32 if it is dynamic there too.
        is_traced: Whether the graph may lack a branch that its source has. Then values are drawn on either side of 0,
            or of the middle, whatever the graph says.
    """
    sizes = {**batched.original.sizes, **(sizes or {})}
    domains = Domains(batched.original).at(sizes)
    seed = int(batched.original.sha256[:16], 16)
    dtypes = {tensor.original: tensor.dtype for tensor in batched.inputs}
    for chosen in _more_and_more_cautious(domains, dtypes, is_traced=is_traced):
        arrays = {
            tensor.name: _draw(
                tensor.dtype,
                chosen[tensor.original],
                shape=(rows, *_shape(tensor, sizes)),
                rng=np.random.default_rng([seed, position]),
                together=min(batched.static_batch, max(1, rows // FEWEST_KINDS)),
            )
            for position, tensor in enumerate(batched.inputs)
        }
        yield Samples(arrays, {tensor.name: in_words(chosen[tensor.original]) for tensor in batched.inputs})


def draw_feeds(domains: Domains, sizes: Mapping[str, int]) -> Iterator[dict[str, Array]]:
    """Yield whole inputs of the original model, by name, with these sizes for its dynamic dimensions.

    As with `draw`, each set is more cautious than the one before.

    Args:
        domains: The domains of the model's inputs.
        sizes: The size of each dynamic dimension, by its name.
    """
    seed = int(domains.model.sha256[:16], 16)
    dtypes = {spec.name: spec.dtype for spec in domains.model.inputs}
    for chosen in _more_and_more_cautious(domains.at(sizes), dtypes):
        yield {
            spec.name: _draw(
                spec.dtype,
                chosen[spec.name],
                shape=tuple(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape),
                rng=np.random.default_rng([seed, position]),
            )
            for position, spec in enumerate(domains.model.inputs)
        }


def _shape(tensor: BatchedTensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of one sample."""
    pairs = zip(tensor.dims, tensor.static_dims, strict=True)
    return tuple(
        dim if isinstance(dim, int) else sizes.get(dim, static if isinstance(static, int) else USUAL)
        for dim, static in pairs
    )


def _more_and_more_cautious(
    domains: Mapping[str, Domain], dtypes: Mapping[str, ir.DataType], *, is_traced: bool = False
) -> Iterator[Mapping[str, Domain]]:
    """Yield domains of all inputs, the most cautious last; none twice in a row."""
    before = None
    if is_traced:
        before = {name: _on_both_sides(domain) for name, domain in domains.items()}
        yield before
    for caution in CAUTIONS:
        chosen = {name: _cautious(domain, dtypes[name], caution) for name, domain in domains.items()}
        if chosen != before:
            yield chosen
        before = chosen


def _on_both_sides(domain: Domain) -> Domain:
    """Return a domain with rows on either side of 0, or of the middle, too."""
    match domain:
        case Normal():
            return Around(domain, (0.0,))  # not 0 itself: two libraries sort equal values of a row in another order
        case Integers(low, high) if high - low > 1:
            return Around(domain, ((low + high) // 2,), (low, high))
        case Around(Normal(), points) if 0.0 not in points:
            return replace(domain, points=tuple(sorted((*points, 0.0))))
    return domain


def _cautious(domain: Domain, dtype: ir.DataType, caution: int) -> Domain:
    """Return a narrower domain.

    With `caution` 1, only usual values; with 2, full lengths, nothing masked and positive floats; with 3, small
    integers too.
    """
    if caution and isinstance(domain, Around):
        domain = Mask() if domain.has_masks else domain.base
    if caution < 2:
        return domain
    match domain:
        case Lengths(longest):
            return Constant(longest)
        case Mask():
            # In a boolean mask, True may mean "keep" or "hide": first try all False, then all True.
            return Constant(caution - 2 if dtype == ir.DataType.BOOL else 1)
        case Normal():
            return Unit()
        case Choices((int(first), *_)):
            return Constant(first)
        case Integers(low, high) if caution == CAUTIONS[-1]:
            return Integers(max(low, 0), min(high, 1))
    return domain


def _draw(
    dtype: ir.DataType, domain: Domain, *, shape: tuple[int, ...], rng: np.random.Generator, together: int = 1
) -> Array:
    """Draw values and store them in this type; `together` is how many rows the model takes at once."""
    values = _values(dtype, domain, shape, rng, together)
    if dtype == ir.DataType.BFLOAT16:
        return values.astype(dtype.numpy()).view(np.uint16)
    return values.astype(stored_dtype(dtype), copy=False)


def _values(
    dtype: ir.DataType, domain: Domain, shape: tuple[int, ...], rng: np.random.Generator, together: int
) -> Array:
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
            values[(0,) * min(1, len(shape))] = longest
        case Mask():
            values = _draw_mask(shape, rng, both=dtype == ir.DataType.BOOL)
        case Choices(choices):
            values = rng.choice(np.array(choices), shape)
        case Constant(value):
            values = np.full(shape, value)
        case Around(base):
            values = draw_around(
                domain,
                shape,
                rng,
                usual=lambda shape: _values(dtype, base, shape, rng, together),
                masks=lambda shape: _values(dtype, Mask(), shape, rng, together),
                together=together,
            )
    return values


def _draw_mask(shape: tuple[int, ...], rng: np.random.Generator, *, both: bool) -> Array:
    """Return ones for at least half of the last axis, then zeros; with `both`, at least one zero in each row.

    Without `both`, the first row is all ones, as in most requests.
    """
    if len(shape) < 2 or shape[-1] == 1:
        return rng.integers(0, 2, shape) if both else np.ones(shape)
    width = shape[-1]
    kept = rng.integers(max(1, width // 2), width - both, (*shape[:-1], 1), endpoint=True)
    if not both:
        kept[:1] = width
    return np.arange(width) < kept


# ---------------------------------------------------------------- samples from a file


def read_samples(path: Path, batched: BatchedModel) -> Samples:
    """Read samples, `[rows, *dims]` for every input, from an `.npz` file.

    An array may have the input's new name, its original name, or either one as `input:NAME`, as in a published
    reference. Arrays that are called `label`, `labels` or `label:NAME` are labels, and others are ignored.

    Raises:
        ModelError: The file cannot be read, or an array is missing or does not fit its input.
    """
    arrays = _read_npz(path)
    used = {tensor.name: _name_of(arrays, tensor, path) for tensor in batched.inputs}
    samples = {name: arrays[used[name]] for name in used}
    rows = {name: len(array) for name, array in samples.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {n}" for name, n in rows.items())
        what = f"the arrays have different numbers of rows: {counts}"
        raise ModelError(path, what, "give every input the same number of rows")
    if min(rows.values(), default=2) < (1 if batched.is_static else 2):
        what = "too few rows: with one sample, mixed-up rows would go unnoticed"
        raise ModelError(path, what, "give at least 2 different samples")
    return Samples(samples, dict.fromkeys(samples, GIVEN), find_labels(path, arrays, {*used.values()}))


def check_labels(path: Path, inputs: Set[str]) -> None:
    """Check that a file of samples has labels.

    Args:
        path: The file.
        inputs: The names of the model's inputs.

    Raises:
        ModelError: The file cannot be read, or has no labels.
    """
    find_labels(path, _read_npz(path), inputs | {f"input:{name}" for name in inputs}).check_present()


def _read_npz(path: Path) -> Mapping[str, Array]:
    try:
        return read_npz(path)
    except OSError as error:
        what = f"the samples cannot be read: {reason(error)}"
        raise ModelError(path, what, "give the path of an .npz file that you can read") from error
    except ValueError as error:
        fix = "write it with numpy.savez(FILE, NAME=array, ...): an array for each input, [rows, *dims], strings as str"
        raise ModelError(path, f"the samples cannot be read: {error}", fix) from error


def _name_of(arrays: Mapping[str, Array], tensor: BatchedTensor, path: Path) -> str:
    """Return the name of the array that has the samples of an input."""
    named = (tensor.name, tensor.original, f"input:{tensor.name}", f"input:{tensor.original}")
    found = next((name for name in named if name in arrays), None)
    wanted = f"{stored_dtype(tensor.dtype).name}[rows{''.join(f', {dim}' for dim in tensor.dims)}]"
    if found is None:
        what = f"no array for input {tensor.name!r}; the file has {', '.join(arrays) or 'no arrays'}"
        raise ModelError(path, what, f"add an array {tensor.name} of type and shape {wanted}")
    array = arrays[found]
    if not fits(array, tensor.dtype, ("rows", *tensor.dims)):
        what = f"the array for input {tensor.name!r} is {array.dtype.name}{list(array.shape)}"
        raise ModelError(path, what, f"give it as {wanted}")
    return found
