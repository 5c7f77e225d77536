"""Draw rows around the points at which a model does something else.

Where a graph asks `x > 0`, answers are right for all samples only if both are seen to be right. And where Python asked
`if (x < 0).all()` while the model was exported, the graph has only one of the two answers: only a row whose values are
all on the other side shows it. So some rows are wholly on one side of a point, and some have values on both sides.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from builder.samples.kinds import Around, Integers
from builder.tensors import Array

MIXED, SPECIAL = 0.5, 0.125
"""The part of the values in a mixed row that is around a point, and that is NaN or infinite."""

WIDTH = 0.25
"""How far from a point values are drawn, as a part of it; but at least 1."""

Draw = Callable[[tuple[int, ...]], Array]
"""Draws values of a shape."""

USUAL, LOWEST, HIGHEST, MIXED_FIRST, PADDED, MIXED_AGAIN, BETWEEN, MIXED_LAST = range(8)
"""The kinds of rows, which take turns."""


def draw_around(
    domain: Around, shape: tuple[int, ...], rng: np.random.Generator, *, usual: Draw, masks: Draw, together: int = 1
) -> Array:
    """Return values, `[rows, *dims]`.

    Args:
        domain: What to draw.
        shape: The shape.
        rng: Where random numbers come from.
        usual: Draws usual values.
        masks: Draws masks.
        together: How many rows are of one kind, one after another, because the model takes that many at once.
    """
    values = usual(shape).astype(np.float64 if domain.special or not isinstance(domain.base, Integers) else np.int64)
    shown = masks(shape) if domain.has_masks else None
    rows = _Rows(domain, rng)
    for start in range(0, shape[0] if shape else 0, together):
        part = slice(start, start + together)
        turn, kind = divmod(start // together, 8)
        if shown is not None and kind in (USUAL, PADDED, BETWEEN):
            values[part] = shown[part]
        else:
            values[part] = rows.of(kind, turn, values[part])
    return values


class _Rows:
    """Makes rows of each kind out of usual ones."""

    def __init__(self, domain: Around, rng: np.random.Generator) -> None:
        self._domain, self._rng = domain, rng
        self._is_whole = isinstance(domain.base, Integers)
        self._ranges = self._find_ranges()

    def of(self, kind: int, turn: int, usual: Array) -> Array:
        """Return rows of a kind, the turn-th time."""
        match kind:
            case 1 | 2 | 6 if self._ranges:
                # The lowest, the highest, and the others in turn.
                order = [self._ranges[0], self._ranges[-1], *self._ranges[1:-1]]
                return self._within(order[(2 * turn + (kind if kind < BETWEEN else 2 + turn) - 1) % len(order)], usual)
            case 3 | 5 | 7:
                return self._mixed(usual)
            case 4 if self._domain.exact:
                return self._padded(self._domain.exact[turn % len(self._domain.exact)], usual)
        return usual

    def _find_ranges(self) -> Sequence[tuple[float, float]]:
        """Return the ranges below, between and above the points that have values."""
        points = self._domain.points
        if not points:
            return []
        match self._domain.base:
            case Integers(low, high):
                ends = [low - 1, *points, high + 1]
                pairs = pairwise(ends)
                return [(start + 1, end - 1) for start, end in pairs if start + 1 <= end - 1]
        first, last = points[0], points[-1]
        ends = [first - 3 * _width(first), *points, last + 3 * _width(last)]
        return list(pairwise(ends))

    def _within(self, ends: tuple[float, float], usual: Array) -> Array:
        low, high = ends
        if self._is_whole:
            return self._rng.integers(int(low), int(high), usual.shape, endpoint=True)
        return low + (high - low) * (0.02 + 0.96 * self._rng.random(usual.shape))

    def _mixed(self, usual: Array) -> Array:
        values = usual.copy()
        if self._domain.points:
            near = self._rng.choice(np.array(self._domain.points), usual.shape)
            if isinstance(base := self._domain.base, Integers):
                near = np.clip(near + self._rng.integers(-1, 1, usual.shape, endpoint=True), base.low, base.high)
            else:
                near = near + np.maximum(1, WIDTH * abs(near)) * self._rng.standard_normal(usual.shape)
            if self._domain.exact:
                hit = self._rng.choice(np.array(self._domain.exact), usual.shape)
                near = np.where(self._rng.random(usual.shape) < 0.5, hit, near)
            values = np.where(self._rng.random(usual.shape) < MIXED, near, values)
        if self._domain.special:
            special = self._rng.choice(np.array(self._domain.special), usual.shape)
            values = np.where(self._rng.random(usual.shape) < SPECIAL, special, values)
        return values

    def _padded(self, point: float, usual: Array) -> Array:
        """Return rows that end in a point, as sequences that are padded do."""
        values = usual.copy()
        if values.ndim > 1 and values.shape[1] > 1:
            values[:, values.shape[1] - max(1, values.shape[1] // 3) :] = point
        return values


def _width(point: float) -> float:
    return max(1.0, WIDTH * math.fabs(point))
