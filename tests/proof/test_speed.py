"""How fast a model is beside fp32: the decision from given times, and the measure on a real model."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from support.by_hand import original

from builder.proof import measure_speed, speed
from builder.proof.speed import Seconds, compare, take_turns
from builder.record import Speed

Work = Callable[[], None]


def seconds(*passed: float) -> list[Seconds]:
    """Return times that are the same on both clocks."""
    return [Seconds(each, each) for each in passed]


class Clock:
    """A clock that stands still, except while one of its runs takes place."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> Seconds:
        return Seconds(self.now, self.now)

    def run(self, name: str, seconds: Iterator[float]) -> Work:
        """Return a run that takes the next of these times."""

        def work() -> None:
            self.now += next(seconds)
            self.log.append(name)

        return work


def always(seconds: float) -> Iterator[float]:
    return (seconds for _ in count())


def test_the_ratio_is_the_median_of_neighbours_and_not_the_ratio_of_means() -> None:
    """In the fourth round the machine was busy for both; in the fifth for one."""
    found = compare(8, seconds(0.2, 0.2, 0.2, 2.0, 0.2), seconds(0.1, 0.1, 0.1, 1.0, 4.0))
    assert (found.batch_size, found.ratio, found.low, found.high) == (8, 2.0, 2.0, 2.0)
    assert (found.fp32_ms, found.ms) == (200.0, 100.0)


def test_the_spread_holds_the_middle_half() -> None:
    found = compare(1, seconds(1, 1, 1, 1, 1), seconds(1.0, 0.8, 0.5, 0.4, 0.25))
    assert (found.low, found.ratio, found.high) == (1.25, 2.0, 2.5)


@pytest.mark.parametrize(
    ("passed", "computed", "ratio"),
    [
        ((4.0, 1.0), (2.0, 1.0), 2.0),  # fp32 was interrupted more often
        ((1.2, 1.0), (2.0, 1.0), 1.2),  # the threads of the other wait for each other
        ((4.0, 1.0), (0.0, 0.0), 4.0),  # a clock of the processor that stands still says nothing
    ],
)
def test_the_smaller_gain_on_two_clocks_counts(
    passed: tuple[float, float], computed: tuple[float, float], ratio: float
) -> None:
    fp32, other = ([Seconds(*each)] * 3 for each in zip(passed, computed, strict=True))
    assert compare(1, fp32, other).ratio == ratio


@pytest.mark.parametrize(
    ("ratios", "least", "pays"),
    [((1.02, 3.0), 1.02, True), ((1.019, 3.0), 1.02, False), ((3.0, 1.0), 1.02, False), ((0.3, 0.2), 0.0, True)],
)
def test_a_model_pays_if_every_batch_size_gains_enough(ratios: tuple[float, ...], least: float, pays: bool) -> None:
    found = Speed(
        2, tuple(compare(size, seconds(ratio, ratio), seconds(1, 1)) for size, ratio in enumerate(ratios, 1)), least
    )
    assert found.pays is pays
    assert found.ratio == min(ratios)


def test_it_is_said_in_words() -> None:
    found = Speed(1, (compare(1, seconds(2, 2), seconds(1, 1)), compare(32, seconds(3, 3), seconds(2, 2))), 1.02)
    assert str(found) == (
        "2.00 times the throughput of fp32 at a batch of 1 (mostly 2.00 to 2.00), 1.50 times at a batch of 32 (mostly "
        "1.50 to 1.50), with 1 thread of this CPU"
    )


def test_models_take_turns_and_every_second_round_is_in_reverse_order() -> None:
    clock = Clock()
    times = take_turns([clock.run("a", always(0.5)), clock.run("b", always(0.25))], clock=clock)
    assert clock.log[:4] == ["a", "b", "a", "b"]  # to warm up, and to see how long each takes
    assert clock.log[4:] == ["a", "b", "b", "a", "a", "b"]
    assert times == [seconds(0.5, 0.5, 0.5), seconds(0.25, 0.25, 0.25)]


def test_short_runs_are_repeated_within_one_measurement_and_the_budget_ends_it() -> None:
    clock = Clock()
    times = take_turns([clock.run("a", always(0.001)), clock.run("b", always(0.004))], clock=clock)
    assert clock.log[4:8] == ["a", "a", "b", "b"]
    assert len(times[0]) == len(times[1]) == speed.ROUNDS[1]
    assert times[0][0].passed == pytest.approx(0.001)


def test_slow_models_are_measured_a_few_times_however_long_it_takes() -> None:
    clock = Clock()
    times = take_turns([clock.run("a", always(60.0)), clock.run("b", always(60.0))], clock=clock)
    assert len(times[0]) == speed.ROUNDS[0]


@pytest.mark.parametrize(("ratios", "rounds"), [((1.0, 1.5), 2), ((1.2, 1.5), 1), ((0.5, 0.9), 1)])
def test_what_noise_would_decide_is_measured_for_longer(
    ratios: tuple[float, float], rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []

    def turns(runs: object) -> list[list[Seconds]]:
        found.append(runs)
        return [seconds(*ratios, *ratios), seconds(1, 1, 1, 1)]

    monkeypatch.setattr(speed, "take_turns", turns)
    assert speed.measure_batch([], 1, 1.02)[0].ratio == pytest.approx(sum(ratios) / 2)
    assert len(found) == rounds


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BUDGET_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_every_model_is_measured_at_one_row_and_at_the_largest_batch(tmp_path: Path) -> None:
    model = original(tmp_path, "g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }")
    rows = [{"x": np.ones((3, 4), np.float32)}]
    data = model.path.read_bytes()
    found = measure_speed([data, data, data], rows, where=model.path, largest=8, threads=1, least=0.5)
    assert [[batch.batch_size for batch in one.batches] for one in found] == [[1, 8], [1, 8]]
    assert {(one.threads, one.least) for one in found} == {(1, 0.5)}
    assert all(batch.ms > 0 and batch.low <= batch.ratio <= batch.high for one in found for batch in one.batches)


@pytest.mark.usefixtures("quick")
def test_samples_that_the_model_does_not_accept_are_passed_over(tmp_path: Path) -> None:
    model = original(tmp_path, "g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }")
    wrong, right = ({"x": np.ones((2, size), np.float32)} for size in (5, 4))
    data = model.path.read_bytes()
    assert measure_speed([data, data], [wrong], where=model.path, largest=1) == []
    assert measure_speed([data, data], [wrong, right], where=model.path, largest=1)


@pytest.mark.usefixtures("quick")
def test_a_model_without_a_batch_is_measured_as_it_is(tmp_path: Path) -> None:
    model = original(tmp_path, "g (float[4] x) => (float[4] y) { y = Relu (x) }")
    data = model.path.read_bytes()
    (found,) = measure_speed(
        [data, data], [{"x": np.ones((2, 4), np.float32)}], where=model.path, largest=8, is_static=True
    )
    assert [batch.batch_size for batch in found.batches] == [0]
    assert "batch" not in str(found)
