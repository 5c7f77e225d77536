"""Change one model while the repository's lock is held: add a version, or serve another one."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.config import Config, pbtxt
from builder.errors import RepositoryError
from builder.model import FileState
from builder.record import MANIFEST_FILE, Content, Manifest, write_arrays
from builder.repository import disk, transaction
from builder.repository.model_directory import ModelDirectory
from builder.repository.transaction import Transaction
from builder.tensors import Array


@dataclass(frozen=True, slots=True)
class Artifact:
    """A proven version, ready to install.

    Attributes:
        files: What Triton loads, by path in the version's directory: `model.onnx`, and files of external weights. A
            `Path` is copied.
        manifest: The manifest of the version; `manifest.model` is `ModelFile.of` these files.
        reference: The samples and answers: `input:NAME` and `output:NAME`, each `dtype[rows, *dims]`.
        states: The states of files to copy, each read before the file was hashed for the manifest.
    """

    files: Mapping[str, Content]
    manifest: Manifest
    reference: Mapping[str, Array]
    states: Mapping[Path, FileState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slot:
    """The place for an artifact in a model, and what has to be known to make the config.

    Attributes:
        version: The number that the artifact gets, or has.
        is_new: Whether it has to be added. If not, the served version is already this artifact.
        config_text: The text of the config.pbtxt that is there; None when there is none.
        served: The manifest of the version that this config serves; None if it has no readable manifest.
    """

    version: int
    is_new: bool
    config_text: str | None
    served: Manifest | None


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """The version that is served now.

    Attributes:
        path: Its directory.
        version: Its number.
        created: Whether it was added; False when the served version already was this one.
        config_changed: Whether config.pbtxt changed.
        config_diff: What changed in config.pbtxt, as a unified diff; empty when nothing did.
        notes: What the operator should know, one sentence each.
    """

    path: Path
    version: int
    created: bool
    config_changed: bool
    config_diff: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdoptedVersion:
    """What is added to a version that was there already.

    Attributes:
        version: Its number.
        manifest: Its manifest; `manifest.model` is `ModelFile.of` the files that are there.
        reference: The samples and answers: `input:NAME` and `output:NAME`, each `dtype[rows, *dims]`.
    """

    version: int
    manifest: Manifest
    reference: Mapping[str, Array]

    @property
    def files(self) -> tuple[str, str]:
        """The files that are added, relative to the model's folder."""
        return f"{self.version}/{self.manifest.reference.file}", f"{self.version}/{MANIFEST_FILE}"


@dataclass(frozen=True, slots=True)
class Change:
    """A change to one model. While it lasts nobody else changes the repository, so what it reads stays true.

    Attributes:
        model: The model's directory.
        transaction: What moves the change into the repository, from the folder in which it is prepared.
    """

    model: ModelDirectory
    transaction: Transaction

    @property
    def notes(self) -> tuple[str, ...]:
        """What failed after the change was complete, one sentence each; all of it is known when the change is over."""
        return tuple(self.transaction.notes)

    def find_slot(self, artifact: Artifact) -> Slot:
        """Find out which version the artifact is or becomes.

        Raises:
            RepositoryError: The model's config serves no version, or its folder contains something else.
        """
        text = self.model.find_config()
        if text is None and not self._holds_versions_of_ours():
            self._refuse_other_content()
            return Slot(1, True, None, None)
        number = self.model.served_versions()[-1] if text is None else self.model.served_version()
        served = self.model.find_manifest(number)
        if served is not None and self._is_installed(artifact, number, served):
            return Slot(number, False, text, served)
        return Slot(self.model.next_version(), True, text, served)

    def install(self, artifact: Artifact, slot: Slot, config: Config) -> PublishedVersion:
        """Add the artifact to its slot, unless it is there already, and serve it with this config.

        Raises:
            RepositoryError: The files to copy changed after they were proven, somebody edited config.pbtxt during
                the copying, or the repository cannot be written to. Nothing in it changed.
        """
        if slot.config_text is None and not self.model.versions():
            self._install_first(artifact, config)
        else:
            if slot.is_new:
                self._stage_version(self.transaction.path / transaction.VERSION, artifact)
            self._refuse_edited_config(slot.config_text)
            self._switch(config, version=slot.version if slot.is_new else None)
        return PublishedVersion(
            path=self.model.version_dir(slot.version),
            version=slot.version,
            created=slot.is_new,
            config_changed=config.text != slot.config_text,
            config_diff=self.model.config_diff(slot.config_text, config.text),
            notes=config.notes,
        )

    def adopt(self, versions: Sequence[AdoptedVersion], config: str | None, *, read: str | None) -> None:
        """Add manifests and references to versions that are there, and a config if there is none.

        Args:
            versions: What to add.
            config: The text of the config to add; None adds none.
            read: The config under which the versions were proven; None when there was none.

        Raises:
            RepositoryError: The config or a version changed after it was proven, or the repository cannot be written
                to. Nothing in it changed.
        """
        again = "run `python -m builder adopt` again"
        if self.model.find_config() != read:
            what = "somebody edited this file while the model was being proven"
            raise RepositoryError(self.model.config_path, what, again)
        paths: list[str] = []
        for version in versions:
            folder, model = self.model.version_dir(version.version), version.manifest.model
            if self.model.is_published(version.version):
                raise RepositoryError(folder, "somebody else adopted this version while it was being proven", again)
            with disk.reported(folder):
                if model.at(folder) != model:
                    raise RepositoryError(folder, "its files changed while they were being proven", again)
            with disk.flushed(self.transaction.stage(len(paths))) as stream:
                write_arrays(stream, version.reference)
            disk.write(self.transaction.stage(len(paths) + 1), version.manifest.to_json().encode())
            paths += version.files
        if config is not None:
            disk.write(self.transaction.stage(len(paths)), config.encode())
            paths.append(pbtxt.FILE)
        self.transaction.add(paths)

    def serve(self, config: Config) -> None:
        """Serve the version that this config names, which is there already."""
        self._switch(config, version=None)

    def put_back(self, content: bytes) -> None:
        """Put a former config in place of the one that is there, byte for byte."""
        self._stage_config(content)
        self.transaction.switch(version=None)

    def _holds_versions_of_ours(self) -> bool:
        """Return whether the model has versions of a kind that is published here."""
        return bool(self.model.versions()) and self.model.kind().backend in ("onnxruntime", "tensorrt")

    def _refuse_other_content(self) -> None:
        if self.model.path.is_dir() and any(self.model.path.iterdir()):
            raise RepositoryError(
                self.model.path,
                "this folder is not empty, but has no config.pbtxt",
                "write a config.pbtxt for the model that is there, delete the folder, or publish under another --name",
            )

    def _refuse_edited_config(self, text: str | None) -> None:
        """Refuse to replace a config that somebody edited by hand, without the lock, while the files were copied."""
        if self.model.find_config() != text:
            what = "somebody edited this file while the model was being published"
            raise RepositoryError(self.model.config_path, what, "publish the model again")

    def _is_installed(self, artifact: Artifact, number: int, served: Manifest) -> bool:
        """Return whether the served version is this artifact, undamaged, and proven up to the same batch size."""
        if not served.covers(artifact.manifest):
            return False
        try:
            self.model.read_reference(number)
            return served.model.at(self.model.version_dir(number)) == served.model
        except (RepositoryError, OSError):
            return False

    def _install_first(self, artifact: Artifact, config: Config) -> None:
        """Move a whole model into the repository, with a single rename."""
        staged = self.transaction.path / transaction.MODEL
        staged.mkdir()
        self._stage_version(staged / "1", artifact)
        disk.write(staged / pbtxt.FILE, config.text.encode())
        if config.warmup:
            (staged / transaction.WARMUP).mkdir()
        for file, content in config.warmup.items():
            disk.write(staged / transaction.WARMUP / file, content)
        for file, content in config.labels.items():
            disk.write(staged / file, content)
        disk.sync_folders(staged)
        self.transaction.place_model()

    def _stage_version(self, folder: Path, artifact: Artifact) -> None:
        """Write the files of a version, flushed to disk."""
        for file, content in artifact.files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                disk.copy(content, path)
            else:
                disk.write(path, content)
        _check_copies(folder, artifact)
        with disk.flushed(folder / artifact.manifest.reference.file) as stream:
            write_arrays(stream, artifact.reference)
        disk.write(folder / MANIFEST_FILE, artifact.manifest.to_json().encode())
        disk.sync_folders(folder)

    def _switch(self, config: Config, *, version: int | None) -> None:
        """Move the warmup and label files, then the staged version, and last the config into the repository."""
        self._place_warmup(config.warmup)
        self._place(config.labels, self.model.path)
        self._stage_config(config.text.encode())
        self.transaction.switch(version=version)

    def _stage_config(self, content: bytes) -> None:
        staged = self.transaction.path / transaction.CONFIG
        disk.write(staged, content)
        if self.model.config_path.exists():
            shutil.copymode(self.model.config_path, staged)

    def _place_warmup(self, files: Mapping[str, bytes]) -> None:
        folder = self.model.path / transaction.WARMUP
        if files and folder.is_symlink():
            what = "it is a link, and nothing is written through it"
            raise RepositoryError(folder, what, "delete the link: the files that are needed are written again")
        if files:
            disk.make_folder(folder)
        self._place(files, folder)

    def _place(self, files: Mapping[str, bytes], folder: Path) -> None:
        """Move files that are named by their content into a folder of the repository."""
        for file, content in files.items():
            disk.write(self.transaction.path / file, content)
            disk.rename(self.transaction.path / file, folder / file)


def _check_copies(folder: Path, artifact: Artifact) -> None:
    """Check that what was copied is what was proven: by the states of the originals, or else by hashing the copies.

    Raises:
        RepositoryError: The copies have another content.
    """
    copied = [content for content in artifact.files.values() if isinstance(content, Path)]
    if all(file in artifact.states and artifact.states[file].still_holds(file) for file in copied):
        return
    if artifact.manifest.model.at(folder) != artifact.manifest.model:
        what = "its files changed while it was being published"
        raise RepositoryError(artifact.manifest.source.file, what, "publish the model again")
