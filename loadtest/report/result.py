"""The result of a run as plain values: the schema that docs/result-schema.md documents."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from loadtest.run import measure
from loadtest.run.conductor import Run, StageRecord
from loadtest.run.measure import Tally, Window, sum_tallies
from loadtest.server import statistics as server_side
from loadtest.settings import Limits, Settings

SCHEMA = 1
_KNEE_SHARE = 0.95
_RATE_SHARE = 0.95
_LATE_LIMIT_US = 10_000
_LADDERS = frozenset({"steps", "ramp", "rate"})

Result = dict[str, Any]


def make_result(run: Run) -> Result:
    """Everything known about a run, over or under way."""
    stages = [_stage(record) for record in run.records if record.windows]
    whole = measure.join_windows(window for record in run.records for window in (record.discarded, record.measured))
    total = whole.total
    knee = find_knee(stages, run.settings.limits)
    reasons = _reasons(run, stages, total)
    return {
        "schema": SCHEMA,
        "run": _describe(run.settings, run.started_at),
        "verdict": {"passed": not reasons, "complete": run.complete, "reasons": reasons},
        "notes": _notes(run, stages, total),
        "totals": _counts(total),
        "messages": whole.messages,
        "knee": knee,
        "stages": stages,
    }


def _describe(settings: Settings, started_at: float) -> Result:
    return {
        "started": datetime.fromtimestamp(started_at, timezone.utc).isoformat(timespec="seconds"),
        "server": settings.host,
        "models": [
            {"name": choice.name, "version": choice.version or None, "weight": choice.weight}
            for choice in settings.models
        ],
        "protocol": settings.protocol,
        "rows_per_request": [{"rows": rows, "weight": weight} for rows, weight in settings.rows],
        "scenario": settings.scenario,
        "arrivals": settings.arrivals if settings.scenario == "rate" else None,
        "stage_time_s": settings.stage_time_s,
        "warm_up_s": settings.warm_up_s,
        "checked": settings.repository is not None,
        "limits": {
            "max_p99_ms": settings.limits.max_p99_ms,
            "min_throughput_rows_per_s": settings.limits.min_throughput,
            "max_failures": settings.limits.max_failures,
        },
        "seed": settings.seed,
    }


def _counts(tally: Tally) -> Result:
    return {
        "requests": tally.requests,
        "rows": tally.rows,
        "failures": dict(tally.failures),
        "wrong": dict(tally.wrong),
        "unchecked": tally.unchecked,
    }


def _stage(record: StageRecord) -> Result:
    window, early = record.measured, record.discarded
    total = window.total
    seconds = window.seconds or math.inf
    open_loop = record.stage.arrivals is not None
    return {
        "name": record.stage.name,
        "concurrency": record.users,
        "concurrency_asked": record.stage.users,
        "rate_asked": record.stage.rate,
        "seconds": round(window.seconds, 3),
        **_counts(total),
        "throughput_rows_per_s": round(total.rows / seconds, 2),
        "throughput_requests_per_s": round(total.requests / seconds, 2),
        "latency_us": total.latency_us.summarize(),
        "latency_histogram": total.latency_us.to_message()[0],
        "late_us": window.late_us.summarize() if open_loop else None,
        "stable": record.stable,
        "complete": record.complete,
        "windows": [asdict(figures) for figures in record.windows],
        "discarded": {"seconds": round(early.seconds, 3), **_counts(early.total)},
        "versions": _versions(window),
        **_client(window, open_loop=open_loop),
        "lost_workers": record.lost_workers,
        "server_restarted": record.restarted,
        "server": server_side.summarize(record.snapshots),
    }


def _versions(window: Window) -> list[Result]:
    return [
        {
            "model": model,
            "version": version or None,
            **_counts(tally),
            "latency_us": tally.latency_us.summarize(),
        }
        for (model, version), tally in sorted(window.tallies.items())
    ]


def _client(window: Window, *, open_loop: bool) -> Result:
    """How hard the client worked, whether it was the bottleneck, and how many processes would do."""
    busiest = max((load.share for load in window.loads.values()), default=0.0)
    late = open_loop and window.late_us.summarize()["p99"] > _LATE_LIMIT_US
    saturated = busiest > measure.SATURATED_SHARE or late
    cpu_s = sum(load.cpu_s for load in window.loads.values())
    processes = len(window.loads)
    would_do = max(processes + 1, math.ceil(processes * busiest / measure.COMFORTABLE_SHARE))
    return {
        "client_cpu_us_per_request": round(cpu_s / window.requests * 1e6, 1) if window.requests else None,
        "client_busy_share": round(busiest, 3),
        "client_waiting_share": round(max((load.waiting_share for load in window.loads.values()), default=0.0), 3),
        "client_processes": processes,
        "client_saturated": saturated,
        "client_processes_that_would_do": would_do if saturated else processes,
    }


def find_knee(stages: Sequence[Mapping[str, Any]], limits: Limits) -> Result | None:
    """The lowest load with 95 % of the best throughput, and the best stage that keeps the p99 limit."""
    if not stages:
        return None
    best = max(stage["throughput_rows_per_s"] for stage in stages)
    enough = [stage for stage in stages if stage["throughput_rows_per_s"] >= _KNEE_SHARE * best]
    knee = min(enough, key=lambda stage: (stage["rate_asked"] or 0, stage["concurrency"]))
    within = [stage for stage in stages if keeps_p99(stage, limits)]
    best_within = max(within, key=lambda stage: stage["throughput_rows_per_s"], default=None)
    return {
        "stage": knee["name"],
        "concurrency": knee["concurrency"],
        "rate_asked": knee["rate_asked"],
        "throughput_rows_per_s": knee["throughput_rows_per_s"],
        "best_throughput_rows_per_s": best,
        "best_within_p99": None
        if limits.max_p99_ms is None or best_within is None
        else {
            "stage": best_within["name"],
            "throughput_rows_per_s": best_within["throughput_rows_per_s"],
            "p99_us": best_within["latency_us"]["p99"],
        },
    }


def keeps_p99(stage: Mapping[str, Any], limits: Limits) -> bool:
    """Tell whether the stage got answers, and 99 % of them within the limit."""
    if not stage["requests"]:
        return False
    return limits.max_p99_ms is None or bool(stage["latency_us"]["p99"] <= limits.max_p99_ms * 1000)


def _reasons(run: Run, stages: Sequence[Mapping[str, Any]], total: Tally) -> list[str]:
    """Why the run failed; empty when every answer was right and every limit held."""
    reasons = []
    if run.fault is not None:
        reasons.append(str(run.fault).replace("\n  ", "; "))
    elif not run.complete:
        reasons.append("the run was stopped before its end")
    if sum(total.wrong.values()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(total.wrong.items()))
        reasons.append(f"{sum(total.wrong.values())} of {total.requests} answers were wrong: {kinds}")
    failures = sum(total.failures.values())
    if failures > run.settings.limits.max_failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(total.failures.items()))
        reasons.append(f"{failures} requests failed, {run.settings.limits.max_failures} may: {kinds}")
    if run.complete:
        reasons += [reason for record in run.records for reason in _unsent(record)]
    if not total.requests:
        reasons.append("no request was answered")
    elif run.settings.repository is not None and total.unchecked == total.requests:
        reasons.append("no answer could be checked: the repository has no reference for the version that answered")
    if stages:
        reasons += _missed_limits(run.settings, stages)
    return reasons


def _unsent(record: StageRecord) -> list[str]:
    """A replay must have sent every request of its file."""
    if not record.stage.until_drained or record.stage.arrivals is None:
        return []
    asked, tally = len(record.stage.arrivals["times"]), sum_tallies((record.discarded.total, record.measured.total))
    sent = tally.requests + sum(tally.failures.values())
    return [f"stage {record.stage.name}: only {sent} of {asked} requests were sent"] if sent < asked else []


def _missed_limits(settings: Settings, stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """A ladder must have a stage that keeps both limits; in any other scenario every stage must."""
    if settings.scenario in _LADDERS:
        return _missed_by_ladder(settings.limits, stages)
    return [reason for stage in stages for reason in _missed_by_stage(settings.limits, stage)]


def _missed_by_ladder(limits: Limits, stages: Sequence[Mapping[str, Any]]) -> list[str]:
    within = [stage for stage in stages if keeps_p99(stage, limits)]
    if limits.max_p99_ms is not None and not within:
        lowest = min(stage["latency_us"]["p99"] for stage in stages) / 1000
        return [f"no stage kept p99 within {limits.max_p99_ms:g} ms; the lowest was {lowest:.3f} ms"]
    best = max((stage["throughput_rows_per_s"] for stage in within), default=0.0)
    if limits.min_throughput is not None and best < limits.min_throughput:
        bound = "" if limits.max_p99_ms is None else f" within p99 {limits.max_p99_ms:g} ms"
        return [f"the best throughput{bound} was {best:g} rows/s, {limits.min_throughput:g} were asked for"]
    return []


def _missed_by_stage(limits: Limits, stage: Mapping[str, Any]) -> list[str]:
    if not stage["requests"]:
        return [f"stage {stage['name']}: no request was answered"]
    reasons = []
    p99_ms, throughput = stage["latency_us"]["p99"] / 1000, stage["throughput_rows_per_s"]
    if not keeps_p99(stage, limits):
        reasons.append(f"stage {stage['name']}: p99 was {p99_ms:.3f} ms, the limit is {limits.max_p99_ms:g} ms")
    if limits.min_throughput is not None and throughput < limits.min_throughput:
        reasons.append(
            f"stage {stage['name']}: throughput was {throughput:g} rows/s, {limits.min_throughput:g} were asked for"
        )
    return reasons


def _blame_client(stage: Mapping[str, Any]) -> str:
    if stage["client_busy_share"] <= measure.SATURATED_SHARE:
        late_ms = stage["late_us"]["p99"] / 1000
        what = f"the load generator sent requests late though users were free (p99 {late_ms:.1f} ms)"
        return f"{what}; the server is not to blame for that: give the load generator cores of its own"
    what = f"the load generator was the bottleneck (busy {stage['client_busy_share']:.0%} of the time), not the server"
    if stage["client_waiting_share"] > measure.CROWDED_SHARE:
        waited = f"{stage['client_waiting_share']:.0%}"
        return f"{what}; it waited {waited} of the time for a CPU: give it cores of its own"
    return f"{what}; --processes {stage['client_processes_that_would_do']} would do"


def _notes(run: Run, stages: Sequence[Mapping[str, Any]], total: Tally) -> list[str]:
    """What a reader must know to judge the figures, though it fails nothing."""
    notes = []
    if run.settings.repository is None:
        notes.append("answers not checked: no --repository was given, inputs were drawn from the server's metadata")
    elif total.unchecked:
        notes.append(f"{total.unchecked} of {total.requests} answers came from versions without a reference")
    for stage in stages:
        name = stage["name"]
        if stage["client_saturated"]:
            notes.append(f"stage {name}: {_blame_client(stage)}")
        if stage["server_restarted"]:
            notes.append(f"stage {name}: the server restarted or reloaded the model meanwhile")
        rate = stage["rate_asked"]
        if run.settings.scenario == "rate" and stage["throughput_requests_per_s"] < _RATE_SHARE * rate:
            notes.append(f"stage {name}: {stage['throughput_requests_per_s']:g} of {rate:g} requests/s were achieved")
        if stage["lost_workers"]:
            notes.append(f"stage {name}: lost the workers {', '.join(stage['lost_workers'])}")
        if not stage["stable"] and run.settings.scenario in ("steps", "constant"):
            notes.append(f"stage {name}: not stable, its last three windows differ by more than 10 %")
    return notes
