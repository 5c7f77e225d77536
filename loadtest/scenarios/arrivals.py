"""When the requests of an open loop are due."""

import csv
import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from loadtest.errors import SettingsError, reason
from loadtest.files import open_file

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
        """Return a schedule of recorded times."""
        return cls(_RECORDED, len(times) / max(times[-1], 1e-6) if times else 0.0, times=times)

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


def read_arrivals(path: Path) -> tuple[float, ...]:
    """Read times from the first column of a CSV: in seconds, ascending; a first line that is not a number is skipped.

    Raises:
        SettingsError: The file cannot be read, or a line is not a time, or is out of order.
    """
    fix = "write one time per line, in seconds from the start, in ascending order"
    try:
        with open_file(path) as stream, io.TextIOWrapper(stream, encoding="utf-8", newline="") as file:
            cells = [(number, row[0]) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        name_another = "name a CSV file of times that can be read, as in --arrivals-file times.csv"
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", name_another) from error
    times: list[float] = []
    for number, cell in cells:
        try:
            time_s = float(cell)
        except ValueError as error:
            if number == cells[0][0]:
                continue
            raise SettingsError(f"{path}, line {number}", f"{cell!r} is not a number", fix) from error
        _check_order(times, time_s, f"{path}, line {number}", fix)
        times.append(time_s)
    if not times:
        raise SettingsError(path, "the file has no times", fix)
    return tuple(times)


def _check_order(times: list[float], time_s: float, where: str, fix: str) -> None:
    if not 0 <= time_s < float("inf"):
        raise SettingsError(where, f"{time_s:g} is not a time from 0 up", fix)
    if times and time_s < times[-1]:
        raise SettingsError(where, f"{time_s:g} is earlier than the time before it, {times[-1]:g}", fix)
