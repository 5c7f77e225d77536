"""When the requests of an open loop are due."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

ARRIVALS = ("constant", "poisson")
_RECORDED = "replay"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An open loop's schedule.

    Attributes:
        kind: `constant` or `poisson` gaps, or `replay` for recorded times.
        rate: Requests per second (recorded times: on average).
        seed: Of the random gaps.
        times: Recorded times, seconds from the stage's start.
    """

    kind: str
    rate: float
    seed: int = 0
    times: tuple[float, ...] = ()

    @property
    def is_recorded(self) -> bool:
        """Whether the requests are due at recorded times rather than at a rate."""
        return self.kind == _RECORDED

    @classmethod
    def recorded(cls, times: tuple[float, ...]) -> "Arrivals":
        """Return a schedule of recorded times; what comes within less than a second has the rate of a second."""
        return cls(_RECORDED, len(times) / max(times[-1], 1.0) if times else 0.0, times=times)

    def to_message(self) -> dict[str, Any]:
        """Return plain values that Locust can send."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "Arrivals":
        """Undo `to_message`."""
        return cls(message["kind"], message["rate"], message["seed"], tuple(message["times"]))

    def due_times(self, index: int, processes: int) -> Iterator[float]:
        """Return when the requests of process `index` of `processes` are due, in seconds from the stage's start.

        Processes take turns with constant gaps and recorded times. At 100 requests/s, with two processes, the first
        gets 0.00, 0.02, 0.04… and the second 0.01, 0.03, 0.05…. With random gaps they need not: independent Poisson
        processes add up to a Poisson process, so each process draws its own gaps at its share of the rate.
        """
        if self.is_recorded:
            return iter(self.times[index::processes])
        if self.kind == "constant":
            return (turn / self.rate for turn in count(index, processes))
        return _draw_times(self.rate / processes, random.Random(f"{self.seed}/{index}"))


PAUSE = Arrivals.recorded(())
"""A schedule without requests: nobody sends anything."""


def _draw_times(rate: float, rng: random.Random) -> Iterator[float]:
    due = 0.0
    while True:
        due += rng.expovariate(rate)
        yield due
