"""Dimensions as products of fixed numbers and named sizes, in row-major order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

BATCH_HINT = 1_000_003
"""A prime that no model's dimension is a multiple of: what N stands for while shapes are compared."""


@dataclass(frozen=True, eq=False, slots=True)
class Symbol:
    """A size known at run time only.

    Attributes:
        name: For shapes in the file.
        hint: Its size in the static model.
        source: A value and the axis of it that has this size.
    """

    name: str
    hint: int
    source: tuple[ir.Value, int]


Factor = int | Symbol
Dim = tuple[Factor, ...]
"""A dimension: the product of its factors, slowest first; a fixed one is `(n,)`, 1 is `()`."""


class Baked(Exception):  # noqa: N818 - turned into a ModelError by the walk
    """A size that the exporter baked in where it cannot be taken out, and why."""


def hint(dim: Dim) -> int:
    """The dimension in the static model."""
    return math.prod(f if isinstance(f, int) else f.hint for f in dim)


def is_fixed(dim: Dim) -> bool:
    """Whether it is a number."""
    return all(isinstance(f, int) for f in dim)


def fixed(size: int) -> Dim:
    """A number as a dimension."""
    return () if size == 1 else (size,)


def regroup(dims: Sequence[Dim], target: Sequence[int]) -> list[Dim]:
    """The dimensions after a reshape to `target`, given in static sizes.

    Raises:
        Baked: A named size would be cut apart.
    """
    factors: list[Factor] = [f for dim in dims for f in dim if f != 1]
    result: list[Dim] = []
    for size in target:
        taken: list[Factor] = []
        left = size
        while left > 1:
            if not factors:
                raise Baked(f"it reshapes to {list(target)}, which is not the size of its input")
            factor = factors.pop(0)
            value = factor if isinstance(factor, int) else factor.hint
            if left % value == 0:
                taken.append(factor)
                left //= value
                continue
            shared = math.gcd(left, value)
            if not isinstance(factor, int) or shared == 1 or shared != left:
                raise Baked(f"it cuts {_called(factor)} of {value} apart: {list(target)}")
            taken.append(shared)
            factors.insert(0, value // shared)
            left = 1
        result.append(tuple(taken))
    return result


def _called(factor: Factor) -> str:
    return repr(factor.name) if isinstance(factor, Symbol) else "an axis"


def text(dim: Dim) -> str:
    """The dimension as it is written in messages and shapes."""
    return "*".join(str(f) if isinstance(f, int) else f.name for f in dim)
