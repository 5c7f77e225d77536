"""Tune several models on one server: put all of them under load at once, keep what came out, and write it back."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from builder.deployment import Address, LiveServer
from builder.progress import Report, silent
from builder.repository import Repository
from builder.tuning import pipeline
from builder.tuning.bench import ServerAccess, ServerBench, Stopwatch, open_bench, read_goal, start_server
from builder.tuning.keeping import Connect, Record, TuningStore, as_document, now, tuning, undo
from builder.tuning.measurement import Configuration, Measurement
from builder.tuning.options import TuneOptions
from builder.tuning.pipeline import Tuning
from builder.tuning.preparing import conditions_of, refuse_wrong, space_of
from builder.tuning.search import Found, Measure, Runs, Shared, Step, Turn, Verdict, Wanted, search, search_together

Observe = Callable[[str, Step], None]

SCHEMA = 1

_APART = 1.2
"""How many times as long as the shortest load test the longest one may take, to count as under load at once."""


@dataclass(frozen=True, slots=True)
class Together:
    """What a tuning of several models found.

    Attributes:
        tunings: The tuning of each model, in the order in which they were named.
        shared: What came out for all of them together.
    """

    tunings: tuple[Tuning, ...]
    shared: Shared

    def to_document(self) -> dict[str, Any]:
        """Return all of it as JSON: what `tune.json` has of each model, and what came out for all of them."""
        models = {each.name: each.record.to_document() for each in self.tunings}
        return {"schema": SCHEMA, "models": models, "together": summary_of(self.shared)}


def tune_together(
    repository: Repository,
    names: Sequence[str],
    options: TuneOptions,
    *,
    server: ServerAccess | None = None,
    report: Report = silent,
    observed: Observe = lambda name, step: None,
) -> Together:
    """Find the best configurations of several models on one server, while all of them are under load.

    Args:
        repository: The repository that has them.
        names: The models.
        options: The limit and the load, which are those of each model, and what is done with the result.
        server: A server of the user's. Default: one that is started for the tuning.
        report: Called with each step of the preparations.
        observed: Called with the model, before and after each run of its turn.

    Raises:
        RepositoryError: There is no such model, it cannot be measured, or a result cannot be written back.
        HostError: There is no server that can be controlled, or it ended.
        VerificationError: A model answers wrongly as it is, or when it is written back.
        ValueError: The options give no load.
    """
    if options.goal.users is None and options.goal.rate is None:
        raise ValueError("the load of models that share a server has to be given")
    with ExitStack() as stack:
        command = f"tune {' '.join(names)} --share"
        # Sorted, so that two tunings of the same models never wait for each other.
        stores = {name: stack.enter_context(tuning(repository, name, command)) for name in sorted(names)}
        shared, records = _search(repository, names, options, stores, server, report, observed)
        tunings = {}
        for name, record in records.items():
            if record.found is not None:
                kept = pipeline.with_diff(repository, stores[name], record, record.found)
                tunings[name] = Tuning(kept, stores[name].path)
        if options.apply:
            tunings = _apply(repository, tunings, stores, server, report)
        return Together(tuple(tunings[name] for name in names), shared)


def _search(
    repository: Repository,
    names: Sequence[str],
    options: TuneOptions,
    stores: Mapping[str, TuningStore],
    server: ServerAccess | None,
    report: Report,
    observed: Observe,
) -> tuple[Shared, dict[str, Record]]:
    """Search in turns, and return what came out, and the record of each model."""
    started = now()
    with _benches(repository, names, options, server, report) as benches:
        current = {name: benches[name].current for name in names}
        shared = search_together(
            current,
            options.goal,
            refusing_wrong(lambda wanted: measure_all(benches, wanted), current),
            lambda name, configuration: space_of(benches[name], options, configuration),
            runs=options.runs,
            observed=observed,
            searching=partial(search, here=benches[names[0]].is_here),
        )
        records = {}
        for name in names:
            turn = next(turn for turn in reversed(shared.turns) if turn.name == name)
            conditions = conditions_of(repository, name, options, benches[name], fixed=turn.fixed)
            if server is None:
                conditions = replace(conditions, server=None)
            stores[name].resume(conditions, is_fresh=True)
            found = found_of(name, current[name], shared, turn, options)
            records[name] = Record(
                name,
                conditions=conditions,
                current=current[name],
                runs=options.runs,
                started=started,
                finished=now(),
                steps=found.steps,
                found=found,
                notes=benches[name].notes,
            )
    return shared, records


@contextmanager
def _benches(
    repository: Repository, names: Sequence[str], options: TuneOptions, server: ServerAccess | None, report: Report
) -> Iterator[Mapping[str, ServerBench]]:
    """Prepare one server to measure all models."""
    rows = options.goal.largest_request
    for name in names:  # before a server starts
        read_goal(repository, name, largest_request=rows)
    with ExitStack() as stack:
        if server is None:
            embedded = stack.enter_context(start_server(repository, report))
            address = Address.parse(embedded.grpc_address)
            server = ServerAccess(address, http=embedded.http_address, admin=embedded.admin)
        benches = {}
        for name in sorted(names):
            bench = open_bench(
                repository,
                name,
                largest_request=rows,
                server=server,
                stage_time_s=options.stage_time_s,
                protocol=options.protocol,
                report=report,
            )
            benches[name] = stack.enter_context(bench)
        yield benches


def refusing_wrong(measure: Measure, current: Mapping[str, Configuration]) -> Measure:
    """Return what measures and refuses to go on if a model answers wrongly as it is, which no search would repair."""
    numbers = itertools.count(1)

    def measured(wanted: Wanted) -> Mapping[str, Measurement]:
        made, is_first = measure(wanted), next(numbers) == 1
        for name, run in made.items():
            refuse_wrong(run, current[name], name, is_first=is_first)
        return made

    return measured


def measure_all(benches: Mapping[str, ServerBench], wanted: Wanted) -> Mapping[str, Measurement]:
    """Put all models under load at the same time, and return what each gave.

    A slow model may need longer than the others until it has enough requests. All load tests are given that time then,
    from here on, so that none of them goes on alone.

    Args:
        benches: The bench of each model, all of them on one server.
        wanted: What each model runs with, and under which load.

    Raises:
        HostError: The server is gone, or a load test does not run.
    """
    for name in wanted:
        benches[name].prepare()
    problems = {name: problem for name, (one, _) in wanted.items() if (problem := benches[name].load(one)) is not None}
    if problems:
        first = next(iter(problems))
        beside = f"{first} beside it does not load: {problems[first]}"
        return {name: Measurement(*each, None, None, error=problems.get(name, beside)) for name, each in wanted.items()}
    found = _run(benches, wanted)
    if any(one.error for one in found.values()):
        return found  # it counts for none of them, however long the others ran
    longest = max(one.seconds for one in found.values())
    if longest > _APART * min(one.seconds for one in found.values()):
        for bench in benches.values():
            bench.stage_time_s = max(bench.stage_time_s, longest)
        found = _run(benches, wanted)
    return found


def _run(benches: Mapping[str, ServerBench], wanted: Wanted) -> Mapping[str, Measurement]:
    stopwatch = Stopwatch(next(iter(benches.values())).process)
    try:
        for name, (_, load) in wanted.items():
            benches[name].start(load)
        ended = {name: benches[name].wait() for name in wanted}
    finally:
        for name in wanted:
            benches[name].stop()
    busy = stopwatch.stop(children_s=sum(one.cpu_s for one in ended.values()))
    measured = {name: benches[name].read(ended[name], *each, busy) for name, each in wanted.items()}
    # The server's processor time is that of all models, and nobody knows whose part is which.
    return {name: replace(one, server_cpu_s=None) for name, one in measured.items()}


def found_of(name: str, current: Configuration, shared: Shared, turn: Turn, options: TuneOptions) -> Found:
    """Return what came out for one model: what its last turn found, unless all models together decide otherwise.

    Args:
        name: The model.
        current: Its configuration in config.pbtxt.
        shared: What came out for all models.
        turn: Its last turn.
        options: The limit and the load.
    """
    found, before = turn.found, shared.before.get(name)
    if shared.chosen[name] != current:
        after = shared.after[name]
        gain = Runs(options.goal).ratio(after, before) if before else None
        return replace(found, verdict="better", why=shared.why, best=after, baseline=before, gain=gain)
    if found.best is not None and found.baseline is not None and found.baseline.configuration != current:
        # The turn went on from settings that an earlier one had found, and which are not used after all.
        is_back = found.best.configuration == current
        kept = found.best if is_back else before
        verdict: Verdict = "as it is" if is_back else "not distinguishable"
        return replace(found, verdict=verdict, why=shared.why, best=kept, baseline=kept, gain=None, ties=())
    if shared.is_better and found.best is None and name in shared.after:
        # Its turn found nothing that keeps the limit, but beside the others' new settings its own do.
        kept = shared.after[name]
        return replace(found, verdict="as it is", why=shared.why, best=kept, baseline=kept, gain=None, nearest=None)
    if found.verdict == "better":
        why = turn.why if not turn.accepted else shared.why
        return replace(found, verdict="not distinguishable", why=why, best=found.baseline)
    return found


def _apply(
    repository: Repository,
    tunings: Mapping[str, Tuning],
    stores: Mapping[str, TuningStore],
    server: ServerAccess | None,
    report: Report,
) -> dict[str, Tuning]:
    """Write all results back; if one cannot be written, take back those before, which were not measured without it."""
    done: dict[str, Tuning] = {}
    for name, one in tunings.items():
        try:
            done[name] = pipeline.applied(one, repository, stores[name], server, report)
        except BaseException:
            for other in reversed([each for each in done.values() if each.applied and each.applied.is_changed]):
                report("undo", f"{other.name}: its settings were measured beside the new ones of {name}")
                undo(repository, other.name, stores[other.name], connect=_connecting(server), report=report)
            raise
    return done


def _connecting(server: ServerAccess | None) -> Connect:
    """Return what connects to the server that results were deployed to."""

    @contextmanager
    def connect(addresses: Sequence[str]) -> Iterator[list[LiveServer]]:
        if server is None:
            yield []
        else:
            with server.connect() as live:
                yield [live]

    return connect


def summary_of(shared: Shared) -> dict[str, Any]:
    """Return what came out for all models together, as JSON."""
    turns = [
        {
            "name": turn.name,
            "number": turn.number,
            "fixed": list(turn.fixed),
            "verdict": turn.found.verdict,
            "accepted": turn.accepted,
            "why": turn.why,
            "runs": len(turn.found.steps),
        }
        for turn in shared.turns
    ]
    document: dict[str, Any] = as_document(replace(shared, turns=()))
    return {**document, "turns": turns}
