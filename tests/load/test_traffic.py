"""How the users of one process share it."""

import time
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event
from locust.env import Environment
from support.load_run import PATIENCE_S
from support.load_server import write_version
from support.load_settings import read

from loadtest.checking import from_reference, read_reference
from loadtest.run import Run, StageRecord, messages
from loadtest.run.leader import Leader
from loadtest.run.traffic import Line, Traffic
from loadtest.scenarios import PAUSE, Arrivals, make_stages
from loadtest.wire import Answer, ExchangeError, Layout, Slot


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    write_version(tmp_path)
    samples = from_reference(read_reference(tmp_path, "classifier", 1), "")
    settings = read("--model", "classifier", "--repository", str(tmp_path))
    return Traffic(settings, [samples], process="here", index=0)


class Instant:
    """A connection whose answers are there at once."""

    def __init__(self, asked: "list[Instant]") -> None:
        self._asked = asked

    def infer(self, _encoded: bytes) -> Answer:
        self._asked.append(self)
        return Answer(Layout("classifier", "7", ()), b"")

    def close(self) -> None:
        """There is nothing to close."""


def test_users_take_turns_though_answers_are_there_at_once(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own, so that it does not matter how busy the machine is: 1 ms passes each time it is read."""
    ticks = count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 1000)
    monkeypatch.setattr("loadtest.run.traffic.time", clock)
    asked: list[Instant] = []
    traffic.begin(None, 0, 1)
    traffic._idle += [Line(Instant(asked)), Line(Instant(asked))]
    gevent.joinall([gevent.spawn(traffic.work) for _ in range(2)], raise_error=True)
    turns = sum(earlier is not later for earlier, later in pairwise(asked))
    assert turns > 0.8 * len(asked) > 8


def test_users_of_an_open_loop_wake_for_its_first_request(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.run.traffic._LONGEST_SLEEP_S", 60.0)
    asked: list[Instant] = []
    traffic.begin(PAUSE, 0, 1)
    traffic._idle.append(Line(Instant(asked)))
    user = gevent.spawn(traffic.work)
    gevent.sleep(0.01)
    traffic.begin(Arrivals.recorded((0.0,)), 0, 1)
    user.join(timeout=PATIENCE_S)
    assert user.ready(), "the user slept on when the next stage began"
    traffic.work()
    assert len(asked) == 1


def test_a_process_is_drained_when_the_last_answer_in_flight_has_come(traffic: Traffic) -> None:
    arrived, released = Event(), Event()

    class Slow(Instant):
        def infer(self, encoded: bytes) -> Answer:
            arrived.set()
            released.wait()
            return super().infer(encoded)

    asked: list[Instant] = []
    traffic.begin(None, 0, 1)
    traffic._idle.append(Line(Slow(asked)))
    user = gevent.spawn(traffic.work)
    arrived.wait()
    traffic.begin(PAUSE, 0, 1)
    window = traffic.take(1)[0]
    assert (window.drained, window.sent, window.requests) == (False, 1, 0)
    released.set()
    user.join()
    windows = traffic.take(2)
    assert all(window.drained for window in windows.values())
    assert windows[0].requests == 1, "the request belongs to the round in which it was sent"
    assert (windows[1].sent, windows[1].requests, windows[1].surplus_requests) == (0, 0, 1)
    assert list(traffic.take(3)) == [2], "the first round is over"


class Lost(Instant):
    """A connection that is lost each time until `answers_from` requests were sent."""

    def __init__(self, asked: list[Instant], answers_from: int) -> None:
        super().__init__(asked)
        self._answers_from = answers_from

    def infer(self, encoded: bytes) -> Answer:
        answer = super().infer(encoded)
        if len(self._asked) < self._answers_from:
            raise ExchangeError("cut", "gone")
        return answer


@pytest.mark.parametrize(("losses", "pauses"), [(0, 0), (1, 0), (2, 1), (4, 3)])
def test_a_user_waits_only_after_its_second_loss_in_a_row(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch, losses: int, pauses: int
) -> None:
    monkeypatch.setattr("loadtest.run.traffic._BACK_OFF_S", 0.001)
    line = Line(Lost([], losses + 1))
    for _ in range(losses + 1):
        traffic._send(line, time.perf_counter() - 0.5)
    window = traffic.take(1)[0]
    assert (window.total.failures.total(), window.requests, line.losses) == (losses, 1, 0)
    assert window.backed_off_s == pytest.approx(pauses * 0.001)


def test_a_failure_keeps_the_time_that_it_took(traffic: Traffic) -> None:
    traffic._send(Line(Lost([], 2)), time.perf_counter() - 0.5)
    ((_, came),) = traffic.flush()
    assert 500_000 <= min(came.failed_us) < 100_000_000  # 500,000,000 would be nanoseconds


def test_new_users_wait_for_the_next_stage_while_the_others_send_on(traffic: Traffic) -> None:
    asked: list[Instant] = []
    traffic._idle.append(Line(Instant(asked)))
    traffic.begin(None, 0, 1)
    assert traffic.admit()
    traffic.gather()
    joining = [gevent.spawn(traffic.admit) for _ in range(3)]
    traffic.work()
    assert asked, "the user that was there sends on"
    assert not any(user.ready() for user in joining)
    traffic.begin(None, 0, 1, round=7)
    gevent.joinall(joining, timeout=PATIENCE_S)
    assert [user.value for user in joining] == [True] * 3
    assert list(traffic.take(8)) == [7], "what was sent belongs to the round that the leader named"


def test_a_spike_is_measured_from_the_moment_in_which_its_users_begin() -> None:
    """Only what the few users sent while the others gathered, before the last window was taken, is left out."""
    sent: list[str] = []
    runner: Any = SimpleNamespace(user_count=6, start=lambda *_, **__: sent.append("start"))
    runner.send_message = lambda message, *_: sent.append(message)
    settings = read("--scenario", "spike", "--concurrency", "1,6")
    spike = StageRecord(make_stages(settings.load)[1])
    Leader(Environment(), runner)._start(Run(settings, 0.0, [spike]), spike)
    assert sent == [messages.GATHER, "start", messages.TAKE, messages.BEGIN]


def test_the_users_of_an_open_loop_are_those_that_wait_for_an_answer(traffic: Traffic) -> None:
    traffic.begin(None, 0, 1)
    assert traffic.count_users(5) == 5
    traffic.begin(Arrivals.recorded((0.0,)), 0, 1)
    assert traffic.count_users(5) == 0
    traffic._recorder.round.sent += 2
    assert traffic.count_users(5) == 2
    traffic.gather()
    assert traffic.count_users(5) == 5, "Locust waits until all of them are there"


class Renamed(Instant):
    """A connection whose every answer names a version that was not seen before."""

    def infer(self, encoded: bytes) -> Answer:
        super().infer(encoded)
        return Answer(Layout("classifier", f"{len(self._asked) + 1}", ()), b"")


def test_a_server_that_names_another_version_in_each_answer_does_not_fill_the_memory(traffic: Traffic) -> None:
    line = Line(Renamed([]))
    for _ in range(1000):
        traffic._send(line, 0.0)
    (window,) = traffic.take(1).values()
    assert (window.requests, window.total.unchecked) == (1000, 1000)
    assert (len(window.tallies), window.tallies["classifier", "other"].requests) == (33, 968)
    assert len(traffic._references) <= 256
    request = next(traffic._requests)
    for number in range(100):
        assert request.expect(f"{number + 2}", traffic._find_reference) is None
    assert len(request.expected) <= 32


class Saying(Instant):
    """A connection whose every answer says this about itself, and holds nothing else."""

    def __init__(self, layout: Layout) -> None:
        super().__init__([])
        self._layout = layout

    def infer(self, encoded: bytes) -> Answer:
        return Answer(self._layout, b"")


@pytest.mark.parametrize("version", ["01", "+1", "1.0", "1 ", "\uff11", "v1", "1" * 5000])
def test_a_version_that_is_written_in_another_way_is_not_taken_for_that_version(traffic: Traffic, version: str) -> None:
    traffic._send(Line(Saying(Layout("classifier", version, ()))), 0.0)
    (window,) = traffic.take(1).values()
    assert (window.total.unchecked, window.total.wrong) == (1, {})


def test_a_long_text_of_the_server_neither_hides_what_is_wrong_nor_fills_the_report(traffic: Traffic) -> None:
    traffic._send(Line(Saying(Layout("classifier", "1", (Slot("y" * 70_000, "FP32", (1, 3), 0, 0),)))), 0.0)
    traffic._send(Line(Saying(Layout("m" * 1_000_000, "7" * 1_000_000, ()))), 0.0)
    (window,) = traffic.take(1).values()
    assert window.total.wrong == {"shape_or_type": 1, "wrong_model": 1}
    assert {*window.tallies} == {("classifier", "1"), ("classifier", "other")}
    assert max(map(len, window.messages.values())) <= 500
