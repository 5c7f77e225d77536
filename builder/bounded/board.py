"""A page of memory that a process and its children share: how much time they have, and what they are doing.

It can still be read after they were killed.
"""

import mmap
import os
import struct
import time

_SECONDS, _DEADLINE = 0, 1
_TIMES_SIZE = 16
_LENGTH = struct.Struct("H")
_TEXT = _TIMES_SIZE + _LENGTH.size
_LONGEST = mmap.PAGESIZE - _TEXT


class Board:
    """What the processes share. Whoever made it closes it, and can still read it then.

    It can be pickled for a child that has the same open file.

    Args:
        seconds: How much time they have from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._file = os.memfd_create("board")
        os.ftruncate(self._file, mmap.PAGESIZE)
        self.__setstate__(self._file)
        self._times[_SECONDS], self._times[_DEADLINE] = seconds, time.monotonic() + seconds

    def __getstate__(self) -> int:
        return self._file

    def __setstate__(self, file: int) -> None:
        self._file = file
        self._page = mmap.mmap(file, mmap.PAGESIZE)
        # Each is written at once. `struct.pack_into` first writes zeros, which another process may read.
        self._times = memoryview(self._page)[:_TIMES_SIZE].cast("d")

    def fileno(self) -> int:
        """Return the number of the file in memory."""
        return self._file

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    @property
    def seconds(self) -> float:
        """How much time there was at the start."""
        return self._times[_SECONDS]

    @property
    def deadline(self) -> float:
        """When the time is up, on the clock of `time.monotonic`, which all processes share."""
        return self._times[_DEADLINE]

    def allow(self, seconds: float) -> None:
        """Give so much time in all."""
        self._times[_DEADLINE] += seconds - self.seconds
        self._times[_SECONDS] = seconds

    def postpone(self, deadline: float) -> None:
        """Let the time be up at this moment."""
        self._times[_DEADLINE] = deadline

    @property
    def text(self) -> str:
        """What the processes are doing; empty if they do not say."""
        (length,) = _LENGTH.unpack_from(self._page, _TIMES_SIZE)
        return self._page[_TEXT : _TEXT + min(length, _LONGEST)].decode(errors="replace")

    @text.setter
    def text(self, text: str) -> None:
        content = text.encode(errors="replace")[:_LONGEST]
        _LENGTH.pack_into(self._page, _TIMES_SIZE, len(content))
        self._page[_TEXT : _TEXT + len(content)] = content
