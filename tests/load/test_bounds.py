"""The 95 % intervals of a stage: worked examples, and how often that of p99 holds the truth."""

import math
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.load_results import KEY, record_of, window
from support.load_settings import read

from loadtest.report.bounds import find_bounds, p99_ranks
from loadtest.run import StageRecord, Tally, Window
from loadtest.scenarios import make_stages

STAGE = make_stages(read("--concurrency", "8").load)[0]


def window_of(latencies_us: "NDArray[Any]") -> Window:
    made = Window(1.0)
    made.tallies[KEY] = Tally(requests=len(latencies_us), rows=len(latencies_us))
    values, counts = np.unique(latencies_us.astype(int), return_counts=True)
    made.tallies[KEY].latency_us.record_all(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return made


def bounds_of(*windows: Window, late: Window | None = None) -> dict[str, list[float] | None]:
    record: StageRecord = record_of(STAGE, *windows)
    record.measured_from = 0
    record.close()
    if late is not None:
        record.add_late(0, late)
    return find_bounds(record)


@pytest.mark.parametrize("requests", [368, 500, 1000, 20_000, 30_000])
def test_the_ranks_leave_out_at_most_a_fortieth_on_each_side(requests: int) -> None:
    """Of n requests, k are above the true p99 with the binomial chance; it is below the lower rank if k is large."""
    chances = [math.exp(_log_chance(requests, k)) for k in range(requests // 25)]
    at_most = list(accumulate(chances))
    low, high = p99_ranks(requests) or (0, 0)
    assert at_most[requests - high] <= 0.0255
    assert at_most[requests - high + 1] > 0.024, "the next rank would do too"
    assert 1 - at_most[requests - low] <= 0.0255
    assert 1 - at_most[requests - low - 1] > 0.022, "the next rank would do too"


def _log_chance(requests: int, k: int) -> float:
    ways = math.lgamma(requests + 1) - math.lgamma(k + 1) - math.lgamma(requests - k + 1)
    return ways + k * math.log(0.01) + (requests - k) * math.log(0.99)


def test_p99_has_no_upper_end_below_368_requests() -> None:
    assert p99_ranks(367) is None
    assert bounds_of(window(123, 1000), window(122, 1000), window(122, 1000))["p99_us"] is None
    assert bounds_of(window(123, 1000), window(123, 1000), window(122, 1000))["p99_us"] is not None


def test_a_request_without_an_answer_counts_as_slower_than_every_other() -> None:
    """Of 1,000 requests the upper rank is the 997th: with four that failed, that one has no answer."""
    answered = [window_of(np.arange(number, 1_000_000, 3000) + 1000) for number in (0, 1000, 2000)]
    some, more = (window(0, 1), window(0, 1))
    some.tallies[KEY].failures["timeout"] = 3
    more.tallies[KEY].failures["timeout"] = 5
    free, few, many = (bounds_of(*answered, late=late)["p99_us"] for late in (None, some, more))
    assert free is not None
    assert few is not None
    assert few[1] > free[1]
    assert many is None


def test_windows_that_differ_widen_the_intervals() -> None:
    same = bounds_of(*(window(rows, 1000) for rows in (400, 400, 401)))
    other = bounds_of(window(300, 1000), window(400, 1500), window(500, 3000))
    for name in ("throughput_rows_per_s", "p99_us"):
        (low, high), (lower, higher) = same[name] or [], other[name] or []
        assert higher / lower > 1.5 > 1.02 > high / low


def test_the_p99_of_late_requests_that_come_together_is_as_uncertain_as_they_are_few() -> None:
    """All that is late is in one window of five: the order of the requests alone would not know that."""
    rng = np.random.default_rng(0)
    calm = [window_of(rng.integers(1000, 1100, 3000)) for _ in range(5)]
    hit = window_of(np.concatenate([rng.integers(1000, 1100, 2700), rng.integers(20_000, 30_000, 300)]))
    low, high = bounds_of(*calm[:4], hit)["p99_us"] or [0, 0]
    assert low < 2000
    assert high > 40_000


def test_a_stage_that_goes_on_or_has_one_window_has_no_throughput_interval() -> None:
    running = record_of(STAGE, window(500, 1000), window(500, 1000))
    assert find_bounds(running) == {"throughput_rows_per_s": None, "p99_us": None}
    assert bounds_of(window(500, 1000))["throughput_rows_per_s"] is None


@pytest.mark.slow
def test_the_interval_of_p99_holds_the_true_one_at_least_95_times_of_100() -> None:
    """Latencies are exponential: the true p99 is ln 100 times their mean."""
    rng, held, tries = np.random.default_rng(1), 0, 120
    for _ in range(tries):
        low, high = bounds_of(*(window_of(rng.exponential(1000, 200)) for _ in range(5)))["p99_us"] or [0, 0]
        held += low <= 1000 * math.log(100) <= high
    assert held / tries >= 0.95
