"""Runs of one kind are pooled, and their spread is what another run may be off."""

import math
from dataclasses import replace

import pytest

from builder.tuning import Configuration, Goal, Interval, Load, Measurement
from builder.tuning.search.pooling import Runs, student

ONE, TWO = Configuration(1, 1, 8), Configuration(2, 1, 8)
LOAD = Load(users=8)


def run(
    configuration: Configuration, throughput: float, p99_ms: float, off: float = 0.02, **more: object
) -> Measurement:
    def interval(value: float) -> Interval:
        return Interval(value, value * (1 - off), value * (1 + off))

    return Measurement(
        configuration,
        LOAD,
        interval(throughput),
        interval(p99_ms / 1e3),
        requests=1000,
        **more,  # type: ignore[arg-type]
    )


def runs_of(*measurements: Measurement, limit_ms: float = 20, rate: float | None = None) -> Runs:
    runs = Runs(Goal(limit_ms / 1e3, users=None if rate else LOAD.users, rate=rate))
    for measurement in measurements:
        runs.add(measurement)
    return runs


def test_more_runs_make_the_interval_narrower() -> None:
    once, four = (runs_of(*[run(ONE, 100, 10)] * number).result((ONE, LOAD)) for number in (1, 4))
    assert once
    assert four
    assert four.runs == 4
    assert four.throughput.value == pytest.approx(100)
    assert math.log(four.throughput.high / 100) < 0.55 * math.log(once.throughput.high / 100)


def test_runs_that_differ_more_than_their_intervals_make_it_wider() -> None:
    alike, apart = (runs_of(run(ONE, 100, 10), run(ONE, other, 10)).result((ONE, LOAD)) for other in (100, 140))
    assert alike
    assert apart
    assert apart.throughput.value == pytest.approx(math.sqrt(100 * 140))
    assert apart.throughput.high / apart.throughput.value > 1.5 * alike.throughput.high / alike.throughput.value - 0.5


def test_what_repeated_runs_say_of_the_spread_holds_for_all() -> None:
    calm, wild = runs_of(run(ONE, 100, 10), run(TWO, 100, 10)), runs_of(run(ONE, 100, 10), *[run(TWO, 100, 10)] * 2)
    wild.add(run(TWO, 150, 20))
    before, after = (runs.result((ONE, LOAD)) for runs in (calm, wild))
    assert before
    assert after
    assert after.throughput.high > before.throughput.high
    assert after.p99_s.high > before.p99_s.high


def test_a_run_that_stood_still_for_a_moment_does_not_say_how_runs_differ() -> None:
    usual = run(TWO, 100, 6.7)
    late = replace(usual, p99_s=Interval(0.0126, 0.006, 0.0517))
    known = replace(usual, p99_s=Interval(0.0126, 0.012, 0.0132))
    runs = [run(ONE, 150, 15), run(ONE, 150, 15)]
    assert runs_of(*runs, usual, late).results[0].keeps
    assert not runs_of(*runs, usual, known).results[0].keeps


def test_the_limit_is_kept_with_a_margin_for_another_run() -> None:
    assert runs_of(run(ONE, 100, 17)).results[0].keeps
    assert not runs_of(run(ONE, 100, 18.2, off=0.001)).results[0].keeps  # another one may have 20.1


def test_the_margin_for_another_run_does_not_shrink_with_the_number_of_runs() -> None:
    result = runs_of(*[run(ONE, 100, 18.9, off=0.001)] * 5).results[0]
    assert result.p99_s.high < 0.0198
    assert not result.keeps


def test_a_wrong_answer_under_another_load_puts_it_out_as_well() -> None:
    runs = runs_of(run(ONE, 100, 10))
    runs.add(Measurement(ONE, Load(users=1), Interval(9, 8, 10), Interval(1, 1, 1), wrong=1))
    assert not runs.results[0].keeps


def test_a_run_that_leaves_it_open_may_be_made_up_for_by_others() -> None:
    once = runs_of(run(ONE, 100, 18))
    assert not once.results[0].keeps
    assert once.is_open((ONE, LOAD))
    several = runs_of(*[run(ONE, 100, 18)] * 4)
    assert several.results[0].keeps


def test_what_misses_the_limit_or_was_repeated_is_not_open() -> None:
    assert not runs_of(run(ONE, 100, 21)).is_open((ONE, LOAD))
    assert runs_of(run(ONE, 100, 18.5), run(ONE, 100, 19)).is_open((ONE, LOAD))
    assert not runs_of(run(ONE, 100, 18.5), run(ONE, 100, 19), run(ONE, 100, 19)).is_open((ONE, LOAD))
    assert not runs_of(run(ONE, 100, 18.5), run(ONE, 100, 21)).is_open((ONE, LOAD))
    assert not runs_of(run(ONE, 100, 18, failed=1)).is_open((ONE, LOAD))
    assert not runs_of().is_open((ONE, LOAD))


def test_a_spread_that_is_known_from_few_runs_makes_the_interval_wider() -> None:
    """Student's quantiles are 2.57, 2.23 and 1.98 with 5, 10 and 100 degrees of freedom."""
    assert student(1.96, 5) == pytest.approx(2.571, abs=0.01)
    assert student(1.96, 10) == pytest.approx(2.228, abs=0.002)
    assert student(1.96, 100) == pytest.approx(1.984, abs=0.001)
    assert student(1.645, 5) == pytest.approx(2.015, abs=0.005)


def test_one_run_that_misses_the_limit_is_enough() -> None:
    result = runs_of(run(ONE, 100, 10), run(ONE, 100, 10), run(ONE, 100, 20.5)).results[0]
    assert result.p99_s.high < 0.02
    assert not result.keeps


def test_a_wrong_answer_puts_a_configuration_out_for_good() -> None:
    runs = runs_of(run(ONE, 100, 10), run(TWO, 100, 10), run(ONE, 100, 10, wrong=1))
    assert [result.keeps for result in runs.results] == [False, True]
    assert runs.wrong == (ONE,)
    assert runs.out == {ONE}


def test_a_configuration_that_does_not_load_is_out_with_its_error() -> None:
    runs = runs_of(Measurement(ONE, LOAD, None, None, error="out of memory"))
    assert runs.out == {ONE}
    assert runs.dead == {ONE: "out of memory"}
    assert runs.results == ()


def test_the_interval_of_a_ratio_has_the_variance_of_both() -> None:
    runs = runs_of(run(ONE, 110, 10), run(TWO, 100, 10))
    first, second = runs.results
    ratio = runs.ratio(first, second)
    assert ratio.value == pytest.approx(1.1)
    halves = [math.log(one.throughput.high / one.throughput.low) / 2 for one in (first, second)]
    of_90 = 2.015 / 2.571  # Student's quantiles for 90 and 95 %, with 5 degrees of freedom
    assert math.log(ratio.high / ratio.value) == pytest.approx(of_90 * math.hypot(*halves), rel=0.01)
    assert math.log(ratio.value / ratio.low) == pytest.approx(of_90 * math.hypot(*halves), rel=0.01)


def test_more_runs_tell_smaller_differences_apart() -> None:
    runs = runs_of(run(ONE, 110, 10))
    assert runs.tells_apart(0.04, 2) == pytest.approx(2.015 * 0.04, rel=0.01)
    assert runs.tells_apart(0.04, 3) == pytest.approx(2.015 * 0.04 * math.sqrt(2 / 3), rel=0.01)


def test_at_a_rate_the_ratio_is_that_of_latencies() -> None:
    runs = Runs(Goal(0.02, rate=100))
    for configuration, p99_ms in ((ONE, 5.0), (TWO, 10.0)):
        one = run(configuration, 100, p99_ms)
        runs.add(Measurement(configuration, Load(rate=100), one.throughput, one.p99_s, requests=1000))
    assert runs.ratio(*runs.results).value == pytest.approx(2)


def test_runs_that_only_calibrate_are_no_results() -> None:
    runs = runs_of(run(ONE, 100, 10))
    runs.add(Measurement(TWO, Load(users=1, rows=((1, 1.0), (8, 0.3))), Interval(9, 8, 10), Interval(1, 1, 1)))
    assert [result.configuration for result in runs.results] == [ONE]
