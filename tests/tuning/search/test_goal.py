"""What is better, under which loads, and when a run keeps the limit."""

from dataclasses import replace

import pytest

from builder.tuning import Configuration, Goal, Interval, Load, Measurement

GOOD = Measurement(
    Configuration(1, 1, 8), Load(users=4), Interval(100, 98, 102), Interval(0.018, 0.017, 0.02), requests=1000
)


def test_without_a_load_the_users_are_part_of_the_answer() -> None:
    assert [load.users for load in Goal(0.02).loads] == [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_every_load_has_the_rows_of_the_goal() -> None:
    rows = ((1, 8.0), (16, 1.0))
    for goal in (Goal(0.02, rows=rows), Goal(0.02, users=3, rows=rows), Goal(0.02, rate=9.5, rows=rows)):
        assert {load.rows for load in goal.loads} == {rows}
    assert goal.largest_request == 16
    assert goal.mean_rows == pytest.approx((8 + 16) / 9)


def test_a_given_load_is_the_only_one() -> None:
    assert Goal(0.02, users=3).loads == (Load(users=3),)
    assert Goal(0.02, rate=9.5).loads == (Load(rate=9.5),)


def test_users_and_a_rate_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        Goal(0.02, users=3, rate=9.5)


def test_at_a_rate_the_lowest_latency_is_the_best() -> None:
    assert Goal(0.02, rate=9.5).value(9.5, 0.01) == 2 * Goal(0.02, rate=9.5).value(9.4, 0.02)
    assert Goal(0.02).value(200, 0.02) == 2 * Goal(0.02).value(100, 0.001)


def test_a_run_keeps_the_limit_up_to_its_upper_bound() -> None:
    assert Goal(0.02).is_kept(GOOD)
    assert not Goal(0.0199).is_kept(GOOD)  # although its p99 is 18 ms


@pytest.mark.parametrize(
    "change", [{"wrong": 1}, {"failed": 1}, {"unchecked": 1}, {"p99_s": None}, {"throughput": None}, {"error": "gone"}]
)
def test_a_run_that_is_not_in_order_does_not_keep_the_limit(change: dict[str, object]) -> None:
    assert not Goal(0.02).is_kept(replace(GOOD, **change))  # type: ignore[arg-type]


def test_a_run_has_to_keep_up_with_the_rate() -> None:
    rows = ((1, 1.0), (3, 1.0))  # 2 rows in the mean
    many = replace(GOOD, requests=1_000_000)
    assert Goal(0.02, rate=50.4, rows=rows).is_kept(many)
    assert not Goal(0.02, rate=51, rows=rows).is_kept(many)  # 102 rows were sent each second, and 100 answered


def test_a_run_keeps_up_if_fewer_requests_came_by_chance() -> None:
    assert Goal(0.02, rate=106).is_kept(GOOD)  # 100 a second of 1,000 requests, which are 1,000 +- 32
    assert not Goal(0.02, rate=108).is_kept(GOOD)


def test_a_rate_that_is_a_little_too_high_is_seen_by_what_waits_at_the_end() -> None:
    """Of 1,000 requests, 960 were answered in time: so few may come by chance, but 40 more were sent and wait."""
    goal = Goal(0.5, rate=100)
    run = replace(GOOD, throughput=Interval(96, 95, 97), latency_s=0.02)
    assert goal.is_kept(run)
    assert goal.is_kept(replace(run, waiting=5))
    assert not goal.is_kept(replace(run, waiting=40))
    assert not Goal(0.5).falls_behind(replace(run, waiting=40))


def test_requests_that_take_long_may_wait_at_the_end() -> None:
    """100 a second that take 2 s each are 200 ± 14 at either end."""
    goal = Goal(5.0, rate=100)
    run = replace(GOOD, waiting=40, throughput=Interval(96, 95, 97), latency_s=2.0)
    assert not goal.falls_behind(run)
    assert goal.falls_behind(replace(run, waiting=65))


def test_the_rows_of_mixed_requests_vary_more_than_the_requests() -> None:
    """Rows of 1=8,16=1 have the mean 24 / 9 and the mean square 264 / 9: 1,000 requests are 2,667 ± 171 rows."""
    rows = ((1, 8.0), (16, 1.0))
    sent = 100 / Goal(0.02, rows=rows).mean_rows
    assert Goal(0.02, rate=1.14 * sent, rows=rows).is_kept(GOOD)
    assert not Goal(0.02, rate=1.16 * sent, rows=rows).is_kept(GOOD)
