"""Remove old versions of a model, but none that is in use.

In use are, apart from the newest versions:

- what config.pbtxt, or another config of the model (`configs/*.pbtxt`, for Triton's `--model-config-name`), serves;
- what an ensemble of this repository names by its number;
- what a server answers with: one that was asked, or one that `deploy` has left it on;
- what is newer than the version that was deployed last, or was published with `--no-serve` and waits to be served;
- what was served before the last change of config.pbtxt, as long as nothing was deployed and there may be a server that
  was not asked: one that has not loaded the new version yet answers with the old one.

The version that a rollback would go back to is not in use for that reason alone: `keep` says how many versions to go
back to.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder import files
from builder.config import lineage, pbtxt, policy
from builder.errors import RepositoryError
from builder.repository import kept
from builder.repository.deployed import Deployed
from builder.repository.kept import KeptConfig
from builder.repository.model_directory import ModelDirectory

_CONFIGS = "configs"


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that stays.

    Attributes:
        version: Its number.
        reasons: Why, in clauses; at least one.
    """

    version: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pruning:
    """What was removed of a model, and what was not.

    Attributes:
        name: The model.
        removed: The versions that were removed, ascending; in a dry run, those that would be.
        kept: All other versions, ascending, each with the reasons.
        notes: What the operator should know, one sentence each.
    """

    name: str
    removed: tuple[int, ...]
    kept: tuple[KeptVersion, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What one server said.

    Attributes:
        server: Its address.
        versions: The versions of the model that it has in memory.
    """

    server: str
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the servers that may answer with versions of a model.

    Attributes:
        asked: What servers said.
        deployed: Where the model was deployed, except to those servers.
        last: The version that was deployed last, wherever that was; None if none was.
        are_all: Whether no other server answers with the model. If there may be one, it may not have loaded the version
            yet that is served now, unless that was deployed.
    """

    asked: tuple[Asked, ...] = ()
    deployed: tuple[Deployed, ...] = ()
    last: int | None = None
    are_all: bool = False

    @classmethod
    def of(
        cls,
        record: Iterable[Deployed],
        asked: Iterable[Asked],
        *,
        gone: Collection[str],
        is_stopped: Callable[[str], bool],
        are_all: bool,
    ) -> "Known":
        """Put together what is recorded, the oldest deployment first, and what servers said, who know better."""
        answers = tuple(asked)
        superseded = {answer.server for answer in answers}
        found = [entry for entry in record if entry.server not in gone and entry.versions]
        left = (entry for entry in found if entry.server not in superseded and not is_stopped(entry.server))
        return cls(answers, tuple(left), found[-1].versions[-1] if found else None, are_all)


def plan(model: ModelDirectory, *, keep: int, known: Known) -> Pruning:
    """Return which versions can be removed, and why the others stay. Nothing is changed.

    Args:
        model: The model.
        keep: How many of the newest versions to keep; at least 1.
        known: What is known of servers.

    Raises:
        RepositoryError: There is no such model, it serves no version, or a config cannot be read, so that nobody knows
            which versions it names.
    """
    model.served_version()  # refuses a config that serves none
    present = model.versions()
    published = [version for version in present if model.is_published(version)]
    reasons: dict[int, list[str]] = {version: [] for version in present}
    for version, reason in _reasons(model, published, keep, known):
        if version in reasons and reason not in reasons[version]:
            reasons[version].append(reason)
    return Pruning(
        model.name,
        tuple(version for version in present if not reasons[version]),
        tuple(KeptVersion(version, tuple(why)) for version, why in reasons.items() if why),
    )


def _reasons(model: ModelDirectory, published: list[int], keep: int, known: Known) -> Iterator[tuple[int, str]]:
    """Yield a version and a reason to keep it, for all reasons there are."""
    for version in published[-keep:]:
        yield version, f"it is among the newest {keep}" if keep > 1 else "it is the newest one"
    for version in model.versions():
        if version not in published:
            yield version, "it was not published by builder"
        elif (manifest := model.find_manifest(version)) is not None and manifest.adopted:
            yield version, "it was adopted, so builder did not make it"
        elif kept.prepared(model, version) is not None:
            yield version, "it waits to be served"
    yield from _named_by_configs(model)
    yield from _named_by_ensembles(model)
    yield from _on_servers(known)
    if known.last is not None:
        for version in model.versions():
            if version > known.last:
                yield version, f"it is newer than version {known.last}, which was deployed last"
    elif not known.are_all:
        yield from _served_before(model)


def _named_by_configs(model: ModelDirectory) -> Iterator[tuple[int, str]]:
    for version in model.served_versions():
        yield version, "config.pbtxt serves it"
    for path, text in _alternates(model):
        for version in policy.named_versions(pbtxt.parse(text, where=path), model.versions()):
            yield version, f"{_CONFIGS}/{path.name} serves it"


def _named_by_ensembles(model: ModelDirectory) -> Iterator[tuple[int, str]]:
    """Yield the versions that steps of ensembles name by their numbers."""
    root = model.path.parent
    try:
        others = sorted(entry for entry in root.iterdir() if entry.is_dir() and entry != model.path)
    except OSError as error:
        raise _unreadable(root, error) from error
    for other in map(ModelDirectory, others):
        for path, text in ((other.config_path, other.find_config() or ""), *_alternates(other)):
            for version in _members(text, path, model.name):
                yield version, f"the ensemble {other.name} names it"


def _alternates(model: ModelDirectory) -> list[tuple[Path, str]]:
    """Return the path and the text of each other config of a model."""
    folder = model.path / _CONFIGS
    try:
        return [(path, pbtxt.read(path)) for path in sorted(folder.glob("*.pbtxt"))]
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(folder, error) from error


def _members(text: str, path: Path, name: str) -> list[int]:
    """Return the versions of a model that a config names as an ensemble's members.

    A config is read only if its text may name the model, because reading a thousand configs takes long.
    """
    if not ("ensemble_scheduling" in text and name in text):
        return []
    steps = pbtxt.parse(text, where=path).ensemble_scheduling.step
    return [step.model_version for step in steps if step.model_name == name and step.model_version > 0]


def _on_servers(known: Known) -> Iterator[tuple[int, str]]:
    for server in known.asked:
        for version in server.versions:
            yield version, f"{server.server} answers with it"
    for entry in known.deployed:
        for version in entry.versions:
            yield version, f"it was deployed to {entry.server} on {entry.at:%Y-%m-%d}"


def _served_before(model: ModelDirectory) -> Iterator[tuple[int, str]]:
    """Yield the version that was served before the last change of config.pbtxt."""
    named = KeptConfig.parse(lineage.previous(model.read_config(), where=model.config_path) or "")
    if named is not None and named.version not in model.served_versions():
        why = "a server may still answer with it, because it was served before the last change"
        yield named.version, f"{why} (see --server and --no-other-servers)"


def _unreadable(path: Path, error: OSError | ValueError) -> RepositoryError:
    what = f"it cannot be read, so nobody knows which versions it names: {files.reason(error)}"
    return RepositoryError(path, what, "correct it, or move it out of the repository")
