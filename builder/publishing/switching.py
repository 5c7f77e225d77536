"""Change the config of a model: serve another version that is there, go back to a config from before, or put one back.

Each holds the repository's lock from before it reads the config that is there until the new config is in place. So
the config is always made from what it replaces, however many others publish at the same time.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from builder.config import Config, pbtxt
from builder.errors import RepositoryError
from builder.publishing.planning import Plan, plan_rollback, plan_switch, served_by
from builder.repository import KeptConfig, ModelDirectory, Replacement, Repository, kept


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of the served version, or of the config alone; the diff is empty when nothing changed.

    Attributes:
        model_name: The model.
        before: The version that was served before.
        after: The version that is served now.
        notes: What the operator should know, and what failed after the change was complete; one sentence each.
        diff: What changed in config.pbtxt, as a unified diff; empty when nothing did.
        replaced: The content of the config.pbtxt that was replaced, for `put_back`.
        kept: The file in which that content is kept; None if nothing was replaced, or could not be kept.
        is_newly_kept: Whether that file was written for this change.
        restored: The kept config that is in force again; None if the config was made from the one before.
    """

    model_name: str
    before: int
    after: int
    notes: tuple[str, ...] = ()
    diff: str = ""
    replaced: bytes = b""
    kept: KeptConfig | None = None
    is_newly_kept: bool = False
    restored: KeptConfig | None = None

    @classmethod
    def of(cls, plan: Plan, notes: Iterable[str] = ()) -> "Switch":
        """Return the change that a plan makes."""
        keeping = plan.replacement.keeping
        return cls(
            model_name=plan.model.name,
            before=plan.before,
            after=plan.after,
            notes=(*plan.notes, *notes),
            diff=plan.diff,
            replaced=plan.replaced,
            kept=None if keeping is None else keeping.kept,
            is_newly_kept=keeping is not None and keeping.is_new,
            restored=plan.restored,
        )


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A change of a model's config, as `carry_out` makes it.

    Attributes:
        command: What makes it, such as `switch digits`, to tell whoever waits for the repository's lock.
        plan: Works out what it changes, from the model as it is.
        writing: Called with what is about to be written, while the lock is held. What it raises keeps everything as it
            was.
    """

    command: str
    plan: Callable[[ModelDirectory], Plan]
    writing: Callable[[Plan], None] = lambda plan: None


def switch(
    repository: Repository,
    name: str,
    to: int,
    *,
    number: int | None = None,
    keep_settings: bool = False,
    beside: Iterable[int] | None = None,
    dry_run: bool = False,
) -> Switch:
    """Serve another version, with the config that served it last. `roll_back` undoes it.

    Args:
        repository: The repository.
        name: The model.
        to: The version.
        number: The number of the kept config to restore. By default the last one that served the version.
        keep_settings: Serve it with the config that is there instead.
        beside: The lower versions to serve beside it. By default those that the config names.
        dry_run: Whether to say only what would be done; nothing is written.

    Raises:
        RepositoryError: There is no such version or kept config, or Triton would refuse the config with it. Nothing on
            disk changed.
    """

    def plan(model: ModelDirectory) -> Plan:
        return plan_switch(model, to, number=number, keep_settings=keep_settings, beside=beside)

    return carry_out(repository, name, ConfigChange(f"switch {name}", plan), dry_run=dry_run)


def roll_back(
    repository: Repository,
    name: str,
    to: int | None = None,
    *,
    number: int | None = None,
    keep_settings: bool = False,
    beside: Iterable[int] | None = None,
    dry_run: bool = False,
) -> Switch:
    """Go back to a config that the model had before: by default to the one that the last change replaced.

    One call after the other goes further back. The arguments and errors are those of `switch`.
    """

    def plan(model: ModelDirectory) -> Plan:
        return plan_rollback(model, to, number=number, keep_settings=keep_settings, beside=beside)

    return carry_out(repository, name, ConfigChange(f"rollback {name}", plan), dry_run=dry_run)


def carry_out(repository: Repository, name: str, change: ConfigChange, *, dry_run: bool = False) -> Switch:
    """Make a change, completely or not at all.

    Args:
        repository: The repository.
        name: The model.
        change: What to change.
        dry_run: Whether to say only what would be done; nothing is written.

    Raises:
        RepositoryError: There is no such model, the change cannot be made, or the repository cannot be written to.
            Nothing on disk changed.
    """
    repository.model(name).read_config()  # refuses an unknown model before anything is created
    if dry_run:
        return Switch.of(change.plan(repository.model(name)))
    with repository.changing(name, change.command) as changing:
        planned = change.plan(changing.model)
        if planned.content != planned.replaced:
            change.writing(planned)
        changing.serve(planned.replacement)
    return Switch.of(planned, changing.notes)


def put_back(
    repository: Repository,
    name: str,
    content: bytes,
    *,
    instead_of: bytes | None = None,
    forget: KeptConfig | None = None,
) -> Switch:
    """Put a former config.pbtxt back in place, byte for byte, as a change that failed has to be taken back.

    Args:
        repository: The repository.
        name: The model.
        content: The content of the file, as `ModelDirectory.find_config_bytes` and `Switch.replaced` give it.
        instead_of: What the file has to hold now, which is not kept. None replaces whatever is there, and keeps it.
        forget: The kept config to delete, because the change that is taken back wrote it: `Switch.kept` where
            `Switch.is_newly_kept`.

    Raises:
        RepositoryError: There is no such model, the content is no config, the file holds something else than
            `instead_of`, or the repository cannot be written to. Nothing on disk changed.
    """
    repository.model(name).read_config()  # refuses an unknown model before anything is created
    with repository.changing(name, f"put back the config of {name}") as change:
        model = change.model
        plan = _plan_put_back(model, content, instead_of)
        change.serve(plan.replacement)
        if forget is not None and _holds(model, forget, content):
            change.forget(forget)
    return Switch.of(plan, change.notes)


def _holds(model: ModelDirectory, kept_config: KeptConfig, content: bytes) -> bool:
    with suppress(RepositoryError):
        return kept.read(model, kept_config) == content
    return False


def _plan_put_back(model: ModelDirectory, content: bytes, instead_of: bytes | None) -> Plan:
    there = model.find_config_bytes() or b""
    if instead_of is not None and there != instead_of:
        what = "somebody has changed this file in the meantime, so the former one is not put back"
        raise RepositoryError(model.config_path, what, "look at what it says now, and change it by hand if needed")
    text, old = _text(model, content), _text(model, there)
    before, after = served_by(model, old), served_by(model, text)
    keeping = kept.place(model, there, before) if instead_of is None and there != content else None
    return Plan(model, before, after, Replacement(there, content, Config(text, {}), keeping))


def _text(model: ModelDirectory, config: bytes) -> str:
    try:
        return pbtxt.decode(config)
    except UnicodeDecodeError as error:
        raise RepositoryError(model.config_path, "it is not UTF-8 text", "write this file again") from error
