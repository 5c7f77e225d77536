"""The kinds of values that an input may hold, and how each is called."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_MOST_LISTED = 4
"""How many numbers, words or names are listed before the rest is counted."""


@dataclass(frozen=True, slots=True)
class Normal:
    """Floats from the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Floats between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Integers:
    """Whole numbers in `[low, high]`."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Mask:
    """Ones, then zeros, along the last axis; never all zeros."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Whole numbers in `[1, longest]`."""

    longest: int


@dataclass(frozen=True, slots=True)
class Choices:
    """One of these strings or numbers."""

    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """The same number everywhere."""

    value: int


@dataclass(frozen=True, slots=True)
class Around:
    """Values of `base`, and values around the points at which the model does something else.

    Some rows are values of `base`, others lie wholly on one side of a point, and in others all of these are mixed.

    Attributes:
        base: The usual values.
        points: The numbers that values are compared with, in ascending order.
        exact: Those of them that are drawn too, and not only numbers close to them.
        special: Values that the model tests for: NaN and infinities.
        has_masks: Whether some rows are masks.
    """

    base: Normal | Unit | Integers
    points: tuple[float, ...] = ()
    exact: tuple[float, ...] = ()
    special: tuple[float, ...] = ()
    has_masks: bool = False


Domain = Normal | Unit | Integers | Mask | Lengths | Choices | Constant | Around


def in_words(domain: Domain) -> str:
    """Describe a kind of values in a few words: `normal`, `0/1`, `0..1999`."""
    match domain:
        case Normal():
            return "normal"
        case Unit():
            return "0 to 1"
        case Integers(low, high):
            return f"{low}..{high}"
        case Mask():
            return "0/1"
        case Lengths(longest):
            return f"lengths 1..{longest}"
        case Choices(values):
            return _listed(map(str, values), "/")
        case Constant(value):
            return f"all {value}"
        case Around():
            return _around_in_words(domain)


def _around_in_words(domain: Around) -> str:
    parts = ["0/1"] if domain.has_masks else []
    parts.append(in_words(domain.base))
    if domain.points:
        parts.append(f"around {_listed((f'{point:g}' for point in domain.points), ', ')}")
    parts += [f"{value:g}" for value in domain.special]
    return " and ".join(parts)


def list_in_words(drawn: Mapping[str, str]) -> str:
    """List what was drawn for each input, inputs of the same kind together: `x, y: normal; mask: 0/1`."""
    together: dict[str, list[str]] = {}
    for name, words in drawn.items():
        together.setdefault(words, []).append(name)
    return "; ".join(f"{_listed(names, ', ')}: {words}" for words, names in together.items())


def _listed(items: Iterable[str], separator: str) -> str:
    every = list(items)
    shown = separator.join(every[:_MOST_LISTED])
    return shown if len(every) <= _MOST_LISTED else f"{shown} and {len(every) - _MOST_LISTED:,} more"
