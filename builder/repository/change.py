"""Change one model while the repository's lock is held: add a version, or serve another one."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.config import Config, pbtxt
from builder.errors import RepositoryError
from builder.record import MANIFEST_FILE, Manifest, write_arrays
from builder.repository import disk, transaction
from builder.repository.kept import PREPARED, Keeping, KeptConfig
from builder.repository.model_directory import ModelDirectory
from builder.repository.slot import Artifact, Slot
from builder.repository.transaction import Transaction
from builder.tensors import Array


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version that was published.

    Attributes:
        path: Its directory.
        version: Its number.
        created: Whether it was added; False when there was already a version that is this one.
        config_changed: Whether config.pbtxt changed.
        config_diff: What changed in config.pbtxt, as a unified diff; empty when nothing did. For a version that is not
            served, what will change when it is.
        notes: What the operator should know, one sentence each.
        is_served: Whether it is served now; False after `publish --no-serve`.
        is_dry_run: Whether all this would only be so, because nothing was written.
        files: The files that were added, as paths in the repository.
    """

    path: Path
    version: int
    created: bool
    config_changed: bool
    config_diff: str = ""
    notes: tuple[str, ...] = ()
    is_served: bool = True
    is_dry_run: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replacement:
    """A config, and how the one that it replaces is kept.

    Attributes:
        before: The content of config.pbtxt that is there; None if there is none.
        content: The content that takes its place, byte for byte.
        config: Its text, and the files that it names and that may have to be written.
        keeping: How the one before is kept; None if nothing is kept.
    """

    before: bytes | None
    content: bytes
    config: Config
    keeping: Keeping | None


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

    def install_first(self, artifact: Artifact, config: Config) -> None:
        """Add a model with its first version, and serve it.

        Raises:
            RepositoryError: The files to copy changed after they were proven, or the repository cannot be written to.
                Nothing in it changed.
        """
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

    def install(self, artifact: Artifact, slot: Slot, replacement: Replacement) -> None:
        """Add a version, unless it is there already, and serve it with this config.

        Raises:
            RepositoryError: The files to copy changed after they were proven, somebody edited config.pbtxt during
                the copying, or the repository cannot be written to. Nothing in it changed.
        """
        if slot.is_new:
            self._stage_version(self.transaction.path / transaction.VERSION, artifact)
        self.serve(replacement, new_version=slot.version if slot.is_new else None)

    def serve(self, replacement: Replacement, *, new_version: int | None = None) -> None:
        """Put a config in place of the one that is there, which is kept first.

        Raises:
            RepositoryError: Somebody edited config.pbtxt in the meantime, or the repository cannot be written to.
                Nothing in it changed.
        """
        self._refuse_edited_config(replacement.before)
        self._place_files(replacement.config)
        if replacement.content == replacement.before and new_version is None:
            return
        self._stage(transaction.CONFIG, replacement.content)
        self.transaction.switch(version=new_version, kept=self._stage_kept(replacement.keeping))

    def add(self, artifact: Artifact, slot: Slot, config: Config, replacement: Replacement) -> None:
        """Add a version that is not served, with the config that is prepared for it.

        Args:
            artifact: The version.
            slot: Its place.
            config: The config that will serve it.
            replacement: The config that is there, which is kept because the prepared one was made from it; its content
                is another one if the version would be served otherwise, as the policy `latest` does.

        Raises:
            RepositoryError: The repository cannot be written to. Nothing in it changed, except that config.pbtxt may
                name the versions that it serves.
        """
        staged = self.transaction.path / transaction.VERSION
        name = KeptConfig(slot.version, PREPARED).file.rpartition("/")[2]
        if slot.is_new:
            self._stage_version(staged, artifact)
            self._stage(f"{transaction.VERSION}/{name}", config.text.encode())
            disk.sync(staged)
        else:
            self._stage(transaction.PREPARED, config.text.encode())
        kept = self._stage_kept(replacement.keeping)
        self._refuse_edited_config(replacement.before)
        self._place_files(config)
        if replacement.content != replacement.before:
            self._stage(transaction.CONFIG, replacement.content)
            self.transaction.switch(version=None, kept=kept)
            kept = None
        source = transaction.VERSION if slot.is_new else transaction.PREPARED
        target = str(slot.version) if slot.is_new else f"{slot.version}/{name}"
        self.transaction.place(source, target, kept=kept)

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

    def put_back(self, replacement: Replacement) -> None:
        """Put a former config in place of the one that is there, byte for byte."""
        self.serve(replacement)

    def forget(self, kept: KeptConfig) -> None:
        """Delete a kept config, once it is in force again."""
        self.transaction.forget(kept.file)

    def _refuse_edited_config(self, content: bytes | None) -> None:
        """Refuse to replace a config that somebody edited by hand, without the lock, while the change was prepared."""
        if self.model.find_config_bytes() != content:
            what = "somebody edited this file while the model was being changed"
            raise RepositoryError(self.model.config_path, what, "run the command again")

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

    def _stage_kept(self, keeping: Keeping | None) -> str | None:
        """Write what is kept, unless it is there already; return its place in the model's directory."""
        if keeping is None or not keeping.is_new:
            return None
        self._stage(transaction.KEPT, keeping.content)
        return keeping.kept.file

    def _stage(self, name: str, content: bytes) -> None:
        """Write a config to the staging folder, readable for those who may read the one that is there."""
        staged = self.transaction.path / name
        disk.write(staged, content)
        if self.model.config_path.exists():
            shutil.copymode(self.model.config_path, staged)

    def _place_files(self, config: Config) -> None:
        """Move the warmup and label files that a config names into the repository."""
        self._place_warmup(config.warmup)
        self._place(config.labels, self.model.path)

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
