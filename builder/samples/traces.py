"""What the values at one place of a graph are to the input that they come from, and what is done with them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

MOST_MAPS = 4
"""How many ways from an input's values to those at a node are followed."""

LARGEST_POINT = 1e6
"""Numbers beyond this stand for infinity, or for a value that is hidden."""

Map = tuple[float, float]
"""`(scale, offset)`: a value of the input is `scale * value + offset` at this place of the graph."""


class Role(Enum):
    """What values at one place of the graph are to the input that they come from."""

    VALUE = "its values, perhaps moved, shifted or scaled"
    COUNT = "sums of its values"
    FLAG = "what comparing its values gives"


@dataclass(frozen=True, slots=True)
class Trace:
    """Values at one place of the graph that come from an input. Without maps it is not known how they were changed."""

    role: Role
    maps: tuple[Map, ...] = ()

    def mapped(self, change: Callable[[float, float], Iterable[Map]]) -> "Trace":
        """Return the trace after each map was changed."""
        maps = tuple(dict.fromkeys(new for scale, offset in self.maps for new in change(scale, offset)))
        return Trace(self.role, maps if len(maps) <= MOST_MAPS else ())

    def also(self, other: "Trace | None") -> "Trace":
        """Return the trace of a value that is one or the other: values matter more than sums, and those than flags."""
        if other is None:
            return self
        roles = {self.role, other.role}
        if len(roles) == 1:
            maps = tuple(dict.fromkeys((*self.maps, *other.maps)))
            return Trace(self.role, maps if self.maps and other.maps and len(maps) <= MOST_MAPS else ())
        first = next(role for role in Role if role in roles)
        return self if self.role is first else other


Traces = Mapping[str, Trace]
"""For each input that the values at one place come from, how; by the input's name."""


@dataclass(slots=True)
class Uses:
    """What all nodes together do with the values of one input.

    Attributes:
        points: The numbers that values are compared with, as values of the input, and whether each may be hit exactly.
        is_gate: Whether some node only asks on which side of a number a value is.
        is_ordered: Whether one asks for larger or smaller, and not for equal.
        is_data: Whether some node computes with the values.
        is_factor: Whether a value that does not come from them is multiplied by them.
        is_in_products: Whether they are in a product of matrices with such a value.
        is_counted: Whether they are added up.
        counts_are_data: Whether some node computes with the sums, other than dividing by them.
        is_divisor: Whether something is divided by the sums, as by the number of values that a mask shows.
        is_position: Whether the sums are indices or lengths.
        is_penalty: Whether they are turned into 0 and a large negative number.
        special: NaN and infinities that a node tests for.
        longest: The longest length, for each node that asks which of 0, 1, 2, … are smaller.
        kinds: How many there are of 0, 1, 2, …, for each node that asks which of these they are equal to.
        unsized: Whether the graph does not give one of these numbers.
    """

    points: dict[float, bool] = field(default_factory=dict)
    is_gate: bool = False
    is_ordered: bool = False
    is_data: bool = False
    is_factor: bool = False
    is_in_products: bool = False
    is_counted: bool = False
    counts_are_data: bool = False
    is_divisor: bool = False
    is_position: bool = False
    is_penalty: bool = False
    special: dict[float, None] = field(default_factory=dict)
    longest: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    unsized: bool = False

    def add_points(self, trace: Trace, numbers: Iterable[float]) -> None:
        """Add the values of the input that become these numbers."""
        for scale, offset in trace.maps:
            for number in numbers:
                if scale and abs(point := (number - offset) / scale) <= LARGEST_POINT:
                    self.points[point] = self.points.get(point, True) and abs(scale) == 1 and not offset
