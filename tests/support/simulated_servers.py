"""Servers that exist only as latencies, to try the search for the highest load on thousands of them.

Both are single queues, so their latencies are autocorrelated as those of real servers are, and both can be disturbed:
the whole stage is slower or faster than others (`stage_noise`), so is a window (`window_noise`), or for a moment all
requests are held up (`stalls` per second).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from loadtest.scenarios.evidence import FEWEST_WINDOWS, Counts, Verdict, judge
from loadtest.scenarios.search import Search, Trial, find_bracket

Microseconds = NDArray[np.float64]

_STALL_US = 30_000.0
_STALLED_S = 0.05
_WARM_UP_S = 1.0


@dataclass
class Server(ABC):
    """A server: `service_us` is its mean time for a request, and `spread` the standard deviation in means."""

    seed: int
    service_us: float
    spread: float = 0.5
    stage_noise: float = 0.0
    window_noise: float = 0.0
    stalls: float = 0.0
    flukes: float = 0.0
    """The share of stages in which every tenth request takes 0.3 s."""

    slow: float = field(default=1.0, init=False)
    has_fluke: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def begin(self, load: float) -> None:
        """Begin a stage."""
        self.slow = math.exp(self.stage_noise * self.random.standard_normal())
        self.has_fluke = self.random.random() < self.flukes

    def window(self, load: float, seconds: float) -> Microseconds:
        """Return the latencies of the stage's next window."""
        latencies = self.queue(load, seconds, self.slow * math.exp(self.window_noise * self.random.standard_normal()))
        for _ in range(self.random.poisson(self.stalls * seconds)):
            held_up = max(int(len(latencies) / seconds * _STALLED_S), 1)
            first = self.random.integers(0, max(len(latencies) - held_up, 1))
            latencies[first : first + held_up] += _STALL_US
        if self.has_fluke:
            latencies[::10] += 10 * _STALL_US
        return latencies

    @abstractmethod
    def queue(self, load: float, seconds: float, slow: float) -> Microseconds:
        """Return the latencies of the requests that come in a number of seconds."""

    def draw(self, count: int, mean_us: float) -> Microseconds:
        """Return so many service times."""
        shape = 1 / self.spread**2
        return self.random.gamma(shape, mean_us / shape, count)


@dataclass
class ClosedLoop(Server):
    """Each user waits for the requests of all users before it, and for the network; with a cliff, more from there."""

    network_us: float = 500.0
    cliff: int = 1_000_000

    def queue(self, load: float, seconds: float, slow: float) -> Microseconds:
        users = round(load)
        mean_us = self.service_us * slow * (2.5 if users >= self.cliff else 1.0)
        waiting = max(round(users - self.network_us / mean_us), 1)
        count = max(int(seconds * 1e6 * min(users / (self.network_us + mean_us), 1 / mean_us)), 1)
        done = np.cumsum(self.draw(count + waiting, mean_us))
        network: Microseconds = self.network_us * self.random.gamma(9, 1 / 9, count)
        return done[waiting:] - done[:-waiting] + network


@dataclass
class OpenLoop(Server):
    """Requests arrive at a rate, and wait until those before them are done. A queue stays when the window ends."""

    poisson: bool = True
    backlog_us: float = field(default=0.0, init=False)

    def begin(self, load: float) -> None:
        super().begin(load)
        self.backlog_us = 0.0
        self.window(load, _WARM_UP_S)

    def queue(self, load: float, seconds: float, slow: float) -> Microseconds:
        """Work out Lindley's recursion: a request waits for the sum of what came before, or else from zero."""
        count = max(int(load * seconds), 1)
        service = self.draw(count, self.service_us * slow)
        gap_us = 1e6 / load
        gaps = self.random.exponential(gap_us, count) if self.poisson else np.full(count, gap_us)
        sums = np.concatenate(([0.0], np.cumsum(service - gaps)))
        waits = np.maximum(sums - np.minimum.accumulate(sums), sums + self.backlog_us)
        self.backlog_us = float(waits[-1])
        return waits[:-1] + service


@dataclass(frozen=True)
class Case:
    """A kind of server, and what to search with it."""

    make: Callable[[int], Server]
    limit_us: float
    low: float = 1
    high: float = 256
    is_open_loop: bool = False

    def search(self, precision: float = 0.05) -> Search:
        return Search(self.low, self.high, self.limit_us, precision, self.is_open_loop)

    def find_answer(self) -> float:
        """Return the right answer, from long measurements without flukes: to 1 user, or to 0.4 %."""
        low, high = self.low, self.high
        while high > low * 1.004 if self.is_open_loop else high - low > 1:
            middle = (low + high) / 2 if self.is_open_loop else (low + high) // 2
            low, high = (middle, high) if self._late_share(middle) <= 0.01 else (low, middle)
        return low

    def _late_share(self, load: float) -> float:
        counts: list[Counts] = []
        for seed in range(1000, 1024):
            server = self.make(seed)
            server.flukes = 0.0
            server.begin(load)
            counts += [_count(server.window(load, 8.0), self.limit_us) for _ in range(5)]
        return sum(late for late, _ in counts) / sum(requests for _, requests in counts)


@dataclass(frozen=True)
class Found:
    """What a search found, its stages, and how many seconds they took."""

    load: float | None
    trials: Sequence[Trial]
    seconds: float


def find(case: Case, seed: int, *, stage_time_s: float = 10.0) -> Found:
    """Search once."""
    search, server, seconds = case.search(), case.make(seed), 0.0
    trials: list[Trial] = []
    while (load := search.next_load(trials)) is not None:
        trial, took_s = _measure(server, load, case.limit_us, stage_time_s)
        trials.append(trial)
        seconds += took_s
    return Found(find_bracket(trials)[0], trials, seconds)


def _measure(server: Server, load: float, limit_us: float, stage_time_s: float) -> tuple[Trial, float]:
    """Measure a stage as the leader does: until it is decided, but at most four times the stage time."""
    server.begin(load)
    length_s, windows, counts = stage_time_s / 5, list[Microseconds](), list[Counts]()
    verdict = Verdict.UNDECIDED
    while verdict is Verdict.UNDECIDED and len(windows) < 20:
        windows.append(server.window(load, length_s))
        counts.append(_count(windows[-1], limit_us))
        is_growing = len(windows) >= FEWEST_WINDOWS and _grows([float(one.mean()) for one in windows[-3:]])
        verdict = Verdict.UNDECIDED if is_growing and judge(counts) is Verdict.WITHIN else judge(counts)
    p99_us = float(np.percentile(np.concatenate(windows), 99))
    return Trial(load, p99_us <= limit_us, p99_us), len(windows) * length_s + _WARM_UP_S


def _grows(means: Sequence[float]) -> bool:
    first, second, third = means
    return third > 1.1 * second > 1.1 * 1.1 * first


def _count(latencies: Microseconds, limit_us: float) -> Counts:
    return int((latencies > limit_us).sum()), len(latencies)


_Closed = partial(ClosedLoop, service_us=400)
_Open = partial(OpenLoop, service_us=800, spread=1.0)
_RATES = {"low": 50, "high": 5000, "is_open_loop": True}

CASES = {
    "closed loop": Case(partial(_Closed), 12_000),
    "steady service": Case(partial(_Closed, spread=0.1), 12_000),
    "uneven service": Case(partial(_Closed, spread=1.5), 40_000),
    "noisy machine": Case(partial(_Closed, stage_noise=0.03, window_noise=0.03), 12_000),
    "stalls": Case(partial(_Closed, stalls=0.1, window_noise=0.05), 12_000),
    "one stage in 20 disturbed": Case(partial(_Closed, flukes=0.05), 12_000),
    "cliff at 17 users": Case(partial(_Closed, cliff=17), 20_000),
    "20 ms service": Case(partial(ClosedLoop, service_us=20_000, network_us=10_000), 400_000),
    "0.1 ms service": Case(partial(ClosedLoop, service_us=100), 15_000, high=512),
    "few users": Case(partial(ClosedLoop, service_us=1500), 12_000),
    "open loop, Poisson": Case(partial(_Open), 15_000, **_RATES),  # type: ignore[arg-type]
    "open loop, constant gaps": Case(partial(_Open, spread=0.5, poisson=False), 8_000, **_RATES),  # type: ignore[arg-type]
    "open loop, high limit": Case(partial(_Open), 100_000, **_RATES),  # type: ignore[arg-type]
    "open loop, noisy machine": Case(partial(_Open, stage_noise=0.02), 15_000, **_RATES),  # type: ignore[arg-type]
    "open loop, disturbed": Case(partial(_Open, flukes=0.05), 15_000, **_RATES),  # type: ignore[arg-type]
}
