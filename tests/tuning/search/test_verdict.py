"""Something is better only if that was shown: by runs that nothing disturbed, and beyond what chance explains."""

from dataclasses import replace
from typing import Any

import pytest

from builder.tuning import Configuration, Found, Goal, Interval, Load, Measurement, Space
from builder.tuning.search.pooling import Runs
from builder.tuning.search.verdict import conclude

SPACE = Space.of(Configuration(1, None, 8), cores=2, proven_max_batch=8)
CURRENT, OTHER = SPACE.current, Configuration(2, 1, 8)
LOAD = Load(users=8)
LIMIT_MS = 20.0


def run(
    configuration: Configuration, throughput: float, p99_ms: tuple[float, float, float] = (10, 9.5, 10.5),
    load: Load = LOAD, **more: object,
) -> Measurement:  # fmt: skip
    p99, low, high = (one / 1e3 for one in p99_ms)
    speed = Interval(throughput, 0.98 * throughput, 1.02 * throughput)
    return Measurement(configuration, load, speed, Interval(p99, low, high), requests=2000, **more)  # type: ignore[arg-type]


def found(*measurements: Measurement, rate: float | None = None, times: int = 2) -> Found:
    """Return what comes of these runs, if each of them was made so many times."""
    runs = Runs(Goal(LIMIT_MS / 1e3, rate=rate))
    for measurement in times * measurements:
        runs.add(measurement)
    kept = [one for one in runs.results if one.keeps]
    best = max(kept, key=lambda one: runs.goal.value(one.throughput.value, one.p99_s.value), default=None)
    return conclude(SPACE, runs, best, (), ())


def test_what_gives_more_beyond_its_interval_is_better() -> None:
    one = found(run(CURRENT, 100), run(OTHER, 120))
    assert one.verdict == "better"
    assert one.best
    assert one.best.configuration == OTHER
    assert one.gain
    assert one.gain.value == pytest.approx(1.2)
    assert 1 < one.gain.low < one.gain.value < one.gain.high
    assert "+20% (+" in one.why


def test_one_run_shows_nothing() -> None:
    one = found(run(CURRENT, 100), run(OTHER, 140), times=1)
    assert one.verdict == "not distinguishable"
    assert "1 run may have been luck" in one.why


def test_it_is_said_under_which_load_the_current_one_is_compared() -> None:
    assert found(run(CURRENT, 100), run(OTHER, 120)).why.endswith("compared with the current settings")
    one = found(run(CURRENT, 100, load=Load(users=4)), run(OTHER, 120))
    assert one.why.endswith("compared with the current settings at 4 users")


def test_what_gives_more_within_its_interval_is_not_distinguishable_and_the_current_one_is_kept() -> None:
    one = found(run(CURRENT, 100), run(OTHER, 102))
    assert one.verdict == "not distinguishable"
    assert one.best
    assert one.best.configuration == CURRENT
    assert [tie.configuration for tie in one.ties] == [OTHER]


def test_what_was_shown_to_be_better_is_recommended_beside_what_was_not() -> None:
    """One run with 122 rows/s that varied shows nothing yet, three with 118 do."""
    third = Configuration(2, 1, 8, preferred=(4,))
    one = found(
        *[run(CURRENT, 100)] * 3, *[run(OTHER, 118)] * 3, replace(run(third, 122), throughput=Interval(122, 70, 210))
    )
    assert one.verdict == "better"
    assert one.best
    assert one.best.configuration == OTHER
    assert [tie.configuration for tie in one.ties] == [third]


def test_if_the_current_one_is_the_best_it_stays_as_it_is() -> None:
    one = found(run(CURRENT, 100), run(OTHER, 80))
    assert one.verdict == "as it is"
    assert one.best is one.baseline
    assert one.ties == ()


def test_a_current_one_that_certainly_misses_the_limit_under_the_lightest_load_is_worse() -> None:
    one = found(run(CURRENT, 130, (40, 35, 45), Load(users=1)), run(OTHER, 100))
    assert one.verdict == "better"
    assert one.gain is None
    assert "the current settings do not: their p99 is 40 ms" in one.why


def test_a_current_one_may_keep_the_limit_under_a_lighter_load_than_was_tried() -> None:
    """If 8 users get 130 rows/s too late, 4 may get 110 in time. If 8 get 80, 4 get less than 100."""
    one = found(run(CURRENT, 130, (40, 35, 45)), run(OTHER, 100, load=Load(users=4)))
    assert one.verdict == "not distinguishable"
    assert "may keep it too: fewer than 8 users were not tried" in one.why
    assert found(run(CURRENT, 80, (40, 35, 45)), run(OTHER, 100, load=Load(users=4))).verdict == "better"


def test_a_current_one_of_which_one_request_failed_does_not_certainly_miss_the_limit() -> None:
    assert found(run(CURRENT, 130, failed=1), run(OTHER, 100)).verdict == "not distinguishable"


def test_a_current_one_that_may_keep_the_limit_is_kept() -> None:
    one = found(run(CURRENT, 100, (29.6, 16, 56)), run(OTHER, 100))
    assert one.verdict == "not distinguishable"
    assert one.best
    assert one.best.configuration == CURRENT
    assert not one.best.keeps
    assert "the current settings may keep it too: their p99 is 29.6 ms" in one.why


def test_a_current_one_that_may_keep_the_limit_at_one_load_is_not_judged_by_another() -> None:
    heavy, light = Load(users=16), Load(users=4)
    surely, perhaps = run(CURRENT, 130, (40, 35, 45), heavy), run(CURRENT, 100, (19, 15, 24), light)
    assert found(surely, perhaps, run(OTHER, 99)).verdict == "not distinguishable"


def test_a_current_one_that_may_keep_the_limit_is_worse_if_it_gives_less_under_the_same_load() -> None:
    assert found(run(CURRENT, 80, (19, 15, 24)), run(OTHER, 100)).verdict == "better"
    assert found(run(CURRENT, 80, (19, 15, 24), Load(users=4)), run(OTHER, 100)).verdict == "not distinguishable"


@pytest.mark.parametrize("side", [0, 1])
def test_if_all_runs_of_one_side_were_disturbed_nothing_is_better(side: int) -> None:
    others = [0.02, 0.02]
    others[side] = 0.3
    for current in (run(CURRENT, 80, others=others[0]), run(CURRENT, 80, (40, 35, 45), others=others[0])):
        one = found(current, run(OTHER, 120, others=others[1]))
        assert one.verdict == "not distinguishable"
        assert "other programs disturbed every run of" in one.why


def test_disturbed_runs_do_not_show_that_nothing_keeps_the_limit() -> None:
    one = found(run(CURRENT, 10, (40, 35, 45), others=0.8))
    assert (one.verdict, one.best, one.nearest) == ("nothing could be measured", None, None)
    assert "other programs disturbed every run" in one.why
    assert found(run(CURRENT, 10, (40, 35, 45), others=0.8), run(OTHER, 10, (40, 35, 45))).nearest


def test_a_disturbed_run_under_another_load_shows_nothing() -> None:
    misses, heavy = run(CURRENT, 70, (40, 35, 45)), Load(users=16)
    unsure = run(CURRENT, 90, (60, 18, 90), heavy, others=0.3)
    assert found(misses, unsure, run(OTHER, 100)).verdict == "better"
    ahead = run(CURRENT, 50, (60, 18, 90), others=0.3), run(CURRENT, 130, (21, 18, 24), heavy)
    assert found(*ahead, run(OTHER, 100)).verdict == "not distinguishable"


def test_disturbed_runs_do_not_count_beside_others() -> None:
    one = found(run(CURRENT, 100), run(CURRENT, 20, (40, 35, 45), others=0.4), run(OTHER, 80))
    assert one.verdict == "as it is"
    assert one.baseline
    assert one.baseline.throughput.value == pytest.approx(100)


def test_what_answers_wrongly_is_worse_than_anything_that_was_measured_undisturbed() -> None:
    wrong = run(CURRENT, 100, wrong=1)
    assert found(wrong, run(OTHER, 50)).verdict == "better"
    disturbed = found(wrong, run(OTHER, 50, others=0.3))
    assert (disturbed.verdict, disturbed.best) == ("nothing could be measured", None)


def test_without_a_p99_of_the_current_one_nothing_is_better() -> None:
    short = Measurement(CURRENT, LOAD, Interval(1, 1, 1), None, requests=20)
    one = found(short, run(OTHER, 100))
    assert (one.verdict, one.best) == ("not distinguishable", None)
    assert "too few requests to know their p99" in one.why


def test_at_a_rate_the_change_of_p99_is_said() -> None:
    load = Load(rate=100)
    one = found(run(CURRENT, 100, load=load), run(OTHER, 100, (5, 4.8, 5.2), load), rate=100)
    assert one.verdict == "better"
    assert "p99 -50% (" in one.why


def test_the_lowest_p99_is_named_if_nothing_keeps_the_limit() -> None:
    one = found(run(CURRENT, 100, (40, 35, 45)), run(OTHER, 100, (30, 28, 32)))
    assert one.verdict == "no configuration keeps the limit"
    assert one.nearest
    assert one.nearest.configuration == OTHER
    assert "2 instances of 1 thread" in one.why


def test_if_all_runs_of_the_current_one_were_disturbed_it_is_not_said_to_be_the_best() -> None:
    one = found(run(CURRENT, 100, others=0.3), run(OTHER, 80))
    assert one.verdict == "not distinguishable"
    assert one.best
    assert one.best.configuration == CURRENT
    assert one.why.startswith("other programs disturbed every run of the current settings, so nothing was found out")


def test_disturbed_runs_are_not_as_good_as_the_best() -> None:
    third = Configuration(2, 1, 8, preferred=(4,))
    one = found(run(CURRENT, 80), run(OTHER, 120), run(third, 119, others=0.3))
    assert (one.verdict, one.ties) == ("better", ())
    assert found(run(CURRENT, 80), run(OTHER, 120), run(third, 119)).ties


def test_what_had_luck_in_its_only_run_is_not_recommended_in_place_of_what_was_repeated() -> None:
    lucky = Configuration(2, 1, 8, preferred=(4,))
    wide = replace(run(OTHER, 118), throughput=Interval(118, 80, 180))
    one = found(*[run(CURRENT, 100)] * 3, wide, wide, run(lucky, 116))
    assert one.verdict == "not distinguishable"
    assert found(*[run(CURRENT, 100)] * 3, wide, wide, run(lucky, 116), run(lucky, 116)).verdict == "better"


def test_a_current_one_that_may_keep_the_limit_is_not_said_to_miss_it() -> None:
    one = found(run(CURRENT, 80, (19, 15, 24)), run(OTHER, 100))
    assert "the current settings may keep it too, but give less under the same load: the gain is +25% (" in one.why


def test_what_answers_wrongly_has_not_the_lowest_p99() -> None:
    one = found(run(CURRENT, 100, (40, 35, 45)), run(OTHER, 100, (5, 4, 6), wrong=1))
    assert one.verdict == "no configuration keeps the limit"
    assert one.nearest
    assert one.nearest.configuration == CURRENT
    every = found(run(CURRENT, 100, wrong=1), run(OTHER, 100, wrong=1))
    assert (every.verdict, every.why) == ("nothing could be measured", "the model answered wrongly in every run")


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"failed": 3}, "8 users, 3 requests failed"),
        ({"unchecked": 1}, "8 users, 1 answer could not be checked"),
    ],
)
def test_a_fault_that_is_not_p99_is_named_if_it_keeps_everything_from_the_limit(
    fault: dict[str, Any], why: str
) -> None:
    one = found(run(CURRENT, 100, **fault), times=1)
    assert one.verdict == "no configuration keeps the limit"
    assert one.why.endswith(why)
    sound = found(run(CURRENT, 100, **fault), run(OTHER, 100, (30, 28, 32)))
    assert "the lowest is 30 ms (" in sound.why
    assert sound.nearest
    assert sound.nearest.configuration == OTHER


def test_what_falls_behind_the_rate_is_not_said_to_have_a_high_p99() -> None:
    load = Load(rate=100)
    behind = run(CURRENT, 97, load=load, waiting=60)
    one = found(behind, rate=100)
    assert one.verdict == "no configuration keeps the limit"
    assert "nothing that was tried keeps up with the rate" in one.why
    assert one.why.endswith("answers 97 requests each second")
    better = found(behind, run(OTHER, 100, load=load), rate=100)
    assert better.verdict == "better"
    assert better.why.endswith("keeps the limit; the current settings do not keep up with the rate")


def test_if_nothing_could_be_predicted_nothing_is_said_of_the_limit() -> None:
    """The search tries nothing then but the current settings under the lightest load."""
    runs = Runs(Goal(LIMIT_MS / 1e3))
    runs.add(run(CURRENT, 100, load=Load(users=1)))
    one = conclude(SPACE, runs, None, (), (), is_predicted=False)
    assert (one.verdict, one.nearest) == ("nothing could be measured", None)
    assert one.why == "the server does not say how long its batches take, so nothing can be predicted"


def test_what_was_predicted_to_be_better_and_not_tried_any_more_is_named() -> None:
    runs = Runs(Goal(LIMIT_MS / 1e3))
    runs.add(run(CURRENT, 100))
    one = conclude(SPACE, runs, runs.results[0], (), (), untried="2 instances of 1 thread at 8 users (predicted +9 %)")
    assert one.verdict == "as it is"
    assert one.why.startswith("nothing that was tried is better than the current settings; no run was left for 2 inst")
    assert found(run(CURRENT, 100)).why == "nothing that was tried or predicted is better than the current settings"


@pytest.mark.parametrize(
    ("throughputs", "verdict", "why"),
    [
        ((100.5,), "as it is", "nothing that was tried or predicted is better"),
        ((103,), "not distinguishable", "is not distinguishable from the current settings (+3.0% ("),
        ((120,), "not distinguishable", "compared with the current settings, which are kept: 1 run may have been luck"),
        ((120, 120), "better", "2 instances of 1 thread, batches up to 8 at 8 users: +20% ("),
    ],
)
def test_what_gave_more_than_the_current_settings_is_not_passed_over(
    throughputs: tuple[float, ...], verdict: str, why: str
) -> None:
    """The search may take the current settings for the best, because it does not believe what chance gave."""
    runs = Runs(Goal(LIMIT_MS / 1e3))
    for one in (run(CURRENT, 100), run(CURRENT, 100), *(run(OTHER, throughput) for throughput in throughputs)):
        runs.add(one)
    current = next(one for one in runs.results if one.configuration == CURRENT)
    found = conclude(SPACE, runs, current, (), ())
    assert found.verdict == verdict
    assert why in found.why
    assert found.best
    assert found.best.configuration == (OTHER if verdict == "better" else CURRENT)
