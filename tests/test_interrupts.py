"""Signals wait from the point of no return on, and are then delivered, passed on or dropped."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from builder import interrupts
from builder.interrupts import SIGNALS, apart, deferred, held, hold, ignore_afterwards, told

reached: list[str] = []
"""What the change of a test has done."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """After each test all handlers are as before."""
    reached.clear()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before
    assert interrupts._blocks == []


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("block", [deferred, apart, told])
def test_a_block_is_interrupted_until_it_holds(block: Callable[[], AbstractContextManager[object]]) -> None:
    with pytest.raises(KeyboardInterrupt), block():
        press_ctrl_c()


def test_kill_and_a_closed_terminal_end_a_program_as_ctrl_c_does_unless_they_are_ignored() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
            interrupts.end_as_ctrl_c()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        interrupts.end_as_ctrl_c()
        signal.raise_signal(signal.SIGHUP)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def change(*, error: Exception | None = None) -> None:
    """Pass the point of no return, get a Ctrl-C, and go on to the end, or to an error."""
    hold()
    press_ctrl_c()
    reached.append("the end of the change")
    if error is not None:
        raise error


@pytest.mark.parametrize("block", [deferred, apart, held])
def test_what_came_since_is_delivered_at_the_end(block: Callable[[], AbstractContextManager[object]]) -> None:
    with pytest.raises(KeyboardInterrupt), block():
        change()
    assert reached == ["the end of the change"]


def test_kill_and_a_closed_terminal_wait_too() -> None:
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: came.append(number))
    with deferred():
        hold()
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
        assert came == []
    assert came == [signal.SIGHUP, signal.SIGTERM]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def test_a_block_that_tells_the_result_holds_on_after_the_change_in_it_and_drops_what_came() -> None:
    with told() as dropped:
        with deferred(), deferred():
            hold()
            press_ctrl_c()
        press_ctrl_c()
        signal.raise_signal(signal.SIGTERM)
    assert dropped == [signal.SIGINT, signal.SIGINT, signal.SIGTERM]


def test_a_program_that_ends_ignores_the_signals_from_the_change_on() -> None:
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with told() as dropped:
        change()
        ignore_afterwards()
        press_ctrl_c()
    assert dropped == [signal.SIGINT, signal.SIGINT]
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}
    press_ctrl_c()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_program_that_changed_nothing_may_still_be_interrupted() -> None:
    with told():
        ignore_afterwards()
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()


def test_what_may_still_be_given_up_is_interrupted_in_a_block_that_tells_the_result() -> None:
    with told() as dropped, pytest.raises(KeyboardInterrupt), apart(), deferred():
        change()
    assert dropped == []


def test_an_error_is_not_replaced_by_what_came() -> None:
    with pytest.raises(ValueError, match="the reason"), told(), deferred():
        change(error=ValueError("the reason"))


def test_after_a_change_that_failed_the_next_one_may_be_interrupted() -> None:
    with told():
        with pytest.raises(ValueError, match="the reason"), deferred():
            change(error=ValueError("the reason"))
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with told() as dropped:
        hold()
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert dropped == []
    signal.signal(signal.SIGHUP, before)


def test_another_thread_holds_nothing_back() -> None:
    found = []

    def run() -> None:
        with deferred(), held():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]
