"""Tell whether a file was written to since it was hashed, without hashing it again."""

import fcntl
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MIN_BYTES = 64 << 20
"""Smaller files are simply hashed again, which takes a moment."""

SETTLED_NS = 10_000_000_000
"""How long a file must have been left unchanged before its state is read.

A filesystem's clock moves in steps, up to 2 s on FAT: two writes in one step leave the same change time.
"""

RELIABLE_FILESYSTEMS = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "xfs", "zfs"})
"""Local filesystems that set the change time at every write, also at the first one through a memory map.

tmpfs does not notice writes through a memory map. On a network filesystem the server's clock sets the time, and the
client may show a cached one. An overlay has the times of the filesystems below it, which may be of either kind.
"""


@dataclass(frozen=True, slots=True)
class FileState:
    """What the filesystem says about a file without reading its content.

    Attributes:
        device: The filesystem.
        inode: The file on it; another file put at the same path has another.
        bytes: Its size.
        changed_ns: Its change time (ctime), which no program can set; nanoseconds since 1970.
        is_reliable: Whether any write after this state was read changes `changed_ns`.
    """

    device: int
    inode: int
    bytes: int
    changed_ns: int
    is_reliable: bool

    def still_holds(self, path: Path) -> bool:
        """Return whether the file at `path` is certain to have the content it had when this state was read."""
        try:
            now = path.stat()
        except OSError:
            return False
        was = (self.device, self.inode, self.bytes, self.changed_ns)
        return self.is_reliable and was == (now.st_dev, now.st_ino, now.st_size, now.st_ctime_ns)


def read_state(path: Path) -> FileState:
    """Read a file's state; do so before hashing the file.

    Example: a file that last changed at 12:00:00 is read at 12:00:30 and hashed until 12:00:32. A write at 12:00:31
    sets its change time to 12:00:31, so the state no longer holds. Had the file last changed at 12:00:29, less than
    `SETTLED_NS` before, a write within the same step of the clock could have gone unnoticed: not reliable.

    Raises:
        OSError: The file cannot be read.
    """
    status = path.stat()
    is_settled = status.st_ctime_ns < time.time_ns() - SETTLED_NS
    is_reliable = _filesystem(path) in RELIABLE_FILESYSTEMS and is_settled and not _is_open_for_writing(path)
    return FileState(
        device=status.st_dev,
        inode=status.st_ino,
        bytes=status.st_size,
        changed_ns=status.st_ctime_ns,
        is_reliable=is_reliable,
    )


def _is_open_for_writing(path: Path) -> bool:
    """Return whether any program has a file open for writing, or mapped; True where the system does not say.

    A write that is under way carries the time at which it started, however long it takes: 2 GiB from a slow disk take
    longer than `SETTLED_NS`. And a program that has written through a shared memory map may go on writing to the same
    page without a trace. The system grants a read lease only while there is no such program. The lease is given back
    at once, so nobody has to wait for it. A program that opens the file for writing just then makes the system send a
    signal: one that is ignored, because the usual SIGIO would end this process.

    Source: fcntl(2), F_SETLEASE; only the owner of the file may take a lease.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _filesystem(path: Path) -> str | None:
    """Return the type of the filesystem that a file is on, such as `ext4`; None where the system does not say.

    The path does not tell: a single file may be mounted from elsewhere, and a mount may cover others below it. So this
    opens the file and asks which mount it came from.

    Source: proc_pid_fdinfo(5), and proc_pid_mountinfo(5), where a line holds
    "36 35 98:0 /root /mount/point options - type device options".
    """
    with suppress(OSError, StopIteration), path.open("rb") as stream:
        about = Path(f"/proc/self/fdinfo/{stream.fileno()}").read_text()
        opened = next(line.split()[1] for line in about.splitlines() if line.startswith("mnt_id:"))
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return next(line.partition(" - ")[2].split(" ")[0] for line in mounts if line.split(" ")[0] == opened)
    return None
