"""The time of a batch of any size, from those that were measured."""

import pytest

from builder.tuning.measurement import Configuration
from builder.tuning.simulation.curves import Curve, engine_of, smooth

ONE, TWO, FOUR = ((threads, (), False) for threads in (1, 2, 4))


def test_between_two_measured_sizes_the_time_is_a_straight_line() -> None:
    curve = Curve({ONE: ((1, 0.001), (5, 0.003), (9, 0.009))})
    assert [curve.seconds(ONE, rows) for rows in (1, 3, 5, 7, 9)] == pytest.approx([0.001, 0.002, 0.003, 0.006, 0.009])


def test_beyond_the_largest_size_the_line_goes_on_and_never_falls() -> None:
    assert Curve({ONE: ((1, 0.001), (5, 0.003))}).seconds(ONE, 9) == pytest.approx(0.005)
    flat = Curve({ONE: ((1, 0.001), (8, 0.001))})
    assert flat.seconds(ONE, 64) > flat.seconds(ONE, 8)


def test_a_single_size_is_taken_for_proportional() -> None:
    assert Curve({ONE: ((4, 0.004),)}).seconds(ONE, 8) == pytest.approx(0.008)


def test_an_engine_that_was_not_measured_is_between_its_neighbours_or_like_the_nearest() -> None:
    curve = Curve({ONE: ((1, 0.008),), FOUR: ((1, 0.002),)})
    assert curve.seconds(TWO, 1) == pytest.approx(0.004)
    assert 0.001 < curve.seconds((8, (), False), 1) < 0.002
    assert curve.seconds((None, (), False), 1) == pytest.approx(0.002)
    assert curve.seconds((None, (1,), True), 1) == pytest.approx(0.002)


def test_without_a_measured_time_there_is_no_curve() -> None:
    with pytest.raises(ValueError, match="no time of a batch"):
        Curve().seconds(ONE, 1)


def test_sizes_whose_times_fall_are_pooled_by_how_often_they_were_seen() -> None:
    points = smooth([(1, 10, 0.001), (5, 1, 0.002), (4, 3, 0.004), (8, 2, 0.005), (8, 2, 0.007)])
    assert [rows for rows, _ in points] == [1, 4, 5, 8]
    assert [seconds for _, seconds in points] == pytest.approx([0.001, 0.0035, 0.0035, 0.006])


def test_threads_that_are_left_to_the_server_are_an_even_share_of_its_cores() -> None:
    assert engine_of(Configuration(2, None, 8), 8) == (4, (), False)
    assert engine_of(Configuration(4, None, 8), 2) == (1, (), False)
    assert engine_of(Configuration(4, None, 8), None) == (None, (), False)
    assert engine_of(Configuration(4, None, 8, profiles=(1,)), 8) == (None, (1,), False)
    assert engine_of(Configuration(4, 3, 8), 8) == (3, (), False)
