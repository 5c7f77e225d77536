"""Show what `tune` does and finds: a line before and after each run, the table, and what comes of it."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.output import print_result, print_table, report
from builder.errors import HostError

if TYPE_CHECKING:
    from builder.tuning import ServerAccess, Step, TuneOptions, Tuning


def run(names: Sequence[str], repository: Path | str, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Tune models, or undo a tuning, and print what came of it.

    Raises:
        BuilderError: It failed, or no configuration keeps the limit.
    """
    from builder import api

    server = server_of(given)
    done = [
        api.tune(
            name,
            repository,
            options=options_of(given),
            server=server,
            lock_timeout_s=given["lock_timeout_s"],
            report=report,
            observed=Progress().show,
        )
        for name in names
    ]
    for tuning in done:
        if not as_json:
            show(tuning)
    for tuning in done:
        check(tuning)


def options_of(given: Mapping[str, Any]) -> "TuneOptions":
    """Return what the command line asks for."""
    from builder.tuning import Goal, TuneOptions

    goal = Goal(given["max_p99_s"], given["users"], given["rate"], given["rows"] or ((1, 1.0),))
    others = {name: given[name] for name in ("version", "runs", "stage_time_s", "protocol", "is_fresh", "apply")}
    return TuneOptions(goal, **{name: value for name, value in others.items() if value is not None})


def server_of(given: Mapping[str, Any]) -> "ServerAccess | None":
    """Return the server that the command line names, and what is needed to reach it."""
    if given["server"] is None:
        return None
    from builder.server import given_access
    from builder.tuning import ServerAccess

    files = {name: given[name] for name in ("header_file", "ca_file", "client_cert", "client_key")}
    admin = given_access(given["admin_key_file"], given["admin_header"])
    return ServerAccess(given["server"], http=given["http_address"], admin=admin, **files)


class Progress:
    """Prints a line before each run, and one after it, with the time that is left."""

    def __init__(self) -> None:
        self._durations: list[float] = []
        self._began = time.monotonic()

    def show(self, step: "Step") -> None:
        """Print what is tried next and why, or what came out and what is best so far."""
        from builder.tuning import wording

        if step.measurement is None:
            self._began = time.monotonic()
            tried = f"{wording.say_configuration(step.configuration)}, {wording.say_load(step.load)}"
            report(f"run {step.number}/{step.of}", f"{tried}: {step.why}")
            return
        if not step.resumed:
            self._durations.append(time.monotonic() - self._began)
        best = "" if step.best is None else f"; best so far: {wording.say_throughput(step.best.throughput)} rows/s"
        report("", f"{wording.say_result(step.measurement)}{best}{self._left(step)}")

    def _left(self, step: "Step") -> str:
        """Return how long the runs that are left take at most, if they take as long as those before."""
        runs = step.of - step.number
        if not runs or not self._durations:
            return ""
        return f"; at most {runs * sum(self._durations) / len(self._durations):.0f} s left"


def show(tuning: "Tuning") -> None:
    """Print the table and what was found, and the command that applies it."""
    from builder.tuning import table

    print_table(table.HEADS, [*table.to_rows(tuning.found, tuning.current)], title=tuning.name, least_width=80)
    for line in table.conclude(tuning.found, tuning.options.goal, tuning.current):
        print_result(line)


def check(tuning: "Tuning") -> None:
    """Let the command fail if nothing keeps the limit.

    Raises:
        HostError: That is so.
    """
    if tuning.found.best is None:
        limit = f"{1e3 * tuning.options.goal.max_p99_s:g} ms"
        fix = "allow a longer latency with --max-p99-ms, or ask for less with --concurrency or --rate"
        raise HostError(tuning.name, f"no configuration keeps p99 within {limit} here", fix)
