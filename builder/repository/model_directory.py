"""Read one model of a repository: its config, its versions, and what was published with each."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.config import making as config
from builder.config import pbtxt
from builder.errors import RepositoryError
from builder.record import Manifest, read_manifest, reference
from builder.record.manifest import FILE as MANIFEST_FILE
from builder.tensors import Array

LARGEST_VERSION = 2**63 - 1

_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]*", re.ASCII)


def check_model_name(name: str) -> None:
    """Refuse a name that would leave the repository, or that a server or a URL stumbles over.

    Triton starts its Python backend's stub with `bash -c` and unquoted paths: a space in a name hangs the load.

    Raises:
        RepositoryError: It is not a usable name.
    """
    if not _MODEL_NAME.fullmatch(name) or len(name) > 200:
        raise RepositoryError(
            f"model name {name!r}",
            "it is not usable as a directory and in a URL",
            "use up to 200 letters, digits and _ . + -, the first a letter, a digit or _",
        )


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A model's directory, which need not exist yet.

    Attributes:
        path: The directory; its name is the model's.
    """

    path: Path

    @property
    def name(self) -> str:
        """The model's name."""
        return self.path.name

    @property
    def config_path(self) -> Path:
        """Where config.pbtxt lies."""
        return self.path / config.FILE

    def version_dir(self, version: int) -> Path:
        """Where a version lies."""
        return self.path / str(version)

    def versions(self) -> tuple[int, ...]:
        """The numbers of the versions that are there, ascending."""
        return tuple(sorted(int(name) for name in self._entries() if _VERSION.fullmatch(name)))

    def next_version(self) -> int:
        """One above every number that Triton could read from the name of an entry: it takes `3-old` for 3.

        Raises:
            RepositoryError: Version numbers have run out.
        """
        numbers = [int(match.group()) for name in self._entries() if (match := _VERSION.match(name))]
        version = 1 + max(numbers, default=0)
        if version > LARGEST_VERSION:
            raise RepositoryError(
                self.path,
                f"version {version} would not fit in 64 bits",
                "remove the entry with the highest number",
            )
        return version

    def is_published(self, version: int) -> bool:
        """Whether this package put the version there."""
        return (self.version_dir(version) / MANIFEST_FILE).is_file()

    def find_config(self) -> str | None:
        """The text of config.pbtxt, None when there is none.

        Raises:
            RepositoryError: It cannot be read.
        """
        try:
            return self.config_path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            root = self.path.parent
            what = "it is a file, or below one, and not a folder of models"
            raise RepositoryError(root, what, "use another --repository, or move that file away") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(
                self.config_path, f"it cannot be read: {error}", "make it a readable text file"
            ) from error

    def read_config(self) -> str:
        """The text of config.pbtxt.

        Raises:
            RepositoryError: There is none, or it cannot be read.
        """
        text = self.find_config()
        if text is None:
            raise RepositoryError(
                self.path,
                "there is no such model, or it has no config.pbtxt",
                "choose one of those that `python -m builder list` shows",
            )
        return text

    def served_version(self) -> int:
        """The one version that the config serves.

        Raises:
            RepositoryError: There is no readable config, or it does not name one version.
        """
        parsed = pbtxt.parse(self.read_config(), where=self.config_path)
        return config.served_version(parsed, where=self.config_path)

    def max_batch_size(self) -> int | None:
        """What the config says now, perhaps by hand; None when there is no config.

        Raises:
            RepositoryError: The config cannot be read.
        """
        text = self.find_config()
        return None if text is None else pbtxt.parse(text, where=self.config_path).max_batch_size

    def read_manifest(self, version: int) -> Manifest:
        """The manifest of a version.

        Raises:
            RepositoryError: There is no such version, or not one with a readable manifest.
        """
        self.check_version(version)
        manifest = read_manifest(self.version_dir(version))
        if manifest is None:
            raise RepositoryError(
                self.version_dir(version),
                "this version was not published by this package: it has no manifest.json",
                "publish the model again, so that it is proven and its reference kept",
            )
        return manifest

    def read_reference(self, version: int) -> dict[str, Array]:
        """The samples and answers of a version: `input:NAME` and `output:NAME`, each `dtype[rows, *dims]`.

        Raises:
            RepositoryError: There is no such version, or its reference is missing or broken.
        """
        manifest = self.read_manifest(version)
        path = self.version_dir(version) / manifest.reference.file
        arrays = reference.read_arrays(path)
        expected = {f"input:{tensor.name}" for tensor in manifest.inputs}
        expected |= {f"output:{tensor.name}" for tensor in manifest.outputs}
        if arrays.keys() != expected or any(len(a) != manifest.reference.rows for a in arrays.values()):
            raise RepositoryError(path, "it does not hold what manifest.json says", "publish the model again")
        return arrays

    def check_version(self, version: int) -> None:
        """Refuse a version that is not there.

        Raises:
            RepositoryError: There is no such version.
        """
        versions = self.versions()
        if version not in versions:
            there = ", ".join(map(str, versions)) or "none"
            raise RepositoryError(self.path, f"there is no version {version}", f"choose one that is there: {there}")

    def check_complete(self, version: int) -> None:
        """Refuse a version whose model is missing or cut short, by its size.

        Raises:
            RepositoryError: Files are missing or not as long as they were.
        """
        folder, model = self.version_dir(version), self.read_manifest(version).model
        size = sum(size_bytes(folder / file) for file in model.files)
        if size != model.bytes:
            what = f"{model.file} has {size} bytes, but {model.bytes} were published"
            raise RepositoryError(folder, what, "publish the model again, or serve another version")

    def _entries(self) -> Iterator[str]:
        if self.path.is_dir():
            yield from (entry.name for entry in self.path.iterdir())


def size_bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder; 0 when there is nothing."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
