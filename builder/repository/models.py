"""A model repository: a folder of models, each with numbered versions and one config that names the served version."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.errors import RepositoryError
from builder.progress import Report, silent
from builder.repository import listing
from builder.repository.change import Change
from builder.repository.disk import reported
from builder.repository.listing import ListedModel
from builder.repository.model_directory import ModelDirectory, check_model_name
from builder.repository.staging import Staging


class Repository:
    """The models below one folder, which need not exist yet.

    Attributes:
        root: The folder, with all links followed.
        report: Called with `wait` when a change waits for another one, and with `note` for what is not as expected.
        lock_timeout_s: How long a change waits for another one, in seconds; None waits until that one is over.
    """

    def __init__(self, root: Path, *, report: Report = silent, lock_timeout_s: float | None = None) -> None:
        self.root = _resolved(root)
        self.report = report
        self.lock_timeout_s = lock_timeout_s
        self._staging = Staging(self.root, report=report, lock_timeout_s=lock_timeout_s)

    def model(self, name: str) -> ModelDirectory:
        """Return a model's directory, to read from; the model need not exist.

        Raises:
            RepositoryError: The name is not usable.
        """
        check_model_name(name)
        return ModelDirectory(self.root / name)

    def check_writable(self, name: str) -> None:
        """Check that a model can be installed here, before any work is done for it. Nothing is created.

        Raises:
            RepositoryError: The name is not usable, or this user may not write to the repository.
        """
        check_model_name(name)
        self._staging.check_writable(name)

    def list_models(self) -> Iterator[ListedModel]:
        """Yield every model, sorted by name; what is wrong with one model is in its `problem`.

        Raises:
            RepositoryError: The repository does not exist, or cannot be read.
        """
        with reported(self.root):
            folders = sorted(entry for entry in self.root.iterdir() if entry.is_dir())
        for folder in folders:
            with reported(folder):
                yield listing.read(ModelDirectory(folder))

    @contextmanager
    def changing(self, name: str, command: str) -> Iterator[Change]:
        """Hold the repository's lock while a model is changed; if the block fails, nothing has changed.

        Args:
            name: The model.
            command: What changes it, such as `publish digits`, to tell whoever waits for the lock.

        Raises:
            RepositoryError: The name is not usable, or the repository cannot be written to.
        """
        model = self.model(name)
        with self._staging.change(name, command) as transaction:
            yield Change(model, transaction)

    def prune(self, name: str, *, keep: int) -> tuple[int, ...]:
        """Remove all but the newest `keep` versions, all at once or none.

        The served versions stay, and so do versions that this package did not publish.

        Returns:
            The numbers of the removed versions, ascending.

        Raises:
            RepositoryError: There is no such model, or its config serves no version.
        """
        if keep < 1:
            raise RepositoryError(name, f"it cannot be left with {keep} versions", "keep at least 1")
        self.model(name).read_config()  # refuses an unknown model before anything is created
        with self.changing(name, f"prune {name}") as change:
            model = change.model
            model.served_version()  # refuses a config that serves none
            served = model.served_versions()
            published = [version for version in model.versions() if model.is_published(version)]
            removed = tuple(version for version in published[:-keep] if version not in served)
            change.transaction.remove(removed)
        for note in change.notes:
            self.report("note", note)
        return removed


def _resolved(root: Path) -> Path:
    """Follow all links in a path.

    Raises:
        RepositoryError: One of them leads back to itself.
    """
    try:
        with reported(root):
            return root.resolve()
    except RuntimeError as error:
        what = "a link in this path leads back to itself"
        raise RepositoryError(root, what, "use another --repository, or correct the link") from error
