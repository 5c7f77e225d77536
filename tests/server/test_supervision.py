"""How often, and how fast, a server that dies is started again: with a server and a clock that only exist here."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.server.supervision import supervise

Step = Callable[[], None]


class Clock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now += duration_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Server:
    """A server that serves for given times, and fails to start at given restarts."""

    def __init__(self, clock: Clock, serves_s: Sequence[float], *, bad_starts: Sequence[int] = ()) -> None:
        self._clock = clock
        self._serves_s = iter(serves_s)
        self._bad_starts = bad_starts
        self.starts = 0
        self.said: list[str] = []

    def wait(self) -> None:
        self._clock.now += next(self._serves_s)
        raise HostError(Path("models"), "it was killed", "start it again")

    def restart(self) -> None:
        self.starts += 1
        if self.starts in self._bad_starts:
            self._clock.now += 120
            raise HostError(Path("models"), "it does not start", "correct the model")

    def run(self) -> HostError:
        with pytest.raises(HostError) as caught:
            supervise(self.wait, self.restart, self.said.append)
        return caught.value


def test_each_death_in_a_row_is_told_and_waited_for_longer_until_there_were_too_many(clock: Clock) -> None:
    server = Server(clock, [0] * 6)
    error = server.run()
    assert clock.slept == [0.5, 1, 2, 4, 8]
    assert server.starts == 5
    assert server.said[:3] == [
        "it was killed; Triton starts again in 0.5 s",
        "Triton serves again, on the same ports",
        "it was killed; Triton starts again in 1 s",
    ]
    assert error.what == "it was killed (after 5 other failures in a short time)"
    assert error.fix == "find in its log above what ends it, then start it again"
    assert error.exit_code == 6


def test_the_delay_has_a_limit_and_starts_afresh_after_a_quiet_minute(clock: Clock) -> None:
    Server(clock, [0, 0, 0, 0, 40, 61, 0, 0, 0, 0, 0]).run()
    assert clock.slept == [0.5, 1, 2, 4, 8, 0.5, 1, 2, 4, 8]
    assert max(clock.slept) == 8


def test_rare_deaths_never_end_it(clock: Clock) -> None:
    server = Server(clock, [30.0] * 100 + [0.0] * 6)
    server.run()
    assert server.starts > 100


def test_a_server_that_does_not_start_is_given_up_however_long_each_start_takes(clock: Clock) -> None:
    server = Server(clock, [0], bad_starts=range(1, 100))
    error = server.run()
    assert server.starts == 5
    assert "it does not start (after 5 other failures" in error.what
    assert error.fix == "correct the model"
    assert "Triton serves again, on the same ports" not in server.said


def test_a_start_that_works_at_the_second_try_is_enough(clock: Clock) -> None:
    server = Server(clock, [0, 0, 0, 0, 0, 0], bad_starts=[1])
    server.run()
    assert server.said[:3] == [
        "it was killed; Triton starts again in 0.5 s",
        "it does not start; Triton starts again in 1 s",
        "Triton serves again, on the same ports",
    ]
