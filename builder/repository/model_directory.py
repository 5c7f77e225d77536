"""Read one model of a repository: its config, its versions, and what was published with each."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder import files
from builder.config import pbtxt, policy
from builder.errors import RepositoryError
from builder.printable import counted
from builder.record import MANIFEST_FILE, Manifest, read_manifest, read_reference
from builder.repository import kinds
from builder.repository.kinds import Kind
from builder.tensors import Array

LARGEST_VERSION = 2**63 - 1

_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]*", re.ASCII)


def check_model_name(name: str) -> None:
    """Refuse a name that leaves the repository, or that a server or a URL cannot handle.

    Triton starts the stub of its Python backend with `bash -c` and unquoted paths: with a space in the name, loading
    the model never ends.

    Raises:
        RepositoryError: The name is not usable.
    """
    if not _MODEL_NAME.fullmatch(name) or len(name) > 200:
        raise RepositoryError(
            f"model name {name!r}",
            "it is not usable as a directory's name and in a URL",
            "use up to 200 of the characters A-Z a-z 0-9 _ . + -, and do not start with . + or -",
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
        """The path of config.pbtxt."""
        return self.path / pbtxt.FILE

    def kind(self) -> Kind:
        """Return what the model is: its backend, and for an ensemble its members.

        Raises:
            RepositoryError: Its config cannot be read.
        """
        return kinds.describe(self.path, self.find_config())

    def version_dir(self, version: int) -> Path:
        """Return the directory of a version."""
        return self.path / str(version)

    def versions(self) -> tuple[int, ...]:
        """Return the numbers of all versions, ascending.

        Raises:
            RepositoryError: The folder cannot be read.
        """
        found = (int(name) for name in self._entries() if _VERSION.fullmatch(name))
        return tuple(sorted(number for number in found if number <= LARGEST_VERSION))

    def next_version(self) -> int:
        """Return one more than the highest number that Triton could read from an entry's name: it takes `3-old` for 3.

        Raises:
            RepositoryError: That number does not fit in 64 bits.
        """
        numbers = [int(match.group()) for name in self._entries() if (match := _VERSION.match(name))]
        version = 1 + max(numbers, default=0)
        if version > LARGEST_VERSION:
            raise RepositoryError(
                self.path,
                f"the next version would be {version}, which does not fit in 64 bits",
                f"remove or rename the entry that starts with {max(numbers)}",
            )
        return version

    def version_before(self, version: int) -> int:
        """Return the highest version below this one.

        Raises:
            RepositoryError: There is none.
        """
        below = [number for number in self.versions() if number < version]
        if not below:
            others = ", ".join(str(number) for number in self.versions() if number != version)
            fix = f"choose another version with --to: {others}" if others else self._how_to_go_back()
            raise RepositoryError(self.path, f"there is no version before {version}, which is served now", fix)
        return below[-1]

    def _how_to_go_back(self) -> str:
        """Return what to do when there is no other version to go back to."""
        kind = self.kind()
        if kind.is_onnx:
            return "publish another version first"
        if kind.is_ensemble:
            return f"it is {kind}: roll back one of these"
        return f"it is {kind}: put another version into a folder with a higher number"

    def is_published(self, version: int) -> bool:
        """Return whether this package published or adopted the version: whether it has a manifest.

        Raises:
            RepositoryError: Its folder cannot be read.
        """
        folder = self.version_dir(version)
        try:
            return (folder / MANIFEST_FILE).is_file()
        except OSError as error:
            raise _unreadable(folder, error) from error

    def find_config(self) -> str | None:
        """Return the text of config.pbtxt, or None when there is no such file.

        Raises:
            RepositoryError: The file cannot be read.
        """
        with self._reading_config():
            return pbtxt.read(self.config_path)
        return None

    def find_config_bytes(self) -> bytes | None:
        """Return the content of config.pbtxt, byte for byte, or None when there is no such file.

        Raises:
            RepositoryError: The file cannot be read.
        """
        with self._reading_config():
            return pbtxt.read_bytes(self.config_path)
        return None

    def read_config(self) -> str:
        """Return the text of config.pbtxt.

        Raises:
            RepositoryError: There is no such file, or it cannot be read.
        """
        text = self.find_config()
        if text is not None:
            return text
        if not self.versions():
            what = "there is no such model, or it has no config.pbtxt and no version"
            raise RepositoryError(self.path, what, "run `python -m builder list` to see the models that are there")
        kind = self.kind()
        fix = f"run `python -m builder adopt {self.name}`, which proves the model and writes its {pbtxt.FILE}"
        if any(self.is_published(version) for version in self.versions()):
            fix = f"publish the model again, which writes its {pbtxt.FILE}"
        elif not kind.is_onnx:
            fix = f"write its {pbtxt.FILE}: it is {kind}"
        raise RepositoryError(self.path, f"it has no {pbtxt.FILE}", fix)

    def config_diff(self, before: str | None, after: str) -> str:
        """Return what changed in config.pbtxt, as a unified diff; the empty string when nothing did."""
        return pbtxt.diff(before, after, path=f"{self.name}/{pbtxt.FILE}")

    def served_versions(self) -> tuple[int, ...]:
        """Return the versions that the config serves, ascending; a version that it names may be missing.

        Without a config, Triton makes one up that serves the highest version.

        Raises:
            RepositoryError: The config cannot be read.
        """
        parsed = pbtxt.parse(self.find_config() or "", where=self.config_path)
        return policy.named_versions(parsed, self.versions())

    def served_version(self) -> int:
        """Return the version that answers when a request names none: the highest one that the config serves.

        Raises:
            RepositoryError: There is no readable config, or it serves no version.
        """
        self.read_config()
        served = self.served_versions()
        if not served and not self.versions():
            raise RepositoryError(self.path, "it has no version", self.kind().how_to_add_a_version(self.path))
        if not served or served[0] < 1:
            raise RepositoryError(
                self.config_path,
                f"it serves {'no version' if not served else f'version {served[0]}, which cannot be one'}",
                "write version_policy { specific { versions: [N] } } there, with N the version to serve",
            )
        return served[-1]

    def max_batch_size(self) -> int | None:
        """Return the max_batch_size of the config; None when there is no config.

        Raises:
            RepositoryError: The config cannot be read.
        """
        text = self.find_config()
        return None if text is None else pbtxt.parse(text, where=self.config_path).max_batch_size

    def read_manifest(self, version: int) -> Manifest:
        """Read the manifest of a version.

        Raises:
            RepositoryError: There is no such version, or it has no readable manifest.
        """
        self.check_version(version)
        manifest = read_manifest(self.version_dir(version))
        if manifest is None:
            raise self._unknown(version)
        return manifest

    def _unknown(self, version: int) -> RepositoryError:
        """Return the error for a version without a manifest, with what works for a model of this kind."""
        kind = self.kind()
        if kind.is_onnx:
            what = f"this version has no {MANIFEST_FILE}: it was neither published nor adopted"
            adopt = f"`python -m builder adopt {self.name} --version {version}`"
            fix = f"run {adopt}, which proves it and keeps samples and answers"
            return RepositoryError(self.version_dir(version), what, fix)
        what = f"it is {kind}, so no samples and answers are kept with it"
        if kind.is_ensemble:
            return RepositoryError(self.path, what, f"name one of its members: {', '.join(kind.members)}")
        fix = "name an ONNX model; `python -m builder list` shows the backend of each"
        return RepositoryError(self.path, what, fix)

    def find_manifest(self, version: int) -> Manifest | None:
        """Return the manifest of a version; None when it is missing or cannot be read."""
        try:
            return self.read_manifest(version)
        except RepositoryError:
            return None

    def read_reference(self, version: int) -> dict[str, Array]:
        """Read the samples and answers of a version: `input:NAME` and `output:NAME`, each `dtype[rows, *dims]`.

        Raises:
            RepositoryError: There is no such version, or its reference is missing or damaged.
        """
        return read_reference(self.version_dir(version), self.read_manifest(version))

    def check_version(self, version: int) -> None:
        """Refuse a version that does not exist.

        Raises:
            RepositoryError: There is no such version.
        """
        versions = self.versions()
        if version not in versions:
            fix = self.kind().how_to_add_a_version(self.path)
            if versions:
                fix = f"choose one of {', '.join(map(str, versions))}"
            raise RepositoryError(self.path, f"there is no version {version}", fix)

    def check_complete(self, version: int) -> None:
        """Refuse a version with missing or truncated model files, judged by their size.

        Raises:
            RepositoryError: The files do not have the size that was published, or are not files of its folder.
        """
        folder, model = self.version_dir(version), self.read_manifest(version).model
        fix = "publish the model again, or serve another version"
        try:
            size = model.size(folder)
        except OSError as error:
            raise RepositoryError(error.filename, f"this file cannot be read: {files.reason(error)}", fix) from error
        if size != model.bytes:
            others = len(model.files) - 1
            whose = f"{model.file} and {counted(others, 'other file')} have" if others else f"{model.file} has"
            what = f"{whose} {counted(size, 'byte')}, but {model.bytes:,} were published"
            raise RepositoryError(folder, what, fix)

    @contextmanager
    def _reading_config(self) -> Iterator[None]:
        """Turn errors of reading config.pbtxt into a RepositoryError, except that there is no such file."""
        try:
            yield
        except FileNotFoundError:
            pass
        except NotADirectoryError as error:
            root = self.path.parent
            is_file = root.is_file()
            what = "it is a file, not a folder of models" if is_file else "a part of this path is a file, not a folder"
            raise RepositoryError(root, what, "use another --repository, or move that file away") from error
        except (OSError, UnicodeDecodeError) as error:
            fix = "make it a UTF-8 text file in this folder that this user may read"
            raise RepositoryError(self.config_path, f"this file cannot be read: {files.reason(error)}", fix) from error

    def _entries(self) -> list[str]:
        try:
            return [entry.name for entry in self.path.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(self.path, error) from error


def _unreadable(folder: Path, error: OSError) -> RepositoryError:
    fix = "let this user read the folder and what is in it"
    return RepositoryError(folder, f"this folder cannot be read: {files.reason(error)}", fix)
