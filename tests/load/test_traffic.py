"""The users of one process among each other."""

import time
from itertools import pairwise
from pathlib import Path

import gevent
import pytest
from support.load_server import write_version
from support.load_settings import read

from loadtest.checking.answers import Answer, Layout
from loadtest.checking.reference import read_reference
from loadtest.checking.samples import from_reference
from loadtest.run.traffic import Traffic
from loadtest.scenarios.stages import PAUSE


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    write_version(tmp_path)
    samples = from_reference(read_reference(tmp_path, "classifier", 1), "")
    settings = read("--model", "classifier", "--repository", str(tmp_path))
    return Traffic(settings, [samples], process="here", index=0)


class Instant:
    """A connection whose answers are there before one waits for them."""

    def __init__(self, asked: "list[Instant]") -> None:
        self._asked = asked

    def ask(self, _wire: bytes) -> Answer:
        self._asked.append(self)
        return Answer(Layout("classifier", "7", ()), b"")

    def close(self) -> None:
        """Nothing to hang up."""


def test_users_take_turns_though_answers_are_there_at_once(traffic: Traffic) -> None:
    asked: list[Instant] = []
    traffic.begin(None, 0, 1)
    traffic._idle += [Instant(asked), Instant(asked)]
    gevent.joinall([gevent.spawn(traffic.work) for _ in range(2)], raise_error=True)
    turns = sum(earlier is not later for earlier, later in pairwise(asked))
    assert turns > 0.8 * len(asked) > 8


def test_users_of_an_open_loop_wait_for_its_first_arrival_rather_than_nap_through_it(traffic: Traffic) -> None:
    asked: list[Instant] = []
    traffic.begin(PAUSE, 0, 1)
    traffic._idle.append(Instant(asked))
    user = gevent.spawn(traffic.work)
    gevent.sleep(0.01)
    started = time.perf_counter()
    traffic.begin({"kind": "replay", "rate": 1.0, "times": [0.0]}, 0, 1)
    user.join()
    traffic.work()
    assert len(asked) == 1
    assert time.perf_counter() - started < 0.3


def test_a_process_is_drained_when_the_last_answer_under_way_has_come(traffic: Traffic) -> None:
    class Slow(Instant):
        def ask(self, wire: bytes) -> Answer:
            gevent.sleep(0.2)
            return super().ask(wire)

    asked: list[Instant] = []
    traffic.begin(None, 0, 1)
    traffic._idle.append(Slow(asked))
    user = gevent.spawn(traffic.work)
    gevent.sleep(0.05)
    traffic.begin(PAUSE, 0, 1)
    assert not traffic.take().drained
    user.join()
    window = traffic.take()
    assert (window.drained, window.requests) == (True, 1)
