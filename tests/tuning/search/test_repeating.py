"""The runs that are repeated at the end are those that may still tell something."""

from dataclasses import replace

import numpy as np
import pytest

from builder.tuning.measurement import Configuration, Interval, Load, Measurement
from builder.tuning.search.goal import Goal
from builder.tuning.search.outlook import Outlook
from builder.tuning.search.pooling import Runs, Spread
from builder.tuning.search.repeating import count_missing, find_repeat
from builder.tuning.search.space import Space

CURRENT, OTHER, EIGHT = Configuration(1, 1, 8), Configuration(2, 1, 8), Load(users=8)
CASES = ((CURRENT, EIGHT), (OTHER, EIGHT))
GOAL = Goal(0.02, users=8)
OUTLOOK = Outlook(
    Space(CURRENT, (CURRENT, OTHER), 2, 8),
    GOAL,
    CASES,
    np.full(2, 4.6),
    np.full(2, 0.1),
    np.full(2, -5.0),
    np.full(2, 0.1),
    (1.0, 1.0),
    Spread(),
    1.04,
    0.03,
    frozenset(),
)


def run(configuration: Configuration, throughput: float, p99_s: float = 0.01) -> Measurement:
    speed, late = (Interval(value, 0.98 * value, 1.02 * value) for value in (throughput, p99_s))
    return Measurement(configuration, EIGHT, speed, late, requests=2000)


def repeated(*measurements: Measurement) -> Configuration | None:
    """Return what is repeated after these runs, while the other settings are the best."""
    runs = Runs(GOAL)
    for one in measurements:
        runs.add(one)
    best = runs.result((OTHER, EIGHT))
    assert best is not None
    found = find_repeat(runs, OUTLOOK, best)
    return None if found is None else found[0][0]


def test_the_best_and_the_current_settings_are_repeated_in_turn_until_the_gain_is_known() -> None:
    assert repeated(run(CURRENT, 100), run(OTHER, 120)) == OTHER
    assert repeated(run(CURRENT, 100), *[run(OTHER, 120)] * 2) == CURRENT
    assert repeated(*[run(CURRENT, 100)] * 2, *[run(OTHER, 120)] * 2) is None


def test_current_settings_that_surely_miss_the_limit_are_repeated_only_if_they_were_disturbed() -> None:
    late = run(CURRENT, 100, 0.05)
    disturbed = replace(late, others=0.5)
    assert repeated(late, *[run(OTHER, 120)] * 2) is None
    assert repeated(disturbed, *[run(OTHER, 120)] * 2) == CURRENT
    assert repeated(*[disturbed] * 3, *[run(OTHER, 120)] * 2) is None  # it is so each time


def test_the_best_settings_are_repeated_again_if_they_were_disturbed() -> None:
    disturbed = replace(run(OTHER, 120), others=0.5)
    assert repeated(*[run(CURRENT, 100)] * 2, *[disturbed] * 2) == OTHER
    assert repeated(*[run(CURRENT, 100)] * 2, *[disturbed] * 3) is None


@pytest.mark.parametrize(
    ("gain", "made", "missing"),
    [
        (0.10, [CURRENT, OTHER], 2),
        (0.10, [OTHER], 3),
        (0.10, [CURRENT, OTHER, OTHER], 1),
        (0.055, [CURRENT, OTHER], 4),  # two runs of each tell 6 % apart, and three 5 %
        (0.02, [CURRENT, OTHER], 2),  # three would not tell them apart either
    ],
)
def test_as_many_runs_are_missing_as_tell_the_best_from_the_current_settings(
    gain: float, made: list[Configuration], missing: int
) -> None:
    runs = Runs(GOAL)
    for configuration in made:
        runs.add(run(configuration, 100))
    best = runs.result((OTHER, EIGHT))
    assert best is not None
    assert count_missing(runs, replace(OUTLOOK, throughput=np.array([4.6, 4.6 + gain])), best) == missing


def test_what_is_compared_with_nothing_needs_two_runs() -> None:
    runs = Runs(GOAL)
    runs.add(run(OTHER, 100))
    runs.add(replace(run(CURRENT, 100), wrong=1))
    best = runs.result((OTHER, EIGHT))
    assert best is not None
    assert count_missing(runs, OUTLOOK, best) == 1
