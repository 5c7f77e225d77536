"""Start a process that does one piece of work, for a program whose threads make it unsafe to fork.

It is a Python of its own, which has to import what it needs first: about a second for a model. It ends with the process
that started it.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing import spawn as python
from multiprocessing.connection import Connection
from multiprocessing.util import spawnv_passfds
from typing import NoReturn

from builder.bounded.forking import Forked, live


def spawn(serve: Callable[[Connection], None], files: Iterable[int]) -> Forked:
    """Call `serve`, which is pickled, in a new process, with its end of a pipe. The process ends when `serve` returns.

    Args:
        serve: The work.
        files: The numbers of files that the child has open too, under the same numbers.
    """
    ours, theirs = Pipe()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child ignores it
    arguments = f"{theirs.fileno()}, {os.getpid()}, {sorted(map(int, blocked))}"
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main({arguments})"
    executable = os.fsencode(python.get_executable())
    try:
        pid = spawnv_passfds(executable, [executable, "-c", program], [theirs.fileno(), *files])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
    with suppress(ConnectionError):  # it may have ended
        ours.send(serve)
    return Forked(pid, ours, os.getpid())


def main(pipe: int, parent: int, blocked: Iterable[int]) -> NoReturn:
    """Do the work that comes through a pipe, in the child."""
    live(partial(_serve, Connection(pipe)), parent, blocked)


def _serve(pipe: Connection) -> None:
    pipe.recv()(pipe)
