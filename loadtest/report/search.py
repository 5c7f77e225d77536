"""What a search found: the highest load that kept the limits, and the lowest that missed them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtest.printable import counted
from loadtest.run import Run, pool
from loadtest.scenarios import SCENARIOS, SearchPlan, Verdict, describe_doubt, find_bracket, name_rate, name_users

_NEARLY = 0.95
"""A load with this share of the answer's throughput is worth knowing, as its latency is lower."""

Point = Mapping[str, Any]
Stage = Mapping[str, Any]


def find_search(run: Run, stages: Sequence[Stage]) -> dict[str, Any] | None:
    """Return what a search found so far, from a run and its stages as the result has them; None in another scenario."""
    load = run.settings.load
    if not SCENARIOS[load.scenario].is_search:
        return None
    search, trials = SearchPlan(load).search, run.trials
    kept, missed = find_bracket(trials)
    answer = None if kept is None else describe_load(run, kept)
    found = {
        "load": "rate" if search.is_open_loop else "concurrency",
        "precision": search.precision,
        "most_stages": search.most_stages,
        "settled": search.is_settled(trials),
        "answer": answer,
        "missed": None if missed is None else describe_load(run, missed),
        "enough": None if answer is None or search.is_open_loop else _find_enough(run, answer),
    }
    saturated = {stage["name"] for stage in stages if stage["client_saturated"]}
    return {**found, "summary": [*_summarize(found, run, saturated)]}


def _find_enough(run: Run, answer: Point) -> Point | None:
    """Return the lowest load with nearly the throughput of the answer; None if that is the answer itself.

    With 8, 16 and 24 users at 790, 805 and 812 rows/s, 8 users are enough: 790 / 812 = 97 %.
    """
    for load in sorted({trial.load for trial in run.trials if trial.within and trial.load < answer["load"]}):
        point = describe_load(run, load)
        if point["throughput_rows_per_s"] >= _NEARLY * answer["throughput_rows_per_s"]:
            return point
    return None


def describe_load(run: Run, load: float) -> Point:
    """Return the figures of a load, from those of its stages that agree with most of them."""
    tried = [(record, record.trial.within) for record in run.records if record.trial and record.trial.load == load]
    is_within = 2 * sum(within for _, within in tried) > len(tried)
    limits = run.settings.limits
    agreed = pool([record for record, within in tried if within is is_within], limits)
    measured = agreed.measured
    low_us, high_us = agreed.find_p99_interval_us(limits)
    return {
        "load": load,
        "stages": [record.stage.name for record, within in tried if within is is_within],
        "outvoted": [record.stage.name for record, within in tried if within is not is_within],
        "requests": (agreed.count_late(limits) or (0, 0))[1],
        "throughput_rows_per_s": round(measured.rows_per_s, 2),
        "p99_us": _finite(agreed.p99_of_requests_us),
        "p99_low_us": _finite(low_us),
        "p99_high_us": _finite(high_us),
        "goodput": agreed.find_goodput(limits),
        "verdict": agreed.find_verdict(limits).value,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or value == math.inf else value


def _summarize(found: Mapping[str, Any], run: Run, saturated: set[str]) -> Iterator[str]:
    """Yield the result in sentences; the load generator was the bottleneck in the stages named by `saturated`."""
    answer, missed, limit = found["answer"], found["missed"], f"limit {run.settings.limits.max_p99_ms:g} ms"
    if any(trial.wrong for trial in run.trials):
        yield f"a wrong answer ended the search after {counted(len(run.trials), 'stage')}"
        return
    if answer is not None:
        so_far = "" if run.complete else " so far"
        below = f"highest {found['load']} within the limits{so_far}: {_words(found, answer)}, {limit}"
        beyond = "; the search went no higher" if run.complete else ""
        yield f"{below}{beyond}" if missed is None else f"{below}; {_words(found, missed)} missed it"
    elif missed is not None:
        yield f"no {found['load']} within the limits: {_words(found, missed)}, {limit}"
    if found["enough"] is not None and answer is not None:
        share = found["enough"]["throughput_rows_per_s"] / answer["throughput_rows_per_s"]
        yield f"{_words(found, found['enough'])}: {share:.0%} of that throughput"
    if missed is not None and saturated & set(missed["stages"]):
        yield "where the limit was missed, the load generator was the bottleneck: the server may keep it at more load"
    if run.complete and not found["settled"]:
        yield f"the search ended after {counted(len(run.trials), 'stage')} without a settled answer"


def _words(found: Mapping[str, Any], point: Point) -> str:
    """Return a load and its figures: `24 users, 812 rows/s, p99 18.2 ms (17.9 to 18.6)`."""
    name = name_rate(point["load"]) if found["load"] == "rate" else name_users(point["load"])
    doubt = describe_doubt(Verdict(point["verdict"]), point["requests"])
    if point["p99_us"] is None:
        return (
            f"{name}, {point['throughput_rows_per_s']:g} rows/s, goodput {to_percent(point['goodput'] or 0.0)}{doubt}"
        )
    interval = f"({_ms(point['p99_low_us'])} to {_ms(point['p99_high_us'])})"
    return f"{name}, {point['throughput_rows_per_s']:g} rows/s, p99 {_ms(point['p99_us'])} ms {interval}{doubt}"


def to_percent(share: float) -> str:
    """Return a share in percent, rounded down to a tenth, so that 100 % means all of them."""
    return f"{math.floor(1000 * share) / 10:g} %"


def _ms(value_us: float | None) -> str:
    """Return milliseconds to three digits: 1.23, 12.3, 123, 1234; ∞ where too few requests were answered."""
    if value_us is None:
        return "∞"
    digits = 2 - math.floor(math.log10(max(value_us, 1) / 1000))
    return f"{value_us / 1000:.{min(max(digits, 0), 3)}f}"
