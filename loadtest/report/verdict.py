"""Whether a run passed, and if not, why; and the knee of its curve.

Stages are given as the plain values of the result, see docs/result-schema.md.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.printable import counted, was
from loadtest.report.search import describe_load, to_percent
from loadtest.run import LEAST_FOR_P99, Run, StageRecord, Tally, Window, sum_tallies
from loadtest.scenarios import SCENARIOS, Verdict, find_bracket
from loadtest.settings import Allowance, Limits, Settings

_KNEE_SHARE = 0.95

Stage = Mapping[str, Any]


def find_knee(settings: Settings, stages: Sequence[Stage]) -> dict[str, Any] | None:
    """Return the lowest load of a ladder with 95 % of the best throughput, and the best stage within the p99 limit.

    With 1, 2, 4 and 8 users at 100, 195, 199 and 200 rows/s, the best is 200 and 95 % of it is 190: the knee is at 2
    users. With two or four times as many users, each just waits longer.
    """
    if not stages or not SCENARIOS[settings.load.scenario].is_ladder:
        return None
    best = max(stage["throughput_rows_per_s"] for stage in stages)
    if not best:
        return None
    enough = [stage for stage in stages if stage["throughput_rows_per_s"] >= _KNEE_SHARE * best]
    knee = min(enough, key=lambda stage: (stage["rate_asked"] or 0, stage["concurrency"]))
    return {
        "stage": knee["name"],
        "concurrency": knee["concurrency"],
        "rate_asked": knee["rate_asked"],
        "throughput_rows_per_s": knee["throughput_rows_per_s"],
        "best_throughput_rows_per_s": best,
        "best_within_p99": _best_within_p99(stages, settings.limits),
    }


def _best_within_p99(stages: Sequence[Stage], limits: Limits) -> dict[str, Any] | None:
    within = [stage for stage in stages if is_within_p99(stage, limits)]
    if limits.max_p99_ms is None or not within:
        return None
    best = max(within, key=lambda stage: float(stage["throughput_rows_per_s"]))
    return {
        "stage": best["name"],
        "throughput_rows_per_s": best["throughput_rows_per_s"],
        "p99_us": best["p99_of_requests_us"],
    }


def is_within_p99(stage: Stage, limits: Limits) -> bool:
    """Return whether the stage got answers, and for 99 % of the requests within the limit, if there is one."""
    return bool(stage["requests"]) and (limits.max_p99_ms is None or stage["keeps_p99"] is True)


def find_reasons(run: Run, stages: Sequence[Stage], whole: Window) -> list[str]:
    """Return why the run failed; empty if every answer was right and every limit was kept.

    Args:
        run: The run.
        stages: Its stages, as the result has them.
        whole: All windows as one, those that the figures leave out included.
    """
    total = whole.total
    reasons = [*_unfinished(run), *_lost_workers(run), *_exceptions(whole), *_wrong_answers(total)]
    if not SCENARIOS[run.settings.load.scenario].is_search:  # which counts the failures of each of its stages
        reasons += _failures(total, run.settings.limits.max_failures)
    if run.complete:
        reasons += [reason for record in run.records for reason in _unsent(record)]
    reasons += _unchecked(run, total)
    if stages:
        reasons += _missed_limits(run, stages)
    return reasons


def _unfinished(run: Run) -> list[str]:
    if run.error is not None:
        return [str(run.error).replace("\n", "; ")]
    return [] if run.complete else ["the run was stopped before its end"]


def _lost_workers(run: Run) -> list[str]:
    """A worker that is gone may have seen wrong answers that it did not report."""
    lost = run.lost_workers
    what = f"{counted(len(lost), 'worker')} {was(len(lost))} lost, with the last answers that came there"
    return [f"{what}: {', '.join(lost)}"] if lost else []


def _exceptions(whole: Window) -> list[str]:
    return [
        f"the load test itself failed {counted(times, 'time')}, please report it: {place}: "
        f"{whole.messages.get(place, '')}"
        for place, times in sorted(whole.exceptions.items())
    ]


def _wrong_answers(total: Tally) -> list[str]:
    wrong = sum(total.wrong.values())
    what = f"{wrong:,} of {counted(total.requests, 'answer')} {was(wrong)} wrong"
    return [f"{what}: {_list(total.wrong)}"] if wrong else []


def _failures(total: Tally, allowed: Allowance) -> list[str]:
    failed = sum(total.failures.values())
    requests = total.requests + failed
    if allowed.allows(failed, requests):
        return []
    return [f"{failed:,} of {counted(requests, 'request')} failed, but at most {allowed} may: {_list(total.failures)}"]


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _unsent(record: StageRecord) -> list[str]:
    """A replay must have sent every request of its file."""
    arrivals = record.stage.arrivals
    if arrivals is None or not arrivals.is_recorded:
        return []
    planned, tally = len(arrivals.times), sum_tallies((record.discarded.total, record.measured.total))
    sent = tally.requests + sum(tally.failures.values())
    return (
        [f"stage {record.stage.name}: only {sent:,} of {counted(planned, 'request')} {was(sent)} sent"]
        if sent < planned
        else []
    )


def _unchecked(run: Run, total: Tally) -> list[str]:
    if not total.requests:
        return ["no request was answered"]
    is_required = run.requires_checked or (run.checked and total.unchecked == total.requests)
    if not (total.unchecked and is_required):
        return []
    what = f"{total.unchecked:,} of {counted(total.requests, 'answer')} could not be checked"
    if not run.checked:
        return [f"{what}: give a --repository or --input-data with the right ones"]
    return [f"{what}: there is no right answer to compare them with; allow that with --require-checked no"]


def _missed_limits(run: Run, stages: Sequence[Stage]) -> list[str]:
    """A ladder must have one stage within both limits; in any other scenario, every stage must be."""
    limits, least = run.settings.limits, run.settings.load.min_requests
    if SCENARIOS[run.settings.load.scenario].is_search:
        return _missed_by_search(run, stages)
    reasons = [f"stage {stage['name']}: no request was answered" for stage in stages if not stage["requests"]]
    reasons += [reason for stage in stages if run.complete for reason in _too_few(stage, least)]
    answered = [stage for stage in stages if stage["requests"]]
    if SCENARIOS[run.settings.load.scenario].is_ladder:
        return reasons + _missed_by_ladder(limits, answered)
    return reasons + [reason for stage in answered for reason in _missed_by_stage(limits, stage)]


def _too_few(stage: Stage, least: int) -> list[str]:
    answered = stage["requests"]
    if not 0 < answered < least:
        return []
    few = f"only {counted(answered, 'request')} {was(answered)} answered, but --min-requests is {least:,}"
    return [f"stage {stage['name']}: {few}"]


def _missed_by_search(run: Run, stages: Sequence[Stage]) -> list[str]:
    """A search must have found a load that keeps the limits; the stages that missed them belong to it.

    A stage that misses the limits may end with fewer than `--min-requests`, so only those that kept them must have so
    many.
    """
    kept, missed = find_bracket(run.trials)
    if kept is not None:
        answer = [stage for stage in stages if load_of(stage) == kept]
        least = run.settings.load.min_requests
        too_few = [
            one for stage in answer if stage["verdict"] != Verdict.MISSED.value for one in _too_few(stage, least)
        ]
        return too_few + _too_slow(run.settings.limits, describe_load(run, kept)["throughput_rows_per_s"])
    if missed is None:
        return (
            ["the search found no load that keeps the limits: its stages contradict each other"] if run.complete else []
        )
    limits, tried = run.settings.limits, [stage for stage in stages if load_of(stage) == missed]
    why = [[*_missed_by_stage(limits, stage), *_failures_of(stage, limits.max_failures)] for stage in tried]
    return [f"no load kept the limits, not even the lowest: {reason}" for reason in next(filter(None, why))]


def _too_slow(limits: Limits, rows_per_s: float) -> list[str]:
    if limits.min_throughput is None or rows_per_s >= limits.min_throughput:
        return []
    return [f"the throughput at the answer was {rows_per_s:g} rows/s, but {limits.min_throughput:g} are required"]


def load_of(stage: Stage) -> float:
    """Return what is raised to load the server more: the rate of an open loop, otherwise the users."""
    return float(stage["concurrency_asked"] if stage["rate_asked"] is None else stage["rate_asked"])


def _failures_of(stage: Stage, allowed: Allowance) -> list[str]:
    counts = Counter(stage["failures"]) + Counter(stage["discarded"]["failures"])
    requests = stage["requests"] + stage["discarded"]["requests"]
    return [f"stage {stage['name']}: {reason}" for reason in _failures(Tally(requests, failures=counts), allowed)]


def _missed_by_ladder(limits: Limits, stages: Sequence[Stage]) -> list[str]:
    within = [stage for stage in stages if is_within_p99(stage, limits)]
    if limits.max_p99_ms is not None and stages and not within:
        best = min(stages, key=lambda stage: float(stage["p99_of_requests_us"] or math.inf))
        return [f"no stage kept p99 within {limits.max_p99_ms:g} ms; {_lowest_p99(limits.max_p99_ms, best)}"]
    most = max((stage["throughput_rows_per_s"] for stage in within), default=0.0)
    if limits.min_throughput is not None and most < limits.min_throughput:
        condition = "" if limits.max_p99_ms is None else f" with p99 within {limits.max_p99_ms:g} ms"
        return [f"the best throughput{condition} was {most:g} rows/s, but {limits.min_throughput:g} are required"]
    return []


def _lowest_p99(limit_ms: float, best: Stage) -> str:
    lowest_us = best["p99_of_requests_us"]
    if lowest_us is None:
        return f"stage {best['name']}: {_missed_p99(limit_ms, best)}"
    return f"the lowest p99 was {lowest_us / 1000:.3f} ms"


def _missed_by_stage(limits: Limits, stage: Stage) -> list[str]:
    name, throughput = stage["name"], stage["throughput_rows_per_s"]
    reasons = []
    if limits.max_p99_ms is not None and not is_within_p99(stage, limits):
        reasons.append(f"stage {name}: {_missed_p99(limits.max_p99_ms, stage)}")
    if limits.min_throughput is not None and throughput < limits.min_throughput:
        what = f"throughput was {throughput:g} rows/s, but {limits.min_throughput:g} are required"
        reasons.append(f"stage {name}: {what}")
    return reasons


def _missed_p99(limit_ms: float, stage: Stage) -> str:
    """Say why a stage did not keep the p99 limit."""
    p99_us = stage["p99_of_requests_us"]
    if p99_us is not None:
        return f"p99 was {p99_us / 1000:.3f} ms, but the limit is {limit_ms:g} ms"
    if stage["verdict"] == Verdict.MISSED.value:
        return f"only {to_percent(stage['goodput'] or 0.0)} of its requests were answered within {limit_ms:g} ms"
    failed = sum(stage["failures"].values())
    requests = stage["requests"] + failed
    if requests < LEAST_FOR_P99:
        few = f"p99 could not be checked: it takes {LEAST_FOR_P99} requests, and there {was(requests)} {requests}"
        return f"{few}; measure for longer with --stage-time, or add --min-requests {LEAST_FOR_P99}"
    return f"more than 1 % of the requests got no answer within {limit_ms:g} ms, so no p99 limit is kept"


def describe_pass(result: Mapping[str, Any]) -> str:
    """Say exactly what held in a run that passed: how many answers were right, how many requests failed, and limits."""
    answers, unchecked = result["totals"]["requests"], result["totals"]["unchecked"]
    failed, right = sum(result["totals"]["failures"].values()), answers - unchecked
    if unchecked == answers:
        checked = f"{counted(answers, 'answer')} came, but none was checked"
    elif unchecked:
        checked = f"{counted(right, 'answer')} {was(right)} right, {unchecked:,} of {answers:,} could not be checked"
    else:
        checked = "the only answer was right" if answers == 1 else f"all {answers:,} answers were right"
    limits = result["run"]["limits"]
    has_limit = limits["max_p99_ms"] is not None or limits["min_throughput_rows_per_s"] is not None
    is_ladder = SCENARIOS[result["run"]["scenario"]].is_ladder  # one stage within the limits is enough
    kept = "a load within the limits was found" if is_ladder else "every limit was kept"
    kept = kept if has_limit else "no limit was set"
    return f"{checked}, {counted(failed, 'request') if failed else 'no request'} failed, and {kept}"
