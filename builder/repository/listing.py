"""Say what a repository contains: its models, their versions, and what is wrong with them."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from builder.errors import RepositoryError
from builder.files import reason
from builder.record import MANIFEST_FILE, Manifest
from builder.repository import kept
from builder.repository.kinds import Kind
from builder.repository.model_directory import ModelDirectory

Origin = Literal["published", "adopted", "foreign"]
"""Where a version came from. One that was adopted was there before, and was proven as it is."""

_LATEST = datetime(9000, 1, 1, tzinfo=timezone.utc).timestamp()


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version as `list` shows it.

    Attributes:
        version: Its number.
        bytes: The size of all its files.
        served: Whether the config serves it.
        published: When it was published or adopted; None when it was neither.
        manifest: Its manifest; None when it was neither published nor adopted, or when it cannot be read.
        problem: Why the manifest cannot be read; None when it can.
        is_default: Whether it answers requests that name no version.
        kept_configs: The numbers of the configs that served it before and are kept with it, ascending.
        is_prepared: Whether it was published without being served, and has not been served since.
    """

    version: int
    bytes: int
    served: bool
    published: datetime | None
    manifest: Manifest | None
    problem: str | None
    is_default: bool = False
    kept_configs: tuple[int, ...] = ()
    is_prepared: bool = False

    @property
    def origin(self) -> Origin:
        """Where it came from."""
        if self.manifest is not None and self.manifest.adopted:
            return "adopted"
        return "foreign" if self.published is None else "published"


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as `list` shows it.

    Attributes:
        name: The name of its directory.
        versions: Its versions, ascending.
        problem: Why its served version is unknown or missing; None when all is well.
        kind: What it is; None when its config cannot be read.
        missing_members: For an ensemble, the members that are not in this repository.
        max_batch_size: The max_batch_size in its config; None when there is no config that can be read.
        config_changed: When its config was last changed; None when it has none.
    """

    name: str
    versions: tuple[ListedVersion, ...]
    problem: str | None
    kind: Kind | None = None
    missing_members: tuple[str, ...] = ()
    max_batch_size: int | None = None
    config_changed: datetime | None = None


def read(model: ModelDirectory) -> ListedModel:
    """Read what `list` shows of a model, whatever is wrong with it."""
    kind: Kind | None = None
    numbers: tuple[int, ...] = ()
    served: tuple[int, ...] = ()
    problem = None
    try:
        numbers = model.versions()
        kind = model.kind()
        served = model.served_versions()
    except RepositoryError as error:
        problem = error.what
    default = max((version for version in served if version in numbers), default=None)
    found = (_read_version(model, version, version in served, version == default) for version in numbers)
    # Reading takes no lock: somebody may prune a version just now.
    versions = tuple(listed for listed in found if not _is_gone(model.version_dir(listed.version)))
    if problem is None and kind is not None:
        problem = _problem(kind, versions, served)
    largest, changed = _read_config(model)
    return ListedModel(model.name, versions, problem, kind, tuple(_missing(model, kind)), largest, changed)


def _read_config(model: ModelDirectory) -> tuple[int | None, datetime | None]:
    """Return the max_batch_size of the config, and when the config was changed, as far as they can be read."""
    largest, changed = None, None
    with suppress(RepositoryError):
        largest = model.max_batch_size()
    with suppress(OSError):
        changed = _when(model.config_path)
    return largest, changed


def _problem(kind: Kind, versions: Sequence[ListedVersion], served: Sequence[int]) -> str | None:
    """Return why Triton would not load the model as intended, as far as its folder tells."""
    numbers = [version.version for version in versions]
    if missing := [version for version in served if version not in numbers]:
        return f"its config serves version {', '.join(map(str, missing))}, which is missing"
    if not numbers:
        return "it has no version" if kind.has_config else "it has no config.pbtxt and no version"
    if not kind.has_config and any(version.published for version in versions):
        return "it has no config.pbtxt"
    if not served:
        return "its config serves no version"
    return None if kind.backend else "nothing tells which backend it has"


def _missing(model: ModelDirectory, kind: Kind | None) -> Iterator[str]:
    """Yield the members of an ensemble that have no folder beside it."""
    for name in kind.members if kind is not None else ():
        if not _is_folder_or_link(model.path.parent / name):
            yield name


def _read_version(model: ModelDirectory, version: int, served: bool, is_default: bool) -> ListedVersion:
    folder = model.version_dir(version)
    manifest, published, problem = None, None, None
    try:
        if model.is_published(version):
            published = _when(folder / MANIFEST_FILE)
            manifest = model.read_manifest(version)
    except RepositoryError as error:
        problem = error.what
    except OSError as error:
        problem = f"its manifest cannot be read: {reason(error)}"
    numbers: tuple[int, ...] = ()
    is_prepared = False
    with suppress(RepositoryError):
        numbers = kept.numbers(model, version)
        is_prepared = not served and kept.prepared(model, version) is not None
    return ListedVersion(
        version, _size_bytes(folder), served, published, manifest, problem, is_default, numbers, is_prepared
    )


def _when(path: Path) -> datetime:
    """Return when a file was changed. Its time may be outside the range of `datetime`."""
    seconds = min(max(path.stat().st_mtime, 0), _LATEST)
    return datetime.fromtimestamp(seconds, timezone.utc)


def _is_gone(folder: Path) -> bool:
    """Return whether nothing is there; what may not be looked at is."""
    try:
        folder.lstat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def _is_folder_or_link(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


def _is_folder(path: Path) -> bool:
    """Return whether a folder is there that this user may look at. Links are not followed."""
    with suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def _size_bytes(folder: Path) -> int:
    """Return the size of all files below a folder that can be seen. Links are not followed."""
    total, waiting = 0, [str(folder)] if _is_folder(folder) else []
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
