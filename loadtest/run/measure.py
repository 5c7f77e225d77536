"""What one process saw in one window of time, and how windows of processes and stages add up.

Latencies are counted per whole microsecond, then kept in HDR histograms: merging them loses nothing, so a
run over many processes gives the figures that one process would have given.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}

_EMPTY = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)

STABLE_WINDOWS = 3
STABLE_RATIO = 1.10
SATURATED_SHARE = 0.9
"""A single-threaded client whose CPU and waits for a CPU fill this share of the time is the bottleneck."""
COMFORTABLE_SHARE = 0.7
CROWDED_SHARE = 0.25
"""A client that waits for a CPU so often needs cores of its own rather than more processes."""


class Latencies:
    """Microseconds, each value kept to three significant digits, and their exact sum."""

    def __init__(self) -> None:
        self._histogram = _EMPTY
        self._total_us = 0

    def record(self, value_us: int, count: int = 1) -> None:
        """Count `value_us`, brought between 1 us and an hour."""
        value_us = min(max(value_us, _LOWEST_US), _HIGHEST_US)
        self._own().record_value(value_us, count)
        self._total_us += value_us * count

    def add(self, other: "Latencies") -> None:
        """Take in all values of another, exactly as if they had been recorded here."""
        if other.count:
            self._own().add(other._histogram)
            self._total_us += other._total_us

    def _own(self) -> HdrHistogram:
        """A histogram takes 190 KB: one without values is shared."""
        if self._histogram is _EMPTY:
            self._histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        return self._histogram

    @property
    def count(self) -> int:
        """How many values there are."""
        return int(self._histogram.get_total_count())

    @property
    def mean_us(self) -> float:
        """The exact mean, 0 when there is no value."""
        return self._total_us / self.count if self.count else 0.0

    def counts(self) -> Iterator[tuple[int, int]]:
        """Each value that was recorded, as the histogram keeps it, and how often."""
        histogram = self._histogram
        for index in np.flatnonzero(np.frombuffer(histogram.counts, np.int64)):
            yield int(histogram.get_value_from_index(int(index))), int(histogram.counts[index])

    def summarize(self) -> dict[str, float]:
        """p50, p90, p95, p99, max and mean; zeros when nothing was measured."""
        if not self.count:
            return {**dict.fromkeys(PERCENTILES, 0), "max": 0, "mean": 0.0}
        at = self._histogram.get_value_at_percentile
        figures: dict[str, float] = {name: int(at(percentile)) for name, percentile in PERCENTILES.items()}
        return {**figures, "max": int(self._histogram.get_max_value()), "mean": round(self.mean_us, 1)}

    def to_message(self) -> tuple[str, int]:
        """HDR's own compressed form (V2, base64), and the sum."""
        return self._histogram.encode().decode("ascii"), self._total_us

    @classmethod
    def from_message(cls, message: Sequence[Any]) -> "Latencies":
        """The inverse of `to_message`."""
        latencies = cls()
        histogram = HdrHistogram.decode(message[0].encode("ascii"))
        if histogram.get_total_count():
            latencies._histogram, latencies._total_us = histogram, message[1]
        return latencies


@dataclass
class Tally:
    """Counts of one model's version. `requests` and `rows` are of answers that came, right or wrong."""

    requests: int = 0
    rows: int = 0
    unchecked: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    latency_us: Latencies = field(default_factory=Latencies)

    def add(self, other: "Tally") -> None:
        """Take in the counts of another process or window."""
        self.requests += other.requests
        self.rows += other.rows
        self.unchecked += other.unchecked
        self.failures.update(other.failures)
        self.wrong.update(other.wrong)
        self.latency_us.add(other.latency_us)

    def to_message(self) -> dict[str, Any]:
        """The tally as plain values, the histogram in HDR's own compressed form."""
        return {
            "requests": self.requests,
            "rows": self.rows,
            "unchecked": self.unchecked,
            "failures": dict(self.failures),
            "wrong": dict(self.wrong),
            "latency_us": self.latency_us.to_message(),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "Tally":
        """The inverse of `to_message`."""
        return cls(
            requests=message["requests"],
            rows=message["rows"],
            unchecked=message["unchecked"],
            failures=Counter(message["failures"]),
            wrong=Counter(message["wrong"]),
            latency_us=Latencies.from_message(message["latency_us"]),
        )


@dataclass
class Load:
    """How hard one process worked: seconds of wall clock, of its CPU, and of waiting for a CPU."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    cpu_wait_s: float = 0.0

    @property
    def share(self) -> float:
        """Which part of the time the process had work to do."""
        return (self.cpu_s + self.cpu_wait_s) / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """Which part of the time the process could have run and had no CPU."""
        return self.cpu_wait_s / self.seconds if self.seconds else 0.0

    def add(self, other: "Load") -> None:
        """Append another window of the same process."""
        self.seconds += other.seconds
        self.cpu_s += other.cpu_s
        self.cpu_wait_s += other.cpu_wait_s


@dataclass(frozen=True, slots=True)
class Figures:
    """A window in five numbers."""

    seconds: float
    requests: int
    throughput_rows_per_s: float
    mean_us: float
    p99_us: float


@dataclass
class Window:
    """What happened in a stretch of time.

    Attributes:
        seconds: How long it was (of several processes, the mean).
        tallies: By (model, version); version is empty where no answer said one.
        loads: By process.
        late_us: Open loop only: how late requests were sent though a user was free to send them.
        drained: Open loop only: every request of the schedule was sent and answered; at its end nothing was under way.
        messages: By kind of failure, the first thing said about it.
        examples: Some of the wrong answers, each a file's name and its bytes.
    """

    seconds: float = 0.0
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    late_us: Latencies = field(default_factory=Latencies)
    drained: bool = False
    messages: dict[str, str] = field(default_factory=dict)
    examples: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def total(self) -> Tally:
        """All models and versions together."""
        return sum_tallies(self.tallies.values())

    @property
    def requests(self) -> int:
        """How many answers came."""
        return sum(tally.requests for tally in self.tallies.values())

    def figures(self) -> Figures:
        """What is kept of it when it has been joined with others."""
        total = self.total
        return Figures(
            seconds=round(self.seconds, 3),
            requests=total.requests,
            throughput_rows_per_s=round(total.rows / self.seconds, 2) if self.seconds else 0.0,
            mean_us=round(total.latency_us.mean_us, 1),
            p99_us=total.latency_us.summarize()["p99"],
        )

    def append(self, later: "Window") -> None:
        """Make this window longer by the one that came after it."""
        self.seconds += later.seconds
        self._add_counts(later)
        for process, load in later.loads.items():
            self.loads.setdefault(process, Load()).add(load)

    def _add_counts(self, other: "Window") -> None:
        for key, tally in other.tallies.items():
            self.tallies.setdefault(key, Tally()).add(tally)
        self.late_us.add(other.late_us)
        self.messages = {**other.messages, **self.messages}
        self.examples += other.examples

    def to_message(self) -> dict[str, Any]:
        """The window as plain values that Locust can send."""
        return {
            "seconds": self.seconds,
            "tallies": [[*key, tally.to_message()] for key, tally in self.tallies.items()],
            "loads": {name: [load.seconds, load.cpu_s, load.cpu_wait_s] for name, load in self.loads.items()},
            "late_us": self.late_us.to_message(),
            "drained": self.drained,
            "messages": self.messages,
            "examples": [list(example) for example in self.examples],
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "Window":
        """The inverse of `to_message`."""
        return cls(
            seconds=message["seconds"],
            tallies={(model, version): Tally.from_message(t) for model, version, t in message["tallies"]},
            loads={name: Load(*load) for name, load in message["loads"].items()},
            late_us=Latencies.from_message(message["late_us"]),
            drained=message["drained"],
            messages=message["messages"],
            examples=[(name, data) for name, data in message["examples"]],
        )


def sum_tallies(tallies: Iterable[Tally]) -> Tally:
    """Their counts together."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def merge_processes(windows: Iterable[Window]) -> Window:
    """The same stretch of time as several processes saw it."""
    merged = Window(drained=True)
    lengths = []
    for window in windows:
        merged.drained &= window.drained
        merged._add_counts(window)
        merged.loads.update(window.loads)
        lengths.append(window.seconds)
    merged.seconds = sum(lengths) / len(lengths) if lengths else 0.0
    return merged


def join_windows(windows: Iterable[Window]) -> Window:
    """Windows that followed each other, as one."""
    joined = Window()
    for window in windows:
        joined.append(window)
    return joined


def is_stable(windows: list[Window]) -> bool:
    """Tell whether the last three windows agree within 10 % in throughput and mean latency.

    Source: https://github.com/triton-inference-server/perf_analyzer/blob/main/docs/measurements_metrics.md
    """
    last = windows[-STABLE_WINDOWS:]
    if len(last) < STABLE_WINDOWS or not all(window.requests for window in last):
        return False
    totals = [window.total for window in last]
    throughputs = [total.rows / window.seconds for total, window in zip(totals, last, strict=True)]
    latencies = [total.latency_us.mean_us for total in totals]
    return all(max(values) <= STABLE_RATIO * min(values) for values in (throughputs, latencies))


class Recorder:
    """Counts one process's requests; `take` hands out what came since the last time and starts anew."""

    def __init__(self, process: str) -> None:
        self.process = process
        self._restart()

    def _restart(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._latencies: dict[tuple[str, str], Counter[int]] = {}
        self._late: Counter[int] = Counter()
        self._messages: dict[str, str] = {}
        self._examples: list[tuple[str, bytes]] = []
        self._started = time.perf_counter()
        self._cpu_started = time.process_time()
        self._wait_started = _cpu_wait_s()

    def answered(self, key: tuple[str, str], rows: int, latency_us: int) -> None:
        """Count an answer that came."""
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tally(key)
        tally.requests += 1
        tally.rows += rows
        self._latencies[key][latency_us] += 1

    def _tally(self, key: tuple[str, str]) -> Tally:
        self._latencies.setdefault(key, Counter())
        return self._tallies.setdefault(key, Tally())

    def failed(self, key: tuple[str, str], kind: str, message: str) -> None:
        """Count a request without an answer."""
        self._tally(key).failures[kind] += 1
        self._messages.setdefault(kind, message)

    def found_wrong(self, key: tuple[str, str], kind: str, message: str) -> None:
        """Count an answer, already counted as answered, that is wrong."""
        self._tally(key).wrong[kind] += 1
        self._messages.setdefault(kind, message)

    def keep_example(self, name: str, data: bytes) -> None:
        """Hand a file on that reproduces a wrong answer."""
        self._examples.append((name, data))

    def left_unchecked(self, key: tuple[str, str]) -> None:
        """Count an answer, already counted as answered, that there was nothing to hold against."""
        self._tally(key).unchecked += 1

    def sent_late(self, late_us: int) -> None:
        """Note how late a request of an open loop was sent though a user was free to send it."""
        self._late[late_us] += 1

    def take(self) -> Window:
        """What came since the last call."""
        window = Window(time.perf_counter() - self._started, self._tallies)
        window.messages, window.examples = self._messages, self._examples
        for key, counts in self._latencies.items():
            _fill(window.tallies[key].latency_us, counts)
        _fill(window.late_us, self._late)
        cpu_s = time.process_time() - self._cpu_started
        window.loads[self.process] = Load(window.seconds, cpu_s, _cpu_wait_s() - self._wait_started)
        self._restart()
        return window


def _fill(latencies: Latencies, counts: Mapping[int, int]) -> None:
    for value, count in counts.items():
        latencies.record(value, count)


def _cpu_wait_s() -> float:
    """How long this process's main thread was ready to run and had no CPU, seconds; 0 where unknown.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
