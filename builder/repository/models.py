"""A model repository: a folder of models, each with numbered versions and one config that names the served version."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from builder.errors import RepositoryError
from builder.progress import Report, silent
from builder.repository import listing, pruning
from builder.repository.change import Change
from builder.repository.deployed import recorded
from builder.repository.disk import reported
from builder.repository.listing import ListedModel
from builder.repository.lock import Wait
from builder.repository.model_directory import ModelDirectory, check_model_name
from builder.repository.pruning import Asked, Known, Pruning
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
        self._staging.check_writable(name, self._keeps_config(name))

    def _keeps_config(self, name: str) -> Iterator[Path]:
        """Yield the folder in which the config of a model is kept when it is replaced."""
        model = self.model(name)
        with suppress(RepositoryError):
            yield model.version_dir(model.served_version())

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

    def prune(
        self,
        name: str,
        *,
        keep: int,
        ask: Callable[[], Sequence[Asked]] = tuple,
        is_stopped: Callable[[str], bool] = lambda server: False,
        are_all_known: bool = True,
        gone: Collection[str] = (),
        dry_run: bool = False,
    ) -> Pruning:
        """Remove old versions that are not in use, all at once or none; `pruning` says which are in use.

        Versions that this package did not make stay, too. A deployment of the model waits until this is over.

        Args:
            name: The model.
            keep: How many of the newest versions to keep.
            ask: Asks servers which versions they answer with. It is called once no deployment goes on.
            is_stopped: Returns whether a server to which the model was deployed has certainly ended.
            are_all_known: Whether only these servers, and those that the model was deployed to, answer with it.
            gone: The addresses of servers that exist no more; where `deploy` left a version on them is forgotten.
            dry_run: Whether to say only what would be removed; nothing is written then.

        Raises:
            RepositoryError: There is no such model, its config serves no version, or a config or a record that says
                what is in use cannot be read. Nothing was removed.
        """
        if keep < 1:
            raise RepositoryError(name, f"it cannot be left with {keep} versions", "keep at least 1")
        model = self.model(name)
        model.read_config()  # refuses an unknown model before anything is created
        wait = Wait(self.report, self.lock_timeout_s)
        with ExitStack() as stack:
            with reported(model.path):
                record = stack.enter_context(recorded(self.root, name, f"prune {name}", wait, to_change=not dry_run))
            known = Known.of(record.servers(), ask(), gone=gone, is_stopped=is_stopped, are_all=are_all_known)
            if not dry_run:
                record.forget(gone)
            with self._pruning(name, dry_run) as change:
                plan = pruning.plan(model, keep=keep, known=known)
                if change is not None:
                    change.transaction.remove(plan.removed)
            notes = () if change is None else change.notes
        for note in notes:
            self.report("note", note)
        return plan

    @contextmanager
    def _pruning(self, name: str, dry_run: bool) -> Iterator[Change | None]:
        """Hold the repository's lock, unless nothing is to be changed."""
        if dry_run:
            yield None
        else:
            with self.changing(name, f"prune {name}") as change:
                yield change


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
