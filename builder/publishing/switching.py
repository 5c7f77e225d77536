"""Switch a model to another version: install a new one, or roll back to one that is there.

Both hold the repository's lock from before they read the config that is there until the new config is in place. So
the config is always made from what it replaces, however many others publish at the same time.
"""

from dataclasses import dataclass, replace

from builder.config import Config, ConfigOptions, ExistingConfig, make_config, pbtxt, point_at, policy
from builder.errors import RepositoryError
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
        diff: What changed in config.pbtxt, as a unified diff; empty when nothing did.
        replaced: The content of the config.pbtxt that was replaced, for `put_back`.
    """

    model_name: str
    before: int
    after: int
    notes: tuple[str, ...] = ()
    diff: str = ""
    replaced: bytes = b""


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
        replaced, text = _content(model), model.read_config()
        config = _config_for(model, before, after) if after != before else Config(text, {})
        if after != before:
            change.serve(config)
    return Switch(name, before, after, change.notes, model.config_diff(text, config.text), replaced)


def put_back(repository: Repository, name: str, content: bytes, *, instead_of: bytes | None = None) -> Switch:
    """Put a former config.pbtxt back in place, byte for byte, as a change that failed has to be taken back.

    Args:
        repository: The repository.
        name: The model.
        content: The content of the file, as `ModelDirectory.find_config_bytes` and `Switch.replaced` give it.
        instead_of: What the file has to hold now; None replaces whatever is there.

    Raises:
        RepositoryError: There is no such model, the content is no config, the file holds something else than
            `instead_of`, or the repository cannot be written to. Nothing on disk changed.
    """
    repository.model(name).read_config()  # refuses an unknown model before anything is created
    with repository.changing(name, f"put back the config of {name}") as change:
        model = change.model
        replaced = _content(model)
        if instead_of is not None and replaced != instead_of:
            what = "somebody has changed this file in the meantime, so the former one is not put back"
            raise RepositoryError(model.config_path, what, "look at what it says now, and change it by hand if needed")
        text, old = _text(model, content), _text(model, replaced)
        before, after = _served(model, old), _served(model, text)
        if replaced != content:
            change.put_back(content)
    return Switch(name, before, after, change.notes, model.config_diff(old, text), replaced)


def _content(model: ModelDirectory) -> bytes:
    content = model.find_config_bytes()
    return model.read_config().encode() if content is None else content


def _text(model: ModelDirectory, config: bytes) -> str:
    try:
        return pbtxt.decode(config)
    except UnicodeDecodeError as error:
        raise RepositoryError(model.config_path, "it is not UTF-8 text", "write this file again") from error


def _served(model: ModelDirectory, config: str) -> int:
    """Return the version that a config serves; 0 if it serves none."""
    parsed = pbtxt.parse(config, where=model.config_path)
    return max(policy.named_versions(parsed, model.versions()), default=0)


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
