"""The intervals of a comparison: worked examples, and how often they hold the truth in a simulation."""

import math

import numpy as np
import pytest

from loadtest.report import intervals
from loadtest.report.intervals import (
    Array,
    Estimate,
    Windows,
    bootstrap,
    estimate,
    pool,
    ratio,
    student_t,
)

PERCENTS = {"throughput_rows_per_s": None, "mean_us": None, "p50_us": 50, "p99_us": 99}


def windows_of(latencies_us: list[Array]) -> Windows:
    """Windows of a second each, from the latencies in them."""
    values = np.unique(np.concatenate(latencies_us))
    counts = np.zeros((len(latencies_us), len(values)))
    for line, latencies in zip(counts, latencies_us, strict=True):
        found, often = np.unique(latencies, return_counts=True)
        line[np.searchsorted(values, found)] = often
    sums = np.array([latencies.sum() for latencies in latencies_us])
    return Windows(np.ones(len(counts)), counts.sum(axis=1), sums, values, counts)


def figures_of(windows: Windows) -> dict[str, float]:
    everything = np.repeat(windows.values_us, windows.counts.sum(axis=0).astype(int))
    percentiles = {f"p{p}_us": float(everything[math.ceil(len(everything) * p / 100) - 1]) for p in (50, 99)}
    seconds = float(windows.seconds.sum())
    return {"throughput_rows_per_s": len(everything) / seconds, "mean_us": float(everything.mean()), **percentiles}


def estimates_of(windows: Windows) -> dict[str, Estimate]:
    draws, figures = bootstrap(windows), figures_of(windows)
    made = {name: estimate(figures[name], draws[name], windows, percent) for name, percent in PERCENTS.items()}
    return {name: one for name, one in made.items() if one is not None}


def make_windows(rng: np.random.Generator, number: int, *, drift: float, level: float = 1.0) -> Windows:
    """Windows of 300 requests or so, in each of which the server is a little faster or slower."""
    levels = level * np.exp(rng.normal(0, drift, number))
    return windows_of([rng.lognormal(math.log(40 * one), 0.5, rng.poisson(300 / one)).round() * 25 for one in levels])


def test_the_worked_example_of_three_windows_holds() -> None:
    windows = windows_of([np.full(rows, 1000.0) for rows in (90, 100, 110)])
    made = estimates_of(windows)["throughput_rows_per_s"]
    assert made.value == pytest.approx(100)
    assert math.sqrt(made.variance or 0) == pytest.approx(0.058, rel=0.05)
    assert list(made.interval or ()) == pytest.approx([78, 128], abs=2)


def test_the_worked_example_of_three_runs_holds() -> None:
    made = pool([Estimate(math.log(rows), 1e-6, 4) for rows in (100, 104, 108)])
    assert made.value == pytest.approx(103.9, abs=0.1)
    assert list(made.interval or ()) == pytest.approx([104 / 1.10, 104 * 1.10], abs=0.6)


def test_runs_that_agree_by_chance_are_as_uncertain_as_their_windows() -> None:
    made = pool([Estimate(math.log(100), 0.01, 4)] * 2)
    assert [made.variance, made.degrees] == pytest.approx([0.005, 8])


def test_one_window_has_no_interval() -> None:
    windows = windows_of([np.full(200, 1000.0)])
    made = estimates_of(windows)
    assert {one.interval for one in made.values()} == {None}
    assert ratio(made["mean_us"], made["mean_us"]).interval is None


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 12.71), (2, 4.303), (7, 2.365), (12, 2.179), (40, 2.021), (math.inf, 1.96)]
)
def test_students_t_is_right(degrees: float, t: float) -> None:
    assert student_t(degrees) == pytest.approx(t, rel=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 10])
@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_95_of_100_intervals_of_a_ratio_hold_the_true_one(
    number: int, drift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is equally fast on both sides: the true ratio is 1. Too often would mean too wide."""
    monkeypatch.setattr(intervals, "DRAWS", 200)
    rng = np.random.default_rng(0)
    held = dict.fromkeys(PERCENTS, 0)
    tries = 250
    for _ in range(tries):
        first, second = (estimates_of(make_windows(rng, number, drift=drift)) for _ in range(2))
        for name in PERCENTS:
            low, high = ratio(first[name], second[name]).interval or (0, 0)
            held[name] += low <= 1 <= high
    shares = {name: count / tries for name, count in held.items()}
    assert all(0.90 <= share <= 0.99 for share in shares.values()), shares


@pytest.mark.slow
def test_repeated_runs_know_how_much_runs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs differ by 5 %, their windows by nothing: one run a side finds differences that repeated runs do not."""
    monkeypatch.setattr(intervals, "DRAWS", 50)
    rng = np.random.default_rng(0)
    tries = 100
    held = {1: 0, 3: 0}
    for _ in range(tries):
        for runs in held:
            first, second = (
                pool(
                    [
                        estimates_of(make_windows(rng, 5, drift=0, level=rng.lognormal(0, 0.05)))["mean_us"]
                        for _ in range(runs)
                    ]
                )
                for _ in range(2)
            )
            low, high = ratio(first, second).interval or (0, 0)
            held[runs] += low <= 1 <= high
    assert held[1] / tries < 0.75
    assert held[3] / tries > 0.90
