"""Optimization profiles: for each input the smallest, the usual and the largest shape of a TensorRT engine."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from builder.batching import BatchedModel, BatchedTensor
from builder.errors import ModelError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shapes:
    """The smallest, the usual and the largest shape of one input, including the batch."""

    min: Shape
    opt: Shape
    max: Shape

    def __str__(self) -> str:
        return ":".join("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))


Profile = Mapping[str, Shapes]
"""The shapes by input."""


def parse(text: str) -> tuple[str, Shapes]:
    """Read `NAME=1x16:8x128:32x512`: the smallest, the usual and the largest shape of an input.

    Raises:
        ValueError: The text has another form, or the usual shape is not between the other two.
    """
    name, equals, right = text.rpartition("=")
    if not equals or not name or not re.fullmatch(r"\d+(x\d+)*(:\d+(x\d+)*){2}", right):
        raise ValueError(f"{text!r} is not of the form INPUT=MIN:OPT:MAX, such as ids=1x16:8x128:32x512")
    lowest, usual, highest = (tuple(map(int, part.split("x"))) for part in right.split(":"))
    if len({len(lowest), len(usual), len(highest)}) > 1:
        raise ValueError(f"{text!r} has shapes with different numbers of dimensions")
    for axis, (low, middle, high) in enumerate(zip(lowest, usual, highest, strict=True)):
        if not 1 <= low <= middle <= high:
            raise ValueError(
                f"{text!r} is not in ascending order from 1 up: on axis {axis} it has {low}, {middle} and {high}"
            )
    return name, Shapes(lowest, usual, highest)


def make_profiles(
    batched: BatchedModel,
    asked: Sequence[tuple[str, Shapes]],
    *,
    max_batch_size: int,
    preferred: Sequence[int] = (),
) -> tuple[Profile, ...]:
    """Make the profiles of a model: the first shapes of every input are profile 0, the second ones profile 1.

    An input that was not given gets its own shape, with a batch from 1 to `max_batch_size` and the largest preferred
    size as the usual one.

    Raises:
        ModelError: A profile names an unknown input, contradicts an input's shape, or does not cover a needed size.
    """
    by_input: dict[str, list[Shapes]] = {tensor.name: [] for tensor in batched.inputs}
    for name, shapes in asked:
        if name not in by_input:
            fix = f"use the name of an input: {', '.join(by_input)}"
            raise _error(batched, f"--profile names {name!r}, but there is no such input", fix)
        by_input[name].append(shapes)
    usual = min(max(preferred, default=max_batch_size), max_batch_size)
    count = max(1, *map(len, by_input.values()))
    profiles = []
    for index in range(count):
        given = {name: shapes[index] for name, shapes in by_input.items() if index < len(shapes)}
        batch = next(((s.min[0], s.opt[0], s.max[0]) for s in given.values()), (1, usual, max_batch_size))
        profiles.append({t.name: given.get(t.name) or _default(batched, t, batch) for t in batched.inputs})
    problems = [problem for index, profile in enumerate(profiles) for problem in _problems(batched, index, profile)]
    problems += _uncovered(batched, profiles, max_batch_size)
    if problems:
        raise _error(batched, "; ".join(problems), "give other shapes with --profile INPUT=MIN:OPT:MAX")
    return tuple(profiles)


def _error(batched: BatchedModel, what: str, fix: str) -> ModelError:
    return ModelError(batched.original.path, what, fix)


def _default(batched: BatchedModel, tensor: BatchedTensor, batch: tuple[int, int, int]) -> Shapes:
    if free := [dim for dim in tensor.dims if isinstance(dim, str)]:
        what = (
            f"input {tensor.name!r} has dynamic sizes ({', '.join(map(str, free))}), and TensorRT needs bounds for them"
        )
        raise _error(batched, what, f"give shapes, including the batch, with --profile '{tensor.name}=MIN:OPT:MAX'")
    dims = tuple(dim for dim in tensor.dims if isinstance(dim, int))
    if batched.is_static:
        return Shapes(dims, dims, dims)
    low, middle, high = ((size, *dims) for size in batch)
    return Shapes(low, middle, high)


def _problems(batched: BatchedModel, index: int, profile: Profile) -> Iterator[str]:
    """Yield what is wrong with one profile, whatever the others are."""
    batches = set()
    for tensor in batched.inputs:
        shapes, at = profile[tensor.name], f"profile {index} of {tensor.name!r}"
        expected = tensor.dims if batched.is_static else ("batch", *tensor.dims)
        if len(shapes.min) != len(expected):
            yield f"{at} has {len(shapes.min)} dimensions, but the input is {list(expected)}"
            continue
        for axis, dim in enumerate(expected):
            sizes = {shapes.min[axis], shapes.opt[axis], shapes.max[axis]}
            if isinstance(dim, int) and sizes != {dim}:
                yield f"{at} has the sizes {sorted(sizes)} on axis {axis}, which is always {dim}"
        if not batched.is_static:
            batches.add((shapes.min[0], shapes.opt[0], shapes.max[0]))
    if len(batches) > 1:
        yield f"the inputs of profile {index} have different batch sizes: {sorted(batches)}"


def _uncovered(batched: BatchedModel, profiles: Sequence[Profile], max_batch_size: int) -> Iterator[str]:
    """Yield the sizes that no profile covers, but that the proof runs or Triton may send."""
    first = batched.inputs[0].name
    if not batched.is_static:
        reached = 0
        for low, high in sorted((p[first].min[0], p[first].max[0]) for p in profiles):
            if low > reached + 1:
                break
            reached = max(reached, high)
        if reached < max_batch_size:
            yield f"no profile covers batch size {reached + 1}, but batches go from 1 to {max_batch_size}"
    for tensor in batched.inputs:
        whole = tensor.static_dims if batched.is_static else (1, *tensor.static_dims)
        for axis, size in enumerate(whole):
            if (axis == 0 and not batched.is_static) or not isinstance(size, int):
                continue
            if not any(_covers(profile[tensor.name], axis, size) for profile in profiles):
                yield f"no profile covers size {size} on axis {axis} of {tensor.name!r}, at which the proof runs"


def _covers(shapes: Shapes, axis: int, size: int) -> bool:
    return axis >= len(shapes.min) or shapes.min[axis] <= size <= shapes.max[axis]
