"""A page of memory that a process and its children share: how much time they have, and what they are doing.

It can still be read after they were killed.
"""

import mmap
import struct
import time

_TIME = struct.Struct("dd")
_LENGTH = struct.Struct("H")
_TEXT = _TIME.size + _LENGTH.size
_LONGEST = mmap.PAGESIZE - _TEXT


class Board:
    """What the processes share.

    Args:
        seconds: How much time they have from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        _TIME.pack_into(self._page, 0, seconds, time.monotonic() + seconds)

    @property
    def seconds(self) -> float:
        """How much time there was at the start."""
        return float(_TIME.unpack_from(self._page)[0])

    @property
    def deadline(self) -> float:
        """When the time is up, on the clock of `time.monotonic`, which all processes share."""
        return float(_TIME.unpack_from(self._page)[1])

    def allow(self, seconds: float) -> None:
        """Give so much time in all."""
        _TIME.pack_into(self._page, 0, seconds, self.deadline + seconds - self.seconds)

    def postpone(self, deadline: float) -> None:
        """Let the time be up at this moment."""
        _TIME.pack_into(self._page, 0, self.seconds, deadline)

    @property
    def text(self) -> str:
        """What the processes are doing; empty if they do not say."""
        (length,) = _LENGTH.unpack_from(self._page, _TIME.size)
        return self._page[_TEXT : _TEXT + min(length, _LONGEST)].decode(errors="replace")

    @text.setter
    def text(self, text: str) -> None:
        content = text.encode(errors="replace")[:_LONGEST]
        _LENGTH.pack_into(self._page, _TIME.size, len(content))
        self._page[_TEXT : _TEXT + len(content)] = content
