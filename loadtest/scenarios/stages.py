"""The shapes of load: which stages a scenario has, and when an open loop's requests are due."""

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from loadtest.errors import SettingsError
from loadtest.settings import Settings

_WINDOWS_PER_STAGE = 5
_SHORTEST_WINDOW_S = 0.5
_DRAIN_WINDOW_S = 1.0


PAUSE: Mapping[str, Any] = {"kind": "replay", "rate": 0.0, "times": []}
"""The arrivals of an open loop that has not begun."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of the run under one load.

    Attributes:
        name: What the report calls it.
        users: How many users there are: the concurrency, or in an open loop the most requests under way.
        seconds: The longest it lasts, the warm-up not counted.
        warm_up_s: How long at its start nothing is measured.
        until_stable: Whether it ends as soon as three windows agree.
        arrivals: The open loop's arrivals as plain values (see `due_times`); None is a closed loop.
    """

    name: str
    users: int
    seconds: float
    warm_up_s: float
    until_stable: bool = False
    arrivals: Mapping[str, Any] | None = None

    @property
    def window_s(self) -> float:
        """How long a window is whose figures are compared with its neighbours'."""
        if self.until_drained:
            return _DRAIN_WINDOW_S
        return min(max(self.seconds / _WINDOWS_PER_STAGE, _SHORTEST_WINDOW_S), self.seconds)

    @property
    def until_drained(self) -> bool:
        """Whether it ends when every request of its schedule was answered."""
        return self.arrivals is not None and self.arrivals["kind"] == "replay"

    @property
    def rate(self) -> float | None:
        """The requests per second asked for, None in a closed loop."""
        return None if self.arrivals is None else float(self.arrivals["rate"])


def make_stages(settings: Settings) -> list[Stage]:
    """The stages of the scenario, in order.

    Raises:
        SettingsError: The arrivals file cannot be used.
    """
    makers = {
        "steps": _steps,
        "constant": _constant,
        "spike": _spike,
        "soak": _soak,
        "ramp": _ramp,
        "rate": _rates,
        "replay": _replay,
    }
    return makers[settings.scenario](settings)


def _call(users: int) -> str:
    return "1 user" if users == 1 else f"{users} users"


def _steps(settings: Settings) -> list[Stage]:
    return [
        Stage(_call(users), users, settings.stage_time_s, settings.warm_up_s, until_stable=True)
        for users in settings.concurrency
    ]


def _constant(settings: Settings) -> list[Stage]:
    (users,) = settings.concurrency
    return [Stage(_call(users), users, settings.stage_time_s, settings.warm_up_s)]


def _spike(settings: Settings) -> list[Stage]:
    low, high = settings.concurrency
    shape = (("before", low, settings.warm_up_s), ("spike", high, 0.0), ("after", low, 0.0))
    return [Stage(name, users, settings.stage_time_s, warm_up_s) for name, users, warm_up_s in shape]


def _soak(settings: Settings) -> list[Stage]:
    (users,) = settings.concurrency
    return [
        Stage(f"part {number}", users, settings.stage_time_s, settings.warm_up_s if number == 1 else 0.0)
        for number in range(1, settings.stages + 1)
    ]


def _ramp(settings: Settings) -> list[Stage]:
    low, high = settings.concurrency
    steps = max(settings.stages - 1, 1)
    ladder = [round(low + (high - low) * step / steps) for step in range(settings.stages)]
    return [Stage(_call(users), users, settings.stage_time_s, settings.warm_up_s) for users in ladder]


def _rates(settings: Settings) -> list[Stage]:
    return [
        Stage(
            f"{rate:g} requests/s",
            settings.max_in_flight,
            settings.stage_time_s,
            settings.warm_up_s,
            arrivals={"kind": settings.arrivals, "rate": rate, "seed": settings.seed + number},
        )
        for number, rate in enumerate(settings.rates)
    ]


def _replay(settings: Settings) -> list[Stage]:
    assert settings.arrivals_file is not None
    times = read_arrivals(settings.arrivals_file)
    seconds = times[-1] + settings.request_timeout_s
    arrivals = {"kind": "replay", "rate": len(times) / max(times[-1], 1e-6), "times": times}
    name = settings.arrivals_file.name
    return [Stage(name, settings.max_in_flight, seconds, 0.0, arrivals=arrivals)]


def read_arrivals(path: Path) -> list[float]:
    """Read when requests are due: the first column of a CSV, in seconds, ascending; a header line is skipped.

    Raises:
        SettingsError: There is no such file, or a line is not a time or out of order.
    """
    mend = "write one time per line, in seconds from the start, ascending"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            cells = [(number, row[0]) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(path, f"it cannot be read: {error}", mend) from error
    times: list[float] = []
    for number, cell in cells:
        try:
            time_s = float(cell)
        except ValueError as error:
            if not times and number == cells[0][0]:
                continue
            raise SettingsError(f"{path}, line {number}", f"{cell!r} is not a time", mend) from error
        if not (times[-1] if times else 0.0) <= time_s < float("inf"):
            raise SettingsError(f"{path}, line {number}", f"{cell} comes after a later time", mend)
        times.append(time_s)
    if not times:
        raise SettingsError(path, "it holds no times", mend)
    return times


def due_times(arrivals: Mapping[str, Any], index: int, processes: int) -> Iterator[float]:
    """When the requests of process `index` of `processes` are due, seconds from the stage's start.

    Constant arrivals and replays are dealt out in turn. Independent Poisson processes of a share of the rate
    each add up to one Poisson process of the whole rate.
    """
    if arrivals["kind"] == "replay":
        times: Sequence[float] = arrivals["times"]
        return iter(times[index::processes])
    rate = arrivals["rate"]
    if arrivals["kind"] == "constant":
        return (turn / rate for turn in count(index, processes))
    return _poisson(rate / processes, random.Random(f"{arrivals['seed']}/{index}"))


def _poisson(rate: float, rng: random.Random) -> Iterator[float]:
    due = 0.0
    while True:
        due += rng.expovariate(rate)
        yield due
