"""SHA-256, of a file and of a model made of several."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def of(content: bytes | Path) -> str:
    """The digest of what a file holds.

    Raises:
        OSError: It cannot be read.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with content.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def of_model(files: Iterable[str]) -> str:
    """A model's digest, from those of its file and then of its weights: the file's own when it has them inside."""
    first, *weights = files
    return of("".join((first, *weights)).encode()) if weights else first
