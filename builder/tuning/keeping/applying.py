"""Write the best configuration to config.pbtxt, once a server has given the right answers with it."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from builder.config import pbtxt
from builder.deployment import Address, LiveServer, deploy, is_stopped, try_out
from builder.errors import RepositoryError
from builder.progress import Report, silent
from builder.publishing import ConfigChange, Plan, carry_out, plan_reconfigure
from builder.repository import ModelDirectory, Repository, Wait, recorded
from builder.server import Server
from builder.tuning.bench import configured, options_of, read_configuration
from builder.tuning.keeping.applied import AppliedTunings, Entry
from builder.tuning.keeping.conditions import ModelFacts, changed_fields, tuned_changes
from builder.tuning.keeping.record import now
from builder.tuning.keeping.store import TuningStore
from builder.tuning.search import Found, Result
from builder.tuning.wording import say_configuration

Prove = Callable[[ConfigChange], None]
"""Raises an error unless a server gives the right answers with a change of the config."""


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
    anywhere, config.pbtxt and every server are as they were. `undo` takes it back, and so does a rollback.

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
        if (plan.replaced, plan.content) != (planned.replaced, planned.content):
            what = "somebody has changed it while the new settings were tried, so they were tried with another config"
            raise RepositoryError(model.config_path, what, "run the command again")
        keeping, texts = plan.replacement.keeping, (plan.replaced.decode(), plan.content.decode())
        kept_as = None if keeping is None else str(keeping.kept)
        tunings.add(Entry(now(), "applying", plan.after, *texts, kept_as, addresses))

    change = ConfigChange(f"tune {name}", partial(_plan_apply, measured=measured, best=found.best), writing)
    planned = change.plan(model)
    if planned.content == planned.replaced:
        return Applied(name, is_changed=False, why="nothing is applied: config.pbtxt has these settings already")
    try:
        if not servers:
            (prove or _on_embedded(repository, name, slack, report))(change)
        make(repository, name, change, servers, slack, report)
    finally:
        tunings.settle()
    others = changed_fields(measured.config, planned.replaced.decode())
    edited = [f"{', '.join(others)} in config.pbtxt was changed since it was measured, and stays so"] if others else []
    undo = f"`python -m builder tune {name} --undo` takes this back"
    notes = (*planned.notes, *edited, *find_outdated(repository, name, addresses), undo)
    return summarize(planned, "the best settings are in config.pbtxt", addresses, notes)


def preview(repository: Repository, name: str, *, measured: ModelFacts, found: Found) -> str:
    """Return what `apply` would change in config.pbtxt, as a unified diff; empty if nothing. Nothing is written.

    Raises:
        RepositoryError: `apply` would refuse it.
    """
    if found.verdict != "better" or found.best is None:
        return ""
    return _plan_apply(repository.model(name), measured, found.best).diff


def make(
    repository: Repository,
    name: str,
    change: ConfigChange,
    servers: Sequence[LiveServer],
    slack: float,
    report: Report,
) -> None:
    """Make a change: on these servers by a deployment, or in the repository alone if there are none."""
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
        back = f"python -m builder switch {model.name} --to {measured.version}"
        raise RepositoryError(model.config_path, what, f"{again}, or run `{back}` first")
    if model.read_manifest(served).model.sha256 != measured.sha256:
        raise RepositoryError(model.version_dir(served), "its files are not those that were measured", again)
    if changed := tuned_changes(measured.config, text):
        what = f"{', '.join(changed)} was changed after the model was measured with another one"
        raise RepositoryError(model.config_path, what, again)
    where = model.config_path
    config = pbtxt.parse(text, where=where)
    plan = plan_reconfigure(model, options_of(best.configuration, read_configuration(config, where=where)))
    written = read_configuration(pbtxt.parse(plan.config.text, where=where), where=where)
    if written != read_configuration(configured(config, best.configuration, where=where), where=where):
        what = f"it would get {say_configuration(written)}, and {say_configuration(best.configuration)} was measured"
        raise RepositoryError(where, what, again)
    return plan


def find_outdated(repository: Repository, name: str, servers: Collection[str]) -> Iterator[str]:
    """Yield which servers have another config now, as far as `deploy` has written down where the model is."""
    wait = Wait(repository.report, repository.lock_timeout_s)
    with recorded(repository.root, name, f"tune {name}", wait, to_change=False) as record:
        for known in record.servers():
            if known.server not in servers and not is_stopped(known.server):
                again = f"python -m builder deploy {name} --server {known.server}"
                yield f"{known.server} may have the config that was replaced until you run `{again}`"


def summarize(planned: Plan, why: str, servers: Sequence[str], notes: Iterable[str]) -> Applied:
    """Return what a plan that was carried out has changed."""
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
