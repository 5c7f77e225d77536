"""Change a model repository completely or not at all, even when the process is killed.

A change is prepared in `.ROOT.staging/`, next to the root and on the same filesystem. It reaches the root only by
`rename`, which happens at once or not at all. To add version 5 of the model `m` to `models/`:

1. `.models.staging/version/` and `.models.staging/config.pbtxt` are written and flushed to disk;
2. `.models.staging/journal.json` is written: {"model": "m", "version": 5};
3. `version/` is renamed to `models/m/5`: Triton does not load it yet, because the config still names version 4;
4. `config.pbtxt` is renamed to `models/m/config.pbtxt`, which names version 5;
5. the journal is deleted first, then whatever else is in the staging folder.

If the process is killed in between, the next change finds the journal, and sees from the staged pieces that are left
how far it got:

| killed  | version/ | config.pbtxt | what the next change does                                           |
|---------|----------|--------------|---------------------------------------------------------------------|
| after 1 | there    | there        | there is no journal: it empties the staging folder                  |
| after 2 | there    | there        | the repository is as it was before: it empties the staging folder   |
| after 3 | gone     | there        | it removes `models/m/5`, unless somebody set the config to 5        |
| after 4 | gone     | gone         | the change was complete: it empties the staging folder              |

A rollback has no version/: steps 1 and 3 leave it out, and the journal's version is null. A first publish prepares the
whole folder of the model and moves it with one rename, so it needs no journal. Warmup files are moved before step 1:
their names are digests of their content, so no file that a server may be reading is ever replaced.
"""

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from builder.config import pbtxt
from builder.errors import RepositoryError

LOCK = "lock"
JOURNAL = "journal.json"
WARMUP = "warmup"
CONFIG = pbtxt.FILE
VERSION = "version"

OWN_WARMUP_FILE = re.compile(r"[0-9a-f]{64}\.raw")

_FICLONE = 0x40049409
"""Source: linux/fs.h."""


@dataclass(frozen=True, slots=True)
class _Journal:
    """The change in progress: the model, and the version that is added (None for a rollback)."""

    model: str
    version: int | None


class Staging:
    """The folder in which the changes to one repository are prepared.

    Attributes:
        root: The model repository.
        path: The staging folder, next to the root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root.parent / f".{root.name}.staging"

    def check_writable(self, model: str) -> None:
        """Check the permissions that a change to the model needs. Nothing is created.

        Raises:
            RepositoryError: This user may not write to a folder that a change writes to.
        """
        with reported(self.root):
            for folder in (self.path, self.root, self.root / model):
                nearest = next(place for place in (folder, *folder.parents) if place.exists())
                if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
                    is_read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
                    code = errno.EROFS if is_read_only else errno.EACCES
                    raise OSError(code, os.strerror(code), str(nearest))

    @contextmanager
    def change(self, model: str) -> Iterator[None]:
        """Hold the repository's lock for the block, after cleaning up what a killed change left behind.

        If the block fails, its change is undone.

        Raises:
            RepositoryError: The repository cannot be written to. Nothing in it changed.
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
                with suppress(OSError):  # the change is complete, and the next one empties the folder
                    self._clear()

    def switch(self, model: str, *, version: int | None) -> None:
        """Move the staged version into the repository, then the staged config, which makes Triton serve it."""
        target = self.root / model
        write(self.path / "journal.tmp", json.dumps(asdict(_Journal(model, version))).encode())
        rename(self.path / "journal.tmp", self.path / JOURNAL)
        if version is not None:
            rename(self.path / VERSION, target / str(version))
        rename(self.path / CONFIG, target / CONFIG)

    def _make(self) -> None:
        if not self.root.name:
            what = "the staging folder cannot be created next to the root of the filesystem"
            raise RepositoryError(self.root, what, "use a folder below it, such as /models")
        for folder in (self.root, self.path):
            make_folder(folder)
        if self.root.stat().st_dev != self.path.stat().st_dev:
            raise _other_filesystem(self.root)

    def _recover(self) -> None:
        """Undo the change of a killed process if it was not complete, and empty the folder."""
        if (journal := self._journal()) is not None:
            if journal.version is not None and self._is_half_done(journal.model, journal.version):
                rename(self.root / journal.model / str(journal.version), self.path / VERSION)
            self._sweep(journal.model)
        self._clear()

    def _is_half_done(self, model: str, version: int) -> bool:
        """Return whether the version is in the repository, but neither the change nor anybody since serves it."""
        is_version_in_place = not (self.path / VERSION).exists() and (self.root / model / str(version)).exists()
        config = self.root / model / CONFIG
        if not is_version_in_place or not (self.path / CONFIG).exists() or not config.exists():
            return False
        policy = pbtxt.parse(config.read_text("utf-8", errors="replace"), where=config).version_policy
        return policy.HasField("specific") and version not in policy.specific.versions

    def _journal(self) -> _Journal | None:
        """Read the journal; None when there is none.

        Raises:
            RepositoryError: It is damaged. Changes are written so that this cannot be the work of a killed process.
        """
        path = self.path / JOURNAL
        try:
            journal = _Journal(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise _damaged(path) from error
        if not isinstance(journal.model, str) or not isinstance(journal.version, int | None):
            raise _damaged(path)
        return journal

    def _clear(self) -> None:
        (self.path / JOURNAL).unlink(missing_ok=True)
        sync(self.path)
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()

    def _sweep(self, model: str) -> None:
        """Delete our warmup files that the model's config does not name, if the config can be read.

        This happens before a change, not after it: a server that is loading the former config still finds its files.
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
            if OWN_WARMUP_FILE.fullmatch(file.name) and file.name not in text:
                file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def flushed(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing, and flush it to disk at the end of the block."""
    with path.open("wb") as stream:
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
    """Turn an error of the operating system into a RepositoryError."""
    try:
        yield
    except OSError as error:
        raise _repository_error(where, error) from error


_FIXES = {
    errno.ENOENT: "check the path",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EACCES: "give this user write permission on the repository and on the folder that contains it",
    errno.EPERM: "give this user write permission on the repository and on the folder that contains it",
    errno.EROFS: "mount the filesystem for writing, or use another --repository",
    errno.EEXIST: "use another --repository, or move that file away",
    errno.ENOTDIR: "use another --repository, or move that file away",
    errno.ENOTEMPTY: "move what is in that folder away",
}


def _repository_error(where: Path, error: OSError) -> RepositoryError:
    if error.errno == errno.EXDEV:
        return _other_filesystem(where)
    fix = _FIXES.get(error.errno or 0, "check this path and the filesystem it is on, then run the command again")
    # Of a rename, what is in the way is at the second path.
    is_in_the_way = error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY)
    path = (error.filename2 if is_in_the_way else None) or error.filename or where
    return RepositoryError(path, error.strerror or str(error), fix)


def _damaged(journal: Path) -> RepositoryError:
    return RepositoryError(
        journal,
        "the record of an interrupted change is damaged, so the change can be neither finished nor undone",
        "make sure that each model's config.pbtxt serves a version that is complete, then delete this file",
    )


def _other_filesystem(root: Path) -> RepositoryError:
    return RepositoryError(
        root,
        f"it is a mount point: {root.parent} is on another filesystem, so no file can be renamed from there into it",
        f"use a folder below it, such as {root / 'models'}, or mount its parent folder instead",
    )
