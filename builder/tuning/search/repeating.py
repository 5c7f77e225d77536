"""Which runs are repeated at the end: those of the current settings and of the best ones, until more says nothing."""

from builder.tuning.search.found import Result
from builder.tuning.search.outlook import HOPELESS, WORTH_TRYING, Outlook
from builder.tuning.search.pooling import Runs, Trial
from builder.tuning.search.verdict import SURE_RUNS, baseline_of

_ENOUGH_RUNS = 3
"""After so many runs of the baseline and of the best one each, nothing more is repeated. What other programs disturbed
as often is given up."""


def find_repeat(runs: Runs, outlook: Outlook, best: Result) -> tuple[Trial, str] | None:
    """Return what to repeat, and why: the best one or the baseline, whichever has fewer runs.

    Args:
        runs: All runs that count.
        outlook: What is expected.
        best: The best result that keeps the limit.

    Returns:
        None if more runs would say nothing that matters.
    """
    current = outlook.space.current
    if best.configuration == current:
        return None if _has_enough(runs, best) else (best.trial, "again, to be sure that the limit is kept")
    compared = None if current in runs.out else _find_compared(runs, outlook, best)
    baseline = runs.result(compared) if compared else None
    if compared is not None and baseline is None and runs.of(compared):
        compared = None  # it had too few requests to know p99, and would have too few again
    if _is_settled(runs, best, compared, baseline):
        return None
    trial, than = best.trial, "the current settings"
    if compared is not None and _count(runs, baseline) < _count(runs, best):
        trial, than = compared, "the best so far"
    return trial, f"{'again, ' if runs.of(trial) else ''}to compare with {than}"


def count_missing(runs: Runs, outlook: Outlook, best: Result) -> int:
    """Return how many runs are missing until the best result and the baseline were repeated often enough.

    Both get two runs, or three if only these tell them apart. It is 3 if the best result had one run, and the baseline
    none under the load at which it is compared.
    """
    current = outlook.space.current
    compared = None
    if best.configuration != current and current not in runs.out:
        compared = _find_compared(runs, outlook, best)
    if compared is None:
        return max(0, SURE_RUNS - best.runs)
    gain = outlook.value(best.trial) - outlook.value(compared)
    enough = [number for number in (SURE_RUNS, _ENOUGH_RUNS) if runs.tells_apart(outlook.noise, number) < gain]
    each = enough[0] if enough else SURE_RUNS
    return max(0, each - best.runs) + max(0, each - len(runs.of(compared)))


def _find_compared(runs: Runs, outlook: Outlook, best: Result) -> Trial | None:
    """Return the load at which the current settings are compared with the best result.

    If they were not tried under its load, and may keep the limit there, it is that one: more users alone may be what
    makes it better.
    """
    current = outlook.space.current
    same = current, best.load
    if same in outlook.cases and not runs.of(same) and outlook.chance(same) >= HOPELESS:
        return same
    if (kept := baseline_of(runs, current)) is not None and kept.keeps:
        return kept.trial
    usual = outlook.usual(current)
    return usual.trial if usual else None


def _is_settled(runs: Runs, best: Result, compared: Trial | None, baseline: Result | None) -> bool:
    """Tell whether more runs would say nothing that matters."""
    if not _has_enough(runs, best) or (compared is not None and baseline is None):
        return False
    if baseline is None or not _count(runs, best):
        return True
    if not _count(runs, baseline):
        return _has_enough(runs, baseline)
    if runs.surely_misses(baseline) or min(best.runs, baseline.runs) >= _ENOUGH_RUNS:
        return True
    if not _has_enough(runs, baseline) or not baseline.keeps:
        return False
    ratio = runs.ratio(best, baseline)
    return ratio.low > 1 or ratio.high < 1 + WORTH_TRYING


def _count(runs: Runs, result: Result | None) -> int:
    """Return how many runs of a result count in full: none if there are none, or if all were disturbed."""
    return 0 if result is None or runs.are_disturbed(result) else result.runs


def _has_enough(runs: Runs, result: Result) -> bool:
    """Tell whether a result was repeated often enough; what is disturbed each time is given up."""
    return result.runs >= (SURE_RUNS if _count(runs, result) else _ENOUGH_RUNS)
