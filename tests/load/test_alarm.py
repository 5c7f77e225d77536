"""Waking at a moment."""

import statistics
import time

import gevent
import pytest

from loadtest.run.alarm import Alarm


@pytest.mark.parametrize("has_timers", [True, False])
def test_an_alarm_wakes_never_early_and_soon_after(has_timers: bool) -> None:
    alarm = Alarm()
    if not has_timers:
        alarm.close()
    late = []
    for _ in range(30):
        moment = time.perf_counter() + 0.0023
        alarm.wait_until(moment)
        late.append(time.perf_counter() - moment)
    alarm.close()
    assert min(late) > -0.001 if not has_timers else min(late) >= 0
    assert statistics.median(late) < 0.02


def test_a_moment_that_is_past_does_not_wait() -> None:
    alarm = Alarm()
    started = time.perf_counter()
    alarm.wait_until(started - 1)
    alarm.close()
    assert time.perf_counter() - started < 0.5


def test_others_run_while_one_waits() -> None:
    alarm, seen = Alarm(), []
    waiter = gevent.spawn(alarm.wait_until, time.perf_counter() + 0.1)
    while not waiter.ready():
        seen.append(1)
        gevent.sleep(0.01)
    alarm.close()
    assert len(seen) >= 3
