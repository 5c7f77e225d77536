"""Hold back Ctrl-C, and the other signals that end a program, where it must not stop halfway.

A change to a repository has a point of no return: the rename that makes it visible. Before it, Ctrl-C ends the change
and nothing has happened. After it, the change is complete, and whoever asked for it has to learn that. So a block of
code can be interrupted until it calls `hold`. From then on the signals wait. What happens to them at the end of the
block depends on the block:

- `deferred`: they are delivered. Inside another block of this kind or `told`, that block goes on holding them.
- `apart`: they are delivered, whatever is around it. What is done in it may still be given up.
- `told`: they are dropped, because the block has told the user that the change is complete. After
  `ignore_afterwards`, they are ignored until the program ends.
- `held` holds from its beginning, and delivers them.

If a block ends with an exception, that is what the user learns, and the signals are dropped. Python handles signals in
the main thread alone, so other threads hold nothing back, and need not.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, and a terminal that is closed."""


@dataclass(slots=True, eq=False)
class _Block:
    """A block, what becomes of the signals at its end, and whether it holds them back by now."""

    at_end: Literal["pass on", "deliver", "drop"]
    holds: bool = False


def end_as_ctrl_c() -> None:
    """Let `kill`, and a terminal that is closed, end this program as Ctrl-C does, so that it cleans up.

    What is ignored stays ignored, as a closed terminal is under `nohup`. This is for programs only.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


_blocks: list[_Block] = []
"""The blocks that the main thread is in, the innermost last."""

_handlers: dict[int, Any] = {}
"""The handlers that were replaced, by signal; empty while no block holds."""

_waiting: list[int] = []
"""The signals that came since, in order."""


def hold() -> None:
    """Hold the signals back until the end of the innermost block."""
    if _is_main_thread() and _blocks:
        _blocks[-1].holds = True
        _replace_handlers()


@contextmanager
def deferred() -> Iterator[None]:
    """Run a block that may call `hold`, and then deliver the signals, unless it succeeds inside another block."""
    with _block(_Block("pass on")):
        yield


@contextmanager
def apart() -> Iterator[None]:
    """Run a block that may call `hold`, and then deliver the signals: what follows may be interrupted again."""
    with _block(_Block("deliver")):
        yield


@contextmanager
def told() -> Iterator[list[int]]:
    """Run a block that may call `hold` and then tells the user the result; yield a list of the signals dropped then."""
    dropped: list[int] = []
    with _block(_Block("drop"), dropped):
        yield dropped


def ignore_afterwards() -> None:
    """Ignore the signals that are held back when the block ends, until the program ends: its exit code is decided.

    This is for programs only: what handled the signals before is not restored.
    """
    _handlers.update(dict.fromkeys(_handlers, signal.SIG_IGN))


@contextmanager
def held() -> Iterator[None]:
    """Run a block that no signal interrupts, and then deliver them."""
    with _block(_Block("pass on")):
        hold()
        yield


@contextmanager
def _block(block: _Block, dropped: list[int] | None = None) -> Iterator[None]:
    if not _is_main_thread():
        yield
        return
    failed = True
    try:
        _blocks.append(block)
        yield
        failed = False
    finally:
        _end(block, [] if dropped is None else dropped, deliver=not failed and block.at_end != "drop")


def _end(block: _Block, dropped: list[int], *, deliver: bool) -> None:
    """End a block: let another one hold the signals, or restore the handlers, and deliver or drop what came."""
    if block not in _blocks:  # Ctrl-C came before its first line
        return
    del _blocks[_blocks.index(block) :]
    if not block.holds or any(outer.holds for outer in _blocks):
        return
    if block.at_end == "pass on" and deliver and _blocks:
        _blocks[-1].holds = True
        return
    came = _restore_handlers()
    if not deliver:
        dropped += came
        return
    for number in came:
        signal.raise_signal(number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _replace_handlers() -> None:
    """Let the signals wait. One that is ignored stays ignored, and one whose handler is not Python's stays as it is."""
    if _handlers:
        return
    try:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):
                signal.signal(number, _wait)
                _handlers[number] = handler
    except BaseException:  # a signal that came just before
        _restore_handlers()
        raise


def _restore_handlers() -> list[int]:
    """Restore the handlers, and return the signals that came in the meantime."""
    handlers, came = dict(_handlers), list(_waiting)
    _handlers.clear()
    _waiting.clear()
    for number, handler in reversed(handlers.items()):  # Ctrl-C last: from then on it may interrupt this function
        signal.signal(number, handler)
    return came


def _wait(number: int, frame: object) -> None:
    _waiting.append(number)
