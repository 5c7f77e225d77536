"""Hand a result from a child process to its parent, with large contents copied only once.

They are written to a file in memory, and the parent maps it.
"""

import io
import mmap
import os
import pickle
from typing import Any

LARGE = 1 << 20
"""From this size on, bytes come out as a `memoryview` of the file."""


class Parcel:
    """A file in memory that both processes have open. Whoever made it closes it.

    It can be pickled for a child that has the same open file.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("result")

    def fileno(self) -> int:
        """Return the number of the file."""
        return self._file

    def pack(self, result: Any) -> int:
        """Write a result, in the child; return where its pickle starts."""
        with open(self._file, "wb", closefd=False) as stream:
            pickled = io.BytesIO()
            _Pickler(pickled, stream).dump(result)
            start = stream.tell()
            stream.write(pickled.getbuffer())
        return start

    def unpack(self, start: int) -> Any:
        """Read the result, in the parent."""
        with open(self._file, "rb", closefd=False) as stream:
            # At once: to map it page by page, when it is first read, takes as long as to copy it.
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            mapped = memoryview(mmap.mmap(self._file, 0, flags=flags, prot=mmap.PROT_READ))
            stream.seek(start)
            return _Unpickler(stream, mapped).load()

    def close(self) -> None:
        """Close the file. What was unpacked stays."""
        os.close(self._file)


class _Pickler(pickle.Pickler):
    def __init__(self, pickled: io.BytesIO, large: io.BufferedWriter) -> None:
        super().__init__(pickled, protocol=5)
        self._large = large

    def persistent_id(self, content: Any) -> tuple[int, int] | None:
        """Put large bytes beside the pickle; return where they are, and None for anything else."""
        if type(content) is not bytes or len(content) < LARGE:
            return None
        start = self._large.tell()
        self._large.write(content)
        return start, start + len(content)


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BufferedReader, mapped: memoryview) -> None:
        super().__init__(stream)
        self._mapped = mapped

    def persistent_load(self, place: tuple[int, int]) -> memoryview:
        """Return the content that is beside the pickle."""
        start, end = place
        return self._mapped[start:end]
