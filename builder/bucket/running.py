"""Run an operation on a repository wherever it is: in its folder, or on a working copy of what is in a bucket."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

from builder import interrupts
from builder.bucket.commit import commit
from builder.bucket.mirror import Mirror
from builder.bucket.storage import OvertakenError, Storage
from builder.bucket.wording import Names
from builder.bucket.working_copy import Wanted, WorkingCopy, copy_texts
from builder.errors import RepositoryError
from builder.progress import Report
from builder.repository import ModelDirectory, check_model_name

_ATTEMPTS = 3
"""How many times to try when somebody else changes the same model at the same time."""

Result = TypeVar("Result")

Operation = Callable[[Path, Report], Result]
"""Works on a repository in a folder."""


def is_url(repository: Path | str) -> bool:
    """Return whether a repository is in a bucket."""
    return "://" in str(repository)


def change(
    repository: Path | str,
    name: str,
    operation: Operation[Result],
    *,
    wanted: Wanted,
    reads_others: bool = False,
    report: Report,
) -> Result:
    """Change a model: in a folder directly, in a bucket by way of a working copy.

    Args:
        repository: The folder, or the URL of a bucket.
        name: The model.
        operation: Changes the model in a repository on disk, completely or not at all.
        wanted: The large objects that it reads.
        reads_others: Whether it reads the configs of other models, too.
        report: Called with each step's name and what it found.

    Raises:
        BuilderError: The operation failed.
        RepositoryError: The bucket cannot be reached, or these credentials may not read or write there.
        HostError: The package for such a bucket is not installed.
    """
    if not is_url(repository):
        return operation(Path(repository), report)
    check_model_name(name)
    storage = Storage.connect(str(repository))
    for _ in range(_ATTEMPTS):
        try:
            return _change_once(storage, name, operation, wanted, report, reads_others=reads_others)
        except OvertakenError as error:
            report("again", f"{name}: {error}")
    what = f"somebody else changed this model during each of {_ATTEMPTS} attempts"
    fix = "run the command again when nobody else is changing this model"
    raise RepositoryError(storage.below(name).url, what, fix)


def _change_once(
    storage: Storage,
    name: str,
    operation: Operation[Result],
    wanted: Wanted,
    report: Report,
    *,
    reads_others: bool,
) -> Result:
    with _folder_for(storage) as names:
        copy = WorkingCopy(storage.below(name), ModelDirectory(names.copy / name))
        copy.download(wanted)
        if reads_others:
            copy_texts(storage, names.copy, but=name)
        with names.in_errors(), interrupts.apart():
            result = operation(names.copy, names.in_reports(report))
        renamed: Result = names.in_result(result)
        return _with_notes(renamed, commit(copy), report)


def _with_notes(result: Result, notes: Sequence[str], report: Report) -> Result:
    """Add notes about the upload to a result that has some; report them if it has none."""
    if is_dataclass(result) and not isinstance(result, type) and hasattr(result, "notes"):
        return replace(result, notes=(*result.notes, *notes)) if notes else result
    for note in notes:
        report("note", note)
    return result


def read(repository: Path | str, name: str, operation: Operation[Result], *, wanted: Wanted, report: Report) -> Result:
    """Read a model: in a folder directly, in a bucket by way of a working copy.

    The arguments and errors are those of `change`.
    """
    if not is_url(repository):
        return operation(Path(repository), report)
    check_model_name(name)
    storage = Storage.connect(str(repository))
    with _folder_for(storage) as names:
        WorkingCopy(storage.below(name), ModelDirectory(names.copy / name)).download(wanted)
        with names.in_errors():
            result: Result = names.in_result(operation(names.copy, names.in_reports(report)))
            return result


def read_all(repository: Path | str, operation: Callable[[Path], Result]) -> Result:
    """Read every model: in a folder directly, in a bucket by way of a copy of all configs and manifests.

    Raises:
        RepositoryError: The repository cannot be read.
        HostError: The package for such a bucket is not installed.
    """
    if not is_url(repository):
        return operation(Path(repository))
    storage = Storage.connect(str(repository))
    with _folder_for(storage) as names:
        copy_texts(storage, names.copy)
        with names.in_errors():
            return operation(names.copy)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a repository is that is deployed from.

    Attributes:
        root: Its folder, or that of the working copy.
        mirror: What keeps the bucket the same as the working copy; None for a folder.
        names: The names of the working copy; for a folder both are the folder's.
    """

    root: Path
    mirror: Mirror | None
    names: Names


@contextmanager
def mirrored(repository: Path | str, name: str, version: int | None) -> Iterator[Place]:
    """Make a working copy of a model that is deployed from a bucket; use a folder itself.

    Args:
        repository: The folder, or the URL of a bucket.
        name: The model.
        version: The version to deploy; None is the one that the config names.

    Raises:
        RepositoryError: The bucket cannot be read.
        HostError: The package for such a bucket is not installed.
    """
    if not is_url(repository):
        yield Place(Path(repository), None, Names(Path(repository), str(repository)))
        return
    storage = Storage.connect(str(repository))
    with _folder_for(storage) as names:
        mirror = Mirror(storage, names.copy, name, version)
        with names.in_errors():
            yield Place(names.copy, mirror, names)


@contextmanager
def _folder_for(storage: Storage) -> Iterator[Names]:
    """Make a folder for a copy of the repository, and delete it at the end."""
    with tempfile.TemporaryDirectory(prefix="builder-", ignore_cleanup_errors=True) as folder:
        yield Names(Path(folder).resolve() / "models", storage.url)
