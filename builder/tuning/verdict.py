"""The verdict of a tuning: whether something is better than the current configuration, and what is as good."""

from collections.abc import Iterable, Sequence

from builder.tuning.found import Found, Result, Step, Verdict
from builder.tuning.measurement import Configuration, Interval
from builder.tuning.pooling import Runs
from builder.tuning.space import Space
from builder.tuning.wording import figure, say_configuration, say_gain, say_load, say_ms


def conclude(space: Space, runs: Runs, best: Result | None, steps: Sequence[Step], notes: Iterable[str]) -> Found:
    """Return the verdict.

    The current configuration is kept unless the 95 % interval of the gain is above 1.

    Args:
        space: The configurations.
        runs: All runs that count.
        best: The best result that keeps the limit; None if there is none.
        steps: All runs, for the report.
        notes: What limits what they say.
    """
    baseline, results = _baseline(runs, space.current), runs.results
    all_notes = tuple(dict.fromkeys((*notes, *_notes(runs, space.current, best, baseline))))
    if best is None:
        nearest = min(results, key=lambda one: one.p99_s.value, default=None)
        verdict: Verdict = "no configuration keeps the limit" if nearest else "nothing could be measured"
        why = _say_nearest(nearest, runs) if nearest else _say_nothing(steps)
        return Found(
            verdict, why, None, baseline, nearest=nearest, wrong=runs.wrong, steps=tuple(steps), notes=all_notes
        )
    gain = runs.ratio(best, baseline) if baseline and baseline.keeps else None
    verdict = _verdict(space, best, gain)
    why = _say(verdict, best, gain, baseline)
    if verdict != "better" and baseline:
        best, gain = baseline, runs.ratio(baseline, baseline) if verdict == "as it is" else gain
    return Found(
        verdict,
        why,
        best,
        baseline,
        gain,
        ties=_ties(space, runs, best),
        wrong=runs.wrong,
        steps=tuple(steps),
        notes=all_notes,
    )


def _baseline(runs: Runs, current: Configuration) -> Result | None:
    """Return the best result of the current configuration; the one with the lowest p99 if none keeps the limit."""
    mine = [result for result in runs.results if result.configuration == current]
    if current in runs.out or not mine:
        return None
    kept = [result for result in mine if result.keeps]
    if not kept:
        return min(mine, key=lambda one: one.p99_s.value)
    return max(kept, key=lambda one: runs.goal.value(one.throughput.value, one.p99_s.value))


def _verdict(space: Space, best: Result, gain: Interval | None) -> Verdict:
    if best.configuration == space.current:
        return "as it is"
    return "better" if gain is None or gain.low > 1 else "not distinguishable"


def _ties(space: Space, runs: Runs, best: Result) -> tuple[Result, ...]:
    """Return the other configurations that keep the limit and are not distinguishable from the best one."""
    ties: dict[Configuration, Result] = {}
    for result in runs.results:
        ratio = runs.ratio(result, best)
        if result.keeps and result.configuration != best.configuration and ratio.low <= 1 <= ratio.high:
            ties.setdefault(result.configuration, result)
    return tuple(sorted(ties.values(), key=lambda one: space.simplicity(one.configuration)))


# ---- In words


def _say(verdict: Verdict, best: Result, gain: Interval | None, baseline: Result | None) -> str:
    at = f"{say_configuration(best.configuration)} at {say_load(best.load)}"
    if verdict == "as it is":
        return "nothing that was tried or predicted is better than the current settings"
    if gain is None:
        reason = "could not be measured" if baseline is None else "keep the limit under no load that was tried"
        return f"{at} keeps the limit; the current settings {reason}"
    if best.load.rate is None:
        span = f"{say_gain(gain.value)} ({say_gain(gain.low)} to {say_gain(gain.high)})"
    else:  # a p99 that is 1.25 times as good is 20 % lower
        span = f"p99 {say_gain(1 / gain.value)} ({say_gain(1 / gain.high)} to {say_gain(1 / gain.low)})"
    if verdict == "better":
        return f"{at}: {span} compared with the current settings"
    return f"{at} is not distinguishable from the current settings: {span}; these are kept"


def _say_nearest(nearest: Result, runs: Runs) -> str:
    at = f"{say_configuration(nearest.configuration)} at {say_load(nearest.load)}"
    limit = f"{figure(1e3 * runs.goal.max_p99_s)} ms"
    if runs.goal.rate is not None and not runs.goal.keeps_up(nearest.throughput.value):
        answered = figure(nearest.throughput.value / runs.goal.mean_rows)
        return f"no configuration keeps up with {say_load(nearest.load)}: {at} answers {answered} each second"
    return (
        f"no configuration keeps p99 within {limit}, with certainty: the lowest is {say_ms(nearest.p99_s)}, with {at}"
    )


def _say_nothing(steps: Sequence[Step]) -> str:
    errors = [step.measurement.error for step in steps if step.measurement and step.measurement.error]
    return errors[0] if errors else "no run had enough requests to know p99"


def _notes(runs: Runs, current: Configuration, best: Result | None, baseline: Result | None) -> Iterable[str]:
    """Yield what limits what the runs say."""
    for configuration in runs.wrong:
        which = "the current configuration" if configuration == current else say_configuration(configuration)
        yield f"{which} answered wrongly, and is out"
    for configuration, error in runs.dead.items():
        which = "the current configuration" if configuration == current else say_configuration(configuration)
        yield f"{which} could not be measured: {error}"
    for result in (best, baseline):
        for run in runs.of(result.trial) if result else ():
            yield from run.notes
