"""What a tuning looks for: the most throughput within a latency limit, or the lowest latency at a rate."""

import math
from dataclasses import dataclass

from builder.tuning.measurement import Load, Measurement

MOST_USERS = 256
"""The most users that are tried where the load is part of the answer."""

KEEPS_UP = 0.99
"""The share of a rate that has to be answered, so that the server counts as keeping up with it."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The limit, the load, and what is better than something else.

    Without users and without a rate, the load is part of the answer: the highest throughput over 1, 2, 4 … 256 users.
    With users, it is the highest throughput of that many. With a rate, it is the lowest p99 at that rate.

    Attributes:
        max_p99_s: The time within which 99 % of the requests have to be answered, in seconds.
        users: How many users there are in a closed loop; None if that is part of the answer, or if there is a rate.
        rate: How many requests are sent each second in an open loop. At most one of the two is given.
        rows: How often a request has how many rows, as pairs of rows and weight.
    """

    max_p99_s: float
    users: int | None = None
    rate: float | None = None
    rows: tuple[tuple[int, float], ...] = ((1, 1.0),)

    def __post_init__(self) -> None:
        """Refuse a goal that has both a number of users and a rate."""
        if self.users is not None and self.rate is not None:
            raise ValueError("a goal has a number of users or a rate, not both")

    @property
    def loads(self) -> tuple[Load, ...]:
        """The loads under which configurations are tried, the lightest first."""
        if self.rate is not None:
            return (Load(rate=self.rate, rows=self.rows),)
        if self.users is not None:
            return (Load(users=self.users, rows=self.rows),)
        return tuple(Load(users=2**power, rows=self.rows) for power in range(MOST_USERS.bit_length()))

    @property
    def largest_request(self) -> int:
        """The most rows that one request has."""
        return max(rows for rows, _ in self.rows)

    @property
    def mean_rows(self) -> float:
        """The mean number of rows of a request."""
        return sum(rows * weight for rows, weight in self.rows) / sum(weight for _, weight in self.rows)

    def value(self, throughput: float, p99_s: float) -> float:
        """Return how good a configuration is: more is better, and a tenth more is ten per cent better.

        Args:
            throughput: Rows answered each second.
            p99_s: The time within which 99 % of the requests are answered, in seconds.

        Returns:
            The throughput, or the inverse of p99 where the rate is given.
        """
        return 1.0 / max(p99_s, 1e-9) if self.rate is not None else throughput

    def keeps_up(self, throughput: float, requests: int = 0) -> bool:
        """Tell whether this many rows each second are as many as are sent. A closed loop always keeps up.

        Args:
            throughput: Rows answered each second.
            requests: In a run of how many requests. They come by chance: of 1,500 expected ones, 39 more or fewer are
                usual, and 78 are not rare. With requests of 1 and of 16 rows, the sum of their rows varies twice as
                much. 0 for a figure without chance.
        """
        if self.rate is None:
            return True
        squares = sum(rows**2 * weight for rows, weight in self.rows) / sum(weight for _, weight in self.rows)
        chance = 2 * math.sqrt(squares / max(requests, 5)) / self.mean_rows
        least = min(KEEPS_UP, 1 - chance) if requests > 4 else KEEPS_UP
        return throughput >= least * self.rate * self.mean_rows

    def is_kept(self, measurement: Measurement) -> bool:
        """Tell whether a run shows that the limit is kept.

        The upper bound of its p99 is within the limit, it kept up with the rate, and every answer was right, arrived,
        and could be checked.
        """
        p99_s = measurement.p99_s
        return p99_s is not None and p99_s.high <= self.max_p99_s and self.is_sound(measurement)

    def is_sound(self, measurement: Measurement) -> bool:
        """Tell whether a run has nothing against it but perhaps its p99: it kept up, and every answer was right."""
        throughput = measurement.throughput
        if throughput is None or measurement.error:
            return False
        if measurement.wrong or measurement.failed or measurement.unchecked:
            return False
        return self.keeps_up(throughput.value, measurement.requests) and not self.falls_behind(measurement)

    def falls_behind(self, measurement: Measurement) -> bool:
        """Tell whether fewer requests were answered than were sent, so that more and more of them wait.

        A rate that is 4 % too high is not seen in the answers of 5 s, since the number of requests that come by chance
        varies as much; but 4 % of those that were sent still wait at the end. How many wait at either end varies as
        well: with 300 a second that take 0.5 s each, these are 150 ± 12, and the difference of both is 0 ± 17.
        """
        if self.rate is None:
            return False
        usual = self.rate * measurement.latency_s
        return measurement.waiting > max((1 - KEEPS_UP) * measurement.requests, 3 * math.sqrt(2 * usual))
