"""Read files that anybody may have written: regular files only, up to a size, and inside a folder where it matters.

A named pipe blocks whoever opens it, /dev/zero never ends, and a link leads anywhere. So a path is first opened with
O_PATH, which neither waits nor wakes a device. What it leads to is checked there, and this very file is then opened
for reading: nobody can put another one in its place in between. `create` writes a file where others may write too.

Source: open(2), O_PATH; proc_pid_fd(5).
"""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.progress import format_bytes

_BLOCK = 1 << 20

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read(path: Path, *, limit: int, inside: Path | None = None) -> bytes:
    """Return the content of a file.

    Args:
        path: The file, or a link to it.
        limit: The most bytes that it may have.
        inside: The folder that the file must be in, even when links are followed. The folder itself may not be a link.

    Raises:
        OSError: It cannot be read, is too large, not a regular file, or outside the folder; `reason` says it in words.
    """
    with open_file(path, inside=inside) as stream:
        size = os.fstat(stream.fileno()).st_size
        wanted = size or min(limit, _BLOCK) + 1  # a file in /proc says that it is empty
        content = stream.read(wanted) if size <= limit else b""
    if max(size, len(content)) > limit:
        at_least = format_bytes(max(size, len(content)))
        raise OSError(errno.EFBIG, f"it has {at_least}, and only {format_bytes(limit)} are read", str(path))
    return content


def open_file(path: Path, *, inside: Path | None = None) -> io.BufferedReader:
    """Open a regular file for reading; the arguments and errors are those of `read`."""
    with _found(path, inside) as found:
        try:
            return open(path, "rb", opener=lambda _, flags: os.open(f"/proc/self/fd/{found}", flags))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def create(path: Path) -> io.BufferedWriter:
    """Open a file for writing, in place of one of this user's that may be there.

    Raises:
        OSError: It cannot be written, or there is something else: a link or a second name of another file, say, that
            somebody put there so that the other file is overwritten.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # a named pipe would wait for a reader
    try:
        stream = os.fdopen(os.open(path, flags, 0o666), "wb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe or a socket
            raise _taken(path) from error
        raise
    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        stream.close()
        raise _taken(path)
    stream.truncate()
    return stream


def _taken(path: Path) -> OSError:
    return OSError(errno.EEXIST, "this name belongs to something other than a file of yours", str(path))


def size(path: Path, *, inside: Path | None = None) -> int:
    """Return how many bytes a regular file has, without opening it; the arguments and errors are those of `read`."""
    with _found(path, inside) as found:
        return os.fstat(found).st_size


def real_path(path: Path) -> Path:
    """Return a path with all links followed; unlike `Path.resolve`, no error if they lead in a circle."""
    return Path(os.path.realpath(path))


def reason(error: OSError | ValueError) -> str:
    """Return why a file cannot be read, without the error's number and the path: `No such file or directory`."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@contextmanager
def _found(path: Path, inside: Path | None) -> Iterator[int]:
    """Yield a descriptor of the regular file that a path leads to, which cannot be read from yet."""
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if (kind := stat.S_IFMT(os.fstat(found).st_mode)) != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a file", str(path))
        if inside is not None:
            _check_inside(Path(f"/proc/self/fd/{found}").readlink(), path, inside)
        yield found
    finally:
        os.close(found)


def _check_inside(place: Path, path: Path, folder: Path) -> None:
    if not place.is_relative_to(real_path(folder.parent) / folder.name):
        what = f"it leads out of {folder}, to {place}, and was not read"
        raise OSError(errno.EXDEV, what, str(path))
