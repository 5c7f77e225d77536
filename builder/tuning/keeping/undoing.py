"""Bring back the config from before a tuning that was applied, also on the servers that have it."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial

from builder.config import ConfigOptions, ConflictError, merge, pbtxt
from builder.deployment import LiveServer, deploy
from builder.errors import BuilderError, RepositoryError
from builder.progress import Report, silent
from builder.publishing import ConfigChange, Plan, plan_config, plan_rollback
from builder.repository import KeptConfig, ModelDirectory, Repository, kept
from builder.tuning.keeping.applied import AppliedTunings, Entry, content_of
from builder.tuning.keeping.applying import Applied, find_outdated, make, summarize
from builder.tuning.keeping.record import now
from builder.tuning.keeping.store import TuningStore

Connect = Callable[[Sequence[str]], AbstractContextManager[Sequence[LiveServer]]]
"""Connects to servers by their addresses, of which there may be none."""


def undo(
    repository: Repository, name: str, store: TuningStore, *, connect: Connect, report: Report = silent
) -> Applied:
    """Bring back the config from before the last tuning that was applied, also on the servers that have it.

    What was changed elsewhere in the config since stays. Each further call takes back the tuning before.

    Args:
        repository: The repository.
        name: The model.
        store: The model's records.
        connect: Connects to the servers.
        report: Called with each step.

    Raises:
        RepositoryError: The settings that were tuned have been changed since, or the repository cannot be written to.
        HostError: A server does not load it, or does not answer.
        VerificationError: An answer is not the proven one.
    """
    model = repository.model(name)
    tunings = AppliedTunings(store, model)
    tunings.settle()
    last, there = tunings.last(), content_of(model)
    if last is None:
        return Applied(name, is_changed=False, why=f"nothing to undo: no tuning of {name} was applied here")
    if last.state == "undoing" and there == last.back:
        return _complete(repository, name, tunings, last, connect, report)
    if there == last.before:
        tunings.drop_last()
        why = f"nothing to undo: config.pbtxt is as it was before the tuning of {last.at}"
        return Applied(name, is_changed=False, why=why, notes=tuple(find_outdated(repository, name, ())))

    def writing(plan: Plan) -> None:
        tunings.change_last(state="undoing", back=plan.content.decode())

    change = ConfigChange(f"tune {name} --undo", partial(_plan_undo, entry=last), writing)
    planned = change.plan(model)
    try:
        with connect(last.servers) as servers:
            make(repository, name, change, servers, 1.0, report)
    except BuilderError as error:
        if content_of(model) == there:
            tunings.change_last(state="applied", back=None)
        raise _with_rollback(error, name, last) from error
    tunings.drop_last()
    notes = (*planned.notes, *find_outdated(repository, name, last.servers))
    return summarize(planned, f"the config from before the tuning of {last.at} is back", last.servers, notes)


def _complete(
    repository: Repository, name: str, tunings: AppliedTunings, entry: Entry, connect: Connect, report: Report
) -> Applied:
    """Complete an undoing that was interrupted after the config was put back: servers may still have the other one."""
    try:
        with connect(entry.servers) as servers:
            if servers:
                deploy(repository, name, servers, report=report)
    except BuilderError as error:
        raise _with_rollback(error, name, entry) from error
    tunings.drop_last()
    digest = hashlib.sha256((entry.back or "").encode()).hexdigest()
    why = f"the config from before the tuning of {entry.at} is back; an earlier --undo had been interrupted"
    return Applied(name, is_changed=True, why=why, after_sha256=digest, servers=entry.servers, at=now())


def _plan_undo(model: ModelDirectory, entry: Entry) -> Plan:
    """Plan to bring back the config from before a tuning, with what was changed elsewhere in it since.

    Raises:
        RepositoryError: What the tuning changed was changed again.
    """
    there = content_of(model)
    before, after = (pbtxt.decode(text.encode()) for text in (entry.before, entry.after))
    if there == entry.after:
        return _plan_exact(model, entry) or plan_config(model, before, ConfigOptions())
    try:
        merged = merge(after, before, pbtxt.decode(there.encode()), where=model.config_path)
    except ConflictError as conflict:
        what = f"the tuning of {entry.at} changed {conflict}, and so has somebody since"
        back = _rollback(model.name, entry)
        raise RepositoryError(model.config_path, what, f"change it by hand, or go back with `{back}`") from conflict
    return plan_config(model, merged, ConfigOptions())


def _plan_exact(model: ModelDirectory, entry: Entry) -> Plan | None:
    """Plan to bring the config back byte for byte; None if that is not possible any more."""
    source = KeptConfig.parse(entry.kept or "")
    with suppress(RepositoryError):
        if source is not None and kept.read(model, source) == entry.before.encode():
            plan = plan_rollback(model, entry.version, number=source.number)
            return plan if plan.content == entry.before.encode() else None
    return None


def _rollback(name: str, entry: Entry) -> str:
    """Return the command that goes back in the repository, whatever was changed since."""
    version, _, number = (entry.kept or "").partition("/")
    to = f" --to {version} --config {number}" if number else ""
    return f"python -m builder rollback {name}{to}"


def _with_rollback(error: BuilderError, name: str, entry: Entry) -> BuilderError:
    """Return the error of a server with the way back that needs no server."""
    if not entry.servers:
        return error
    fix = f"{error.fix}; or run `{_rollback(name, entry)}`, which changes the repository alone"
    return type(error)(error.where, error.what, fix)
