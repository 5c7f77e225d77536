"""Say what a repository contains: its models, their versions, and what is wrong with them."""

from dataclasses import dataclass
from datetime import datetime, timezone

from builder.errors import RepositoryError
from builder.record import MANIFEST_FILE, Manifest
from builder.repository.model_directory import ModelDirectory, size_bytes


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version as `list` shows it.

    Attributes:
        version: Its number.
        bytes: The size of all its files.
        served: Whether the config serves it.
        published: When it was published; None when this package did not publish it.
        manifest: Its manifest; None when this package did not publish it, or when it cannot be read.
        problem: Why the manifest cannot be read; None when it can.
    """

    version: int
    bytes: int
    served: bool
    published: datetime | None
    manifest: Manifest | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as `list` shows it.

    Attributes:
        name: The name of its directory.
        versions: Its versions, ascending.
        problem: Why its served version is unknown or missing; None when all is well.
    """

    name: str
    versions: tuple[ListedVersion, ...]
    problem: str | None


def read(model: ModelDirectory) -> ListedModel:
    """Read what `list` shows of a model."""
    served, problem = None, None
    try:
        served = model.served_version()
    except RepositoryError as error:
        problem = error.what
    found = (_find_version(model, version, version == served) for version in model.versions())
    versions = tuple(version for version in found if version is not None)
    if problem is None and served not in model.versions():
        problem = f"its config serves version {served}, which is missing"
    return ListedModel(model.name, versions, problem)


def _find_version(model: ModelDirectory, version: int, served: bool) -> ListedVersion | None:
    """Read what `list` shows of a version; None if somebody prunes it just now, because reading takes no lock."""
    folder = model.version_dir(version)
    try:
        listed = _read_version(model, version, served)
    except FileNotFoundError:
        if folder.exists():
            raise
        return None
    return listed if folder.exists() else None


def _read_version(model: ModelDirectory, version: int, served: bool) -> ListedVersion:
    folder = model.version_dir(version)
    manifest, published, problem = None, None, None
    if model.is_published(version):
        published = datetime.fromtimestamp((folder / MANIFEST_FILE).stat().st_mtime, timezone.utc)
        try:
            manifest = model.read_manifest(version)
        except RepositoryError as error:
            problem = error.what
    return ListedVersion(version, size_bytes(folder), served, published, manifest, problem)
