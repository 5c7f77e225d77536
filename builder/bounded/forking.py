"""Fork a process that does one piece of work, and that ends with the process that forked it.

It is forked without `multiprocessing`, which does not let a worker of a pool start processes. The child has what the
parent has loaded, and starts at once.

The child has none of the parent's other threads, but every lock that one of them held at that moment, for ever: of the
C library, of ONNX Runtime, of a log file. So a process with threads is forked only where it is known what they do;
`spawning` starts a process of which they are no part.
"""

import ctypes
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1
"""Asks Linux for a signal when the thread that forked this process ends (source: prctl(2))."""

_STDERR = 2


@dataclass(slots=True)
class Forked:
    """A child process.

    Attributes:
        pid: Its number.
        pipe: This process's end of the pipe between the two.
        parent: The number of this process.
        status: How it ended, as `os.waitpid` gives it; None if the system did not say.
        has_ended: Whether it is gone.
    """

    pid: int
    pipe: Connection
    parent: int
    status: int | None = field(default=None, init=False)
    has_ended: bool = field(default=False, init=False)

    def check(self, *, waits: bool = False) -> bool:
        """Return whether it has ended; wait for that first if `waits`."""
        if not self.has_ended:
            try:
                pid, status = os.waitpid(self.pid, 0 if waits else os.WNOHANG)
                self.has_ended, self.status = pid == self.pid, status if pid else None
            except ChildProcessError:  # a parent may leave its children to the system
                self.has_ended = waits or not Path(f"/proc/{self.pid}").exists()
        return self.has_ended

    def end(self) -> None:
        """End it, if this is the process that forked it: a child that was forked later has a copy of this object."""
        if os.getpid() != self.parent:
            return
        self.pipe.close()
        if not self.has_ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.check(waits=True)


def may_fork() -> bool:
    """Return whether this thread is the only one of this program that runs Python code.

    Threads that libraries started for this one, such as those of ONNX Runtime and OpenBLAS, are idle while it forks.
    """
    return len(sys._current_frames()) == 1


def fork(serve: Callable[[Connection], None]) -> Forked:
    """Call `serve` in a child process, with its end of a pipe. The process ends when `serve` returns.

    The end of the pipe does not show that the parent has ended, because children that were forked later have the
    parent's side of it too. So the child is killed then. Ctrl-C is left to the parent.
    """
    ours, theirs = Pipe()
    parent = os.getpid()
    had_collector = gc.isenabled()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child ignores it
    # Garbage of the parent must not be collected in the child: a session of ONNX Runtime, for one, joins its threads,
    # which the child does not have, and crashes (seen with 1.31.1) or waits for ever.
    gc.disable()
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of forking a process with threads: `may_fork` has to know better.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            ours.close()
            live(partial(serve, theirs), parent, blocked)
    finally:
        if had_collector:
            gc.enable()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    return Forked(pid, ours, parent)


def silence_stderr() -> None:
    """Discard what libraries print in this process: what goes wrong is raised, and what a crash prints helps nobody."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)


def live(serve: Callable[[], object], parent: int, blocked: Iterable[int]) -> NoReturn:
    """Do the work of a child that has just started with Ctrl-C held back; then end it.

    Args:
        serve: The work.
        parent: The number of the process that started it, and whose end ends it.
        blocked: The signals to hold back from now on.
    """
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        gc.freeze()
        gc.enable()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # it may have ended before the first line
            serve()
            os._exit(0)
    finally:
        os._exit(1)  # whatever was raised: the parent's own code must not go on here
