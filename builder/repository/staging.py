"""Changes to a model repository that are whole or not at all, even when the process is killed.

Everything is made ready in `.ROOT.staging/`, beside the root and on its filesystem, and reaches the root by
`rename` alone. Which of the staged pieces are still there tells the next change how far a killed one came:

| version/ | config.pbtxt | the killed change | what is left to do |
|---|---|---|---|
| there | there or not | had changed nothing that is served | forget it |
| gone | there | had put the version in place, not yet switched to it | take the version back |
| gone | gone | was complete | forget it |

The journal names the model and version; it is written when both pieces are complete and removed first of all.
"""

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from builder.config import pbtxt
from builder.errors import RepositoryError

LOCK = "lock"
JOURNAL = "journal.json"
WARMUP = "warmup"
CONFIG = "config.pbtxt"
VERSION = "version"

_OWN_WARMUP_FILE = re.compile(r"[0-9a-f]{64}\.raw")


_FICLONE = 0x40049409
"""From linux/fs.h."""


@dataclass(frozen=True, slots=True)
class _Journal:
    """The change under way: the model it is made to, and the version it adds, if it adds one."""

    model: str
    version: int | None


class Staging:
    """The folder where the changes to one repository are made ready.

    Attributes:
        root: The model repository.
        path: The folder, on the same filesystem.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root.parent / f".{root.name}.staging"

    def check_writable(self, model: str) -> None:
        """Refuse what a change would stumble over at once, for lack of rights. Nothing is made.

        Raises:
            RepositoryError: This user may not write where a change to the model writes.
        """
        with reported(self.root):
            for folder in (self.path, self.root, self.root / model):
                there = next(place for place in (folder, *folder.parents) if place.exists())
                if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
                    is_read_only = os.statvfs(there).f_flag & os.ST_RDONLY
                    code = errno.EROFS if is_read_only else errno.EACCES
                    raise OSError(code, os.strerror(code), str(there))

    @contextmanager
    def change(self, model: str) -> Iterator[None]:
        """Hold the repository's lock, clean up what a killed change left, and undo this one if it fails.

        Raises:
            RepositoryError: The repository cannot be written to; nothing in it changed.
        """
        with reported(self.root):
            self._make()
            with FileLock(self.path / LOCK):
                self._recover()
                self._sweep(model)
                try:
                    yield
                except BaseException:
                    self._recover()
                    self._sweep(model)
                    raise
                self._clear()

    def switch(self, model: str, *, version: int | None) -> None:
        """Put the staged version in place, then the staged config, which alone changes what is served."""
        target = self.root / model
        write(self.path / "journal.tmp", json.dumps(asdict(_Journal(model, version))).encode())
        rename(self.path / "journal.tmp", self.path / JOURNAL)
        if version is not None:
            rename(self.path / VERSION, target / str(version))
        rename(self.path / CONFIG, target / CONFIG)

    def _make(self) -> None:
        if not self.root.name:
            raise RepositoryError(self.root, "there is no place beside it to stage in", "use a folder below it")
        for folder in (self.root, self.path):
            make_folder(folder)
        if self.root.stat().st_dev != self.path.stat().st_dev:
            raise _other_filesystem(self.root)

    def _recover(self) -> None:
        """Undo a change that was cut off, and empty the folder."""
        if (journal := self._journal()) is not None:
            if journal.version is not None and self._is_cut_off(journal.model, journal.version):
                rename(self.root / journal.model / str(journal.version), self.path / VERSION)
            self._sweep(journal.model)
        self._clear()

    def _is_cut_off(self, model: str, version: int) -> bool:
        """Whether the version was put in place, and neither the change nor anybody since has switched to it."""
        if (self.path / VERSION).exists() or not (self.path / CONFIG).exists():
            return False
        config = self.root / model / CONFIG
        if not (self.root / model / str(version)).exists() or not config.exists():
            return False
        policy = pbtxt.parse(config.read_text("utf-8", errors="replace"), where=config).version_policy
        return policy.HasField("specific") and version not in policy.specific.versions

    def _journal(self) -> _Journal | None:
        try:
            return _Journal(**json.loads((self.path / JOURNAL).read_text()))
        except FileNotFoundError:
            return None

    def _clear(self) -> None:
        (self.path / JOURNAL).unlink(missing_ok=True)
        sync(self.path)
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()

    def _sweep(self, model: str) -> None:
        """Delete the warmup files of ours that the model's config does not name, if it can be read.

        A change leaves its predecessor's for the next one, so that a server that is just loading finds them.
        """
        folder, config = self.root / model / WARMUP, self.root / model / CONFIG
        if not folder.is_dir() or not config.is_file():
            return
        text = config.read_text("utf-8", errors="replace")
        try:
            pbtxt.parse(text, where=config)
        except RepositoryError:
            return
        for file in folder.iterdir():
            if _OWN_WARMUP_FILE.fullmatch(file.name) and file.name not in text:
                file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def flushed(path: Path) -> Iterator[BinaryIO]:
    """A new file's stream, flushed to disk at the end."""
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def write(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    with flushed(path) as stream:
        stream.write(content)


def copy(source: Path, target: Path) -> None:
    """Copy a file and flush it to disk; the two share their blocks where the filesystem can (btrfs, XFS)."""
    with source.open("rb") as content, flushed(target) as stream:
        if not _clone(content, stream):
            shutil.copyfile(source, target)  # in the kernel: 0.4 s of CPU per GB, a loop here 2.2


def _clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Whether the filesystem made `target` share the blocks of `source`.

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
    """Make a folder where there is none, and flush its parent's entries to disk."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)


def sync(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(top: Path) -> None:
    """Flush the entries of a folder and of all folders below it."""
    for folder, _, _ in os.walk(top):
        sync(Path(folder))


def rename(source: Path, target: Path) -> None:
    """Rename, and flush both folders."""
    source.rename(target)
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)


@contextmanager
def reported(where: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a RepositoryError."""
    try:
        yield
    except OSError as error:
        raise _refusal(where, error) from error


_FIXES = {
    errno.ENOENT: "check the path",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EACCES: "give this user write permission on the repository and on the folder that holds it",
    errno.EPERM: "give this user write permission on the repository and on the folder that holds it",
    errno.EROFS: "remount the filesystem for writing, or use another --repository",
    errno.EEXIST: "use another --repository, or move that file away",
    errno.ENOTDIR: "use another --repository, or move that file away",
    errno.ENOTEMPTY: "move what stands there away",
}


def _refusal(where: Path, error: OSError) -> RepositoryError:
    if error.errno == errno.EXDEV:
        return _other_filesystem(where)
    fix = _FIXES.get(error.errno or 0, "see to that, then try again")
    return RepositoryError(error.filename or where, error.strerror or str(error), fix)


def _other_filesystem(root: Path) -> RepositoryError:
    return RepositoryError(
        root,
        f"it is a mount point: {root.parent} is on another filesystem, so nothing can be renamed into it",
        f"use a folder below it, such as {root / 'models'}, or mount the folder that holds it instead",
    )
