"""Let one process at a time work in a folder, and tell the others who they wait for.

The lock is `flock` on a file, so the kernel releases it when its holder ends, however that happens. The holder writes
who it is into a file beside the lock. That is for people only: if it is missing, damaged or of a process that has
ended, nobody knows who the others wait for, and nothing else changes.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from builder.errors import RepositoryError
from builder.progress import Report
from builder.repository.own_folder import OpenFolder, close

PATIENCE_S = 1.0
"""How long to wait before saying so."""

_POLL_S = 0.05
_HOLDER_LIMIT = 4096
"""The most bytes that are read of what a holder wrote."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How to wait for a lock.

    Attributes:
        report: Called once with `wait` and who holds the lock, when the wait takes longer than `PATIENCE_S`.
        timeout_s: The longest wait, in seconds; None waits until the lock is free.
    """

    report: Report
    timeout_s: float | None


@contextmanager
def locked(folder: OpenFolder, name: str, command: str, wait: Wait) -> Iterator[None]:
    """Hold a lock for the block.

    Args:
        folder: The folder that the lock is in.
        name: The lock's name there. The holder's name is in `NAME.holder`.
        command: What the lock is needed for, to tell others.
        wait: How to wait.

    Raises:
        RepositoryError: The lock is not a file, or was not free in time.
    """
    descriptor = _open(folder, name)
    try:
        _acquire(descriptor, folder, name, wait)
        holder = f"{name}.holder"
        _write_holder(folder, holder, command)
        try:
            yield
        finally:
            with suppress(OSError, KeyboardInterrupt):  # whoever reads it will see that nobody holds the lock
                folder.remove(holder)
    finally:
        close(descriptor)


def _open(folder: OpenFolder, name: str) -> int:
    """Open the lock, whose content is never read or written."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    what, fix = "this lock is not a file, so another program made it", "delete it, then run the command again"
    try:
        descriptor = os.open(name, flags, 0o666, dir_fd=folder.descriptor)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise RepositoryError(folder.path / name, what, fix) from error
        raise OSError(error.errno, error.strerror, str(folder.path / name)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RepositoryError(folder.path / name, what, fix)
    return descriptor


def _acquire(descriptor: int, folder: OpenFolder, name: str, wait: Wait) -> None:
    started = time.monotonic()
    was_told = False
    while not _try(descriptor):
        waited = time.monotonic() - started
        if wait.timeout_s is not None and waited >= wait.timeout_s:
            what = f"it is in use by {_read_holder(folder, name)}, and was not free within {wait.timeout_s:g} s"
            fix = "run the command again when that is done, or with a larger --lock-timeout"
            raise RepositoryError(folder.path / name, what, fix)
        if waited >= PATIENCE_S and not was_told:
            wait.report("wait", f"for {_read_holder(folder, name)}")
            was_told = True
        time.sleep(_POLL_S)
    if not _is_still(descriptor, folder, name):
        what = "somebody deleted this lock while another command held it"
        raise RepositoryError(folder.path / name, what, "run the command again")


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, folder: OpenFolder, name: str) -> bool:
    """Return whether the lock is still the file of its name, which others would open."""
    try:
        named = os.lstat(folder.path / name)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)


def _write_holder(folder: OpenFolder, holder: str, command: str) -> None:
    """Say who holds the lock. A full disk is no reason not to hold it."""
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    facts = {"command": command, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
    with suppress(OSError):
        with suppress(FileNotFoundError):
            folder.remove(holder)  # of a process that was killed
        folder.write(holder, json.dumps(facts).encode())


def _read_holder(folder: OpenFolder, name: str) -> str:
    """Say who holds a lock, as far as it is known."""
    try:
        facts = json.loads(folder.read(f"{name}.holder", limit=_HOLDER_LIMIT))
        command, pid, host, since = (facts[key] for key in ("command", "pid", "host", "since"))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another command"
    texts = (command, host, since)
    is_sound = type(pid) is int and 0 < pid < 2**31 and all(isinstance(t, str) and t.isprintable() for t in texts)
    if not is_sound or (host == socket.gethostname() and not _runs(pid)):
        return "another command"
    return f"`{command}` (process {pid} on {host}, since {since})"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True
