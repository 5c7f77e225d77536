"""The numbers in options, each kind with the least and the most that make sense.

Without an upper end, a slip of the keyboard would ask for a run of a million years, or for more users than fit into
memory. Python alone would also read 1_000, and digits of other scripts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of number.

    Attributes:
        words: What messages call it: `a whole number from 1 to 100,000`.
        read: Reads it; a ValueError says that the text is something else.
    """

    words: str
    read: Callable[[str], T]


def whole(least: int, most: int) -> Kind[int]:
    """Return the kind of a whole number from `least` to `most`."""

    def read(text: str) -> int:
        return _within(int(_plain(text)), text, least, most)

    return Kind(f"a whole number from {least:,} to {most:,}", read)


def number(most: float, *, least: float | None = None) -> Kind[float]:
    """Return the kind of a number up to `most`, and from `least` up, or above 0 if that is None."""

    def read(text: str) -> float:
        value = float(_plain(text))
        if least is None and value <= 0:
            raise ValueError(text)
        return _within(value, text, least or 0.0, most)

    start = "above 0 and up to" if least is None else f"from {_plainly(least)} to"
    return Kind(f"a number {start} {most:,.0f}", read)


def percentage(least: float, most: float) -> Kind[float]:
    """Return the kind of a percentage, which is read as a share: 0.05 for `5%`."""

    def read(text: str) -> float:
        if not text.endswith("%"):
            raise ValueError(text)
        return _within(float(_plain(text.removesuffix("%"))), text, least, most) / 100

    return Kind(f"a percentage from {least:g}% to {most:g}%, as in 5%", read)


def _plainly(value: float) -> str:
    """Return 0.000001 rather than 1e-06."""
    return f"{value:f}".rstrip("0").rstrip(".")


def _plain(text: str) -> str:
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return text


_Value = TypeVar("_Value", int, float)


def _within(value: _Value, text: str, least: float, most: float) -> _Value:
    if not least <= value <= most:  # nor is NaN
        raise ValueError(text)
    return value
