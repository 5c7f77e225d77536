"""Write the best configuration to config.pbtxt once a server has given the right answers with it, and take it back."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

from builder.config import ConfigOptions, ConflictError, merge, pbtxt
from builder.deployment import Address, LiveServer, deploy, is_stopped, try_out
from builder.errors import BuilderError, RepositoryError
from builder.progress import Report, silent
from builder.publishing import ConfigChange, Plan, carry_out, plan_config, plan_reconfigure, plan_rollback
from builder.repository import KeptConfig, ModelDirectory, Repository, Wait, kept, recorded
from builder.server import Server
from builder.tuning.applied import AppliedTunings, Entry, content_of
from builder.tuning.conditions import ModelFacts, changed_fields, tuned_changes
from builder.tuning.configuring import options_of, read_configuration
from builder.tuning.found import Found, Result
from builder.tuning.record import TuningStore, now

Prove = Callable[[ConfigChange], None]
"""Raises an error unless a server gives the right answers with a change of the config."""

Connect = Callable[[Sequence[str]], AbstractContextManager[Sequence[LiveServer]]]
"""Connects to servers by their addresses."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was written back, or taken back.

    Attributes:
        name: The model.
        is_changed: Whether config.pbtxt was changed.
        why: What was done, or why nothing was, as a clause.
        diff: What changed in config.pbtxt, as a unified diff; empty when nothing did.
        kept: The file in the model's folder in which the config before is kept; None if there is none.
        before_sha256: The digest of config.pbtxt before.
        after_sha256: Its digest now.
        servers: The servers that it was deployed to.
        at: When, in UTC.
        notes: What the operator should know; one sentence each.
    """

    name: str
    is_changed: bool
    why: str
    diff: str = ""
    kept: str | None = None
    before_sha256: str = ""
    after_sha256: str = ""
    servers: tuple[str, ...] = ()
    at: str = ""
    notes: tuple[str, ...] = ()


def apply(
    repository: Repository,
    name: str,
    store: TuningStore,
    *,
    measured: ModelFacts,
    found: Found,
    servers: Sequence[LiveServer] = (),
    prove: Prove | None = None,
    slack: float = 1.0,
    report: Report = silent,
) -> Applied:
    """Write the best configuration to config.pbtxt, if it is better than the one that is there.

    It is tried first, as `NAME.candidate`: on the servers, which then load it, or on an embedded one. If it fails
    anywhere, config.pbtxt and every server are as they were. `undo` takes it back, and so does `roll_back`.

    Args:
        repository: The repository.
        name: The model.
        store: The model's records.
        measured: The model and the config that were measured.
        found: What the tuning found.
        servers: The servers to deploy it to.
        prove: What to do instead of trying it on an embedded server.
        slack: A factor for the tolerances in the version's manifest.
        report: Called with each step.

    Raises:
        RepositoryError: The settings that were tuned have been changed since they were measured, another version is
            served, or the repository cannot be written to.
        HostError: A server does not load it, or does not answer.
        VerificationError: An answer is not the proven one.
    """
    if found.verdict != "better" or found.best is None:
        return Applied(name, is_changed=False, why=f"nothing is applied: {found.why}")
    model, addresses = repository.model(name), tuple(str(server.address) for server in servers)
    tunings = AppliedTunings(store, model)
    tunings.settle()

    def writing(plan: Plan) -> None:
        keeping, texts = plan.replacement.keeping, (plan.replaced.decode(), plan.content.decode())
        kept_as = None if keeping is None else str(keeping.kept)
        tunings.add(Entry(now(), "applying", plan.after, *texts, kept_as, addresses))

    change = ConfigChange(f"tune {name}", partial(_plan_apply, measured=measured, best=found.best), writing)
    planned = change.plan(model)
    if planned.content == planned.replaced:
        return Applied(name, is_changed=False, why="nothing is applied: config.pbtxt has this configuration already")
    try:
        if not servers:
            (prove or _on_embedded(repository, name, slack, report))(change)
        _carry_out(repository, name, change, servers, slack, report)
    finally:
        tunings.settle()
    others = changed_fields(measured.config, planned.replaced.decode())
    edited = [f"{', '.join(others)} in config.pbtxt was changed since it was measured, and stays so"] if others else []
    notes = (*planned.notes, *edited, *_outdated(repository, name, addresses))
    return _done(planned, "the best configuration is in config.pbtxt", addresses, notes)


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
        return Applied(name, is_changed=False, why=why)

    def writing(plan: Plan) -> None:
        tunings.change_last(state="undoing", back=plan.content.decode())

    change = ConfigChange(f"tune {name} --undo", partial(_plan_undo, entry=last), writing)
    planned = change.plan(model)
    try:
        with connect(last.servers) if last.servers else nullcontext(()) as servers:
            _carry_out(repository, name, change, servers, 1.0, report)
    except BuilderError as error:
        if content_of(model) == there:
            tunings.change_last(state="applied", back=None)
        raise _with_rollback(error, name, last) from error
    tunings.drop_last()
    notes = (*planned.notes, *_outdated(repository, name, last.servers))
    return _done(planned, f"the config from before the tuning of {last.at} is back", last.servers, notes)


def _complete(
    repository: Repository, name: str, tunings: AppliedTunings, entry: Entry, connect: Connect, report: Report
) -> Applied:
    """Complete an undoing that was interrupted after the config was put back: servers may still have the other one."""
    if entry.servers:
        try:
            with connect(entry.servers) as servers:
                deploy(repository, name, servers, report=report)
        except BuilderError as error:
            raise _with_rollback(error, name, entry) from error
    tunings.drop_last()
    digest = _sha256((entry.back or "").encode())
    why = f"the config from before the tuning of {entry.at} is back; an earlier --undo had been interrupted"
    return Applied(name, is_changed=True, why=why, after_sha256=digest, servers=entry.servers, at=now())


def _carry_out(
    repository: Repository,
    name: str,
    change: ConfigChange,
    servers: Sequence[LiveServer],
    slack: float,
    report: Report,
) -> None:
    if servers:
        deploy(repository, name, servers, change=change, slack=slack, report=report)
    else:
        carry_out(repository, name, change)


def _on_embedded(repository: Repository, name: str, slack: float, report: Report) -> Prove:
    """Return what tries a change on an embedded server, which nobody else uses."""

    def prove(change: ConfigChange) -> None:
        with Server.start(
            repository.root, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit"
        ) as server:
            address = Address.parse(f"grpc://{server.grpc_address}")
            with LiveServer(address, admin=server.admin) as live:
                try_out(repository, name, live, change, slack=slack, report=report)

    return prove


def _plan_apply(model: ModelDirectory, measured: ModelFacts, best: Result) -> Plan:
    """Plan to write a configuration into the config that is there.

    Raises:
        RepositoryError: The config, or the version, is not the one that was measured.
    """
    text, served, again = model.read_config(), model.served_version(), "tune the model again"
    if served != measured.version:
        what = f"it serves version {served} now, and version {measured.version} was measured"
        raise RepositoryError(model.config_path, what, again)
    if model.read_manifest(served).model.sha256 != measured.sha256:
        raise RepositoryError(model.version_dir(served), "its files are not those that were measured", again)
    if changed := tuned_changes(measured.config, text):
        what = f"{', '.join(changed)} was changed after the model was measured with another one"
        raise RepositoryError(model.config_path, what, again)
    current = read_configuration(pbtxt.parse(text, where=model.config_path), where=model.config_path)
    return plan_reconfigure(model, options_of(best.configuration, current))


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


def _outdated(repository: Repository, name: str, servers: Collection[str]) -> Iterator[str]:
    """Yield which servers have another config now, as far as `deploy` has written down where the model is."""
    wait = Wait(repository.report, repository.lock_timeout_s)
    with recorded(repository.root, name, f"tune {name}", wait, to_change=False) as record:
        for known in record.servers():
            if known.server not in servers and not is_stopped(known.server):
                again = f"python -m builder deploy {name} --server {known.server}"
                yield f"{known.server} may have the config that was replaced until you run `{again}`"


def _done(planned: Plan, why: str, servers: Sequence[str], notes: Iterable[str]) -> Applied:
    keeping = planned.replacement.keeping
    return Applied(
        name=planned.model.name,
        is_changed=True,
        why=why,
        diff=planned.diff,
        kept=None if keeping is None else keeping.kept.file,
        before_sha256=_sha256(planned.replaced),
        after_sha256=_sha256(planned.content),
        servers=tuple(servers),
        at=now(),
        notes=tuple(notes),
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
