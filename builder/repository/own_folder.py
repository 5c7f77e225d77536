"""A folder beside a repository that only this package writes to, and from which only its own files are deleted.

`.ROOT.staging` and `.ROOT.deploy` lie in a folder that other programs, and other users, may write to. So their name
proves nothing. A folder is used only if it

- is a real folder: a link could lead anywhere;
- belongs to this user, or to the owner of the repository;
- has our mark, a file that is written when the folder is made. A folder without it is used if it is empty, or if an
  earlier release made it: then it has the lock, and nothing but files with names that we use.

The folder stays open while it is used. What is deleted in it is named relative to the open folder, has one of our
names, and no link is followed.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from builder.errors import RepositoryError
from builder.repository.disk import sync

MARK = ".made-by-builder"

_MARK_TEXT = b"triton-repository-builder made this folder, and deletes what is in it. Keep nothing else here.\n"
_ANOTHER = "use another --repository"
_IS_NO_FOLDER = (errno.ENOTDIR, errno.ELOOP)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A folder of ours that is open. No method follows a link.

    Attributes:
        path: The folder, for messages.
        descriptor: The open folder.
    """

    path: Path
    descriptor: int

    def names(self) -> list[str]:
        """Return the names in the folder."""
        return entries(self.descriptor)

    def write(self, name: str, content: bytes, *, is_flushed: bool = False) -> None:
        """Write a file that must not exist yet."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(name, flags, 0o666, dir_fd=self.descriptor), "wb") as stream:
            stream.write(content)
            if is_flushed:
                stream.flush()
                os.fsync(stream.fileno())

    def replace(self, name: str, content: bytes) -> None:
        """Write a file in place of the one that is there, if one is; it is on disk when this returns.

        Whoever reads it has the old content or the new one. A process that is killed may leave `NAME.new` behind, which
        the next call replaces.
        """
        new = f"{name}.new"
        with suppress(FileNotFoundError):
            self.remove(new)
        self.write(new, content, is_flushed=True)
        self.rename(new, name)

    def rename(self, name: str, new: str) -> None:
        """Give a file another name, in place of the file that has that name, if one does."""
        os.rename(name, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        os.fsync(self.descriptor)

    def read(self, name: str, *, limit: int) -> bytes:
        """Read a small file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is a link, a folder or something else, or has more than `limit` bytes.
        """
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise ValueError("it is a link or a socket") from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ValueError("it is not a file")
            content = _read_all(file, limit + 1)
        finally:
            close(file)
        if len(content) > limit:
            raise ValueError(f"it has more than {limit} bytes")
        return content

    def remove(self, name: str) -> None:
        """Delete a file, a link, or a folder with everything in it.

        Folders inside are first moved up, to `removed-N`, so neither their depth nor a link in a path matters.
        """
        free = (new for n in count() if not _exists(new := f"removed-{n}", self.descriptor))
        waiting = [name]
        try:
            while waiting:
                waiting += self._remove_top(waiting.pop(), free)
        except OSError as error:
            code, what = error.errno, error.strerror
            if code == errno.EXDEV:
                code, what = errno.EBUSY, "another filesystem is mounted in it"
            raise OSError(code, what, str(self.path / name)) from error

    def _remove_top(self, name: str, free: Iterator[str]) -> list[str]:
        """Delete a file, or a folder whose folders are moved up; return the new names of those."""
        try:
            inside = os.open(name, _FOLDER, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno not in _IS_NO_FOLDER:
                raise
            os.unlink(name, dir_fd=self.descriptor)
            return []
        try:
            moved = [new for entry in entries(inside) if (new := self._remove_or_move(inside, entry, free))]
        finally:
            close(inside)
        os.rmdir(name, dir_fd=self.descriptor)
        return moved

    def _remove_or_move(self, inside: int, entry: str, free: Iterator[str]) -> str | None:
        if not stat.S_ISDIR(os.lstat(entry, dir_fd=inside).st_mode):
            os.unlink(entry, dir_fd=inside)
            return None
        new = next(free)
        os.rename(entry, new, src_dir_fd=inside, dst_dir_fd=self.descriptor)
        return new


@dataclass(frozen=True, slots=True)
class OwnFolder:
    """A folder of ours beside a repository, which need not exist yet.

    Attributes:
        path: The folder.
        root: The repository.
        lock: What the names of locks in it look like.
        names: What all other names look like that we use in it.
    """

    path: Path
    root: Path
    lock: re.Pattern[str]
    names: re.Pattern[str]

    def check(self) -> None:
        """Refuse the folder if it is there and is not ours. Nothing is created or changed.

        Raises:
            RepositoryError: It is a link or a file, belongs to somebody else, or holds what is not ours.
        """
        if os.path.lexists(self.path):
            with self._open():
                pass

    @contextmanager
    def opened(self) -> Iterator[OpenFolder]:
        """Make the folder if it is missing, and open it.

        Raises:
            RepositoryError: It is not ours.
        """
        with suppress(FileExistsError):
            self.path.mkdir()
            sync(self.path.parent)
        with self._open() as folder:
            with suppress(OSError):  # it exists; or the disk is full, and the lock is mark enough
                folder.write(MARK, _MARK_TEXT)
            yield folder

    @contextmanager
    def opened_if_there(self) -> Iterator[OpenFolder | None]:
        """Open the folder, or yield None if it is not there. Nothing is created.

        Raises:
            RepositoryError: It is not ours.
        """
        if os.path.lexists(self.path):
            with self._open() as folder:
                yield folder
        else:
            yield None

    @contextmanager
    def _open(self) -> Iterator[OpenFolder]:
        """Open the folder, and check that it is ours."""
        try:
            folder = OpenFolder(self.path, os.open(self.path, _FOLDER))
        except OSError as error:
            if error.errno not in _IS_NO_FOLDER:
                raise
            kind = "a link" if self.path.is_symlink() else "not a folder"
            what = f"this is {kind}, but builder needs a folder of its own here"
            raise RepositoryError(self.path, what, f"move it away, or {_ANOTHER}") from error
        try:
            self._check_owner(folder)
            self._check_content(folder)
            yield folder
        finally:
            close(folder.descriptor)

    def _check_owner(self, folder: OpenFolder) -> None:
        owner = os.fstat(folder.descriptor).st_uid
        owners = {os.geteuid()} | ({self.root.stat().st_uid} if self.root.exists() else set())
        if owner not in owners:
            what = f"this folder belongs to user {owner}, who is neither you nor the owner of the repository"
            raise RepositoryError(self.path, what, f"move it away if you may, or {_ANOTHER}")

    def _check_content(self, folder: OpenFolder) -> None:
        found = folder.names()
        if MARK in found and stat.S_ISREG(os.lstat(MARK, dir_fd=folder.descriptor).st_mode):
            return
        if any(self.lock.fullmatch(name) for name in found):  # the folder of an earlier release
            found = [name for name in found if not self.lock.fullmatch(name) and not self.names.fullmatch(name)]
        if found:
            listed = ", ".join(map(repr, sorted(found)[:3])) + (", …" if len(found) > 3 else "")
            what = f"builder needs this folder for itself, but did not make it, and it holds {listed}"
            raise RepositoryError(self.path, what, f"move it away, or {_ANOTHER}")


def close(descriptor: int) -> None:
    """Close a descriptor that nothing was written to; an error of the filesystem then means nothing."""
    with suppress(OSError):
        os.close(descriptor)


def entries(folder: int) -> list[str]:
    """Return the names in an open folder."""
    with os.scandir(folder) as found:
        return [entry.name for entry in found]


def _read_all(file: int, most: int) -> bytes:
    """Read up to this many bytes, in as many calls as that takes."""
    parts: list[bytes] = []
    while most > 0 and (part := os.read(file, min(most, 1 << 20))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _exists(name: str, folder: int) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True
