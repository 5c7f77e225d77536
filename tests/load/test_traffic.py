"""How the users of one process share it."""

from itertools import pairwise
from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from support.load_server import write_version
from support.load_settings import read

from loadtest.checking import from_reference, read_reference
from loadtest.run.traffic import Line, Traffic
from loadtest.scenarios import PAUSE, Arrivals
from loadtest.wire import Answer, Layout


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


def test_users_take_turns_though_answers_are_there_at_once(traffic: Traffic) -> None:
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
    user.join(timeout=10)
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
