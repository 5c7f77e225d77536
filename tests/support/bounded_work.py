"""Work for a child process, where a new process can import it."""

import os
import signal
import threading
import time
from multiprocessing.connection import Connection

from builder import bounded
from builder.bounded import inside
from builder.progress import Report

LOCK = threading.Lock()


def with_the_lock(report: Report) -> int:
    """Return the number of the process, once it has the lock."""
    with LOCK:
        return os.getpid()


def in_steps(report: Report) -> tuple[int, int, bytes]:
    """Report twice; return the numbers of this process and of a child of it, and something large."""
    report("load", "first")
    report("verify", "second")
    child = bounded.fork(lambda pipe: pipe.send(os.getpid()))
    return os.getpid(), child.pipe.recv(), bytes(2_000_000)


def divide_by_zero(report: Report) -> float:
    """Fail."""
    return 1 / 0


def crash(report: Report) -> None:
    """End the process."""
    with bounded.during("it crashes"):
        os.kill(os.getpid(), signal.SIGSEGV)


def take_too_long() -> None:
    """Let the time of this child be up, and that to stop by itself too once it has said what it is doing.

    A limit that is short enough to wait for may be reached before the work has begun, on a busy machine.
    """
    limits = inside._inside
    assert limits is not None
    limits.board.postpone(time.monotonic())
    while limits.board.text != limits.text():
        time.sleep(0.01)
    limits.board.postpone(float("-inf"))
    time.sleep(600)


def wait(report: Report) -> None:
    """Take too long."""
    with bounded.during("it waits"):
        take_too_long()


def print_and_sleep(report: Report) -> None:
    """Print the numbers of this process and of a child of it, neither of which ends."""
    child = bounded.fork(_send_and_sleep)
    print(os.getpid(), child.pipe.recv(), flush=True)
    time.sleep(600)


def _send_and_sleep(pipe: Connection) -> None:
    pipe.send(os.getpid())
    time.sleep(600)


def fill(report: Report) -> bytes:
    """Take too much memory."""
    return bytes(1 << 40)


class Unreadable:
    """Work that can be pickled, but not read again."""

    def __call__(self, report: Report) -> None:
        """Do nothing."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Return what fails when it is called."""
        return int, ("no number",)
