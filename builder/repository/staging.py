"""The folder beside a repository in which its changes are prepared, by one process at a time."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from builder import interrupts
from builder.errors import RepositoryError
from builder.progress import Report, silent
from builder.repository.disk import make_folder, other_filesystem, reported
from builder.repository.lock import Wait, locked
from builder.repository.own_folder import OpenFolder, OwnFolder
from builder.repository.transaction import LEFT_OVER, Transaction

LOCK = "lock"

_OURS = re.compile(rf"{LEFT_OVER.pattern}|{LOCK}\.holder|journal\.(json|bad-\d+)")


class Staging:
    """The folder in which the changes to one repository are prepared.

    Attributes:
        root: The model repository.
        path: The staging folder, next to the root.
    """

    def __init__(self, root: Path, *, report: Report = silent, lock_timeout_s: float | None = None) -> None:
        self.root = root
        self.path = root.parent / f".{root.name}.staging"
        self._folder = OwnFolder(self.path, root, re.compile(LOCK), _OURS)
        self._wait = Wait(report, lock_timeout_s)

    def check_writable(self, model: str, others: Iterable[Path] = ()) -> None:
        """Check the permissions that a change to the model needs. Nothing is created.

        Args:
            model: The model's name.
            others: Folders in it that the change writes to.

        Raises:
            RepositoryError: This user may not write to a folder that a change writes to, or a change would delete or
                change what is not ours.
        """
        with reported(self.root):
            self._folder.check()
            _refuse_link(self.root / model)
            for folder in (self.path, self.root, self.root / model, *others):
                nearest = next(place for place in (folder, *folder.parents) if place.exists())
                if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
                    is_read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
                    code = errno.EROFS if is_read_only else errno.EACCES
                    raise OSError(code, os.strerror(code), str(nearest))

    @contextmanager
    def change(self, model: str, command: str) -> Iterator[Transaction]:
        """Hold the repository's lock for the block, after cleaning up what a killed change left behind.

        If the block fails, its change is undone.

        Args:
            model: The model that is changed.
            command: What changes it, to tell whoever waits for the lock.

        Raises:
            RepositoryError: The repository cannot be written to. Nothing in it changed.
        """
        with reported(self.root), interrupts.deferred():
            self._make_root()
            with self._folder.opened() as folder, locked(folder, LOCK, command, self._wait):
                self._check_filesystem(folder)
                _refuse_link(self.root / model)
                transaction = Transaction(self.root, model, folder)
                if (note := transaction.recover()) is not None:
                    self._wait.report("note", note)
                try:
                    yield transaction
                except BaseException as error:
                    interrupts.hold()
                    transaction.undo(error)
                    raise
                transaction.clean_up()

    def _make_root(self) -> None:
        if not self.root.name:
            what = "the staging folder cannot be created next to the root of the filesystem"
            raise RepositoryError(self.root, what, "use a folder below it, such as /models")
        make_folder(self.root)

    def _check_filesystem(self, folder: OpenFolder) -> None:
        if self.root.stat().st_dev != os.fstat(folder.descriptor).st_dev:
            raise other_filesystem(self.root)


def _refuse_link(folder: Path) -> None:
    """Refuse to change what a link leads to, which may be outside the repository.

    Raises:
        RepositoryError: It is a link.
    """
    if folder.is_symlink():
        what = "it is a link, and what it leads to is not changed"
        raise RepositoryError(folder, what, f"put the folder itself in its place: {os.path.realpath(folder)}")
