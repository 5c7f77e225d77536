"""Tune a model: open a bench, search, keep what was measured, and write the result back if that was asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from builder.bucket import is_url
from builder.deployment import Address, Certificates, LiveServer
from builder.errors import RepositoryError, VerificationError
from builder.progress import Report, silent
from builder.repository import Repository
from builder.server import AdminAccess
from builder.tuning.bench import ServerAccess, ServerBench, open_bench, read_machine
from builder.tuning.keeping import (
    Applied,
    Conditions,
    ModelFacts,
    Record,
    TuningStore,
    apply,
    changed_fields,
    now,
    preview,
    tuning,
    undo,
)
from builder.tuning.measurement import Configuration
from builder.tuning.options import TuneOptions
from builder.tuning.search import Found, Space, Step, search
from builder.tuning.table import gather_notes
from builder.tuning.wording import say_configuration

Observe = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a tuning did and found.

    Attributes:
        record: All of it: what was measured, for what it holds, what came out, and what was written back.
        path: The file that keeps it, beside the repository.
        applied: What was written to config.pbtxt; None if that was not asked for.
    """

    record: Record
    path: Path
    applied: Applied | None = None

    @property
    def name(self) -> str:
        """The model."""
        return self.record.name

    @property
    def found(self) -> Found:
        """What came out."""
        if self.record.found is None:
            raise ValueError("this tuning is not over")
        return self.record.found


def tune(
    repository: Repository,
    name: str,
    options: TuneOptions,
    *,
    server: ServerAccess | None = None,
    report: Report = silent,
    observed: Observe = lambda step: None,
) -> Tuning:
    """Find the best configuration of a model, and write it to config.pbtxt if the options say so.

    Args:
        repository: The repository that has it.
        name: The model.
        options: The limit, the load, how much is measured, and what is done with the result.
        server: A server of the user's. Default: one that is started for the tuning.
        report: Called with each step of the preparations.
        observed: Called before and after each run.

    Raises:
        RepositoryError: There is no such model or version, it cannot be measured, or the result cannot be written back.
        HostError: There is no server that can be controlled, or it ended.
        VerificationError: The current configuration answers wrongly, or the new one does when it is written back.
    """
    with tuning(repository, name, f"tune {name}") as store:
        _refuse_version(repository, name, options)
        done = Tuning(_measure(repository, name, options, store, server, report, observed), store.path)
        return applied(done, repository, store, server, report) if options.apply else done


def undo_applied(
    repository: Repository,
    name: str,
    *,
    admin: AdminAccess | None = None,
    headers: Mapping[str, str] | None = None,
    certificates: Certificates | None = None,
    report: Report = silent,
) -> Applied:
    """Bring back the settings from before the last tuning that was applied, also on the servers that got it.

    Args:
        repository: The repository.
        name: The model.
        admin: The key to the servers' administrative APIs.
        headers: Other headers to send to them.
        certificates: The certificates for `grpcs://`.
        report: Called with each step.

    Raises:
        RepositoryError: What the tuning changed was changed again since.
        HostError: A server does not load the config, or does not answer.
        VerificationError: An answer is not the proven one.
    """

    @contextmanager
    def connect(addresses: Sequence[str]) -> Iterator[list[LiveServer]]:
        with ExitStack() as stack:
            servers = (
                LiveServer(Address.parse(one), admin=admin, headers=headers, certificates=certificates)
                for one in addresses
            )
            yield [stack.enter_context(server) for server in servers]

    with tuning(repository, name, f"tune {name} --undo") as store:
        return undo(repository, name, store, connect=connect, report=report)


def place_of(
    repository: Path | str, *, report: Report, lock_timeout_s: float | None, to_undo: bool = False
) -> Repository:
    """Return the repository to tune in, which is a folder.

    Args:
        repository: The folder of the model repository.
        report: Called with who holds a lock that is waited for.
        lock_timeout_s: How long to wait for it, in seconds.
        to_undo: Whether a tuning is to be taken back.

    Raises:
        RepositoryError: It is a bucket.
    """
    if is_url(repository):
        what, bucket = "a tuning loads its candidates from a folder, and this is a bucket", f"--repository {repository}"
        fix = f"tune a copy in a folder, and write the settings here with `python -m builder configure NAME {bucket}`"
        if to_undo:
            what = "a tuning is applied in a folder, and this is a bucket"
            fix = f"take the last change of the config back with `python -m builder rollback NAME {bucket}`"
        raise RepositoryError(repository, what, fix)
    return Repository(Path(repository), report=report, lock_timeout_s=lock_timeout_s)


def _measure(
    repository: Repository,
    name: str,
    options: TuneOptions,
    store: TuningStore,
    server: ServerAccess | None,
    report: Report,
    observed: Observe,
) -> Record:
    """Search, and write each run to the record before the next one is made."""
    goal = options.goal
    with open_bench(
        repository,
        name,
        version=options.version,
        server=server,
        stage_time_s=options.stage_time_s,
        protocol=options.protocol,
        report=report,
    ) as bench:
        refuse_rows(bench, options, name)
        conditions = conditions_of(repository, name, options, bench)
        resumed = store.resume(conditions, is_fresh=options.is_fresh)
        for note in resumed.notes:
            report("note", note)
        started = resumed.started or now()
        record = Record(
            name,
            conditions=conditions,
            current=bench.current,
            runs=options.runs,
            started=started,
            notes=resumed.notes,
        )
        keep = _Keeping(store, record, observed)
        found = search(
            bench,
            space_of(bench, options),
            goal,
            runs=options.runs,
            here=bench.is_here,
            done=resumed.done,
            observed=keep,
        )
        found = replace(found, notes=gather_notes(found))
        refuse_wrong(found, bench.current, name)
        notes = (*resumed.notes, *bench.notes)
    record = replace(keep.record, found=found, steps=found.steps, finished=now(), notes=notes)
    store.write(record)
    return with_diff(repository, store, record, found)


class _Keeping:
    """Writes a record after each run, and passes the run on.

    A run of an interrupted tuning is in the record that it was read from, so nothing is written for it.
    """

    def __init__(self, store: TuningStore, record: Record, observed: Observe) -> None:
        self.record = record
        self._store = store
        self._observed = observed

    def __call__(self, step: Step) -> None:
        if step.measurement is not None:
            self.record = replace(self.record, steps=(*self.record.steps, step))
            if not step.resumed:
                self._store.write(self.record)
        self._observed(step)


def conditions_of(
    repository: Repository, name: str, options: TuneOptions, bench: ServerBench, fixed: tuple[str, ...] = ()
) -> Conditions:
    """Return what the measurements of a bench hold for.

    Args:
        repository: The repository.
        name: The model.
        options: The limit and the load.
        bench: What measures it.
        fixed: What is held as it is meanwhile; one sentence each.

    Raises:
        RepositoryError: The config or the manifest cannot be read, or the config is not the one that is measured.
    """
    model = repository.model(name)
    facts = ModelFacts.of(model, bench.version)
    if bench.config_text is not None and (changed := changed_fields(bench.config_text, facts.config)):
        what = f"{', '.join(changed)} was changed after the tuning had read it, so it was not measured"
        raise RepositoryError(model.config_path, what, "run the command again")
    return Conditions(
        model=facts,
        goal=options.goal,
        stage_time_s=options.stage_time_s,
        protocol=options.protocol,
        server=bench.server or None,
        machine=read_machine(),
        software={name: number for name, number in bench.software.items() if number},
        fixed=fixed,
    )


def space_of(bench: ServerBench, options: TuneOptions, current: Configuration | None = None) -> Space:
    """List what can be tried on a bench, from the configuration of config.pbtxt on or from another one."""
    return Space.of(
        current or bench.current,
        cores=bench.cores,
        proven_max_batch=bench.proven_max_batch,
        largest_request=options.goal.largest_request,
        kind="tensorrt" if bench.plan else bench.kind,
        max_p99_s=options.goal.max_p99_s,
        plan=bench.plan,
    )


def refuse_rows(bench: ServerBench, options: TuneOptions, name: str) -> None:
    """Refuse requests that the model does not take, before anything is measured.

    Raises:
        RepositoryError: A request would have more rows than `max_batch_size`.
    """
    rows, most = options.goal.largest_request, max(bench.current.max_batch_size, 1)
    if rows > most:
        what = f"--rows has requests of {rows} rows, and the server refuses more than {most} in one (max_batch_size)"
        fix = f"give at most {most}" + (f", or {_more(bench, rows, name)}" if bench.current.max_batch_size else "")
        raise RepositoryError(name, what, fix)


def _refuse_version(repository: Repository, name: str, options: TuneOptions) -> None:
    """Refuse to write back what another version than the served one gives, before anything is measured.

    Raises:
        RepositoryError: That was asked for.
    """
    if not options.apply or options.version is None:
        return
    model = repository.model(name)
    if (served := model.served_version()) != options.version and options.version in model.versions():
        what = f"it serves version {served}, and --apply would give that the settings of version {options.version}"
        to = f"python -m builder switch {name} --to {options.version}"
        raise RepositoryError(model.config_path, what, f"leave out --version or --apply, or run `{to}` first")


def _more(bench: ServerBench, rows: int, name: str) -> str:
    """Return how a model comes to take requests of more rows."""
    if rows <= bench.proven_max_batch:
        return f"allow them with `python -m builder configure {name} --max-batch-size {rows}`"
    return f"publish with --max-batch-size {rows}, which proves it"


def refuse_wrong(found: Found, current: Configuration, name: str) -> None:
    """Refuse to go on if the model answers wrongly as it is.

    Raises:
        VerificationError: It does.
    """
    if current in found.wrong:
        what = f"it answers wrongly with its current settings: {say_configuration(current)}"
        fix = f"run `python -m builder verify {name}`, which compares its answers; after a repair, tune with --fresh"
        raise VerificationError(name, what, fix)


def with_diff(repository: Repository, store: TuningStore, record: Record, found: Found) -> Record:
    """Add what the best configuration would change in config.pbtxt, or why it cannot be written there."""
    try:
        diff = preview(repository, record.name, measured=record.conditions.model, found=found)
    except RepositoryError as error:
        note = f"these settings cannot be written to config.pbtxt now: {error.what}"
        record = replace(record, notes=(*record.notes, note))
    else:
        record = replace(record, config_diff=diff)
    store.write(record)
    return record


def applied(
    done: Tuning, repository: Repository, store: TuningStore, server: ServerAccess | None, report: Report
) -> Tuning:
    """Write the best configuration to config.pbtxt if it is better than the current one, and keep that in the record.

    Raises:
        BuilderError: It cannot be written, or a server does not give the right answers with it.
    """
    record = done.record
    write = partial(
        apply, repository, record.name, store, measured=record.conditions.model, found=done.found, report=report
    )
    if server is None:
        made = write()
    else:
        with server.connect() as live:
            made = write(servers=[live])
    record = replace(record, applied=made)
    store.write(record)
    return Tuning(record, store.path, made)
