"""Versions that are served beside another one, and answer by their numbers."""

from collections.abc import Iterable

from builder.config import check_config, pbtxt
from builder.errors import RepositoryError
from builder.repository import ModelDirectory


def check_beside(model: ModelDirectory, version: int, beside: Iterable[int] | None) -> None:
    """Refuse versions that cannot be served beside a version.

    Raises:
        RepositoryError: One of them is missing or damaged, or would answer in place of the version.
    """
    for other in beside or ():
        model.check_version(other)
        if other >= version:
            what = f"version {other} cannot be served beside version {version}"
            why = "requests that name no version are answered by the highest one"
            other_way = f"switch {model.name} --to {other} --serve-also {version}"
            fix = f"name lower versions with --serve-also, or run `python -m builder {other_way}`"
            raise RepositoryError(model.path, f"{what}: {why}" if other > version else f"{what}: it is the same", fix)
        if model.is_published(other):
            model.check_complete(other)


def check_served_beside(model: ModelDirectory, text: str, beside: Iterable[int] | None) -> None:
    """Refuse a config under which a version that is served beside another one would not work.

    Raises:
        RepositoryError: It contradicts that version.
    """
    for other in beside or ():
        if not model.is_published(other):
            continue
        manifest, where = model.read_manifest(other), f"{model.path}: version {other}, beside"
        check_config(text, manifest, name=model.name, where=where)
        largest = pbtxt.parse(text, where=where).max_batch_size
        if largest > manifest.max_batch_size:
            what = f"max_batch_size is {largest}, but this version was proven only up to {manifest.max_batch_size}"
            raise RepositoryError(where, what, f"set max_batch_size to {manifest.max_batch_size} for both versions")
