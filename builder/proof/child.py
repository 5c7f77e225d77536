"""Call a function in a child process, so that a crash does not end this one.

At unusual sizes, a kernel of ONNX Runtime may end the whole process (seen with 1.31.1: Resize of a batch that is not
1). So sizes are tried in a child.
"""

import ctypes
import os
import signal
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from builder.errors import ModelError

STDERR = 2

PR_SET_PDEATHSIG = 1
"""Asks Linux for a signal when the thread that forked this process ends (source: prctl(2))."""

TIMEOUT_S = 120.0
"""The longest time for one call. After it, the child is ended."""


class ChildDiedError(Exception):
    """The child ended during a call, or took too long."""


class Child:
    """A process that calls a function. It is forked at the first call, and again after it has ended.

    It is forked without `multiprocessing`, which does not let a worker of a pool start processes.

    Args:
        answer: The function, called in the child. What it stores there is lost when the child ends.
    """

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self._running: Connection | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def ask(self, question: Any) -> Any:
        """Return what the function returns for this question.

        Raises:
            ChildDiedError: The child ended, or took too long.
            ModelError: The function raised it.
        """
        pipe = self._running or self._start()
        try:
            pipe.send(question)
            answered = pipe.poll(TIMEOUT_S)
            answer, error = pipe.recv() if answered else (None, None)
        except (EOFError, OSError):
            answered = False
        if not answered:
            self.close()
            raise ChildDiedError
        if error is not None:
            raise ModelError(*error)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._finalizer is not None:
            self._finalizer()
        self._running = None

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        parent = os.getpid()
        with warnings.catch_warnings():
            # Python 3.12 warns of forking a process with threads. The child uses none of theirs.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()  # the child has what the parent has loaded, and starts at once
        if not child:
            ours.close()
            _serve(theirs, self._answer, parent)
        theirs.close()
        self._running = ours
        self._finalizer = weakref.finalize(self, _end, child, ours, parent)
        return ours


def _end(child: int, pipe: Connection, parent: int) -> None:
    if os.getpid() != parent:  # a child that was forked later has a copy of this finalizer
        return
    pipe.close()
    with suppress(ProcessLookupError, ChildProcessError):  # a parent may leave its children to the system
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(pipe: Connection, answer: Callable[[Any], Any], parent: int) -> NoReturn:
    """Answer until the parent ends.

    The end of the pipe does not show that, because children that were forked later have the parent's side of it too.
    """
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)  # hide what a crash prints
        while os.getppid() == parent:  # it may have ended before the first line
            question = pipe.recv()
            try:
                pipe.send((answer(question), None))
            except ModelError as error:
                pipe.send((None, (error.where, error.what, error.fix)))
    finally:
        os._exit(1)  # whatever was raised: the parent's own code must not go on here
