"""Configurations, loads and figures have the same words everywhere."""

import pytest

from builder.tuning.measurement import Configuration, Interval, Load, Measurement
from builder.tuning.wording import figure, say_changes, say_configuration, say_gain, say_gains, say_load, say_result


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        (Configuration(1, None, 32), "1 instance, batches up to 32"),
        (Configuration(2, 1, 32, (8,)), "2 instances of 1 thread, batches up to 8 (of 32)"),
        (Configuration(2, 1, 32, (8,), 500), "2 instances of 1 thread, batches up to 32, preferred 8, delay 500 µs"),
        (Configuration(1, 2, 0), "1 instance of 2 threads, no batches"),
        (Configuration(1, None, 8, (), 0, (1,), True), "1 instance, batches up to 8, profile 1, CUDA graphs"),
    ],
)
def test_a_configuration_in_words_names_each_setting_that_says_anything(
    configuration: Configuration, words: str
) -> None:
    assert say_configuration(configuration) == words


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        (Configuration(1, 2, 32, (), 500), "as it is"),
        (Configuration(2, 2, 32, (), 500), "2 instances of 2 threads"),
        (Configuration(1, 2, 32), "no delay"),
        (Configuration(1, 2, 32, (8,)), "batches up to 8, no delay"),
        (Configuration(1, 2, 64, (8,)), "batches up to 8 (of 64), no delay"),
    ],
)
def test_only_what_changes_is_said(configuration: Configuration, words: str) -> None:
    assert say_changes(configuration, Configuration(1, 2, 32, (), 500)) == words


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (Load(users=1), "1 user"),
        (Load(rate=1250.5), "1,250.5 requests/s"),
        (Load(users=16, rows=((1, 8), (16, 1))), "16 users with 1 or 16 rows"),
        (Load(users=16, rows=((1, 8), (2, 4), (4, 2), (32, 1))), "16 users with 1 to 32 rows"),
        (Load(users=1, rows=((1, 1), (8, 1), (32, 1))), "1 user with 1, 8 or 32 rows"),
        (Load(rate=300, rows=((4, 1),)), "300 requests/s with 4 rows"),
    ],
)
def test_a_load_in_words(load: Load, words: str) -> None:
    assert say_load(load) == words


def test_a_result_says_how_far_it_may_be_off_and_what_went_wrong() -> None:
    run = Measurement(
        Configuration(1, None, 8),
        Load(users=1),
        Interval(1240, 1200, 1260),
        Interval(0.0123, 0.0119, 0.0131),
        mean_batch=4.123,
        wrong=2,
    )
    assert say_result(run) == "1,240 ± 3.2% rows/s, p99 12.3 ms (11.9 to 13.1), mean batch 4.1, 2 wrong"
    nothing = Measurement(Configuration(1, None, 8), Load(users=1), None, None, error="it does not load")
    assert say_result(nothing) == "it does not load"


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (999.6, "1,000"), (1249, "1,250"), (123456, "123,000"), (0, "0")]
)
def test_a_figure_has_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(("gain", "text"), [(1.123, "+12%"), (0.97, "-3.0%"), (1.0, "+0.0%"), (11.63, "+1,063%")])
def test_a_gain_is_a_change_in_percent(gain: float, text: str) -> None:
    assert say_gain(gain) == text


def test_a_p99_that_is_twice_as_good_is_half_as_long() -> None:
    gain = Interval(2.0, 1.6, 2.5)
    assert say_gains(gain) == "+100% (+60% to +150%)"
    assert say_gains(gain, of_p99=True) == "p99 -50% (-60% to -38%)"
    assert say_gain(0.8, of_p99=True) == "+25%"
