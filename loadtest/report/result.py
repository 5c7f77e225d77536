"""The result of a run as plain values, in the schema that docs/result-schema.md describes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from loadtest import server
from loadtest.report.bounds import find_bounds
from loadtest.report.notes import find_notes
from loadtest.report.search import find_search
from loadtest.report.verdict import find_knee, find_reasons
from loadtest.run import COMFORTABLE_SHARE, SATURATED_SHARE, Run, StageRecord, Tally, Window, join_windows
from loadtest.scenarios import SCENARIOS, Reads
from loadtest.settings import Allowance, Limits, Settings

SCHEMA = 2
_LATE_LIMIT_US = 10_000
_WINDOW_SERVER = ("queue_us", "compute_input_us", "compute_infer_us", "compute_output_us", "mean_batch")

Result = dict[str, Any]
_Made = TypeVar("_Made")


class Ended:
    """What the result says of the stages that ended, which would take too long to work out for every look at a run.

    The process that leads a run may make load too, and its requests wait meanwhile: 150 ms for 60 stages.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], tuple[object, Any]] = {}

    def keep(self, what: str, place: int, state: object, make: Callable[[], _Made]) -> _Made:
        """Return what was made before for this place, unless its state has changed since."""
        known = self._kept.get((what, place))
        if known is None or known[0] != state:
            known = self._kept[what, place] = (state, make())
        made: _Made = known[1]
        return made


def make_result(run: Run, ended: Ended | None = None) -> Result:
    """Return everything known about a run, whether it is finished or in progress.

    Args:
        run: The run.
        ended: What earlier results of the same run said; it is brought up to date.
    """
    limits, ended = run.settings.limits, ended or Ended()
    last = len(run.records) - 1

    def keep(what: str, place: int, make: Callable[[], _Made], *more: object) -> _Made:
        record = run.records[place]
        return make() if place == last else ended.keep(what, place, (record.additions, *more), make)

    measured = [place for place, record in enumerate(run.records) if record.windows]
    summaries = server.settle([keep("server", place, run.records[place].on_server) for place in measured])
    stages = [
        keep("stage", place, partial(_stage, run.records[place], limits, found), found)
        for place, found in zip(measured, summaries, strict=True)
    ]
    whole = join_windows(keep("counts", place, partial(_count, record)) for place, record in enumerate(run.records))
    total = whole.total
    is_search = SCENARIOS[run.settings.load.scenario].is_search
    reasons = find_reasons(run, stages, whole)
    return {
        "schema": SCHEMA,
        "run": _describe(run),
        "verdict": {"passed": not reasons, "complete": run.complete, "reasons": reasons},
        "notes": find_notes(run, stages, total),
        "totals": _counts(total),
        "exceptions": dict(whole.exceptions),
        "messages": whole.messages,
        "knee": None if is_search else find_knee(run.settings, stages),
        "search": ended.keep("search", 0, _trials(run), lambda: find_search(run, stages)),
        "stages": stages,
    }


def _trials(run: Run) -> object:
    """Return all that the findings of a search depend on."""
    return run.complete, len(run.trials), [record.additions for record in run.records]


def _count(record: StageRecord) -> Window:
    """Return what was counted in a stage, discarded windows included."""
    return join_windows((record.discarded, record.measured)).without_latencies()


def _describe(run: Run) -> Result:
    settings, load = run.settings, run.settings.load
    has_arrivals = SCENARIOS[load.scenario].reads in (Reads.RATES, Reads.RANGE) and bool(load.rates)
    return {
        "started": datetime.fromtimestamp(run.started_at, timezone.utc).isoformat(timespec="seconds"),
        "server": settings.host,
        "models": [
            {"name": choice.name, "version": choice.version or None, "weight": choice.weight}
            for choice in settings.models
        ],
        "protocol": settings.protocol,
        "rows_per_request": [{"rows": rows, "weight": weight} for rows, weight in settings.rows],
        "inputs": _describe_inputs(settings),
        "scenario": load.scenario,
        "arrivals": load.arrivals if has_arrivals else None,
        "stage_time_s": load.stage_time_s,
        "warm_up_s": load.warm_up_s,
        "checked": run.checked,
        "limits": {
            "max_p99_ms": settings.limits.max_p99_ms,
            "min_throughput_rows_per_s": settings.limits.min_throughput,
            "max_failures": settings.limits.max_failures.count,
            "max_failures_share": _share(settings.limits.max_failures),
            "min_requests": load.min_requests,
            "require_checked": run.requires_checked,
        },
        "seed": load.seed,
    }


def _share(allowance: Allowance) -> float | None:
    return None if allowance.share is None else float(allowance.share)


def _describe_inputs(settings: Settings) -> Result:
    contents = settings.contents
    generated = "zero" if contents.zero else "random"
    source = "repository" if settings.repository is not None else generated
    return {
        "source": source if contents.file is None else "file",
        "file": None if contents.file is None else contents.file.name,
        "shapes": {name: list(shape) for name, shape in contents.shapes.items()},
        "parameters": sorted(contents.parameters),
    }


def _counts(tally: Tally) -> Result:
    return {
        "requests": tally.requests,
        "rows": tally.rows,
        "failures": dict(tally.failures),
        "wrong": dict(tally.wrong),
        "unchecked": tally.unchecked,
    }


def _stage(record: StageRecord, limits: Limits, found: server.Summary) -> Result:
    window, discarded = record.measured, record.discarded
    total = window.total
    seconds = window.seconds or math.inf
    p99_us = record.p99_of_requests_us
    is_open_loop = record.stage.arrivals is not None
    server_seconds, unread = _find_counted(record)
    return {
        "name": record.stage.name,
        "concurrency": record.users,
        "concurrency_asked": record.stage.users,
        "rate_asked": record.stage.rate,
        "seconds": round(window.seconds, 3),
        **_counts(total),
        "sent_requests_per_s": round(window.sent / seconds, 2),
        "throughput_rows_per_s": round(window.rows_per_s, 2),
        "throughput_requests_per_s": round(window.requests_per_s, 2),
        "latency_us": total.latency_us.summarize(),
        "latency_histogram": total.latency_us.to_text(),
        "p99_of_requests_us": p99_us if p99_us != math.inf else None,
        "intervals": find_bounds(record),
        "keeps_p99": record.keeps_p99(limits),
        "goodput": record.find_goodput(limits),
        "verdict": record.find_verdict(limits).value if record.counts else None,
        "late_us": window.late_us.summarize() if is_open_loop else None,
        "backed_off_s": round(window.backed_off_s, 3),
        "sequences": _sequences(window, discarded),
        "stable": record.stable,
        "complete": record.complete,
        "windows": _windows(record, found),
        "discarded": {"seconds": round(discarded.seconds, 3), **_counts(discarded.total)},
        "versions": _versions(window.tallies),
        **_client(window, is_open_loop=is_open_loop),
        "lost_workers": record.lost_workers,
        "server_restarted": (record.restarted or found.restarted) and not found.foreign,
        "server": found.figures,
        "server_seconds": None if found.figures is None else server_seconds,
        "server_missing": found.reason or unread or None,
    }


def _sequences(window: Window, discarded: Window) -> Result | None:
    """Return how many sequences a stage had, counting those of its warm-up; None if the model is not stateful."""
    ended = window.sequences + discarded.sequences
    return {how: ended[how] for how in ("completed", "failed", "ended_early")} if ended else None


def _find_counted(record: StageRecord) -> tuple[float, str]:
    """Return of how many measured seconds the server's counters tell, and why not of all; empty if they do.

    Of four windows of 2 s, the last one ended without an answer of the server: its counters tell of the first 6 s.
    """
    known = [number for number, snapshot in enumerate(record.snapshots) if not snapshot.problem]
    windows = record.windows[known[0] : known[-1]] if known else []
    ends = (record.snapshots[-1], record.snapshots[0]) if record.snapshots else ()
    return round(sum(window.seconds for window in windows), 3), next((one.problem for one in ends if one.problem), "")


def _windows(record: StageRecord, found: server.Summary) -> list[Result]:
    """Return the windows, each with what the server did between the snapshots before and after it."""
    return [
        {**asdict(figures), "server": None if found.figures is None else _on_server(record, number)}
        for number, figures in enumerate(record.windows)
    ]


def _on_server(record: StageRecord, number: int) -> Result | None:
    found = record.on_server(number, number + 1).figures
    return None if found is None else {key: found[key] for key in _WINDOW_SERVER}


def _versions(tallies: Mapping[tuple[str, str], Tally]) -> list[Result]:
    return [
        {
            "model": model,
            "version": version or None,
            **_counts(tally),
            "latency_us": tally.latency_us.summarize(),
        }
        for (model, version), tally in sorted(tallies.items())
    ]


def _client(window: Window, *, is_open_loop: bool) -> Result:
    """Return how hard the client worked, whether it was the bottleneck, and how many processes would be enough.

    Two processes that are 95 % busy do the work of 1.9. At 70 % each, that takes 1.9 / 0.7 = 2.7, so 3 processes.
    """
    # rounded first: a share of 0.9004 would exceed the limit here, but not as 0.9 where the result is read
    busiest = round(max((busy.share for busy in window.busy.values()), default=0.0), 3)
    late = is_open_loop and (window.late_us.percentile_us(99) or 0) > _LATE_LIMIT_US
    saturated = busiest > SATURATED_SHARE or late
    cpu_s = sum(busy.cpu_s for busy in window.busy.values())
    processes = len(window.busy)
    enough = max(processes + 1, math.ceil(processes * busiest / COMFORTABLE_SHARE))
    return {
        "client_cpu_us_per_request": round(cpu_s / window.requests * 1e6, 1) if window.requests else None,
        "client_busy_share": busiest,
        "client_waiting_share": round(max((busy.waiting_share for busy in window.busy.values()), default=0.0), 3),
        "client_processes": processes,
        "client_saturated": saturated,
        "client_processes_that_would_do": enough if saturated else processes,
    }
