"""Deploy from a bucket: keep the servers' repository the same as the working copy that a deployment changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder import interrupts
from builder.bucket.commit import commit
from builder.bucket.storage import OvertakenError, Storage
from builder.bucket.wanted import to_deploy
from builder.bucket.working_copy import WorkingCopy
from builder.errors import RepositoryError
from builder.repository import ModelDirectory, check_model_name


@dataclass(slots=True)
class Mirror:
    """A model in a bucket, and the folders that a deployment places beside it: `NAME.candidate`, `NAME.probe-…`.

    What is in those folders for a link to a version of the model is copied inside the bucket, which has no links.

    Attributes:
        storage: The repository in the bucket.
        root: The repository on disk.
        name: The model.
        version: The version that is deployed; None is the one that the config names.
    """

    storage: Storage
    root: Path
    name: str
    version: int | None
    _copies: dict[str, WorkingCopy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the model, and the folders that a killed deployment has left.

        Raises:
            RepositoryError: The bucket cannot be read, or the name is not usable.
        """
        check_model_name(self.name)
        with self.storage.reported("read"):
            beside = [name for name in self.storage.folders() if self._is_beside(name)]
        for name in (self.name, *beside):
            self._copies[name] = self._copy(name)
        self._download()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Copy what is in the bucket, and upload what the block changes.

        Raises:
            RepositoryError: The bucket cannot be read or written to, or somebody else changed the model meanwhile.
        """
        self._download()
        yield
        for path in self.root.iterdir():
            if path.name not in self._copies and self._is_beside(path.name):
                self._copies[path.name] = self._copy(path.name)
        with interrupts.deferred():
            for copy in self._copies.values():
                self._commit(copy)

    def _download(self) -> None:
        for copy in self._copies.values():
            copy.download(to_deploy(self.version))

    def _commit(self, copy: WorkingCopy) -> None:
        try:
            commit(copy)
        except OvertakenError as error:
            raise RepositoryError(copy.storage.url, str(error), "deploy again") from error

    def _copy(self, name: str) -> WorkingCopy:
        is_ours = name != self.name
        return WorkingCopy(self.storage.below(name), ModelDirectory(self.root / name), is_mirrored=is_ours)

    def _is_beside(self, name: str) -> bool:
        return name == f"{self.name}.candidate" or name.startswith(f"{self.name}.probe-")
