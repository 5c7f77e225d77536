"""A window: what happened in a stretch of time; and how the windows of processes and of a stage add up.

Windows add up in two directions. Those of several processes cover the same seconds: counts add up, seconds do not.
Those of one stage follow each other: counts and seconds both add up. With 100 rows/s in each, two processes measured
for 2 s have 400 rows in 2 s, 200 rows/s (`merge_processes`); two such windows in a row have 800 rows in 4 s, still
200 rows/s (`join_windows`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from loadtest.run.busy import Busy
from loadtest.run.latencies import PERCENTILES, Latencies
from loadtest.run.tallies import Tally, sum_tallies
from loadtest.scenarios import Counts


@dataclass(frozen=True, slots=True)
class Figures:
    """A window in a few numbers."""

    start_s: float
    seconds: float
    requests: int
    failures: int
    wrong: int
    in_flight: int
    throughput_rows_per_s: float
    mean_us: float
    p50_us: float | None
    p90_us: float | None
    p95_us: float | None
    p99_us: float | None
    p99_of_requests_us: float | None
    latency_histogram: str


@dataclass
class Window:
    """What happened in a stretch of time.

    Attributes:
        seconds: How long it was (of several processes, the mean).
        tallies: By (model, version); the version is empty where no answer named one.
        busy: By process.
        sent: How many requests were sent in it.
        surplus_requests: How many more answers came in it than `tallies` has, which may leave out answers to requests
            that were sent before. Where it has answers that came later, this is negative.
        surplus_rows: The same in rows.
        backed_off_s: How long users waited, all together, before they tried again after several failures in a row.
        sequences: Of a stateful model: how many were `completed`, `failed` or `ended_early`.
        late_us: Open loop only: how late requests were sent although a user was free to send them.
        in_flight: How many requests were in flight at its end.
        drained: Open loop only: at its end, every request of the schedule was sent and none was in flight.
        exceptions: Errors in the load test's own code that nobody expected, by where they were raised.
        messages: By kind of failure, wrong answer or exception, the first message about it.
        examples: Some of the wrong answers, each as a file's name and contents.
    """

    seconds: float = 0.0
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    busy: dict[str, Busy] = field(default_factory=dict)
    sent: int = 0
    surplus_requests: int = 0
    surplus_rows: int = 0
    backed_off_s: float = 0.0
    sequences: Counter[str] = field(default_factory=Counter)
    late_us: Latencies = field(default_factory=Latencies)
    in_flight: int = 0
    drained: bool = False
    exceptions: Counter[str] = field(default_factory=Counter)
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

    @property
    def rows(self) -> int:
        """How many rows these answers had."""
        return sum(tally.rows for tally in self.tallies.values())

    @property
    def requests_per_s(self) -> float:
        """How many answers came per second, whenever their requests were sent."""
        return (self.requests + self.surplus_requests) / self.seconds if self.seconds else 0.0

    @property
    def rows_per_s(self) -> float:
        """The same in rows."""
        return (self.rows + self.surplus_rows) / self.seconds if self.seconds else 0.0

    def count_late(self, limit_us: float) -> Counts:
        """Return how many requests were not answered within a limit, and how many requests there were."""
        total = self.total
        requests = total.requests + total.failures.total()
        return requests - total.latency_us.count_within(limit_us), requests

    def figures(self, start_s: float = 0.0) -> Figures:
        """Return the numbers that are kept when it is joined with others; it began `start_s` seconds into the run."""
        total = self.total
        percentiles = {f"{name}_us": total.latency_us.percentile_us(percent) for name, percent in PERCENTILES.items()}
        p99_us = total.p99_of_requests_us
        return Figures(
            start_s=round(start_s, 3),
            seconds=round(self.seconds, 3),
            requests=self.requests + self.surplus_requests,
            failures=total.failures.total(),
            wrong=total.wrong.total(),
            in_flight=self.in_flight,
            throughput_rows_per_s=round(self.rows_per_s, 2),
            mean_us=round(total.latency_us.mean_us, 1),
            **percentiles,
            p99_of_requests_us=None if p99_us == math.inf else p99_us,
            latency_histogram=total.latency_us.to_text(),
        )

    def append(self, later: "Window") -> None:
        """Append the window that came after this one."""
        self.seconds += later.seconds
        self.add_counts(later)
        self.in_flight = later.in_flight
        for process, busy in later.busy.items():
            self.busy.setdefault(process, Busy()).append(busy)

    def add_counts(self, other: "Window") -> None:
        """Add everything of another window except its time, and what was in flight at its end."""
        for key, tally in other.tallies.items():
            self.tallies.setdefault(key, Tally()).add(tally)
        self.sent += other.sent
        self.surplus_requests += other.surplus_requests
        self.surplus_rows += other.surplus_rows
        self.backed_off_s += other.backed_off_s
        self.sequences.update(other.sequences)
        self.late_us.add(other.late_us)
        self.exceptions.update(other.exceptions)
        self.messages = {**other.messages, **self.messages}
        self.examples += other.examples

    def without_latencies(self) -> "Window":
        """Return what was counted and said, without histograms, which take longest to add up."""
        tallies = {key: replace(tally, latency_us=Latencies()) for key, tally in self.tallies.items()}
        return Window(tallies=tallies, exceptions=self.exceptions, messages=self.messages)

    def give_up(self, in_flight: int) -> None:
        """Count requests in flight as failed, because nobody waits for their answers any more."""
        if in_flight:
            self.tallies.setdefault(("", ""), Tally()).failures["unanswered"] += in_flight

    def to_message(self) -> dict[str, Any]:
        """Return plain values that Locust can send."""
        return {
            "seconds": self.seconds,
            "tallies": [[*key, tally.to_message()] for key, tally in self.tallies.items()],
            "busy": {name: [busy.seconds, busy.cpu_s, busy.cpu_wait_s] for name, busy in self.busy.items()},
            "sent": self.sent,
            "surplus": [self.surplus_requests, self.surplus_rows],
            "backed_off_s": self.backed_off_s,
            "sequences": dict(self.sequences),
            "late_us": self.late_us.to_message(),
            "in_flight": self.in_flight,
            "drained": self.drained,
            "exceptions": dict(self.exceptions),
            "messages": self.messages,
            "examples": [list(example) for example in self.examples],
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "Window":
        """Undo `to_message`."""
        return cls(
            seconds=message["seconds"],
            tallies={(model, version): Tally.from_message(t) for model, version, t in message["tallies"]},
            busy={name: Busy(*busy) for name, busy in message["busy"].items()},
            sent=message["sent"],
            surplus_requests=message["surplus"][0],
            surplus_rows=message["surplus"][1],
            backed_off_s=message["backed_off_s"],
            sequences=Counter(message["sequences"]),
            late_us=Latencies.from_message(message["late_us"]),
            in_flight=message["in_flight"],
            drained=message["drained"],
            exceptions=Counter(message["exceptions"]),
            messages=message["messages"],
            examples=[(name, data) for name, data in message["examples"]],
        )


def merge_processes(windows: Iterable[Window]) -> Window:
    """Return as one window what several processes saw in the same stretch of time."""
    merged = Window(drained=True)
    lengths = []
    for window in windows:
        merged.drained &= window.drained
        merged.add_counts(window)
        merged.busy.update(window.busy)
        merged.in_flight += window.in_flight
        lengths.append(window.seconds)
    merged.seconds = sum(lengths) / len(lengths) if lengths else 0.0
    return merged


def join_windows(windows: Iterable[Window]) -> Window:
    """Return windows that followed each other as one."""
    joined = Window()
    for window in windows:
        joined.append(window)
    return joined
