"""The configs that a model had before: each is kept as `VERSION/config.N.pbtxt`, byte for byte.

VERSION is the version that it served, and N counts up from 1 for each version. `config.0.pbtxt` is another matter: a
version that was published without being served has there the config that was prepared for it.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder import files
from builder.config import pbtxt
from builder.errors import RepositoryError
from builder.repository.model_directory import LARGEST_VERSION, ModelDirectory

PREPARED = 0
"""The number of a config that was prepared for a version, and has not served it yet."""

_NAME = re.compile(r"config\.(0|[1-9][0-9]{0,8})\.pbtxt", re.ASCII)
_REFERENCE = re.compile(r"([1-9][0-9]{0,18})/([1-9][0-9]{0,8})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class KeptConfig:
    """A config that is kept.

    Attributes:
        version: The version that it served, in whose directory it is.
        number: Its number there.
    """

    version: int
    number: int

    def __str__(self) -> str:
        return f"{self.version}/{self.number}"

    @property
    def file(self) -> str:
        """Its path in the model's directory."""
        return f"{self.version}/config.{self.number}.pbtxt"

    @classmethod
    def parse(cls, text: str) -> "KeptConfig | None":
        """Read `VERSION/N`; None if the text is not of this form."""
        match = _REFERENCE.fullmatch(text)
        if match is None or int(match[1]) > LARGEST_VERSION:
            return None
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a config is kept before it is replaced.

    Attributes:
        kept: Where.
        content: What.
        is_new: Whether it has to be written: the newest one of its version may hold the same.
    """

    kept: KeptConfig
    content: bytes
    is_new: bool


def numbers(model: ModelDirectory, version: int) -> tuple[int, ...]:
    """Return the numbers of the configs that served a version, ascending; none for a version that is missing."""
    return tuple(number for number in _numbers(model, version) if number != PREPARED)


def newest(model: ModelDirectory, version: int) -> KeptConfig | None:
    """Return the last config that served a version and was replaced, or None."""
    found = numbers(model, version)
    return KeptConfig(version, found[-1]) if found else None


def prepared(model: ModelDirectory, version: int) -> KeptConfig | None:
    """Return the config that was prepared for a version, or None if there is none or the version has served since."""
    return KeptConfig(version, PREPARED) if _numbers(model, version) == (PREPARED,) else None


def read(model: ModelDirectory, kept: KeptConfig) -> bytes:
    """Return the content of a kept config.

    Raises:
        RepositoryError: It is missing, or cannot be read.
    """
    path = model.path / kept.file
    fix = f"choose another version with --to, or serve version {kept.version} with --keep-settings"
    try:
        content = pbtxt.read_bytes(path)
        pbtxt.decode(content)
    except FileNotFoundError as error:
        gone = f"version {kept.version} was removed" if not path.parent.exists() else "it was deleted"
        raise RepositoryError(path, f"the config that was kept there is missing: {gone}", fix) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(path, f"the kept config cannot be read: {files.reason(error)}", fix) from error
    return content


def place(model: ModelDirectory, content: bytes, version: int) -> Keeping | None:
    """Say where the config that serves a version is kept; None where nothing can be: the version is missing, or a link.

    A text that is kept already, as the newest one of the version, is not kept twice.
    """
    folder = model.version_dir(version)
    if folder.is_symlink() or not folder.is_dir():
        return None
    last = newest(model, version)
    if last is not None:
        with suppress(RepositoryError):
            if read(model, last) == content:
                return Keeping(last, content, is_new=False)
    return Keeping(KeptConfig(version, 1 if last is None else last.number + 1), content, is_new=True)


def _numbers(model: ModelDirectory, version: int) -> tuple[int, ...]:
    folder: Path = model.version_dir(version)
    try:
        names = [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        fix = "let this user read the folder and what is in it"
        raise RepositoryError(folder, f"this folder cannot be read: {files.reason(error)}", fix) from error
    return tuple(sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name))))
