"""The 95 % intervals of a stage's throughput and p99, from the windows that were measured in it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loadtest.report.intervals import Array, Windows, Z, bootstrap, estimate
from loadtest.run import Latencies, StageRecord

_MOST_WINDOWS = 20
_TAIL = 0.025
"""How often a 95 % interval may be below the true value, and how often above it."""

_LATE = 0.01
_MOST_COUNTED = 20_000
"""With more requests, the number of late ones is as good as normally distributed."""

Interval = tuple[float, float]


def find_bounds(record: StageRecord) -> dict[str, list[float] | None]:
    """Return the intervals of a stage that has ended, by the figure's name; None where there is none."""
    measured = [one for one in record.windows if one.seconds]
    if not record.complete or not measured:
        return {"throughput_rows_per_s": None, "p99_us": None}
    windows = tabulate([{name: getattr(one, name) for name in _READ} for one in measured])
    draws = bootstrap(windows)
    total = record.measured.total
    rows = estimate(record.measured.rows_per_s, draws["throughput_rows_per_s"], windows)
    return {
        "throughput_rows_per_s": _rounded(None if rows is None else rows.interval),
        "p99_us": _rounded(_p99(total.latency_us, total.failures.total(), draws["p99_us"], windows)),
    }


_READ = ("seconds", "throughput_rows_per_s", "mean_us", "latency_histogram")


def tabulate(values: Sequence[Mapping[str, Any]]) -> Windows:
    """Return the windows of a stage as arrays: their histograms become one table, a line for each window.

    Args:
        values: The windows, as result.json has them; their numbers are checked. Neighbours are joined if there are more
            than 20, so that they depend less on each other.

    Raises:
        ValueError: There is no window, or one without a duration or with another histogram.
    """
    seconds, rates, means = (_column(values, name) for name in ("seconds", "throughput_rows_per_s", "mean_us"))
    if not len(seconds) or not seconds.all():
        raise ValueError("a stage has no windows, or one without a duration")
    batches = np.array_split(np.arange(len(values)), min(len(values), _MOST_WINDOWS))
    tables = [Latencies.counts_of_text(window["latency_histogram"]) for window in values]
    answers = np.array([sum(table.values()) for table in tables])
    values_us = sorted(set().union(*tables))
    places = {value: place for place, value in enumerate(values_us)}
    counts = np.zeros((len(batches), len(values_us)))
    for line, batch in enumerate(batches):
        for value, count in (pair for number in batch for pair in tables[number].items()):
            counts[line, places[value]] += count
    return Windows(
        seconds=np.array([seconds[batch].sum() for batch in batches]),
        rows=np.array([(rates * seconds)[batch].sum() for batch in batches]),
        total_us=np.array([(answers * means)[batch].sum() for batch in batches]),
        values_us=np.array(values_us, np.float64),
        counts=counts,
    )


def _column(windows: Sequence[Mapping[str, Any]], name: str) -> Array:
    return np.array([float(window[name]) for window in windows])


def _p99(latencies: Latencies, unanswered: int, draws: Array, windows: Windows) -> Interval | None:
    """Return the interval of the p99 of all requests; None if there are too few to bound it from above.

    It is the wider of two on each side. One is made from the order of the requests, as if they did not depend on each
    other; the other from how much the windows differ, because late requests come together.
    """
    p99_us = latencies.percentile_us(99, unanswered=unanswered)
    ranks = p99_ranks(latencies.count + unanswered)
    if p99_us is None or p99_us == math.inf or ranks is None:
        return None
    low, high = (latencies.at_rank_us(rank) for rank in ranks)
    if high == math.inf:
        return None
    between = estimate(p99_us, draws, windows)
    if between is not None and between.interval is not None:
        low, high = min(low, between.interval[0]), max(high, between.interval[1])
    return min(low, p99_us), max(high, p99_us)


def p99_ranks(requests: int) -> tuple[int, int] | None:
    """Return the ranks, in ascending order, between which the true p99 lies with 95 %; None below 368 requests.

    How many of n requests are above the true p99 is binomial, with a share of 0.01. Of 1,000 requests, 3 or fewer are
    above it with 1.0 %, and 18 or more with 1.4 %: so it lies between the 983rd and the 997th. Of 367 requests, none is
    above it with 2.501 %, so that it may be more than all of them.

    Source: H. A. David and H. N. Nagaraja, Order Statistics, 2003, section 7.1
    """
    if requests > _MOST_COUNTED:
        mean, margin = requests * _LATE, Z * math.sqrt(requests * _LATE * (1 - _LATE))
        return math.floor(requests - mean - margin), math.ceil(requests - mean + margin) + 1
    chance, below, fewest, most = (1 - _LATE) ** requests, 0.0, -1, 0
    for late in range(requests + 1):
        below += chance
        if below <= _TAIL:
            fewest = late
        most = late
        if below >= 1 - _TAIL:
            break
        chance *= (requests - late) / (late + 1) * _LATE / (1 - _LATE)
    return None if fewest < 0 else (max(requests - most, 1), requests - fewest)


def _rounded(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [float(f"{bound:.6g}") for bound in interval]
