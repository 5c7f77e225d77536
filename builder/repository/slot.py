"""Find the place for an artifact in a model: a new version, or one that is this artifact already."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import RepositoryError
from builder.model import FileState
from builder.record import Content, Manifest
from builder.repository import kept
from builder.repository.model_directory import ModelDirectory
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
        is_new: Whether it has to be added. If not, this version is already the artifact.
        config_text: The text of the config.pbtxt that is there; None when there is none.
        served: The manifest of the version that this config serves; None if it has no readable manifest.
    """

    version: int
    is_new: bool
    config_text: str | None
    served: Manifest | None


def find_slot(model: ModelDirectory, artifact: Artifact) -> Slot:
    """Find out which version the artifact is or becomes.

    It is the served version, or one that waits to be served since it was published, if that one is the same, undamaged
    and proven up to the same batch size. Otherwise it becomes a new one.

    Raises:
        RepositoryError: The model's config serves no version, or its folder contains something else.
    """
    text = model.find_config()
    if text is None and not _holds_versions_of_ours(model):
        _refuse_other_content(model)
        return Slot(1, True, None, None)
    number = model.served_versions()[-1] if text is None else model.served_version()
    served = model.find_manifest(number)
    waiting = [version for version in model.versions() if version > number and kept.prepared(model, version)]
    for candidate in (number, *reversed(waiting)):
        if _is_installed(model, artifact, candidate):
            return Slot(candidate, False, text, served)
    return Slot(model.next_version(), True, text, served)


def _holds_versions_of_ours(model: ModelDirectory) -> bool:
    """Return whether the model has versions of a kind that is published here."""
    return bool(model.versions()) and model.kind().backend in ("onnxruntime", "tensorrt")


def _refuse_other_content(model: ModelDirectory) -> None:
    if model.path.is_dir() and any(model.path.iterdir()):
        raise RepositoryError(
            model.path,
            "this folder is not empty, but has no config.pbtxt",
            "write a config.pbtxt for the model that is there, delete the folder, or publish under another --name",
        )


def _is_installed(model: ModelDirectory, artifact: Artifact, number: int) -> bool:
    """Return whether a version is this artifact, undamaged, and proven up to the same batch size."""
    manifest = model.find_manifest(number)
    if manifest is None or not manifest.covers(artifact.manifest):
        return False
    try:
        model.read_reference(number)
        return manifest.model.at(model.version_dir(number)) == manifest.model
    except (RepositoryError, OSError):
        return False
