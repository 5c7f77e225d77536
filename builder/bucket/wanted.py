"""Which large objects of a model the operations read, as paths or as folders (`3/`) in the model's directory."""

from collections.abc import Iterable

from builder.bucket.working_copy import Wanted
from builder.config import PROVENANCE_PREFIX, pbtxt
from builder.errors import RepositoryError
from builder.record import REFERENCE_FILE
from builder.repository import ModelDirectory, transaction

_PREVIOUS = f"{PROVENANCE_PREFIX}previous"
"""The config parameter that names the kept config which a config has replaced, as `VERSION/N`."""


def nothing(model: ModelDirectory) -> Iterable[str]:
    """Return nothing: names, sizes, configs and manifests are enough."""
    return ()


def to_publish(model: ModelDirectory) -> Iterable[str]:
    """Return the served version, which may be the very one to publish."""
    served = model.served_version()
    return (f"{served}/",) if model.is_published(served) else ()


def to_verify(version: int | None) -> Wanted:
    """Return the whole version that is verified; None is the served one."""

    def wanted(model: ModelDirectory) -> Iterable[str]:
        return (f"{model.served_version() if version is None else version}/",)

    return wanted


def to_adopt(version: int | None) -> Wanted:
    """Return the versions that are adopted: the given one, or those that are served and not known yet."""

    def wanted(model: ModelDirectory) -> Iterable[str]:
        served = model.served_versions() if version is None else (version,)
        return tuple(f"{each}/" for each in served if not model.is_published(each))

    return wanted


def to_configure(model: ModelDirectory) -> Iterable[str]:
    """Return the samples of the version that is served, for the warm-up."""
    return (f"{model.served_version()}/{REFERENCE_FILE}",)


def to_switch(to: int | None) -> Wanted:
    """Return the samples of the versions that are served, or may be switched to: the given one, or the one before."""

    def wanted(model: ModelDirectory) -> Iterable[str]:
        served = model.served_versions()
        below = [version for version in model.versions() if version < served[-1]] if served else []
        versions = {*served, *below[-1:], *_previous(model)} if to is None else {*served, to}
        return tuple(f"{version}/{REFERENCE_FILE}" for version in versions)

    return wanted


def to_deploy(version: int | None) -> Wanted:
    """Return what a switch reads, and the warmup and label files, which a candidate gets a copy of."""

    def wanted(model: ModelDirectory) -> Iterable[str]:
        return (*to_switch(version)(model), f"{transaction.WARMUP}/", "labels")

    return wanted


def _previous(model: ModelDirectory) -> Iterable[int]:
    """Return the version that the last change has replaced, if the config says so."""
    try:
        parameters = pbtxt.parse(model.read_config(), where=model.config_path).parameters
    except RepositoryError:
        return ()
    if _PREVIOUS not in parameters:
        return ()
    version = parameters[_PREVIOUS].string_value.partition("/")[0]
    return (int(version),) if version.isascii() and version.isdigit() else ()
