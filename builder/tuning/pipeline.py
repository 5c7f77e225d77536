"""Tune a model: open a bench, search, keep what was measured, and write the result back if that was asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from builder.errors import RepositoryError
from builder.progress import Report, silent
from builder.repository import Repository
from builder.tuning.bench import ServerAccess, open_bench
from builder.tuning.keeping import Applied, Record, TuningStore, UndoAccess, apply, now, preview, tuning, undo
from builder.tuning.measurement import Measurement
from builder.tuning.options import TuneOptions
from builder.tuning.preparing import conditions_of, refuse_version, refuse_wrong, space_of
from builder.tuning.search import Found, Step, search
from builder.tuning.table import gather_notes

Observe = Callable[[Step], None]

_BEFORE = "it was measured before the tuning was interrupted"
"""What an unfinished record says of a run that waits to be used again."""


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
        refuse_version(repository, name, options)
        done = Tuning(_measure(repository, name, options, store, server, report, observed), store.path)
        return applied(done, repository, store, server, report) if options.apply else done


def undo_applied(repository: Repository, name: str, access: UndoAccess, *, report: Report = silent) -> Applied:
    """Bring back the settings from before the last tuning that was applied, also on the servers that got it.

    Args:
        repository: The repository.
        name: The model.
        access: What is sent to the servers, and to which of them.
        report: Called with each step.

    Raises:
        RepositoryError: What the tuning changed was changed again since.
        HostError: A server does not load the config, does not answer, or may not get the key.
        VerificationError: An answer is not the proven one.
    """
    with tuning(repository, name, f"tune {name} --undo") as store:
        return undo(repository, name, store, connect=access.connect, report=report)


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
        largest_request=goal.largest_request,
        server=server,
        stage_time_s=options.stage_time_s,
        protocol=options.protocol,
        report=report,
    ) as bench:
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
        keep = _Keeping(store, record, resumed.done, observed)
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
        notes = (*resumed.notes, *bench.notes)
    record = replace(keep.record, found=found, steps=found.steps, finished=now(), notes=notes)
    store.write(record)
    return with_diff(repository, store, record, found)


class _Keeping:
    """Writes a record after each run, and passes the run on.

    A run of an interrupted tuning is in the record that it was read from, so nothing is written for it. As long as such
    a run waits for its turn, it is kept behind those that were made: a second interruption does not lose it.
    """

    def __init__(self, store: TuningStore, record: Record, waiting: Sequence[Measurement], observed: Observe) -> None:
        self.record = record
        self._store = store
        self._waiting = [*waiting]
        self._observed = observed

    def __call__(self, step: Step) -> None:
        run = step.measurement
        if run is not None:
            self.record = replace(self.record, steps=(*self.record.steps, step))
            if step.resumed:
                self._waiting.remove(run)
            else:
                steps = (*self.record.steps, *self._still_waiting(step))
                self._store.write(replace(self.record, steps=steps))
        self._observed(step)
        if run is not None:
            refuse_wrong(run, self.record.current, self.record.name, is_first=step.number == 1)

    def _still_waiting(self, last: Step) -> Iterator[Step]:
        for number, run in enumerate(self._waiting, last.number + 1):
            yield Step(number, last.of, run.configuration, run.load, "calibration", _BEFORE, None, run, resumed=True)


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
