"""Feed Locust's own statistics, which its page, CSV files and HTML report show.

Locust counts requests by the second in which they ended, and takes its `Requests/s` from these counts. It learns from
us once a second what came since then, without an event for each request. If a process is too busy to do that on time,
the counts are spread over the seconds in which they came.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from math import ceil, floor

from locust.stats import RequestStats, StatsEntry, StatsError, bucket_response_time

from loadtest.printable import printable
from loadtest.run.recorder import Slice


class Feed:
    """Tells one process's Locust what came, stretch after stretch.

    Args:
        stats: Locust's statistics.
    """

    def __init__(self, stats: RequestStats) -> None:
        self._stats = stats
        self._started = time.time()

    def end_stretch(self) -> tuple[float, float]:
        """Return when the current stretch began and ends, in seconds since 1970, and begin the next one."""
        started, self._started = self._started, time.time()
        return min(started, self._started), self._started

    def add(self, model: str, protocol: str, slice: Slice, stretch: tuple[float, float]) -> None:
        """Add what came for a model from `stretch[0]` to `stretch[1]`, in seconds since 1970."""
        name = printable(model)
        entry = _to_entry(self._stats, name, protocol, slice, stretch)
        self._stats.get(name, protocol).extend(entry)
        self._stats.total.extend(entry)
        wrong = {f"wrong answer: {kind}": count for kind, count in slice.wrong.items()}
        for kind, count in {**slice.failures, **wrong}.items():
            self._add_error(protocol, name, printable(kind), count, stretch)

    def _add_error(self, protocol: str, name: str, kind: str, count: int, stretch: tuple[float, float]) -> None:
        key = StatsError.create_key(protocol, name, kind)
        error = self._stats.errors.setdefault(key, StatsError(protocol, name, kind, first_seen=stretch[0]))
        error.occurrences += count
        error.last_seen = stretch[1]

    def tick(self) -> None:
        """Tell Locust that time has passed, because it looks at the last seconds before the newest request."""
        entry = StatsEntry(self._stats, "", "")
        entry.start_time, entry.last_request_timestamp = self._stats.start_time, time.time()
        self._stats.total.extend(entry)


def _to_entry(stats: RequestStats, name: str, protocol: str, slice: Slice, stretch: tuple[float, float]) -> StatsEntry:
    """Return a slice as Locust counts: times in milliseconds, failures among the requests."""
    times_us = slice.answered_us + slice.failed_us
    entry = StatsEntry(stats, name, protocol)
    entry.start_time, entry.last_request_timestamp = stats.start_time, stretch[1]
    entry.num_requests = times_us.total()
    entry.num_failures = slice.failures.total() + slice.wrong.total()
    entry.num_reqs_per_sec = dict(spread(entry.num_requests, *stretch))
    entry.num_fail_per_sec = dict(spread(entry.num_failures, *stretch))
    if times_us:
        entry.response_times = dict(_to_buckets(times_us))
        entry.total_response_time = sum(time_us * count for time_us, count in times_us.items()) / 1000  # type: ignore[assignment]
        entry.min_response_time, entry.max_response_time = min(times_us) / 1000, max(times_us) / 1000  # type: ignore[assignment]
    return entry


def _to_buckets(times_us: Mapping[int, int]) -> Counter[int]:
    buckets: Counter[int] = Counter()
    for time_us, count in times_us.items():
        buckets[bucket_response_time(time_us / 1000)] += count
    return buckets


def spread(count: int, start: float, end: float) -> Iterator[tuple[int, int]]:
    """Spread a count evenly over the seconds from `start` to `end`: yield each second and its share.

    The shares are whole numbers and add up. 10 requests from 3.5 to 5.0 make 6.67 per second: 3 of them come before
    4.0 (3.33, rounded), and the other 7 after it: (3, 3), (4, 7).
    """
    given = 0
    for second in range(floor(start), max(ceil(end), floor(start) + 1)):
        passed = (min(second + 1, end) - start) / (end - start) if end > start else 1.0
        until_then = round(count * passed)
        if until_then > given:
            yield second, until_then - given
        given = until_then
