"""Call a function in a child process, so that a crash does not end this one.

At unusual sizes, a kernel of ONNX Runtime may end the whole process (seen with 1.31.1: Resize of a batch that is not
1). So sizes are tried in a child.
"""

import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from builder.bounded import Forked, during, fork, out_of_time, silence_stderr, time_left
from builder.errors import BuilderError

TIMEOUT_S = 120.0
"""The longest time for one call. After it, the child is ended."""

SOON_S = 1.0
"""How long to wait for a child to say at which node its time was up."""


class ChildDiedError(Exception):
    """The child ended during a call, or took too long."""


class Child:
    """A process that calls a function. It is forked at the first call, and again after it has ended.

    Args:
        answer: The function, called in the child. What it stores there is lost when the child ends.
    """

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self._running: Forked | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def ask(self, question: Any) -> Any:
        """Return what the function returns for this question.

        Raises:
            ChildDiedError: The child ended, or took too long.
            BuilderError: The function raised it, or the time is up for all that this process does.
        """
        with during("the original is tried at other sizes"):
            return self._ask((self._running or self._start()).pipe, question)

    def _ask(self, pipe: Connection, question: Any) -> Any:
        try:
            pipe.send(question)
            answered = pipe.poll(min(TIMEOUT_S, max(0.0, time_left()) + SOON_S))
            answer, error = pipe.recv() if answered else (None, None)
        except (EOFError, OSError):
            answered = False
        if not answered:
            self.close()
            raise out_of_time() or ChildDiedError
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """End the process."""
        if self._finalizer is not None:
            self._finalizer()
        self._running = None

    def _start(self) -> Forked:
        self._running = fork(partial(_serve, self._answer))
        self._finalizer = weakref.finalize(self, self._running.end)
        return self._running


def _serve(answer: Callable[[Any], Any], pipe: Connection) -> None:
    """Answer until the process that forked this one closes its end of the pipe, or ends."""
    silence_stderr()
    while True:
        question = pipe.recv()
        try:
            pipe.send((answer(question), None))
        except BuilderError as error:
            pipe.send((None, error))
