"""Dimensions as products of numbers and named sizes, in row-major order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

BATCH_SIZE = 1_000_003
"""The number used for N while shapes are compared: a prime that divides no dimension of a model."""


@dataclass(frozen=True, eq=False, slots=True)
class Symbol:
    """A size that is known only at run time.

    Attributes:
        name: Its name in the shapes of the file.
        size: What it is in the static model.
        source: A value, and the axis of it that has this size.
    """

    name: str
    size: int
    source: tuple[ir.Value, int]


Factor = int | Symbol

Dim = tuple[Factor, ...]
"""A dimension: the product of its factors, slowest first. A fixed one is `(n,)`, and 1 is `()`."""

Dims = tuple[Dim, ...]
"""The dimensions of a value."""


class Baked(Exception):  # noqa: N818 - becomes a ModelError at the end of the walk
    """A node has a size baked in that cannot be replaced, and why."""


def static_size(dim: Dim) -> int:
    """Return a dimension's size in the static model."""
    return math.prod(f if isinstance(f, int) else f.size for f in dim)


def is_fixed(dim: Dim) -> bool:
    """Return whether a dimension is a number."""
    return all(isinstance(f, int) for f in dim)


def fixed(size: int) -> Dim:
    """Return a number as a dimension."""
    return () if size == 1 else (size,)


def text(dim: Dim) -> str:
    """Return a dimension as messages and shapes show it."""
    return "*".join(str(f) if isinstance(f, int) else f.name for f in dim) or "1"


def regroup(dims: Sequence[Dim], target: Sequence[int]) -> list[Dim]:
    """Return the dimensions after a reshape to `target`, given in static sizes.

    The elements keep their order, and so do the factors. `[3, h, w]` with h = w = 4, reshaped to `[3, 16]`, becomes
    `[3, h*w]`: 3 takes the factor 3, and 16 takes h and w. `[12, h]` to `[3, 16]` becomes `[3, 4*h]`: a number may be
    cut in two.

    Raises:
        Baked: A named size would have to be cut in two: `[h, w]` to `[2, 8]`.
    """
    factors: list[Factor] = [f for dim in dims for f in dim if f != 1]
    return [_take(factors, size, target) for size in target]


def _take(factors: list[Factor], size: int, target: Sequence[int]) -> Dim:
    """Take factors from the front until their product is `size`."""
    taken: list[Factor] = []
    while size > 1:
        if not factors:
            raise Baked(f"it reshapes to {_listed(target)}, which is not the size of its input")
        factor = factors.pop(0)
        value = static_size((factor,))
        if size % value:
            # The factor is larger than what is left: cut it, if it is a number that can be cut.
            if isinstance(factor, Symbol) or value % size:
                raise Baked(f"it splits {_described(factor)} over several axes: {_listed(target)}")
            factors.insert(0, value // size)
            factor = value = size
        taken.append(factor)
        size //= value
    return tuple(taken)


def _described(factor: Factor) -> str:
    return f"{factor.name!r} ({_shown(factor.size)})" if isinstance(factor, Symbol) else f"an axis of {factor}"


def _listed(sizes: Sequence[int]) -> str:
    return f"[{', '.join(map(_shown, sizes))}]"


def _shown(size: int) -> str:
    """Return a static size as messages show it, with N in place of the number used for it."""
    times, rest = divmod(size, BATCH_SIZE)
    if rest or not times:
        return str(size)
    return "N" if times == 1 else f"{times}*N"
