"""Where the samples of a value are, and the algebra that moves them.

The original graph runs on `static_batch` samples at once (written B). A value of static shape `S` that holds samples
has its batch on one axis, mixed there with other elements in row-major order: `S[axis] = outer * B * inner`. The
rewritten graph holds the same value in one of two forms, N being the batch of the call:

    in place   `S` with `S[axis]` become `outer * N * inner`
    lifted     `[N, *sample]`, where `sample` is `S` with `S[axis]` become `outer * inner`

With B = 1 every operator may be run on the lifted form sample by sample, wherever the batch was: the original never
saw more than one. With B > 1 an operator must be shown not to mix the samples along the axis.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

Shape = tuple[int, ...]


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
        """Where the samples are within the axis, whichever axis it is."""
        return self.outer, self.inner

    @property
    def place(self) -> tuple[int, int, int]:
        """The position alone, whatever the form."""
        return self.axis, self.outer, self.inner

    def is_on(self, *axes: int) -> bool:
        """Whether the samples are on one of these axes."""
        return self.axis in axes

    def lift(self) -> "Placed":
        """The same position in lifted form."""
        return replace(self, lifted=True)

    def lower(self) -> "Placed":
        """The same position in place."""
        return replace(self, lifted=False)

    def certain_if(self, certain: bool) -> "Placed":
        """The same place, certain or not."""
        return replace(self, certain=certain)

    def at(self, axis: int) -> "Placed":
        """The same rows on another axis."""
        return replace(self, axis=axis)

    def moved(self, to: Callable[[int], int]) -> "Placed":
        """The same rows on the axis that theirs becomes."""
        return replace(self, axis=to(self.axis))

    def sample_shape(self, shape: Shape) -> Shape:
        """`S -> sample`: the static shape with one sample's rows on the batch axis."""
        return (*shape[: self.axis], self.rows, *shape[self.axis + 1 :])

    def dims(self, shape: Shape) -> Shape:
        """The shape of a sample as it is served: without the batch's axis, its rows an axis if they are several."""
        return (*shape[: self.axis], *((self.rows,) if self.rows > 1 else ()), *shape[self.axis + 1 :])

    def target(self, shape: Shape) -> Shape:
        """The rewritten shape as a Reshape target: -1 where it grows with N."""
        if self.lifted:
            return (-1, *self.sample_shape(shape))
        return (*shape[: self.axis], -1, *shape[self.axis + 1 :])


@dataclass(frozen=True, slots=True)
class Dropped:
    """The original has removed the axis of its batch of 1, so no axis of the static shape holds the samples.

    The rewritten value is always lifted: `[N, *S]`. The original's shape does not say which of its axes, if any, is
    the batch, so that no choice is certain.
    """

    lifted: ClassVar[Literal[True]] = True
    certain: ClassVar[Literal[False]] = False
    order: ClassVar[tuple[int, int]] = (1, 1)
    place: ClassVar[None] = None

    def is_on(self, *axes: int) -> bool:
        """Never: there is no axis."""
        return False

    def lift(self) -> "Dropped":
        """Itself: it is lifted."""
        return self

    def certain_if(self, certain: bool) -> "Dropped":
        """Itself: it is never certain."""
        return self

    def moved(self, to: Callable[[int], int]) -> "Dropped":
        """Itself: there is no axis to move."""
        return self

    def sample_shape(self, shape: Shape) -> Shape:
        """The whole static shape is one sample's."""
        return shape

    def target(self, shape: Shape) -> Shape:
        """The rewritten shape as a Reshape target: -1 where it grows with N."""
        return (-1, *shape)


Batch = Placed | Dropped
"""Where the samples of one value are."""

DROPPED = Dropped()


@dataclass(frozen=True, slots=True)
class View:
    """A value brought to `batch` and then seen in another shape (-1 where it grows with N)."""

    batch: Batch
    shape: Shape


def folded(batch: Batch, shape: Shape) -> View:
    """Fold the batch into axis 0: `[N, s0, *s] -> [N * s0, *s]`, for operators that take axis 0 row by row."""
    return View(batch.lift(), (-1, *batch.sample_shape(shape)[1:]))


def padded(batch: Batch, shape: Shape, rank: int) -> View:
    """Lift, with ones after the batch until a sample has `rank` axes, so that samples broadcast from the right."""
    sample = batch.sample_shape(shape)
    return View(batch.lift(), (-1, *(1,) * (rank - len(sample)), *sample))


def placements(shape: Shape, batch: Placed, target: Shape, static_batch: int) -> list[Placed]:
    """Every place the batch can be at after `shape` is reshaped to `target`, without moving an element.

    The elements before the batch number `prod(S[:axis]) * outer` and stay before it.
    """
    before = math.prod(shape[: batch.axis]) * batch.outer
    found = []
    prefix = 1
    for axis, dim in enumerate(target):
        if prefix > before:
            break
        outer, rest = divmod(before, prefix) if prefix else (0, 1)
        if not rest and dim and dim % (outer * static_batch) == 0:
            found.append(Placed(axis, outer, dim // (outer * static_batch)))
        prefix *= dim
    return found


def choose(shape: Shape, batch: Placed, target: Shape, found: Sequence[Placed], *, grows: int | None) -> Placed:
    """Pick among `placements`: the reading an exporter most likely meant.

    Every choice gives right values; it decides which axis a later reduction is held to be one over samples. An axis of
    its own comes first, then the merge that leaves the other side's axes as they were.

    Args:
        shape: The static shape before.
        batch: The batch before.
        target: The static shape after.
        found: What `placements` found; not empty.
        grows: The axis the model itself left open (-1 in a Reshape), if any.
    """
    alone = [b for b in found if b.rows == 1]
    if alone:
        same = [b for b in alone if b.axis == batch.axis]
        return replace((same or alone)[0], certain=len(alone) == 1 and batch.certain)
    certain = batch.certain and len(found) == 1 and found[0].axis == grows
    for b in found:
        if b.outer == 1 and shape[: batch.axis] == target[: b.axis] and shape[batch.axis + 1 :] != target[b.axis :]:
            return replace(b, certain=certain)
    for b in found:
        if b.inner == 1 and shape[batch.axis + 1 :] == target[b.axis + 1 :]:
            return replace(b, certain=certain)
    leading = [b for b in found if b.outer == 1]
    return replace((leading or list(found))[0], certain=certain)
