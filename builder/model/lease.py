"""Know that nobody wrote to a file meanwhile, without reading it again."""

import contextlib
import fcntl
import os
import signal
import weakref
from pathlib import Path

MIN_BYTES = 64 << 20
"""A smaller file is as soon read again, and a model may have a thousand of them."""


class Lease:
    """A hold on a file, from which it can be told later that nobody has written to it since.

    The kernel grants a read lease only while nobody has the file open for writing, nor mapped so. Whoever then opens it
    for writing breaks the lease, and waits for its end. It ends with this object, or after
    `/proc/sys/fs/lease-break-time`, 45 seconds.
    Where none is granted, as for another user's file or on a network's filesystem, it counts as broken.
    Source: fcntl(2), "Leases"
    """

    def __init__(self, path: Path) -> None:
        """Take the lease.

        Raises:
            OSError: The file cannot be read.
        """
        self._path = path
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        with contextlib.suppress(OSError):
            # Told by SIGIO, which is the default, this process would end; it does not notice SIGURG.
            fcntl.fcntl(self._file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        self._identity = _identity(os.fstat(self._file))

    def is_unbroken(self) -> bool:
        """Whether the path has named this very file all the time, and nobody has opened it for writing."""
        try:
            is_same = _identity(self._path.stat()) == self._identity
        except OSError:
            return False
        return is_same and fcntl.fcntl(self._file, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """The file, and when it was last written to, renamed or linked."""
    return status.st_dev, status.st_ino, status.st_ctime_ns
