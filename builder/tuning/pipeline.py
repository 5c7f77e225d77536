"""Tune a model: open a bench, search, and write the result back if that was asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from builder.progress import Report, silent
from builder.repository import Repository
from builder.tuning.bench import ServerAccess, open_bench
from builder.tuning.found import Found, Step
from builder.tuning.measurement import Configuration
from builder.tuning.options import TuneOptions
from builder.tuning.search import search
from builder.tuning.space import Space


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a tuning did and found.

    Attributes:
        name: The model.
        version: The version that was measured.
        options: What was asked for.
        server: The address of the user's server; empty for one that was started for the tuning.
        started: When it began, in UTC.
        current: The configuration of config.pbtxt when it began.
        found: What came out.
        config_diff: What the best configuration changes in config.pbtxt; empty if it changes nothing.
    """

    name: str
    version: int
    options: TuneOptions
    server: str
    started: datetime
    current: Configuration
    found: Found
    config_diff: str = ""


def tune(
    repository: Repository,
    name: str,
    options: TuneOptions,
    *,
    server: ServerAccess | None = None,
    report: Report = silent,
    observed: Callable[[Step], None] = lambda step: None,
) -> Tuning:
    """Find the best configuration of a model.

    Args:
        repository: The repository that has it.
        name: The model.
        options: The limit, the load, and how much is measured.
        server: A server of the user's. Default: one that is started for the tuning.
        report: Called with each step of the preparations.
        observed: Called before and after each run.

    Raises:
        RepositoryError: There is no such model or version, or it cannot be measured.
        HostError: There is no server that can be controlled.
        VerificationError: The current configuration answers wrongly.
    """
    started = datetime.now(timezone.utc)
    with open_bench(
        repository,
        name,
        version=options.version,
        server=server,
        stage_time_s=options.stage_time_s,
        protocol=options.protocol,
        report=report,
    ) as bench:
        space = Space.of(
            bench.current,
            cores=bench.cores,
            proven_max_batch=bench.proven_max_batch,
            largest_request=options.goal.largest_request,
            kind=bench.kind,
            max_p99_s=options.goal.max_p99_s,
        )
        found = search(bench, space, options.goal, runs=options.runs, observed=observed)
        return Tuning(name, bench.version, options, bench.server, started, bench.current, found)
