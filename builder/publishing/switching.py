"""Switch a model to another version: install a new one, or roll back to one that is there.

Both hold the repository's lock from before they read the config that is there until the new config is in place. So
the config is always made from what it replaces, however many others publish at the same time.
"""

from dataclasses import dataclass, replace

from builder.config import Config, ConfigOptions, ExistingConfig, make_config, point_at
from builder.record import first_row
from builder.repository import Artifact, ModelDirectory, PublishedVersion, Repository


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of the served version; nothing changed when both numbers are the same.

    Attributes:
        model_name: The model.
        before: The version that was served before.
        after: The version that is served now.
        notes: What failed after the change was complete, one sentence each.
    """

    model_name: str
    before: int
    after: int
    notes: tuple[str, ...] = ()


def install(
    repository: Repository, name: str, artifact: Artifact, options: ConfigOptions | None = None
) -> PublishedVersion:
    """Add a version and serve it, completely or not at all.

    What fails after it is served, such as flushing it to disk, is in the notes of the result.

    If the served version is already this artifact, no version is added, and only config.pbtxt follows the options.

    Raises:
        ModelError: Triton cannot serve one of the tensors.
        RepositoryError: The name is not usable, the repository cannot be written to, or the config that is there
            contradicts the new version. Nothing on disk changed.
    """
    with repository.changing(name, f"publish {name}") as change:
        slot = change.find_slot(artifact)
        reference = artifact.reference if slot.is_new else change.model.read_reference(slot.version)
        existing = None
        if slot.config_text is not None:
            existing = ExistingConfig(slot.config_text, slot.served, change.model.config_path)
        config = make_config(
            artifact.manifest,
            name=name,
            version=slot.version,
            sample=first_row(reference),
            options=options,
            existing=existing,
            present=change.model.versions(),
        )
        version = change.install(artifact, slot, config)
    return replace(version, notes=(*version.notes, *change.notes))


def roll_back(repository: Repository, name: str, to: int | None = None) -> Switch:
    """Serve another version: the given one, or the highest one below the served one.

    Raises:
        RepositoryError: There is no such version, or the config that is there contradicts it. Nothing on disk changed.
    """
    repository.model(name).read_config()  # refuses an unknown model before anything is created
    with repository.changing(name, f"rollback {name}") as change:
        model = change.model
        before = model.served_version()
        after = model.version_before(before) if to is None else to
        model.check_version(after)
        if after != before:
            change.serve(_config_for(model, before, after))
    return Switch(name, before, after, change.notes)


def _config_for(model: ModelDirectory, before: int, after: int) -> Config:
    """Make the config that serves version `after` instead of `before`."""
    text, path = model.read_config(), model.config_path
    if not model.is_published(after):
        return point_at(text, after, model.versions(), where=path)
    model.check_complete(after)
    return make_config(
        model.read_manifest(after),
        name=model.name,
        version=after,
        sample=first_row(model.read_reference(after)),
        existing=ExistingConfig(text, model.find_manifest(before), path),
        present=model.versions(),
    )
