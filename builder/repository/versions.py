"""Change a Triton model repository: install a version, switch between versions, remove old ones."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from builder.config import Config, ConfigOptions, ExistingConfig, make_config
from builder.config import making as model_config
from builder.errors import RepositoryError
from builder.model.lease import Lease
from builder.record import Content, Manifest, reference
from builder.record import manifest as version_manifest
from builder.repository import staging
from builder.repository.model_directory import ModelDirectory, check_model_name, size_bytes
from builder.repository.staging import Staging, reported
from builder.tensors import Array


@dataclass(frozen=True, slots=True)
class Artifact:
    """A proven version, ready to install.

    Attributes:
        files: What Triton loads, by path in the version's directory: `model.onnx` and files of external weights
            beside it. A path is copied.
        manifest: Describes it; `manifest.model` is `ModelFile.of` these files.
        reference: `input:NAME` and `output:NAME`, each `dtype[rows, *dims]`.
        leases: Of files to copy, held since before they were read for the manifest.
    """

    files: Mapping[str, Content]
    manifest: Manifest
    reference: Mapping[str, Array]
    leases: Mapping[Path, Lease] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version that is served from now on.

    Attributes:
        path: Its directory.
        version: Its number.
        created: False when the served version already was this one.
        config_changed: Whether config.pbtxt changed.
        notes: What the operator should know, one sentence each.
    """

    path: Path
    version: int
    created: bool
    config_changed: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of the served version; nothing changed when both are the same."""

    model_name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version as `list` shows it.

    Attributes:
        version: Its number.
        bytes: Of all its files.
        served: Whether the config serves it.
        published: When its manifest was written; None when this package did not publish it.
        manifest: What was published; None as above, or when it cannot be read.
        problem: Why the manifest cannot be read.
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
        name: Its directory's name.
        versions: Ascending.
        problem: Why its served version cannot be told.
    """

    name: str
    versions: tuple[ListedVersion, ...]
    problem: str | None


class Repository:
    """A directory of models, each with numbered versions and one config.pbtxt that names the served one."""

    def __init__(self, root: Path) -> None:
        with reported(root):
            self.root = root.resolve()
        self._staging = Staging(self.root)

    def model(self, name: str) -> ModelDirectory:
        """A model's directory, to read from.

        Raises:
            RepositoryError: It is not a usable name.
        """
        check_model_name(name)
        return ModelDirectory(self.root / name)

    def check_writable(self, name: str) -> None:
        """Refuse a model that cannot be installed here for lack of rights, before any work is done for it.

        Raises:
            RepositoryError: The name is not usable, or this user may not write there.
        """
        check_model_name(name)
        self._staging.check_writable(name)

    def list_models(self) -> Iterator[ListedModel]:
        """Every model, in order of name; what is wrong with one is told of it and hides no other.

        Raises:
            RepositoryError: There is no such repository, or it cannot be read.
        """
        with reported(self.root):
            folders = sorted(entry for entry in self.root.iterdir() if entry.is_dir())
        for folder in folders:
            with reported(folder):
                yield _list_model(ModelDirectory(folder))

    def install(self, name: str, artifact: Artifact, options: ConfigOptions | None = None) -> PublishedVersion:
        """Add a version and serve it, all at once or not at all.

        When the served version is the same already, none is added, and only config.pbtxt follows the options.

        Raises:
            ModelError: Triton cannot serve such a tensor.
            RepositoryError: The name is not usable, the repository cannot be written to, or the config there
                contradicts the new version. Nothing on disk changed.
        """
        model = self.model(name)
        with self._staging.change(name):
            existing = model.find_config()
            if existing is None:
                return self._install_first(model, artifact, options)
            served = model.served_version()
            created = not _is_served(model, served, artifact)
            version = model.next_version() if created else served
            rows = artifact.reference if created else model.read_reference(version)
            config = make_config(
                artifact.manifest,
                name=name,
                version=version,
                sample=reference.first_row(rows),
                options=options,
                existing=ExistingConfig(existing, _find_manifest(model, served), model.config_path),
            )
            if created:
                self._stage_version(self._staging.path / staging.VERSION, artifact)
            self._switch(model, config, version=version if created else None)
        changed = config.text != existing
        return PublishedVersion(model.version_dir(version), version, created, changed, config.notes)

    def rollback(self, name: str, to: int | None = None) -> Switch:
        """Serve another version: the given one, or the highest below the served one.

        Raises:
            RepositoryError: There is no such version, or the config that is there contradicts it.
        """
        model = self.model(name)
        model.read_config()
        with self._staging.change(name):
            before = model.served_version()
            after = _version_below(model, before) if to is None else to
            model.check_version(after)
            if after != before:
                self._switch(model, _config_for(model, before, after), version=None)
            return Switch(name, before, after)

    def prune(self, name: str, *, keep: int) -> tuple[int, ...]:
        """Remove all but the newest `keep` versions; the served one stays, and what others put there.

        Returns:
            The versions removed, ascending.

        Raises:
            RepositoryError: There is no such model, or its config does not say which version is served.
        """
        if keep < 1:
            raise RepositoryError(name, f"it cannot be left with {keep} versions", "keep at least 1")
        model = self.model(name)
        model.read_config()
        with self._staging.change(name):
            served = model.served_version()
            published = [version for version in model.versions() if model.is_published(version)]
            removed = tuple(version for version in published[:-keep] if version != served)
            for version in removed:
                staging.rename(model.version_dir(version), self._staging.path / f"pruned-{version}")
            return removed

    def _install_first(
        self, model: ModelDirectory, artifact: Artifact, options: ConfigOptions | None
    ) -> PublishedVersion:
        """Bring a whole model into place with one rename."""
        if model.path.is_dir() and any(model.path.iterdir()):
            raise RepositoryError(
                model.path,
                "it is not empty and has no config.pbtxt",
                "write one for the model that is there, or publish under another --name",
            )
        sample = reference.first_row(artifact.reference)
        config = make_config(artifact.manifest, name=model.name, version=1, sample=sample, options=options)
        staged = self._staging.path / "model"
        staged.mkdir()
        self._stage_version(staged / "1", artifact)
        staging.write(staged / model_config.FILE, config.text.encode())
        if config.warmup:
            (staged / staging.WARMUP).mkdir()
        for file, content in config.warmup.items():
            staging.write(staged / staging.WARMUP / file, content)
        staging.sync_folders(staged)
        staging.rename(staged, model.path)
        return PublishedVersion(model.version_dir(1), 1, True, True, config.notes)

    def _stage_version(self, folder: Path, artifact: Artifact) -> None:
        """Write a version, complete and flushed to disk, and check that it is what was proven."""
        for file, content in artifact.files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                staging.copy(content, path)
            else:
                staging.write(path, content)
        manifest = artifact.manifest
        copied = [content for content in artifact.files.values() if isinstance(content, Path)]
        is_held = all(file in artifact.leases and artifact.leases[file].is_unbroken() for file in copied)
        if not is_held and manifest.model.at(folder) != manifest.model:
            what = "the model's files changed while they were being published"
            raise RepositoryError(manifest.source.file, what, "publish again")
        with staging.flushed(folder / manifest.reference.file) as stream:
            reference.write_arrays(stream, artifact.reference)
        staging.write(folder / version_manifest.FILE, manifest.to_json().encode())
        staging.sync_folders(folder)

    def _switch(self, model: ModelDirectory, config: Config, *, version: int | None) -> None:
        """Bring the warmup files, the staged version, and last the config into place."""
        self._place_warmup(model.path / staging.WARMUP, config.warmup)
        staged = self._staging.path / staging.CONFIG
        staging.write(staged, config.text.encode())
        shutil.copymode(model.config_path, staged)
        self._staging.switch(model.name, version=version)

    def _place_warmup(self, folder: Path, files: Mapping[str, bytes]) -> None:
        if files:
            staging.make_folder(folder)
        for file, content in files.items():
            staging.write(self._staging.path / file, content)
            staging.rename(self._staging.path / file, folder / file)


def _find_manifest(model: ModelDirectory, version: int) -> Manifest | None:
    """The manifest of a version, None when it is missing, unreadable or another's."""
    try:
        return model.read_manifest(version)
    except RepositoryError:
        return None


def _is_served(model: ModelDirectory, served: int, artifact: Artifact) -> bool:
    """Whether the served version is this artifact, whole and proven for such batches."""
    manifest = _find_manifest(model, served)
    if manifest is None or not manifest.covers(artifact.manifest):
        return False
    try:
        model.read_reference(served)
        return manifest.model.at(model.version_dir(served)) == manifest.model
    except (RepositoryError, OSError):
        return False


def _version_below(model: ModelDirectory, served: int) -> int:
    below = [version for version in model.versions() if version < served]
    if not below:
        raise RepositoryError(model.path, f"there is no version before {served}", "publish another one")
    return below[-1]


def _config_for(model: ModelDirectory, before: int, after: int) -> Config:
    """The config that serves `after` in place of `before`."""
    text, path = model.read_config(), model.config_path
    if not model.is_published(after):
        return model_config.point_at(text, after, where=path)
    model.check_complete(after)
    sample = reference.first_row(model.read_reference(after))
    existing = ExistingConfig(text, _find_manifest(model, before), path)
    return make_config(model.read_manifest(after), name=model.name, version=after, sample=sample, existing=existing)


def _list_model(model: ModelDirectory) -> ListedModel:
    served, problem = None, None
    try:
        served = model.served_version()
    except RepositoryError as error:
        problem = error.what
    versions = tuple(_list_version(model, version, version == served) for version in model.versions())
    if problem is None and served not in model.versions():
        problem = f"its config serves version {served}, which is not there"
    return ListedModel(model.name, versions, problem)


def _list_version(model: ModelDirectory, version: int, served: bool) -> ListedVersion:
    folder = model.version_dir(version)
    manifest, published, problem = None, None, None
    if model.is_published(version):
        published = datetime.fromtimestamp((folder / version_manifest.FILE).stat().st_mtime, timezone.utc)
        try:
            manifest = model.read_manifest(version)
        except RepositoryError as error:
            problem = error.what
    return ListedVersion(version, size_bytes(folder), served, published, manifest, problem)
