"""What work can say and ask while it runs inside a child with limits. Elsewhere, all of this does nothing."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from builder.bounded.board import Board
from builder.bounded.limits import ALL_SIZES, S_PER_BYTE, Bounds, OutOfMemoryError, OutOfTimeError, out_of_memory_here
from builder.bounded.memory import available_bytes, used_bytes
from builder.errors import BuilderError

Focus = tuple[Callable[[Any], str], Any]
"""What is being worked on, and a function that names it."""


class Inside:
    """The limits of this process, and what it is doing.

    Args:
        bounds: The limits.
        board: What is shared with the parent.
        fall_back: Tells the parent which error to raise if this process does not end in time.
    """

    def __init__(self, bounds: Bounds, board: Board, fall_back: Callable[[BuilderError | None], None]) -> None:
        self.bounds = bounds
        self.board = board
        self.fall_back = fall_back
        self.doing: list[str] = []
        self.focus: Focus | None = None
        self.failure: tuple[BaseException, str] | None = None
        self.stops: list[Callable[[], None]] = []
        self._watched = 0
        self._used = used_bytes(os.getpid(), with_children=False)

    def watch(self) -> None:
        """Start to watch the time in this process: a process that was forked has none of its parent's threads."""
        if self._watched != os.getpid():
            self._watched = os.getpid()
            self.stops.clear()
            threading.Thread(target=self._stop_in_time, daemon=True).start()

    def memory_left(self) -> int:
        """Return how much more memory this process may use, bytes."""
        return self.bounds.memory + self._used - used_bytes(os.getpid(), with_children=False)

    def text(self) -> str:
        """Say what this process is doing, and with what."""
        text = " and ".join(self.doing)
        if self.focus is None:
            return text
        name, subject = self.focus
        return f"{text}, at {name(subject)}"

    def _stop_in_time(self) -> None:
        while (left := self.board.deadline - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))  # the deadline may move
        self.board.text = self.text()
        while True:
            for stop in tuple(self.stops):
                stop()
            time.sleep(0.02)


_inside: Inside | None = None


def enter(inside: Inside) -> None:
    """Make this process one with limits."""
    global _inside
    _inside = inside
    inside.watch()


def is_inside() -> bool:
    """Return whether this process has limits already."""
    return _inside is not None


@contextmanager
def during(what: str) -> Iterator[None]:
    """Say what is done in the block, as in "running the original"."""
    inside = _inside
    if inside is None:
        yield
        return
    inside.doing.append(what)
    before, inside.focus = inside.focus, None
    inside.board.text = inside.text()
    try:
        yield
    except (MemoryError, RecursionError) as error:
        if inside.failure is None or inside.failure[0] is not error:  # the innermost block knows most
            inside.failure = error, inside.text()
        raise
    finally:
        inside.doing.pop()
        inside.focus = before
        inside.board.text = inside.text()


def focus(name: Callable[[Any], str], subject: Any) -> None:
    """Say which node is being worked on from now on; it is named by `name(subject)` if it has to be."""
    if _inside is not None:
        _inside.focus = (name, subject)


@contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """Have `stop` called, from another thread and possibly more than once, if the time is up during the block."""
    inside = _inside
    if inside is None:
        yield
        return
    inside.watch()
    inside.stops.append(stop)
    try:
        yield
    finally:
        inside.stops.remove(stop)


@contextmanager
def untimed() -> Iterator[None]:
    """Let the time of the block not count."""
    if _inside is None:
        yield
        return
    board = _inside.board
    left = board.deadline - time.monotonic()
    board.postpone(float("inf"))
    try:
        yield
    finally:
        board.postpone(time.monotonic() + left)


def expect(size: int, *, all_sizes: bool = False) -> None:
    """Allow the time that a model of this size needs, in bytes, unless the caller set the time."""
    if _inside is not None and _inside.bounds.grows:
        seconds = _inside.board.seconds + size * S_PER_BYTE
        _inside.board.allow(round(seconds * (ALL_SIZES if all_sizes else 1)))


@contextmanager
def fall_back(error: BuilderError) -> Iterator[None]:
    """Have this error raised if the limits are reached during the block."""
    inside = _inside
    if inside is None:
        yield
        return
    inside.fall_back(error)
    try:
        yield
    finally:
        inside.fall_back(None)


def explained(error: BaseException) -> BaseException:
    """Return the error to raise for one that shows that a limit was reached; others stay as they are."""
    if _inside is None or not isinstance(error, MemoryError | RecursionError):
        return error
    doing = _inside.failure[1] if _inside.failure is not None and _inside.failure[0] is error else _inside.text()
    if isinstance(error, MemoryError):
        return _inside.bounds.out_of_memory(doing)
    return _inside.bounds.too_deep(doing)


def time_left() -> float:
    """Return how much time is left, seconds."""
    return float("inf") if _inside is None else _inside.board.deadline - time.monotonic()


def memory_left() -> int:
    """Return how much memory this process can still get, bytes."""
    return available_bytes() if _inside is None else max(0, min(available_bytes(), _inside.memory_left()))


def out_of_time(node: str = "") -> OutOfTimeError | None:
    """Return the error to raise if the time is up, with the node that was running if it is known."""
    if _inside is None or time_left() > 0:
        return None
    return _inside.bounds.out_of_time(_inside.board.seconds, _at(_inside.text(), node))


def out_of_memory(where: object, node: str = "") -> OutOfMemoryError:
    """Return the error to raise when memory could not be had, with the node that wanted it if that is known.

    Args:
        where: The file, for work without limits.
        node: The node.
    """
    if _inside is None:
        return out_of_memory_here(where, _at("working on it", node))
    return _inside.bounds.out_of_memory(_at(_inside.text(), node))


def _at(doing: str, node: str) -> str:
    return f"{doing}, at {node}" if node else doing
