"""SHA-256 digests of files, and of models that consist of several files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from builder.files import open_file


def of(content: bytes | memoryview | Path, *, inside: Path | None = None) -> str:
    """Return the digest of a file's content.

    Args:
        content: The content, or the file.
        inside: The folder that the file must be in, as for `files.read`.

    Raises:
        OSError: The file cannot be read, is not a regular one, or is outside the folder.
    """
    if not isinstance(content, Path):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with open_file(content, inside=inside) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def of_model(files: Iterable[str]) -> str:
    """Return a model's digest from those of its files, the .onnx file's first.

    It is the file's own when there are no others, else the digest of all of them written one after the other.
    """
    first, *weights = files
    return of("".join((first, *weights)).encode()) if weights else first
