"""Upload what an operation changed in a working copy, so that a server sees a complete version at every moment.

A bucket has no rename, so the order counts. First come the new objects, the manifest of a version after its other
files, and last config.pbtxt, which names the served version. Only then is anything deleted, and nothing that the config
names. Objects of a version are never overwritten by a new one: they are created only if there is none of that name.

The upload of config.pbtxt is the point of no return. If anything fails before it, what was uploaded is deleted again.
Ctrl-C waits while it lasts. If it ends with an error, the config is read back, because only its answer may be lost.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from builder import interrupts
from builder.bucket.storage import OvertakenError, Storage, reason, storage_errors
from builder.bucket.working_copy import Difference, WorkingCopy, is_kept_config, is_named_by_content
from builder.config import pbtxt, policy
from builder.errors import RepositoryError

_TIME_STEP_S = 1.0
"""The resolution of an object's time. Source: S3 and compatible services give `Last-Modified` in whole seconds."""


def commit(copy: WorkingCopy) -> list[str]:
    """Make the bucket what the working copy is.

    Returns:
        What the caller should know, one sentence each.

    Raises:
        OvertakenError: Somebody else has changed the model since it was copied. Nothing of ours is left.
        RepositoryError: The bucket cannot be written to, or not everything could be deleted.
    """
    change = copy.difference()
    if not change:
        return []
    with interrupts.deferred():
        upload = _Upload(copy, copy.storage)
        if copy.is_mirrored:
            upload.mirror(change)
            return []
        notes = upload.add(change)
        if change.removed:
            upload.remove(change)
        return notes


@dataclass(slots=True)
class _Upload:
    """An upload in progress; `written` are the objects that it created, and deletes again if it fails."""

    copy: WorkingCopy
    storage: Storage
    written: list[str] = field(default_factory=list)

    def add(self, change: Difference) -> list[str]:
        """Upload the files, then the config. If that fails, delete the files again, unless the config may name them.

        Warmup files stay: they are named by their content, so another version may use them by now.
        """
        try:
            with self.storage.reported("write"):
                for name in change.added:
                    self._create(name)
                for name in change.changed:
                    self._put(name)
                if change.config is not None:
                    self._refuse_changed_config()
        except BaseException as error:
            self._take_back(error)
            raise
        if change.config is None:
            return []
        with self.storage.reported("write"):
            return self._switch(change.config)

    def mirror(self, change: Difference) -> None:
        """Make a folder that only this process uses what it is on disk.

        The config is uploaded first and deleted last: it says whose folder this is, so that what a killed process has
        left can be removed. No server loads the folder before it is told to.
        """
        interrupts.hold()
        with self.storage.reported("write"):
            if change.config is not None:
                self._put(pbtxt.FILE)
            for name in (*change.changed, *change.added):
                self._put(name)
            for name in change.removed:
                self.storage.delete(name)

    def remove(self, change: Difference) -> None:
        """Delete what is gone, if the config in the bucket does not name it.

        Raises:
            OvertakenError: Somebody else has changed the config. Nothing was deleted.
            RepositoryError: Not everything could be deleted, or the config names a version that was.
        """
        interrupts.hold()
        with self.storage.reported("read"):
            if change.config is None and self.storage.read(pbtxt.FILE) != self.copy.config:
                raise OvertakenError("somebody else changed its config.pbtxt")
        for index, name in enumerate(change.removed):
            try:
                self.storage.delete(name)
            except storage_errors() as error:
                what = f"{len(change.removed) - index} of {len(change.removed)} objects could not be deleted"
                fix = "run the command again when the cause is removed: it deletes the rest, which no config names"
                raise RepositoryError(self.storage.url, f"{what}: {reason(error)}", fix) from error
        if change.versions:
            self._refuse_served(change.versions)

    def _refuse_served(self, removed: Sequence[int]) -> None:
        """Tell when somebody has made the config name a version while it was being deleted."""
        with self.storage.reported("read"):
            content = self.storage.read(pbtxt.FILE)
        if content is None:
            return
        parsed = pbtxt.parse(content.decode("utf-8", errors="replace"), where=f"{self.storage.url}/{pbtxt.FILE}")
        if served := set(policy.named_versions(parsed, ())) & set(removed):
            what = f"somebody else made it serve version {max(served)} while that version was being removed"
            raise RepositoryError(
                f"{self.storage.url}/{pbtxt.FILE}", what, "switch to a version that is there, or publish"
            )

    def _create(self, name: str) -> None:
        """Upload an object that must not exist yet."""
        if is_named_by_content(name):
            self._put(name)
            return
        path = self.copy.model.path / name
        try:
            if path.resolve() != path:
                self._put(name)
            else:
                self.storage.create(path, name)
        except FileExistsError as error:
            raise OvertakenError(f"somebody else uploaded {name}") from error
        if not self._may_be_named(name):
            self.written.append(name)

    def _may_be_named(self, name: str) -> bool:
        """Return whether somebody else may rely on this object by now: the config in force, kept with its version.

        Whoever replaces the same config finds it kept already, and names it.
        """
        folder = name.partition("/")[0]
        return is_kept_config(name) and any(other.startswith(f"{folder}/") for other in self.copy.objects)

    def _put(self, name: str) -> None:
        """Upload an object, or copy it inside the bucket where the file is a link to another model's."""
        path = self.copy.model.path / name
        root = self.copy.model.path.parent
        original = path.resolve()
        if original == path or not original.is_relative_to(root):
            self.storage.put(path, name)
        else:
            self.storage.copy(self.storage.above(), original.relative_to(root).as_posix(), name)

    def _refuse_changed_config(self) -> None:
        """Refuse to replace a config that somebody else changed since it was downloaded.

        A Triton that has loaded the model reloads it only when the newest time of its files has increased. So the
        config has to be newer than everything that such a server may have seen, even the new version's own files.
        Source: triton-inference-server/core, `model_repository_manager.cc`, which compares the newest times.
        """
        if self.copy.config is not None:
            time.sleep(_TIME_STEP_S)
        if self.storage.read(pbtxt.FILE) != self.copy.config:
            raise OvertakenError("somebody else changed its config.pbtxt")

    def _switch(self, content: bytes) -> list[str]:
        """Upload the config; if that fails, delete what was written before.

        If only the answer is lost, the config is in place although the upload failed, and names the new version.
        Then the version stays, and that it happened is a note.
        """
        failures: tuple[type[BaseException], ...] = (*storage_errors(), KeyboardInterrupt)
        interrupts.hold()
        former = self.copy.objects.get(pbtxt.FILE)
        try:
            self.storage.replace(pbtxt.FILE, content, tag=None if former is None else former.tag)
        except failures as error:
            if self._is_there(content, error):
                return [f"config.pbtxt was uploaded, although the upload ended with an error: {reason(error)}"]
            self._take_back(error)
            if isinstance(error, FileExistsError):
                raise OvertakenError("somebody else changed its config.pbtxt") from error
            raise
        return []

    def _is_there(self, config: bytes, error: BaseException) -> bool:
        """Return whether this is the config in the bucket.

        Raises:
            RepositoryError: The one there cannot be read, so nobody knows.
        """
        try:
            return self.storage.read(pbtxt.FILE) == config
        except storage_errors() as another:
            what = (
                f"the upload of its config.pbtxt ended with an error ({reason(error)}), and whether it took place "
                f"is unknown, because the config cannot be read back: {reason(another)}"
            )
            fix = "run the command again when the storage answers: that finishes the change, or finds it complete"
            raise RepositoryError(self.storage.url, what, fix) from error

    def _take_back(self, error: BaseException) -> None:
        """Delete what was uploaded before this error.

        Raises:
            RepositoryError: Something cannot be deleted. It does no harm, because no config names it.
        """
        interrupts.hold()
        for index, name in enumerate(self.written):
            try:
                self.storage.delete(name)
            except storage_errors() as another:
                left = ", ".join(self.written[index:])
                what = f"{reason(error)}; what was uploaded before cannot be deleted again: {reason(another)}"
                fix = f"delete these objects, which no config names, or leave them, and run the command again: {left}"
                raise RepositoryError(self.storage.url, what, fix) from error
