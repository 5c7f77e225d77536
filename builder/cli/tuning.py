"""Show what `tune` does and finds: a line before and after each run, the table, and what comes of it."""

import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.help_pages import PROGRAM
from builder.cli.output import print_diff, print_json, print_result, print_table, report
from builder.cli.servers import take_access
from builder.cli.tuning_conflicts import LONGEST_STAGE_S, check_duration
from builder.errors import HostError

if TYPE_CHECKING:
    from builder.tuning import (
        Applied,
        Goal,
        Interval,
        Measurement,
        ServerAccess,
        Step,
        Together,
        TuneOptions,
        Tuning,
    )

_MARGIN = 1.2
"""How far a limit has to be above the upper end of a p99, so that another run keeps it."""

_ENOUGH = 44
"""A stage that is so many times as long as a request takes gets 400 of them in ten times its time, and a tenth more."""

_NOT_AGAIN = ("--fresh", "--json")
"""Options of a tuning that its result is applied without."""


def run(name: str, repository: Path | str, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Tune a model, and print what came of it.

    Raises:
        BuilderError: It failed, or no configuration keeps the limit.
    """
    from builder import api
    from builder.tuning import check_folder, write_report

    options = options_of(given)
    check_duration(options, 1)
    if given["report_dir"] is not None:
        check_folder(given["report_dir"])
    report("runs", say_longest(options, 1))
    done = api.tune(
        name,
        repository,
        options=options,
        server=server_of(given),
        lock_timeout_s=given["lock_timeout_s"],
        report=report,
        observed=Progress().show,
    )
    if given["report_dir"] is not None:
        report("report", str(write_report(done.record.to_document(), given["report_dir"])))
    if as_json:
        print_json(done.record.to_document())
    else:
        show(done)
    check(done)


def run_together(names: Sequence[str], repository: Path | str, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Tune several models on one server, and print what came of each and of all.

    Raises:
        BuilderError: It failed, or for one of the models no configuration keeps the limit.
    """
    from builder import api
    from builder.tuning import check_folder, write_reports

    options, folder = options_of(given), given["report_dir"]
    check_duration(options, len(names))
    if folder is not None:
        check_folder(folder)
    report("runs", say_longest(options, len(names)))
    progress = {name: Progress(f"{name}: ") for name in names}
    done = api.tune_together(
        names,
        repository,
        options=options,
        server=server_of(given),
        lock_timeout_s=given["lock_timeout_s"],
        report=report,
        observed=lambda name, step: progress[name].show(step),
    )
    document = done.to_document()
    for page in write_reports(document, folder) if folder is not None else ():
        report("report", str(page))
    if as_json:
        print_json(document)
    else:
        for each in done.tunings:
            show(each, is_shared=True)
        show_together(done)
    for each in done.tunings:
        check(each)


def show_together(done: "Together") -> None:
    """Print what all models gave with their old and their new settings, and the verdict."""
    from builder.tuning import table

    shared = done.shared
    if shared.after:
        print_table(table.SHARED_HEADS, [*table.to_shared_rows(shared)], title="all models at once", is_dense=True)
    print_result(f"together: {shared.why}")
    if any(each.applied is None and each.record.config_diff for each in done.tunings):
        print_result("to use these settings: run this command with --apply; it measures again")


def undo(name: str, repository: Path | str, given: dict[str, Any], *, as_json: bool) -> None:
    """Take back the last tuning that was applied, and print what changed."""
    from dataclasses import asdict

    from builder import api

    done = api.undo_tuning(
        name,
        repository,
        servers=given["servers"],
        **take_access(given),
        lock_timeout_s=given["lock_timeout_s"],
        report=report,
    )
    if as_json:
        print_json(asdict(done))
    else:
        show_change(done)


def options_of(given: Mapping[str, Any]) -> "TuneOptions":
    """Return what the command line asks for."""
    from builder.tuning import Goal, TuneOptions

    goal = Goal(given["max_p99_s"], given["users"], given["rate"], given["rows"] or ((1, 1.0),))
    others = {name: given[name] for name in ("version", "runs", "stage_time_s", "protocol", "is_fresh", "apply")}
    return TuneOptions(goal, **{name: value for name, value in others.items() if value is not None})


def say_longest(options: "TuneOptions", models: int) -> str:
    """Return how much a tuning measures at most, and how long that takes."""
    from builder.tuning import wording

    longest = options.longest(models)
    turns = f", up to {options.runs} in a turn" if models > 1 else ""
    return f"at most {longest.runs:,}{turns}: about {wording.say_duration(longest.seconds)}, longer for a slow model"


def server_of(given: Mapping[str, Any]) -> "ServerAccess | None":
    """Return the server that the command line names, and what is needed to reach it."""
    if not given["servers"]:
        return None
    from builder.server import given_access
    from builder.tuning import ServerAccess

    files = {name: given[name] for name in ("header_file", "ca_file", "client_cert", "client_key")}
    admin = given_access(given["admin_key_file"], given["admin_header"])
    return ServerAccess(given["servers"][0], http=given["http_address"], admin=admin, cores=given["cores"], **files)


class Progress:
    """Prints a line before each run, and one after it, with the time that is left."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._durations: list[float] = []
        self._began = time.monotonic()

    def show(self, step: "Step") -> None:
        """Print what is tried next and why, or what came out and what is best so far."""
        from builder.tuning import wording

        if step.measurement is None:
            self._began = time.monotonic()
            tried = f"{wording.say_configuration(step.configuration)}, {wording.say_load(step.load)}"
            report(f"run {step.number}", f"{self._prefix}{tried}: {step.why}")
            return
        if not step.resumed:
            self._durations.append(time.monotonic() - self._began)
        before = "from before: " if step.resumed else ""
        report("", f"{self._prefix}{before}{wording.say_result(step.measurement)}{self._best(step)}{self._left(step)}")

    def _best(self, step: "Step") -> str:
        """Return the best so far, unless it is this very run."""
        from builder.tuning import wording

        best = step.best
        if best is None or (best.configuration, best.load) == (step.configuration, step.load):
            return "; the best so far" if best is not None else ""
        return f"; best so far {wording.say_throughput(best.throughput)} rows/s, p99 {wording.say_ms(best.p99_s)}"

    def _left(self, step: "Step") -> str:
        """Return how long the runs that are left take at most, if they take as long as those before."""
        runs = step.of - step.number
        if runs <= 0 or not self._durations:
            return ""
        return f"; at most {runs * sum(self._durations) / len(self._durations):.0f} s left"


def show(done: "Tuning", *, is_shared: bool = False) -> None:
    """Print the table, what was found, what it changes in config.pbtxt, and the command that applies it."""
    from builder.tuning import table

    record, found = done.record, done.found
    rows = [*table.to_rows(found, record.conditions.goal, record.current)]
    print_table(table.HEADS, rows, title=f"{done.name} version {record.conditions.model.version}", is_dense=True)
    for line in table.conclude(found, record.conditions.goal, record.current):
        print_result(line)
    for note in (*record.conditions.fixed, *record.notes):
        print_result(f"note: {note}")
    if done.applied is not None and found.verdict != "better":
        print_result("nothing is applied")
    elif done.applied is not None:
        show_change(done.applied)
    elif record.config_diff:
        print_diff(record.config_diff.rstrip("\n"), is_result=True)
        if not is_shared:
            print_result(f"to use these settings: {again()}")


def show_change(applied: "Applied") -> None:
    """Print what was written to config.pbtxt, or why nothing was."""
    print_diff(applied.diff.rstrip("\n"), is_result=True)
    for note in applied.notes:
        report("note", note)
    on = f", and on {', '.join(applied.servers)}" if applied.servers else ""
    print_result(f"{applied.name}: {applied.why}{on}")


def again() -> str:
    """Return the command that applies what this command has found; it finds the measurements, and makes none."""
    given = [argument for argument in sys.argv[1:] if argument not in _NOT_AGAIN]
    return f"{PROGRAM} {shlex.join(given)} --apply"


def check(done: "Tuning") -> None:
    """Let the command fail if nothing keeps the limit.

    Raises:
        HostError: That is so.
    """
    if done.found.best is None:
        raise HostError(done.name, done.found.why, ", or ".join(_ways(done)))


def _ways(done: "Tuning") -> Iterator[str]:
    """Yield what may lead to settings that keep the limit, where none did."""
    goal, nearest = done.record.conditions.goal, done.found.nearest
    stage_time_s = done.record.conditions.stage_time_s
    made = [(step.trial, step.measurement) for step in done.found.steps if step.measurement is not None]
    if nearest is None:
        yield _way_to_figures(done, [run for _, run in made])
        return
    runs = [run for trial, run in made if trial == nearest.trial]
    if any(run.failed or run.unchecked for run in runs):
        yield "correct what the notes or the server's log say about it, and run the command again"
        return
    is_behind = any(map(goal.falls_behind, runs))
    if is_behind or not goal.keeps_up(nearest.throughput.value, sum(run.requests for run in runs)):
        yield "ask for fewer requests with --rate"
        return
    yield from _ways_to_p99(goal, nearest.p99_s, stage_time_s)


def _ways_to_p99(goal: "Goal", p99_s: "Interval", stage_time_s: float) -> Iterator[str]:
    """Yield what may lead to a p99 that keeps the limit."""
    if p99_s.value <= goal.max_p99_s and stage_time_s < LONGEST_STAGE_S:
        yield f"{_more_time(stage_time_s)}, which narrows the intervals"
    yield f"allow a longer latency, as in --max-p99-ms {math.ceil(_MARGIN * 1000 * p99_s.high)}"
    if (goal.users or 0) > 1:
        yield "ask for fewer users with --concurrency"
    if goal.rate is not None:
        yield "ask for fewer requests with --rate"


def _way_to_figures(done: "Tuning", runs: "Sequence[Measurement]") -> str:
    """Return what may lead to figures, where no run gave any that count."""
    from builder.tuning import is_disturbed

    if done.found.why in {run.error for run in runs}:
        return "correct what this names, and run the command again"
    if runs and all(run.wrong for run in runs):
        return f"run `{PROGRAM} verify {done.name}`, which shows what is wrong"
    if runs and not any(run.batches for run in runs):
        return "correct what the note on the batches names, and run the command again"
    if any(map(is_disturbed, runs)):
        return "run the command again when no other program is busy"
    slowest = max((run.seconds / run.requests for run in runs if run.requests and run.p99_s is None), default=0.0)
    return _more_time(done.record.conditions.stage_time_s, math.ceil(_ENOUGH * slowest))


def _more_time(stage_time_s: float, enough_s: float = 0.0) -> str:
    """Return that runs need more time: four times as much, or what is known to be enough."""
    longer = min(max(4 * stage_time_s, enough_s), LONGEST_STAGE_S)
    return f"give each run more time, as in --stage-time {longer:g}s"
