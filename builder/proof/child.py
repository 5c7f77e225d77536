"""Call a function in a child process, so that a crash does not end this one.

At unusual sizes, a kernel of ONNX Runtime may end the whole process (seen with 1.31.1: Resize of a batch that is not
1). So sizes are tried in a child.
"""

import ctypes
import multiprocessing
import os
import signal
import warnings
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

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

    Args:
        answer: The function, called in the child. What it stores there is lost when the child ends.
    """

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self._running: tuple[BaseProcess, Connection] | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def ask(self, question: Any) -> Any:
        """Return what the function returns for this question.

        Raises:
            ChildDiedError: The child ended, or took too long.
            ModelError: The function raised it.
        """
        _, pipe = self._running or self._start()
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

    def _start(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("fork")  # the child has what the parent has loaded, and starts at once
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._answer, os.getpid()), daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 warns of forking a process with threads. The child uses none of theirs.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        self._running = process, ours
        self._finalizer = weakref.finalize(self, _end, process, ours, os.getpid())
        return self._running


def _end(process: BaseProcess, pipe: Connection, parent: int) -> None:
    if os.getpid() != parent:  # a child that was forked later has a copy of this finalizer
        return
    pipe.close()
    process.kill()
    process.join()


def _serve(pipe: Connection, answer: Callable[[Any], Any], parent: int) -> None:
    """Answer until the parent ends.

    The end of the pipe does not show that, because children that were forked later have the parent's side of it too.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)  # hide what a crash prints
    while True:
        try:
            question = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            os._exit(0)
        try:
            pipe.send((answer(question), None))
        except ModelError as error:
            pipe.send((None, (error.where, error.what, error.fix)))
