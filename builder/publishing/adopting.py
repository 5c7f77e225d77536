"""Adopt models that are in a repository already: prove each as it is, and keep its samples and answers with it.

Afterwards the version is treated as one that was published here. Nothing that is there changes: a manifest and a
reference are added to the version's folder, and a model without a config gets one that says what Triton makes up for
it. The proof runs in a child process with limits, as that of `publish` does (`adoptable`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builder import bounded, interrupts
from builder.errors import BuilderError, RepositoryError
from builder.printable import counted
from builder.progress import Report, silent
from builder.publishing.adoptable import Adoptable, AdoptOptions, prove_version
from builder.record import Manifest
from builder.repository import AdoptedVersion, Kind, ListedModel, ModelDirectory, Repository


@dataclass(frozen=True, slots=True)
class AdoptedModel:
    """A model of which versions were adopted.

    Attributes:
        name: The model.
        versions: The manifests of these versions, by number, ascending.
        files: The files that were added, relative to the model's folder.
        config: The text of the config.pbtxt that was added; None when there was one.
        notes: What the caller should know, one sentence each.
    """

    name: str
    versions: dict[int, Manifest]
    files: tuple[str, ...]
    config: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adoption:
    """What became of each model.

    Attributes:
        adopted: The models that were adopted, or would be in a dry run.
        skipped: Why other models were left as they are, by name.
        refused: The errors of models that could not be adopted, by name.
    """

    adopted: tuple[AdoptedModel, ...]
    skipped: dict[str, str]
    refused: dict[str, BuilderError]


def adopt(
    root: Path, names: Sequence[str] = (), *, options: AdoptOptions | None = None, report: Report = silent
) -> Adoption:
    """Adopt models, each by itself: one that cannot be adopted keeps no other from it.

    Args:
        root: The repository.
        names: The models. Without names: every ONNX model with a served version that is not known yet; others are
            skipped.
        options: What the caller asked for.
        report: Called with each step and what it found.

    Raises:
        RepositoryError: There is no such repository, or a model that is named cannot be adopted because of what it is.
    """
    options = options or AdoptOptions()
    repository = Repository(root, report=report, lock_timeout_s=options.lock_timeout_s)
    skipped: dict[str, str] = {}
    if names:
        chosen = list(dict.fromkeys(names))
        for name in chosen:
            _refuse_unfit(repository.model(name))
    else:
        listed = list(repository.list_models())
        skipped = {model.name: why for model in listed if (why := _why_skipped(model, root / model.name)) is not None}
        chosen = [model.name for model in listed if model.name not in skipped and _unknown(model)]
    adopted: list[AdoptedModel] = []
    refused: dict[str, BuilderError] = {}
    for name in chosen:
        try:
            adopted.append(_adopt_model(repository, name, options, report))
        except BuilderError as error:
            refused[name] = error
    return Adoption(tuple(adopted), skipped, refused)


def _why_skipped(model: ListedModel, folder: Path) -> str | None:
    """Return why a model that was not named is left as it is; None when it can be adopted, or is known already."""
    if model.kind is None or not any(version.served for version in model.versions):
        return model.problem or "its config serves no version"
    if unread := [version.problem for version in model.versions if version.served and version.problem]:
        return unread[0]
    if folder.is_symlink():
        return "it is a link, and what it leads to is not changed"
    return _unfit(model.kind)


def _unfit(kind: Kind) -> str | None:
    """Return why a model of this kind cannot be adopted; None when it can."""
    if not kind.is_onnx:
        return f"it is {kind}"
    if kind.is_sequence:
        return "its answers depend on earlier requests of a sequence, so no stored answer is right for every request"
    return "a request may get any number of answers" if kind.is_decoupled else None


def _unknown(model: ListedModel) -> list[int]:
    """Return the served versions that were neither published nor adopted."""
    return [version.version for version in model.versions if version.served and version.published is None]


def _refuse_unfit(model: ModelDirectory) -> None:
    if not model.versions():
        model.read_config()  # tells a model that is not there from one without a version
        raise RepositoryError(model.path, "it has no version", model.kind().how_to_add_a_version(model.path))
    if (why := _unfit(model.kind())) is not None:
        fix = "name other models: only ONNX models without sequences can be adopted; nothing has to be adopted to run"
        raise RepositoryError(model.path, why, fix)


def _adopt_model(repository: Repository, name: str, options: AdoptOptions, report: Report) -> AdoptedModel:
    """Prove the versions of one model, then add what was found to all of them at once.

    Raises:
        BuilderError: One of them cannot be adopted. Nothing on disk changed.
    """
    model = repository.model(name)
    repository.check_writable(name)
    text, kind = model.find_config(), model.kind()
    proven: dict[int, Adoptable] = {}
    for version in _wanted(model, options):
        report("adopt", f"{name} version {version}")
        proven[version] = bounded.run(
            partial(prove_version, model, version, text, kind, options),
            where=model.version_dir(version) / kind.file,
            limits=options.limits,
            report=report,
        )
    config = proven[max(proven)].config if text is None and proven and max(proven) in model.served_versions() else None
    notes = [note for version in proven.values() for note in version.notes]
    versions = [AdoptedVersion(number, found.manifest, found.reference) for number, found in proven.items()]
    if versions and not options.dry_run:
        with interrupts.apart(), repository.changing(name, f"adopt {name}") as change:
            change.adopt(versions, config, read=text)
        notes += change.notes
    manifests = {number: found.manifest for number, found in proven.items()}
    return AdoptedModel(name, manifests, tuple(_added(versions, config)), config, tuple(notes))


def _added(versions: Sequence[AdoptedVersion], config: str | None) -> Iterator[str]:
    for version in versions:
        yield from version.files
    if config is not None:
        yield "config.pbtxt"


def _wanted(model: ModelDirectory, options: AdoptOptions) -> list[int]:
    """Return the versions to adopt, ascending; those with a manifest are known already.

    Raises:
        RepositoryError: There is no such version, the config serves none that is there, or a manifest cannot be read.
    """
    present = model.versions()
    if options.version is not None:
        model.check_version(options.version)
        wanted = [options.version]
    else:
        wanted = [version for version in model.served_versions() if version in present]
        if not wanted:
            fix = f"name a version with --version: {', '.join(map(str, present))}"
            raise RepositoryError(model.config_path, f"it serves none of the {counted(len(present), 'version')}", fix)
    known = [version for version in wanted if model.is_published(version)]
    for version in known:
        model.read_manifest(version)  # somebody else's file of that name is not taken for ours
    return [version for version in wanted if version not in known]
