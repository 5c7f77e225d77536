"""What a reader must know to judge the figures of a run, although it does not make the run fail.

Stages are given as the plain values of the result, see docs/result-schema.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtest.run import CROWDED_SHARE, SATURATED_SHARE, Run, Tally
from loadtest.scenarios import SCENARIOS, Reads, Scenario
from loadtest.server import ignored_proxy

_RATE_SHARE = 0.95

Stage = Mapping[str, Any]


def find_notes(run: Run, stages: Sequence[Stage], total: Tally) -> list[str]:
    """Return the notes on a run."""
    settings, notes = run.settings, []
    if not run.checked:
        notes.append("answers were not checked: neither a --repository nor --input-data gives the right ones")
    elif total.unchecked:
        notes.append(f"{total.unchecked} of {total.requests} answers had no right answer to be compared with")
    notes += [
        f"{option} was given, but scenario {settings.load.scenario} does not use it" for option in settings.unused
    ]
    if variable := ignored_proxy(settings.address):
        notes.append(f"{variable} is set but not used: requests go straight to the server")
    notes += _on_server(stages)
    scenario = SCENARIOS[settings.load.scenario]
    return notes + [f"stage {stage['name']}: {note}" for stage in stages for note in _on_stage(scenario, stage)]


def _on_server(stages: Sequence[Stage]) -> Iterator[str]:
    """Say once why stages have no figures of the server; the reasons of the others are much the same."""
    without = [stage for stage in stages if stage["server_missing"]]
    if without:
        where = f"stage {without[0]['name']}" + (f" and {len(without) - 1} more" if len(without) > 1 else "")
        yield f"there are no figures of the server ({where}): {without[0]['server_missing']}"


def _on_stage(scenario: Scenario, stage: Stage) -> Iterator[str]:
    if stage["client_saturated"]:
        yield _on_client(stage)
    if stage["server_restarted"]:
        yield "the server was restarted, or the model reloaded, during this stage"
    sent, asked = stage["sent_requests_per_s"], stage["rate_asked"]
    if scenario.reads is Reads.RATES and sent < _RATE_SHARE * asked:
        yield f"only {sent:g} of {asked:g} requests/s were sent"
    came = stage["throughput_requests_per_s"]
    if sent and not came:
        yield "no answer came while it was measured, only later: give a --stage-time longer than the latency"
    elif asked is not None and came < _RATE_SHARE * sent:
        why = "the server fell behind, or --warm-up is shorter than the latency"
        yield f"{sent:g} requests/s were sent, but only {came:g} answered: {why}"
    if stage["backed_off_s"]:
        waited = f"waited {stage['backed_off_s']:g} s, all together"
        yield f"users that lost their connection several times in a row {waited}, before they tried again"
    if stage["lost_workers"]:
        yield f"these workers were lost: {', '.join(stage['lost_workers'])}"
    if scenario.is_steady and not stage["stable"]:
        yield "the figures are not stable: the last three windows differ by more than 10 %"


def _on_client(stage: Stage) -> str:
    busy, waiting = stage["client_busy_share"], stage["client_waiting_share"]
    if busy <= SATURATED_SHARE:
        late_ms = stage["late_us"]["p99"] / 1000
        what = f"the load generator sent requests late although users were free (p99 {late_ms:.1f} ms)"
        return f"{what}; this is not the server's delay: give the load generator its own cores"
    what = f"the load generator, not the server, was the bottleneck (busy {busy:.0%} of the time)"
    if waiting > CROWDED_SHARE:
        return f"{what}; it waited for a CPU {waiting:.0%} of the time: give it its own cores"
    return f"{what}; use --processes {stage['client_processes_that_would_do']}"
