"""What a reader must know to judge the figures of a run, although it does not make the run fail.

Stages are given as the plain values of the result, see docs/result-schema.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from loadtest.printable import counted, was
from loadtest.run import CROWDED_SHARE, SATURATED_SHARE, Run, Tally
from loadtest.scenarios import SCENARIOS, Reads, Scenario
from loadtest.server import ignored_proxy

_RATE_SHARE = 0.95

Stage = Mapping[str, Any]


def find_notes(run: Run, stages: Sequence[Stage], total: Tally) -> list[str]:
    """Return the notes on a run."""
    settings, notes = run.settings, [*run.notes]
    if not run.checked:
        notes.append("answers were not checked: neither a --repository nor --input-data gives the right ones")
    elif total.unchecked:
        notes.append(
            f"{total.unchecked:,} of {counted(total.requests, 'answer')} had no right answer to be compared with"
        )
    notes += [
        f"{option} was given, but scenario {settings.load.scenario} does not use it" for option in settings.unused
    ]
    if variable := ignored_proxy(settings.address):
        notes.append(f"{variable} is set but not used: requests go straight to the server")
    notes += _stopped_answering(run, stages)
    return [*notes, *_on_stages(SCENARIOS[settings.load.scenario], stages)]


def _on_stages(scenario: Scenario, stages: Sequence[Stage]) -> Iterator[str]:
    """Say each kind of note once, with the words for the stage that it holds for most.

    For example: `stage 400 requests/s and 2 more: only 210 of 400 requests/s were sent`.
    """
    kinds: dict[str, list[tuple[float, str, str]]] = {}
    for stage in stages:
        for kind, weight, note in _on_stage(scenario, stage):
            kinds.setdefault(kind, []).append((weight, stage["name"], note))
    for found in kinds.values():
        _, name, note = max(found, key=lambda one: one[0])
        yield f"stage {name}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {note}"


def _on_stage(scenario: Scenario, stage: Stage) -> Iterator[tuple[str, float, str]]:
    """Yield the notes on a stage, each with its kind, and with how much it holds: more than for a lower number."""
    if missing := stage["server_missing"]:
        yield _on_server(stage, missing)
    if stage["client_saturated"]:
        yield _on_client(stage)
    if stage["server_restarted"]:
        yield "restarted", 0, "the server was restarted, or the model reloaded, during this stage"
    sent, asked = stage["sent_requests_per_s"], stage["rate_asked"]
    if scenario.reads is Reads.RATES and sent < _RATE_SHARE * asked:
        yield "sent", 1 - sent / asked, f"only {sent:g} of {asked:g} requests/s were sent"
    came = stage["throughput_requests_per_s"]
    if sent and not came:
        why = "only later: give a --stage-time longer than the latency"
        yield "none came", 0, f"no answer came while it was measured, {why}"
    elif asked is not None and came + _failed_per_s(stage) < _RATE_SHARE * sent:
        why = "the server fell behind, or --warm-up is shorter than the latency"
        yield "came", 1 - came / sent, f"{sent:g} requests/s were sent, but only {came:g} answered: {why}"
    if waited_s := stage["backed_off_s"]:
        waited = f"waited {waited_s:g} s, all together"
        what = f"users that lost their connection several times in a row {waited}, before they tried again"
        yield "backed off", waited_s, what
    if lost := stage["lost_workers"]:
        yield f"lost {lost}", 0, f"{counted(len(lost), 'worker')} {was(len(lost))} lost: {', '.join(lost)}"
    if scenario.is_steady and not stage["stable"]:
        yield "unstable", 0, "the figures are not stable: the last three windows differ by more than 10%"


def _on_server(stage: Stage, missing: str) -> tuple[str, float, str]:
    if stage["server"] is None:
        return "no server", 0, f"there are no figures of the server: {missing}"
    counted_s, seconds = stage["server_seconds"], stage["seconds"]
    what = f"the figures of the server are those of {counted_s:g} of {seconds:g} s: {missing}"
    return "part of server", seconds - counted_s, what


def _stopped_answering(run: Run, stages: Sequence[Stage]) -> Iterator[str]:
    """Say when the server stopped answering, requests and questions alike, if it still does not answer.

    A server that keeps no statistics has the same problem from the first question on, however well it answers.
    """
    problems = [snapshot.problem for record in run.records for snapshot in record.snapshots]
    windows = [(stage["name"], window) for stage in stages for window in stage["windows"]]
    silent = [*takewhile(lambda one: not one[1]["requests"], reversed(windows))]
    had_more = any(window["failures"] or window["in_flight"] for _, window in silent) and len(silent) < len(windows)
    if had_more and problems and problems[-1] and len(set(problems)) > 1:
        name, window = silent[-1]
        when = f"at the latest {window['start_s']:g} s after the run began"
        yield f"stage {name}: the server stopped answering, {when}, and has not come back: {problems[-1]}"


def _failed_per_s(stage: Stage) -> float:
    return sum(stage["failures"].values()) / stage["seconds"] if stage["seconds"] else 0.0


def _on_client(stage: Stage) -> tuple[str, float, str]:
    busy, waiting = stage["client_busy_share"], stage["client_waiting_share"]
    if busy <= SATURATED_SHARE:
        late_ms = stage["late_us"]["p99"] / 1000
        what = f"the load generator sent requests late although users were free (p99 {late_ms:.1f} ms)"
        return "late", late_ms, f"{what}; this is not the server's delay: give the load generator its own cores"
    what = f"the load generator, not the server, was the bottleneck (busy {busy:.0%} of the time)"
    if waiting > CROWDED_SHARE:
        return "crowded", waiting, f"{what}; it waited for a CPU {waiting:.0%} of the time: give it its own cores"
    return "busy", busy, f"{what}; use --processes {stage['client_processes_that_would_do']}"
