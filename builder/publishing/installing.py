"""Install a proven version: serve it at once, or leave that for later."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from builder.config import Config, ConfigOptions, ExistingConfig, make_config, pbtxt, policy
from builder.errors import RepositoryError
from builder.publishing.beside import check_beside, check_served_beside
from builder.publishing.planning import changed, served_by
from builder.publishing.restoring import merged_text
from builder.record import MANIFEST_FILE, first_row
from builder.repository import (
    Artifact,
    Change,
    KeptConfig,
    ModelDirectory,
    PublishedVersion,
    Replacement,
    Repository,
    Slot,
    find_slot,
    kept,
    transaction,
)


def install(
    repository: Repository,
    name: str,
    artifact: Artifact,
    options: ConfigOptions | None = None,
    *,
    serve: bool = True,
    beside: Iterable[int] | None = None,
    dry_run: bool = False,
) -> PublishedVersion:
    """Add a version and serve it, completely or not at all.

    What fails after it is served, such as flushing it to disk, is in the notes of the result.

    If the served version is already this artifact, no version is added, and only config.pbtxt follows the options.

    Args:
        repository: The repository.
        name: The model's name.
        artifact: The version.
        options: What the caller asked for in config.pbtxt.
        serve: Whether to serve it now. If not, the config that will serve it is prepared, and config.pbtxt stays.
        beside: The lower versions to serve beside it. By default those that the config says.
        dry_run: Whether to say only what would be done; nothing is written.

    Raises:
        ModelError: Triton cannot serve one of the tensors.
        RepositoryError: The name is not usable, the repository cannot be written to, or the config that is there
            contradicts the new version. Nothing on disk changed.
    """
    asked = _Asked(artifact, options, serve, None if beside is None else tuple(beside))
    if dry_run:
        return replace(_plan(repository.model(name), asked).result, is_dry_run=True)
    with repository.changing(name, f"publish {name}") as change:
        plan = _plan(change.model, asked)
        plan.carry_out(change, artifact)
    return replace(plan.result, notes=(*plan.result.notes, *change.notes))


def check_early(model: ModelDirectory, *, serve: bool, beside: Iterable[int] | None) -> None:
    """Refuse what `install` would refuse after the model was proven, which may take long.

    Raises:
        RepositoryError: The first version of a model is not to be served, or another one cannot be served beside it.
    """
    if not serve and model.find_config_bytes() is None:
        raise _cannot_wait(model)
    check_beside(model, model.next_version(), beside)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of `install`."""

    artifact: Artifact
    options: ConfigOptions | None
    serve: bool
    beside: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an install does.

    Attributes:
        slot: The place of the version.
        config: The config that serves the version.
        replacement: What happens to the config that is there; None for a new model.
        prepared: The config to keep with the version, if it is not served.
        result: What was done, once it is.
    """

    slot: Slot
    config: Config
    replacement: Replacement | None
    prepared: Config | None
    result: PublishedVersion

    def carry_out(self, change: Change, artifact: Artifact) -> None:
        """Do it."""
        if self.replacement is None:
            change.install_first(artifact, self.config)
        elif self.prepared is not None:
            change.add(artifact, self.slot, self.prepared, self.replacement)
        elif self.result.is_served:
            change.install(artifact, self.slot, self.replacement)


def _plan(model: ModelDirectory, asked: _Asked) -> _Plan:
    before = model.find_config_bytes()
    slot = find_slot(model, asked.artifact)
    check_beside(model, slot.version, asked.beside)
    if before is None:
        return _plan_without_config(model, slot, asked)
    text = pbtxt.decode(before)
    if not asked.serve:
        return _plan_unserved(model, slot, asked, before)
    waiting = None if slot.is_new else merged_text(model, slot.version, text)
    config = _make(model, slot, asked, text if waiting is None else waiting)
    replacement = changed(model, before, config)
    return _Plan(slot, config, replacement, None, _result(model, slot, asked, replacement.config, replacement))


def _plan_without_config(model: ModelDirectory, slot: Slot, asked: _Asked) -> _Plan:
    """Plan to add a model, or a config to one that others have put there without one."""
    if not asked.serve:
        raise _cannot_wait(model)
    config = _make(model, slot, asked, None)
    replacement = Replacement(None, config.text.encode(), config, None) if model.versions() else None
    return _Plan(slot, config, replacement, None, _result(model, slot, asked, config, replacement))


def _cannot_wait(model: ModelDirectory) -> RepositoryError:
    """Return the error for a version that is not to be served in a model without a config."""
    what = "this is the first version of the model, so there is none that could go on being served"
    if model.versions():
        what = f"it has no {pbtxt.FILE}, so Triton would serve the new version"
    return RepositoryError(model.path, what, "publish it without --no-serve")


def _plan_unserved(model: ModelDirectory, slot: Slot, asked: _Asked, before: bytes) -> _Plan:
    """Plan to add a version that the config that is there does not serve."""
    text = pbtxt.decode(before)
    if not slot.is_new and slot.version == served_by(model, text):
        return _plan_nothing(model, slot, asked, before)
    pinned = _without(model, text, slot.version)
    replacement = changed(model, before, Config(pinned, {}))
    if replacement.keeping is None:
        keeping = kept.place(model, before, served_by(model, text))
        if keeping is None:
            what = f"its config serves version {served_by(model, text)}, which is missing"
            raise RepositoryError(model.path, what, "publish it without --no-serve")
        replacement = replace(replacement, keeping=keeping)
    config = _make(model, slot, asked, pinned)
    prepared = changed(model, before, config)
    result = _result(model, slot, asked, prepared.config, replacement)
    diff = model.config_diff(text, prepared.config.text)
    file = f"{model.name}/{KeptConfig(slot.version, kept.PREPARED).file}"
    files = (*result.files, *([] if (model.path.parent / file).exists() else [file]))
    result = replace(result, config_diff=diff, files=tuple(sorted(files)))
    return _Plan(slot, config, replacement, prepared.config, result)


def _plan_nothing(model: ModelDirectory, slot: Slot, asked: _Asked, before: bytes) -> _Plan:
    """Plan to do nothing, because the version is served already; refuse to change its config."""
    text = pbtxt.decode(before)
    config = _make(model, slot, asked, text)
    if config.text != text:
        what = f"version {slot.version} is this model and is served, and these options would change its config"
        raise RepositoryError(model.config_path, what, "publish it without --no-serve")
    replacement = Replacement(before, before, config, None)
    return _Plan(slot, config, replacement, None, _result(model, slot, asked, config, replacement))


def _without(model: ModelDirectory, text: str, version: int) -> str:
    """Return the config that does not serve a version which is about to be added, but the same ones as before.

    The policies `latest` and `all` would serve it, because its number is the highest.
    """
    config = pbtxt.parse(text, where=model.config_path)
    present = model.versions()
    policy.serve(config, policy.named_versions(config, present), {*present, version})
    return pbtxt.edit(text, config, where=model.config_path)


def _make(model: ModelDirectory, slot: Slot, asked: _Asked, text: str | None) -> Config:
    """Make the config that serves the version from a text, or a new one."""
    artifact = asked.artifact
    reference = artifact.reference if slot.is_new else model.read_reference(slot.version)
    config = make_config(
        artifact.manifest,
        name=model.name,
        version=slot.version,
        sample=first_row(reference),
        options=asked.options,
        existing=None if text is None else ExistingConfig(text, slot.served, model.config_path),
        present=model.versions(),
        beside=asked.beside,
    )
    check_served_beside(model, config.text, asked.beside)
    return config


def _result(
    model: ModelDirectory, slot: Slot, asked: _Asked, config: Config, replacement: Replacement | None
) -> PublishedVersion:
    content = None if replacement is None else replacement.before
    before = None if content is None else pbtxt.decode(content)
    is_changed = replacement is None or replacement.content != replacement.before
    notes = list(config.notes)
    if replacement is not None and before is not None and is_changed and replacement.keeping is None:
        notes.append("the config before could not be kept, because the version that it serves has no folder here")
    return PublishedVersion(
        path=model.version_dir(slot.version),
        version=slot.version,
        created=slot.is_new,
        config_changed=is_changed,
        config_diff=model.config_diff(before, config.text),
        notes=tuple(notes),
        is_served=asked.serve or (before is not None and not slot.is_new and slot.version == served_by(model, before)),
        files=tuple(sorted(_added(model, slot, asked, config, replacement))),
    )


def _added(
    model: ModelDirectory, slot: Slot, asked: _Asked, config: Config, replacement: Replacement | None
) -> Iterator[str]:
    """Yield the files that are added, as paths in the repository."""
    if slot.is_new:
        own = (*asked.artifact.files, asked.artifact.manifest.reference.file, MANIFEST_FILE)
        yield from (f"{model.name}/{slot.version}/{file}" for file in own)
    if replacement is None or replacement.before is None:
        yield f"{model.name}/{pbtxt.FILE}"
    elif replacement.keeping is not None and replacement.keeping.is_new:
        yield f"{model.name}/{replacement.keeping.kept.file}"
    for file in config.warmup:
        if not (model.path / transaction.WARMUP / file).exists():
            yield f"{model.name}/{transaction.WARMUP}/{file}"
    for file in config.labels:
        if not (model.path / file).exists():
            yield f"{model.name}/{file}"
