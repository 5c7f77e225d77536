"""What a zip archive is that PyTorch wrote: a program, a TorchScript module, or a checkpoint."""

import lzma
import zipfile
import zlib
from collections.abc import Collection
from enum import Enum
from pathlib import Path

from builder.files import open_file
from builder.model import pickles

MOST_NAMES = 100_000
"""The most files in an archive that is looked at."""

UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What Python raises for archives that are damaged, encrypted, or packed in a way that it does not know."""


class Archive(Enum):
    """What a zip archive of PyTorch holds."""

    PROGRAM = "an exported program"
    SCRIPT = "a TorchScript module"
    CHECKPOINT = "a checkpoint"


def archive_of(path: Path) -> Archive | None:
    """Return what PyTorch wrote to this file; None if it is no zip archive, or another one. Nothing in it is read."""
    return archive_with(names_in(path))


def names_in(path: Path) -> frozenset[str]:
    """Return the names of the files in a zip archive; none if it is no zip archive."""
    try:
        with open_file(path) as stream:
            if stream.read(4) != b"PK\x03\x04":
                return frozenset()
            stream.seek(0)
            with zipfile.ZipFile(stream) as archive:
                return frozenset(archive.namelist()[:MOST_NAMES])
    except UNREADABLE:
        return frozenset()


def archive_with(names: Collection[str]) -> Archive | None:
    """Return what an archive with these files is. PyTorch puts all of them into one folder."""
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("models/") and name.endswith(".json") for name in inner) or any(
        name.startswith("data/aotinductor/") for name in inner
    ):
        return Archive.PROGRAM
    if "serialized_exported_program.json" in names:
        return Archive.PROGRAM
    if "constants.pkl" in inner:
        return Archive.SCRIPT
    return Archive.CHECKPOINT if "data.pkl" in inner else None


def record_of(path: Path, name: str, limit: int) -> bytes:
    """Return the beginning of one file of an archive, `name` inside its folder; nothing if it cannot be read."""
    try:
        with open_file(path) as stream, zipfile.ZipFile(stream) as archive:
            found = next(each for each in archive.namelist() if each.partition("/")[2] == name)
            with archive.open(found) as record:
                return record.read(limit)
    except (*UNREADABLE, StopIteration):
        return b""


def traced_inputs(path: Path) -> tuple[pickles.Tensor, ...]:
    """Return the types and shapes of the tensors that a TorchScript module was traced with.

    They are empty for a script, and for inputs that are no tensors.
    """
    found = pickles.describe(record_of(path, "traced_inputs.pkl", pickles.MOST_BYTES)).value
    inputs = pickles.untagged(found)
    tensors = pickles.untagged(inputs.get("forward")) if isinstance(inputs, dict) else ()
    described = [pickles.tensor(item) for item in tensors] if isinstance(tensors, list) else []
    return tuple(item for item in described if item is not None) if None not in described else ()
