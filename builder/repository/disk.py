"""Write files so that they are on disk afterwards, and say what is wrong when that fails."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from builder.errors import RepositoryError

_FICLONE = 0x40049409
"""Source: linux/fs.h."""


@contextmanager
def flushed(path: Path) -> Iterator[BinaryIO]:
    """Open a file that must not exist yet for writing, and flush it to disk at the end of the block."""
    with path.open("xb") as stream:  # a link in its place is not followed
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def write(path: Path, content: bytes | memoryview) -> None:
    """Write a file and flush it to disk."""
    with flushed(path) as stream:
        stream.write(content)


def copy(source: Path, target: Path) -> None:
    """Copy a file and flush it to disk; where the filesystem can, both files share their blocks (btrfs, XFS)."""
    with source.open("rb") as content, flushed(target) as stream:
        if not _clone(content, stream):
            shutil.copyfile(source, target)  # copies inside the kernel: 0.4 s of CPU per GB; a loop here takes 2.2 s


def _clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Make `target` share the blocks of `source`, and return whether the filesystem can do that.

    Source: ioctl_ficlone(2)
    """
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
            return False
        raise
    return True


def make_folder(folder: Path) -> None:
    """Create a folder unless it exists, and flush its parent's entries to disk."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)


def sync_folders(top: Path) -> None:
    """Flush the entries of a folder and of all folders below it."""
    for folder, _, _ in os.walk(top):
        sync(Path(folder))


def rename(source: Path, target: Path) -> None:
    """Rename, and flush both folders."""
    source.rename(target)
    sync_all((target.parent, source.parent))


def sync_all(folders: Iterable[Path]) -> None:
    """Flush the entries of some folders, each once."""
    for folder in dict.fromkeys(folders):
        sync(folder)


def sync(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reported(where: Path) -> Iterator[None]:
    """Turn an error of the operating system into a RepositoryError."""
    try:
        yield
    except OSError as error:
        raise _repository_error(where, error) from error


_NO_LOCKS = "use a filesystem that has file locks (flock), or mount it with them"

_FIXES = {
    errno.ENOENT: "check the path",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EACCES: "let this user read and change the repository and the folder that contains it",
    errno.EPERM: "let this user read and change the repository and the folder that contains it",
    errno.ENOLCK: _NO_LOCKS,
    errno.ENOSYS: _NO_LOCKS,
    errno.EOPNOTSUPP: _NO_LOCKS,
    errno.EBUSY: "unmount what is mounted there",
    errno.EROFS: "mount the filesystem for writing, or use another --repository",
    errno.EEXIST: "use another --repository, or move that file away",
    errno.ENOTDIR: "use another --repository, or move that file away",
    errno.ENOTEMPTY: "move what is in that folder away",
}


def _repository_error(where: Path, error: OSError) -> RepositoryError:
    if error.errno == errno.EXDEV:
        return other_filesystem(where)
    fix = _FIXES.get(error.errno or 0, "check this path and the filesystem it is on, then run the command again")
    # Of a rename, what is in the way is at the second path, and what is not allowed is in the repository.
    is_in_the_way = error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY)
    paths = [path for path in (error.filename2, error.filename) if path]
    inside = [path for path in paths if where in Path(path).parents]
    path = paths[0] if is_in_the_way and paths else next(iter((*inside, *reversed(paths))), where)
    return RepositoryError(path, error.strerror or str(error), fix)


def reason(error: BaseException) -> str:
    """Return why something failed, in a few words."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, RepositoryError):
        return error.what
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def other_filesystem(root: Path) -> RepositoryError:
    """Return the error for a repository that is on another filesystem than the folder that it is in."""
    return RepositoryError(
        root,
        f"it is a mount point: {root.parent} is on another filesystem, so no file can be renamed from there into it",
        f"use a folder below it, such as {root / 'models'}, or mount its parent folder instead",
    )
