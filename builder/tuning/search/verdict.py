"""The verdict of a tuning: whether something is better than the current configuration, and what is as good."""

from collections.abc import Iterable, Sequence

from builder.tuning.measurement import Configuration
from builder.tuning.search.found import Found, Result, Step, Verdict
from builder.tuning.search.pooling import Runs
from builder.tuning.search.space import Space
from builder.tuning.wording import count, figure, say_configuration, say_gains, say_load, say_ms

SURE_RUNS = 2
"""So many runs of what is recommended have to keep the limit together."""

_MORE = 1.01
"""What gave so many times as much as the current settings, or less, gave no more."""


def conclude(
    space: Space,
    runs: Runs,
    best: Result | None,
    steps: Sequence[Step],
    notes: Iterable[str],
    *,
    is_predicted: bool = True,
    untried: str = "",
) -> Found:
    """Return the verdict.

    The current configuration is kept unless the 90 % interval of the gain is above 1, or it certainly misses the limit.

    Args:
        space: The configurations.
        runs: All runs that count.
        best: The best result that keeps the limit; None if there is none.
        steps: All runs, for the report.
        notes: What limits what they say.
        is_predicted: Whether the time of a batch was seen, without which nothing can be predicted, nor searched.
        untried: What is predicted to be better than the current configuration, and was not tried; empty if nothing is.
    """
    baseline = baseline_of(runs, space.current)
    is_shown = False
    if best is not None:
        best, is_shown = _compare(runs, best, baseline)
    all_notes = tuple(dict.fromkeys((*notes, *_notes(runs, space.current, best, baseline))))
    if best is None:
        nearest = _nearest(runs) if is_predicted else None
        verdict: Verdict = "no configuration keeps the limit" if nearest else "nothing could be measured"
        why = _say_nearest(nearest, runs) if nearest else _say_nothing(runs, steps, is_predicted=is_predicted)
        return Found(
            verdict, why, None, baseline, nearest=nearest, wrong=runs.wrong, steps=tuple(steps), notes=all_notes
        )
    gain = runs.ratio(best, baseline) if baseline and baseline.keeps else None
    verdict = _verdict(space, runs, best, baseline, is_shown=is_shown)
    why = _say(verdict, runs, best, baseline, untried)
    kept: Result | None = best
    if verdict != "better":
        kept = baseline
        gain = runs.ratio(baseline, baseline) if verdict == "as it is" and baseline else gain
    return Found(
        verdict,
        why,
        kept,
        baseline,
        gain,
        ties=_ties(space, runs, best, kept),
        wrong=runs.wrong,
        steps=tuple(steps),
        notes=all_notes,
    )


def baseline_of(runs: Runs, current: Configuration) -> Result | None:
    """Return the best result of the current configuration; the one with the lowest p99 if none keeps the limit."""
    mine = [result for result in runs.results if result.configuration == current]
    if current in runs.out or not mine:
        return None
    kept = [result for result in mine if result.keeps]
    if not kept:
        return min(mine, key=lambda one: one.p99_s.value)
    return max(kept, key=lambda one: runs.goal.value(one.throughput.value, one.p99_s.value))


def _nearest(runs: Runs) -> Result | None:
    """Return the lowest p99 of what is not out; None if other programs disturbed all of that, or if there is none.

    If possible, it is one of runs in which no request failed and the server kept up with the rate: p99 says little
    otherwise.
    """
    known = [one for one in runs.results if one.configuration not in runs.out]
    if all(runs.are_disturbed(one) for one in known):
        return None
    return min(known, key=lambda one: (not runs.are_sound(one), one.p99_s.value))


def _verdict(space: Space, runs: Runs, best: Result, baseline: Result | None, *, is_shown: bool) -> Verdict:
    """Return the verdict about a best result.

    What was not shown is not "better": every run of one side was disturbed, or the current configuration may keep the
    limit after all.
    """
    current = space.current
    if best.configuration == current:
        return "not distinguishable" if runs.are_disturbed(best) else "as it is"
    if runs.are_disturbed(best) or (baseline is not None and runs.are_disturbed(baseline)):
        return "nothing could be measured" if current in runs.out else "not distinguishable"
    if baseline is None:
        return "better" if current in runs.out else "not distinguishable"
    return "better" if is_shown else "not distinguishable"


def _compare(runs: Runs, best: Result, baseline: Result | None) -> tuple[Result, bool]:
    """Return the result to compare with the current settings, and whether it is shown to be better.

    That is the best one, unless only another one is shown to be better: the best one may have had one run, and another
    one, which is a little less good, several. One run shows nothing, nor do fewer runs than the best one had: of
    several, the one with the most luck looks best. If the current settings are the best, it is what gave more.
    """
    if baseline is None or runs.are_disturbed(baseline):
        return best, False
    others = [one for one in runs.results if _may_replace(runs, one, baseline)]
    least = max(best.runs, SURE_RUNS)
    if shown := [one for one in others if one.runs >= least and _is_shown(runs, one, baseline)]:
        return best if best in shown else _best_of(runs, shown), True
    if best.configuration != baseline.configuration:
        return best, False
    more = [one for one in others if runs.ratio(one, baseline).value > _MORE]
    return _best_of(runs, more) if more else best, False


def _may_replace(runs: Runs, one: Result, baseline: Result) -> bool:
    """Tell whether a result is of other settings, which keep the limit in runs that nothing disturbed."""
    return one.keeps and one.configuration != baseline.configuration and not runs.are_disturbed(one)


def _best_of(runs: Runs, results: Sequence[Result]) -> Result:
    return max(results, key=lambda one: runs.goal.value(one.throughput.value, one.p99_s.value))


def _is_shown(runs: Runs, best: Result, baseline: Result) -> bool:
    """Tell whether the runs show that the best result is better than the current configuration.

    If that does not keep the limit, it has to miss it for certain under every load that was tried, or to give less
    under the load of the best one. A lighter load that was not tried may keep the limit; it gives no more rows than the
    lightest one that was tried, so that one has to give less than the best one. Disturbed runs show nothing.
    """
    if baseline.keeps:
        return runs.ratio(best, baseline).low > 1
    every = [result for result in runs.results if result.configuration == baseline.configuration]
    mine = [result for result in every if not runs.are_disturbed(result)]
    if any(runs.ratio(best, one).low > 1 for one in mine if one.load == best.load):
        return True
    lightest = min(mine, key=lambda one: one.load.users or 0)
    is_all = lightest.load == runs.goal.loads[0] or runs.ratio(best, lightest).low > 1
    return is_all and all(runs.surely_misses(one) for one in mine)


def _ties(space: Space, runs: Runs, best: Result, kept: Result | None) -> tuple[Result, ...]:
    """Return the other configurations that keep the limit and are not distinguishable from what is kept.

    Where the current configuration is kept without a result that keeps the limit, they are compared with the best one.
    Disturbed runs are not distinguishable from anything, and say nothing.
    """
    ties: dict[Configuration, Result] = {}
    than = kept if kept is not None and kept.keeps else best
    for result in () if runs.are_disturbed(than) else runs.results:
        ratio = runs.ratio(result, than)
        is_other = kept is None or result.configuration != kept.configuration
        if result.keeps and is_other and not runs.are_disturbed(result) and ratio.low <= 1 <= ratio.high:
            ties.setdefault(result.configuration, result)
    return tuple(sorted(ties.values(), key=lambda one: space.simplicity(one.configuration)))


# ---- In words


def _say(verdict: Verdict, runs: Runs, best: Result, baseline: Result | None, untried: str) -> str:
    if verdict == "as it is" and untried:
        more = f"no run was left for {untried}, so more --runs may find something"
        return f"nothing that was tried is better than the current settings; {more}"
    if verdict == "as it is":
        return "nothing that was tried or predicted is better than the current settings"
    at = f"{say_configuration(best.configuration)} at {say_load(best.load)}"
    for result, name in ((baseline, "the current settings"), (best, at)):
        if result is not None and runs.are_disturbed(result):
            return f"other programs disturbed every run of {name}, so nothing was found out: measure again without them"
    if baseline is not None and baseline.keeps:
        return f"{at}{_say_gain(verdict, runs, best, baseline)}"
    if verdict == "not distinguishable":
        p99 = f"their p99 is {say_ms(baseline.p99_s)}" if baseline else "there were too few requests to know their p99"
        if baseline is not None and runs.surely_misses(baseline):
            p99 = f"fewer than {say_load(baseline.load)} were not tried"
        return f"{at} keeps the limit, but the current settings may keep it too: {p99}, so they are kept"
    return f"{at} keeps the limit; the current settings {_say_current(runs, best, baseline)}"


def _say_gain(verdict: Verdict, runs: Runs, best: Result, baseline: Result) -> str:
    """Return how the best settings compare with the current ones, both of which keep the limit."""
    gain = runs.ratio(best, baseline)
    span = say_gains(gain, of_p99=best.load.rate is not None)
    if verdict == "better":
        than = "" if best.load == baseline.load else f" at {say_load(baseline.load)}"
        return f": {span} compared with the current settings{than}"
    if gain.low > 1:
        luck = f"{count(best.runs, 'run')} may have been luck"
        return f": {span} compared with the current settings, which are kept: {luck}"
    return f" is not distinguishable from the current settings ({span}), which are kept"


def _say_current(runs: Runs, best: Result, baseline: Result | None) -> str:
    """Return why the current settings, which do not keep the limit, are worse than the best ones."""
    if baseline is None:
        return "could not be measured, or were wrong"
    if baseline.p99_s.low > runs.goal.max_p99_s:
        return f"do not: their p99 is {say_ms(baseline.p99_s)}"
    if runs.surely_misses(baseline):
        return "do not keep up with the rate"
    same = next(one for one in runs.results if one.trial == (baseline.configuration, best.load))
    span = say_gains(runs.ratio(best, same), of_p99=best.load.rate is not None)
    return f"may keep it too, but give less under the same load: the gain is {span}"


def _say_nearest(nearest: Result, runs: Runs) -> str:
    at = f"{say_configuration(nearest.configuration)} at {say_load(nearest.load)}"
    limit = f"{figure(1e3 * runs.goal.max_p99_s)} ms"
    failed, unchecked = (sum(getattr(run, what) for run in runs.of(nearest.trial)) for what in ("failed", "unchecked"))
    if failed:
        return f"nothing that was tried keeps the limit: with {at}, {count(failed, 'request')} failed"
    if unchecked:
        return f"nothing that was tried keeps the limit: with {at}, {count(unchecked, 'answer')} could not be checked"
    if not runs.are_sound(nearest):
        answered = figure(nearest.throughput.value / runs.goal.mean_rows)
        return f"nothing that was tried keeps up with the rate: {at} answers {answered} requests each second"
    lowest = f"the lowest is {say_ms(nearest.p99_s)}, with {at}"
    return f"nothing that was tried keeps p99 within {limit} with certainty: {lowest}"


def _say_nothing(runs: Runs, steps: Sequence[Step], *, is_predicted: bool) -> str:
    errors = [step.measurement.error for step in steps if step.measurement and step.measurement.error]
    if is_predicted and any(one.configuration not in runs.out for one in runs.results):
        return "other programs disturbed every run, so nobody knows whether the limit can be kept"
    if errors:
        return errors[0]
    if runs.results and not is_predicted:
        return "the server does not say how long its batches take, so nothing can be predicted"
    is_wrong = bool(runs.wrong and runs.results)
    return "the model answered wrongly in every run" if is_wrong else "no run had enough requests to know p99"


def _notes(runs: Runs, current: Configuration, best: Result | None, baseline: Result | None) -> Iterable[str]:
    """Yield what limits what the runs say."""
    for configuration in runs.wrong:
        which = "the current settings" if configuration == current else say_configuration(configuration)
        yield f"the model answered wrongly with {which}, so these settings are out"
    for configuration, error in runs.dead.items():
        which = "the current settings" if configuration == current else say_configuration(configuration)
        yield f"{which} could not be measured: {error}"
    for result in (best, baseline):
        for run in runs.of(result.trial) if result else ():
            yield from run.notes
