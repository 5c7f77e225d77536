"""Where the samples of a value are, and where they are after a reshape.

The original graph runs on `static_batch` samples at once (written B). A value of static shape `S` that holds samples
has them on one axis, together with other elements in row-major order: `S[axis] = outer * B * inner`. With B = 3
samples of 2 rows, axis 0 of `[6, C]` may hold

    outer 1, inner 2:   a0 a1 b0 b1 c0 c1     the rows of a sample lie together
    outer 2, inner 1:   a0 b0 c0 a1 b1 c1     the samples take turns

The rewritten graph holds the same value in one of two forms; N is the batch of the call:

    in place   `S`, with `outer * N * inner` on the axis: `[2 * N, C]`
    lifted     `[N, *sample]`, where `sample` is `S` with `outer * inner` on the axis: `[N, 2, C]`

Where a shape of the rewritten graph is given in numbers, `-k` stands for `k * N`: `[-2, C]` and `[-1, 2, C]`.

With B = 1 every operator may be run on the lifted form, sample by sample, wherever the batch was: the original never
saw more than one. With B > 1 an operator must be shown not to mix the samples along the axis.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from builder.tensors import Array

Shape = tuple[int, ...]

COPY, REST = 0, -1
"""In a Reshape's target: the input's size on this axis, and the size that the others leave."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The samples are on one axis of the static shape.

    Attributes:
        axis: The axis of the static shape that holds the batch.
        outer: Elements of that axis slower than the batch.
        inner: Elements of that axis faster than the batch.
        lifted: The rewritten value is `[N, *sample]`; otherwise the batch is in place.
        certain: No other axis could be the batch just as well (a reshape of one sample leaves a choice).
    """

    axis: int
    outer: int = 1
    inner: int = 1
    lifted: bool = False
    certain: bool = True

    @property
    def rows(self) -> int:
        """Elements of the axis that belong to one sample."""
        return self.outer * self.inner

    @property
    def order(self) -> tuple[int, int]:
        """How the samples lie within the axis, whichever axis it is."""
        return self.outer, self.inner

    @property
    def place(self) -> tuple[int, int, int]:
        """The position alone, whatever the form."""
        return self.axis, self.outer, self.inner

    def is_on(self, *axes: int) -> bool:
        """Return whether the samples are on one of these axes."""
        return self.axis in axes

    def locate(self, elements: Array, static_batch: int) -> tuple[Array, Array]:
        """Return the sample that each of these elements of the axis belongs to, and which of its rows the element is.

        With B = 2, inner = 3 and one outer block, elements `[0, 2, 4]` are rows `[0, 2, 1]` of samples `[0, 0, 1]`.
        """
        samples = elements // self.inner % static_batch
        return samples, elements // (static_batch * self.inner) * self.inner + elements % self.inner

    def lift(self) -> "Placed":
        """Return the same position in lifted form."""
        return replace(self, lifted=True)

    def lower(self) -> "Placed":
        """Return the same position in place."""
        return replace(self, lifted=False)

    def certain_if(self, certain: bool) -> "Placed":
        """Return the same place, certain or not."""
        return replace(self, certain=certain)

    def at(self, axis: int) -> "Placed":
        """Return the same rows on another axis."""
        return replace(self, axis=axis)

    def moved(self, to: Callable[[int], int]) -> "Placed":
        """Return the same rows on the axis that `to` gives for theirs."""
        return replace(self, axis=to(self.axis))

    def sample_shape(self, shape: Shape) -> Shape:
        """Return `S -> sample`: the static shape with the rows of one sample on the batch's axis."""
        return (*shape[: self.axis], self.rows, *shape[self.axis + 1 :])

    def dims(self, shape: Shape) -> Shape:
        """Return the shape of a sample as it is served: without the batch's axis; several rows get an axis there."""
        return (*shape[: self.axis], *((self.rows,) if self.rows > 1 else ()), *shape[self.axis + 1 :])

    def target(self, shape: Shape) -> Shape:
        """Return the rewritten shape, with `-k` for `k * N`."""
        if self.lifted:
            return (-1, *self.sample_shape(shape))
        return (*shape[: self.axis], -self.rows, *shape[self.axis + 1 :])


@dataclass(frozen=True, slots=True)
class Dropped:
    """The original has removed the axis of its batch of 1, so no axis of the static shape holds the samples.

    The rewritten value is always lifted: `[N, *S]`. Nothing says which axis of `S`, if any, would be the batch, so that
    no choice is certain.
    """

    lifted: ClassVar[Literal[True]] = True
    certain: ClassVar[Literal[False]] = False
    order: ClassVar[tuple[int, int]] = (1, 1)
    place: ClassVar[None] = None

    def is_on(self, *axes: int) -> bool:
        """Return False: there is no axis."""
        return False

    def lift(self) -> "Dropped":
        """Return itself: it is lifted."""
        return self

    def certain_if(self, certain: bool) -> "Dropped":
        """Return itself: it is never certain."""
        return self

    def moved(self, to: Callable[[int], int]) -> "Dropped":
        """Return itself: there is no axis to move."""
        return self

    def sample_shape(self, shape: Shape) -> Shape:
        """Return the whole static shape: it is one sample's."""
        return shape

    def dims(self, shape: Shape) -> Shape:
        """Return the shape of a sample as it is served: all of it."""
        return shape

    def target(self, shape: Shape) -> Shape:
        """Return the rewritten shape, with -1 for N."""
        return (-1, *shape)


Batch = Placed | Dropped
"""Where the samples of one value are."""

DROPPED = Dropped()


@dataclass(frozen=True, slots=True)
class View:
    """A value brought to `batch` and then seen in another shape; -1 may stand for any multiple of N."""

    batch: Batch
    shape: Shape


def folded(batch: Batch, shape: Shape) -> View:
    """Fold the batch into axis 0: `[N, s0, *s] -> [N * s0, *s]`, for operators that take axis 0 row by row."""
    return View(batch.lift(), (-1, *batch.sample_shape(shape)[1:]))


def padded(batch: Batch, shape: Shape, rank: int) -> View:
    """Lift, with ones after the batch until a sample has `rank` axes, so that samples broadcast from the right."""
    sample = batch.sample_shape(shape)
    return View(batch.lift(), (-1, *(1,) * (rank - len(sample)), *sample))


# ---------------------------------------------------------------------- rewritten shapes


def scaled(target: Shape, elements: int) -> Shape:
    """Return a rewritten shape with the right multiple of N, given how many elements a sample has.

    A sample of 12 elements in `[-1, 4]` takes 3 rows: `[-3, 4]`. Without elements the multiple stays as it was given.
    """
    others = math.prod(d for d in target if d >= 0)
    return tuple(-(elements // others) if d < 0 < elements else d for d in target)


def reshape_target(shape: Shape, target: Shape) -> tuple[int, ...] | None:
    """Return the target of a Reshape from one rewritten shape to another; None if no target can express it.

    Where the input has the same multiple of N on the same axis, the target copies it, so that ONNX Runtime keeps its
    name when it infers shapes. From `[-1, 12]`:

        to `[-1, 3, 4]`   `[COPY, 3, 4]`
        to `[-3, 4]`      `[REST, 4]`

    A size of 0 would be read as COPY, and REST cannot be used beside it. From `[-1, 3, 0]`, `[-1, 1, 0]` is
    `[COPY, 1, COPY]`, and `[-3, 0]` has no target.
    """
    written = [max(size, REST) for size in target]
    for axis, size in enumerate(target):
        if size <= 0 and shape[axis : axis + 1] == (size,):
            written[axis] = COPY
        elif 0 in target and size <= 0:
            return None
    return tuple(written)


def symbolic(shape: Shape) -> tuple[int | str, ...]:
    """Return a rewritten shape as the file declares it: `[2*batch, C]` for `[-2, C]`."""
    return tuple(d if d >= 0 else "batch" if d == -1 else f"{-d}*batch" for d in shape)


# ---------------------------------------------------------------------- reshapes


def placements(shape: Shape, batch: Placed, target: Shape, static_batch: int) -> list[Placed]:
    """Return every place the batch can be at after `shape` is reshaped to `target`.

    A reshape moves no element. So `before = prod(S[:axis]) * outer` elements stay slower than the batch. An axis of
    the target can hold the batch if the axes in front of it take a divisor of `before`; what is left of `before` is
    `outer` there, and the axis must be a multiple of `outer * B`.

    Take B = 3 and `[4, 3, 6]` with the batch on axis 1, so that `before` is 4:

        to `[12, 6]`     axis 0 is `4 * 3 * 1`, outer 4
        to `[2, 6, 6]`   axis 0 takes 2 of the 4, and axis 1 is `2 * 3 * 1`, outer 2
        to `[6, 12]`     none: axis 0 is no multiple of `4 * 3`, and 6 does not divide 4

    Where axes of 1 leave a choice, there is more than one place: with B = 1, `[2, 1, 4]` to `[2, 4]` has the batch on
    axis 0 (outer 2) or on axis 1 (inner 4).
    """
    before = math.prod(shape[: batch.axis]) * batch.outer
    found = []
    in_front = 1
    for axis, size in enumerate(target):
        if not 0 < in_front <= before:
            break
        outer, rest = divmod(before, in_front)
        holds_batch = not rest and size and size % (outer * static_batch) == 0
        if holds_batch:
            found.append(Placed(axis, outer, size // (outer * static_batch)))
        in_front *= size
    return found


def choose(shape: Shape, batch: Placed, target: Shape, found: Sequence[Placed]) -> Placed:
    """Pick one of `placements`: the one an exporter most likely meant.

    Every choice gives right values. It decides on which axis a later node is said to mix the samples.

    - An axis that holds nothing but the batch comes first, the one it was on before all others: `[1, 3, 4]` to
      `[1, 12]` has it on axis 0, not on axis 1 as `1 * 12`.
    - Else the batch was merged with a neighbour. It is the one behind it, if the axes in front stayed as they were:
      `[3, 4, 6]` to `[12, 6]` with B = 3 makes axis 0 `3 * 4`. It is the one in front, if the axes behind stayed:
      `[2, 1, 4]` to `[2, 4]` makes axis 0 `2 * 1`. Then it is never certain: with B = 1 the axis holds the rows of one
      sample, which a later node may well mix.

    Args:
        shape: The static shape before.
        batch: The batch before.
        target: The static shape after.
        found: What `placements` found; not empty.
    """
    alone = [b for b in found if b.rows == 1]
    if alone:
        chosen = next((b for b in alone if b.axis == batch.axis), alone[0])
        return chosen.certain_if(batch.certain and len(alone) == 1)
    return _merged(shape, batch, target, found).certain_if(False)


def _merged(shape: Shape, batch: Placed, target: Shape, found: Sequence[Placed]) -> Placed:
    """Pick a place where the batch shares its axis with a neighbour."""
    return (
        _first(b for b in found if _is_merged_behind(shape, batch, target, b))
        or _first(b for b in found if _is_merged_in_front(shape, batch, target, b))
        or _first(b for b in found if b.outer == 1)
        or found[0]
    )


def _first(places: Iterable[Placed]) -> Placed | None:
    return next(iter(places), None)


def _is_merged_behind(shape: Shape, batch: Placed, target: Shape, place: Placed) -> bool:
    """Return whether the axis is the batch and what lay behind it: the axes in front are unchanged.

    If the axes behind are unchanged too, the batch's axis of 1 was removed rather than merged.
    """
    same_in_front = shape[: batch.axis] == target[: place.axis]
    was_removed = shape[batch.axis + 1 :] == target[place.axis :]
    return place.outer == 1 and same_in_front and not was_removed


def _is_merged_in_front(shape: Shape, batch: Placed, target: Shape, place: Placed) -> bool:
    """Return whether the axis is the batch and what lay in front of it: the axes behind are unchanged."""
    return place.inner == 1 and shape[batch.axis + 1 :] == target[place.axis + 1 :]
