"""Counts: how many answers came from one version of a model, how many were wrong, and how long they took."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.run.latencies import Latencies


@dataclass
class Tally:
    """Counts of one model's version. `requests` and `rows` count answers, right or wrong."""

    requests: int = 0
    rows: int = 0
    unchecked: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    latency_us: Latencies = field(default_factory=Latencies)

    @property
    def p99_of_requests_us(self) -> float | None:
        """The p99 of all requests, not only of those with an answer; None with fewer than 100 requests.

        A request without an answer counts as slower than any limit. If more than 1 % have none, p99 is infinite.
        """
        return self.latency_us.percentile_us(99, unanswered=self.failures.total())

    def add(self, other: "Tally") -> None:
        """Add the counts of another process or window."""
        self.requests += other.requests
        self.rows += other.rows
        self.unchecked += other.unchecked
        self.failures.update(other.failures)
        self.wrong.update(other.wrong)
        self.latency_us.add(other.latency_us)

    def to_message(self) -> dict[str, Any]:
        """Return plain values that Locust can send."""
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
        """Undo `to_message`."""
        return cls(
            requests=message["requests"],
            rows=message["rows"],
            unchecked=message["unchecked"],
            failures=Counter(message["failures"]),
            wrong=Counter(message["wrong"]),
            latency_us=Latencies.from_message(message["latency_us"]),
        )


def sum_tallies(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of their counts."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
