"""The verdict of a tuning: whether something is better than the current configuration, and what is as good."""

from collections.abc import Iterable, Sequence

from builder.tuning.measurement import Configuration
from builder.tuning.search.found import Found, Result, Step, Verdict
from builder.tuning.search.pooling import Runs
from builder.tuning.search.space import Space
from builder.tuning.wording import figure, say_configuration, say_gains, say_load, say_ms


def conclude(space: Space, runs: Runs, best: Result | None, steps: Sequence[Step], notes: Iterable[str]) -> Found:
    """Return the verdict.

    The current configuration is kept unless the 95 % interval of the gain is above 1, or it certainly misses the limit.

    Args:
        space: The configurations.
        runs: All runs that count.
        best: The best result that keeps the limit; None if there is none.
        steps: All runs, for the report.
        notes: What limits what they say.
    """
    baseline, results = baseline_of(runs, space.current), runs.results
    if best is not None:
        best = _shown_best(runs, best, baseline)
    all_notes = tuple(dict.fromkeys((*notes, *_notes(runs, space.current, best, baseline))))
    if best is None:
        is_known = not all(runs.are_disturbed(one) for one in results)
        nearest = min(results, key=lambda one: one.p99_s.value) if is_known else None
        verdict: Verdict = "no configuration keeps the limit" if nearest else "nothing could be measured"
        why = _say_nearest(nearest, runs) if nearest else _say_nothing(steps, is_disturbed=bool(results))
        return Found(
            verdict, why, None, baseline, nearest=nearest, wrong=runs.wrong, steps=tuple(steps), notes=all_notes
        )
    gain = runs.ratio(best, baseline) if baseline and baseline.keeps else None
    verdict = _verdict(space, runs, best, baseline)
    why = _say(verdict, runs, best, baseline)
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


def _verdict(space: Space, runs: Runs, best: Result, baseline: Result | None) -> Verdict:
    """Return the verdict about a best result.

    What was not shown is not "better": every run of one side was disturbed, or the current configuration may keep the
    limit after all.
    """
    current = space.current
    if best.configuration == current:
        return "as it is"
    if runs.are_disturbed(best) or (baseline is not None and runs.are_disturbed(baseline)):
        return "nothing could be measured" if current in runs.out else "not distinguishable"
    if baseline is None:
        return "better" if current in runs.out else "not distinguishable"
    return "better" if _is_shown(runs, best, baseline) else "not distinguishable"


def _shown_best(runs: Runs, best: Result, baseline: Result | None) -> Result:
    """Return the best result that is shown to be better than the current settings, or the best one if none is.

    The best one may have had one run only, and another one, which is a little less good, several.
    """
    if baseline is None or best.configuration == baseline.configuration or runs.are_disturbed(baseline):
        return best
    if not runs.are_disturbed(best) and _is_shown(runs, best, baseline):
        return best
    value = runs.goal.value
    kept = [one for one in runs.results if one.keeps and one.configuration != baseline.configuration]
    shown = [one for one in kept if not runs.are_disturbed(one) and _is_shown(runs, one, baseline)]
    return max(shown, key=lambda one: value(one.throughput.value, one.p99_s.value), default=best)


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
    """
    ties: dict[Configuration, Result] = {}
    than = kept if kept is not None and kept.keeps else best
    for result in runs.results:
        ratio = runs.ratio(result, than)
        is_other = kept is None or result.configuration != kept.configuration
        if result.keeps and is_other and ratio.low <= 1 <= ratio.high:
            ties.setdefault(result.configuration, result)
    return tuple(sorted(ties.values(), key=lambda one: space.simplicity(one.configuration)))


# ---- In words


def _say(verdict: Verdict, runs: Runs, best: Result, baseline: Result | None) -> str:
    if verdict == "as it is":
        return "nothing that was tried or predicted is better than the current settings"
    at = f"{say_configuration(best.configuration)} at {say_load(best.load)}"
    for result, name in ((best, at), (baseline, "the current settings")):
        if result is not None and runs.are_disturbed(result):
            return f"other programs disturbed every run of {name}, so nothing was found out: measure again without them"
    if baseline is not None and baseline.keeps:
        span = say_gains(runs.ratio(best, baseline), of_p99=best.load.rate is not None)
        if verdict == "better":
            than = "" if best.load == baseline.load else f" at {say_load(baseline.load)}"
            return f"{at}: {span} compared with the current settings{than}"
        return f"{at} is not distinguishable from the current settings ({span}), which are kept"
    if verdict == "not distinguishable":
        p99 = f"their p99 is {say_ms(baseline.p99_s)}" if baseline else "there were too few requests to know their p99"
        if baseline is not None and runs.surely_misses(baseline):
            p99 = f"fewer than {say_load(baseline.load)} were not tried"
        return f"{at} keeps the limit, but the current settings may keep it too: {p99}, so they are kept"
    misses = f"do not: their p99 is {say_ms(baseline.p99_s)}" if baseline else "could not be measured, or were wrong"
    return f"{at} keeps the limit; the current settings {misses}"


def _say_nearest(nearest: Result, runs: Runs) -> str:
    at = f"{say_configuration(nearest.configuration)} at {say_load(nearest.load)}"
    limit = f"{figure(1e3 * runs.goal.max_p99_s)} ms"
    if runs.goal.rate is not None and not runs.goal.keeps_up(nearest.throughput.value):
        answered = figure(nearest.throughput.value / runs.goal.mean_rows)
        return f"nothing that was tried keeps up with the rate: {at} answers {answered} requests each second"
    lowest = f"the lowest is {say_ms(nearest.p99_s)}, with {at}"
    return f"nothing that was tried keeps p99 within {limit} with certainty: {lowest}"


def _say_nothing(steps: Sequence[Step], *, is_disturbed: bool) -> str:
    errors = [step.measurement.error for step in steps if step.measurement and step.measurement.error]
    if is_disturbed:
        return "other programs disturbed every run, so nobody knows whether the limit can be kept"
    return errors[0] if errors else "no run had enough requests to know p99"


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
