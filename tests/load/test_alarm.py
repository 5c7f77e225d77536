"""Waking up at a given moment."""

import time

import gevent
import pytest
from support.load_run import PATIENCE_S

from loadtest.run.alarm import Alarm


@pytest.mark.parametrize("has_timers", [True, False])
def test_an_alarm_never_wakes_early_and_at_best_soon_after(has_timers: bool) -> None:
    alarm = Alarm()
    if not has_timers:
        alarm.close()
    late: list[float] = []
    while len(late) < 30 or min(late) >= 0.02:  # on a busy machine, few come soon after
        moment = time.perf_counter() + 0.0023
        alarm.wait_until(moment)
        late.append(time.perf_counter() - moment)
    alarm.close()
    assert min(late) > -0.001 if not has_timers else min(late) >= 0


def test_a_moment_in_the_past_is_not_waited_for() -> None:
    alarm = Alarm()
    with gevent.Timeout(PATIENCE_S):
        alarm.wait_until(time.perf_counter() - 1)
    alarm.close()


def test_others_run_while_one_waits() -> None:
    alarm = Alarm()
    waiter = gevent.spawn(alarm.wait_until, time.perf_counter() + 2 * PATIENCE_S)
    other = gevent.spawn(gevent.sleep, 0.01)
    other.join(timeout=PATIENCE_S)
    assert other.ready()
    assert not waiter.ready()
    waiter.kill()
    alarm.close()
