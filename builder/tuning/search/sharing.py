"""Search the settings of several models that share one server: in turns, while all of them are under load.

Models on one server take processor time from each other, so nothing about one of them is measured without the others.
In its turn, the settings of one model change, and the others keep the best of theirs so far. Whoever had its turn
before another model changed gets a second one. At the end, all models run with their old settings and with their new
ones in turn, because no single turn has compared just these two.

What this does not find: settings that are better only if those of two models change at once.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from builder.tuning.measurement import Configuration, Interval, Measurement
from builder.tuning.search.beside import Beside, Measure, Wanted
from builder.tuning.search.found import Found, Result, Step
from builder.tuning.search.goal import Goal
from builder.tuning.search.pooling import Runs
from builder.tuning.search.searching import search
from builder.tuning.search.space import Space
from builder.tuning.wording import say_configuration, say_gain, say_gains, say_load

ROUNDS = 2
"""How many turns a model gets at most."""

REPEATS = 2
"""How often the old and the new settings of all models are compared at the end."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The search of one model while the settings of the others are held.

    Attributes:
        name: The model.
        number: Which of its turns this is, from 1.
        fixed: What was held fixed meanwhile; one sentence for each other model.
        found: What came out.
        accepted: Whether its best configuration is used from here on.
        why: Why, or why not; a sentence without a full stop.
    """

    name: str
    number: int
    fixed: tuple[str, ...]
    found: Found
    accepted: bool
    why: str


@dataclass(frozen=True, slots=True)
class Shared:
    """What came out for all models together.

    Attributes:
        turns: All turns, in order.
        chosen: The configuration of each model: the one of now unless `is_better`.
        before: What each model gave with its old settings, all of them under load.
        after: The same with the new settings; empty if nothing changed.
        gain: How many times as good the new settings are, as the geometric mean over the models; None if nothing
            changed, or if the old settings certainly miss the limit, or answer wrongly or not at all.
        is_better: Whether the new settings are better.
        why: The verdict as a sentence without a full stop.
    """

    turns: tuple[Turn, ...]
    chosen: Mapping[str, Configuration]
    before: Mapping[str, Result]
    after: Mapping[str, Result]
    gain: Interval | None
    is_better: bool
    why: str


def search_together(
    current: Mapping[str, Configuration],
    goal: Goal,
    measure: Measure,
    space_of: Callable[[str, Configuration], Space],
    *,
    runs: int = 10,
    observed: Callable[[str, Step], None] = lambda name, step: None,
    searching: Callable[..., Found] = search,
) -> Shared:
    """Search the settings of several models.

    Args:
        current: The configuration of each model now, in the order of the turns.
        goal: The limit, which holds for every model, and the load, which each of them is under.
        measure: Runs all models at once.
        space_of: Returns what can be tried for a model that has a configuration now.
        runs: The most runs of a turn.
        observed: Called with the model, before and after each run of its turn.
        searching: How a single model is searched.

    Raises:
        BuilderError: The bench ended the tuning.
    """
    chosen, turns, waiting = dict(current), list[Turn](), set(current)
    for number in range(1, ROUNDS + 1):
        for name in [name for name in current if name in waiting]:
            every = {each: (configuration, goal.loads[0]) for each, configuration in chosen.items()}
            others = {other: wanted for other, wanted in every.items() if other != name}
            bench = Beside(name, every, measure, goal)
            report = _naming(name, observed)
            found = searching(bench, space_of(name, chosen[name]), goal, runs=runs, observed=report)
            accepted, why = _judge(name, chosen[name], found, bench.seen, goal)
            turns.append(Turn(name, number, say_fixed(others), found, accepted, why))
            waiting.discard(name)
            if accepted and found.best is not None:
                chosen[name] = found.best.configuration
                waiting.update(others)
    return _compare(current, chosen, turns, goal, measure)


def most_runs(models: int, runs: int) -> int:
    """Return how many runs a search makes at most: every turn of every model, and the comparison at the end.

    Args:
        models: How many models share the server.
        runs: The most runs of a turn.
    """
    return models * ROUNDS * runs + 2 * REPEATS


def say_fixed(others: Wanted) -> tuple[str, ...]:
    """Return what was held fixed while another model was searched, a sentence for each model."""
    return tuple(
        f"{name} was under load meanwhile: {say_configuration(configuration)}, {say_load(load)}"
        for name, (configuration, load) in others.items()
    )


def _naming(name: str, observed: Callable[[str, Step], None]) -> Callable[[Step], None]:
    return lambda step: observed(name, step)


def _judge(
    name: str, before: Configuration, found: Found, seen: Sequence[Mapping[str, Measurement]], goal: Goal
) -> tuple[bool, str]:
    """Return whether a model's best configuration is used from here on: not if the others lose more than it gains.

    Example: a gains 10 %, and b loses 20 %; the geometric mean of 1.1 and 0.8 is 0.94, so it is not used.
    """
    if found.verdict != "better" or found.best is None:
        return False, found.why
    load = goal.loads[0]
    old = _results([run for run in seen if run[name].configuration == before and run[name].load == load], goal)
    new = _results(
        [run for run in seen if run[name].configuration == found.best.configuration and run[name].load == load], goal
    )
    gains = {each: Runs(goal).ratio(new[each], old[each]) for each in old if each in new}
    if len(gains) < len(seen[0]):  # the configuration of now could not be measured, so anything is better
        return True, found.why
    if _mean(gains.values()).value > 1:
        return True, found.why
    return False, f"not used, because all models together lose: {_say_each(gains, of_p99=goal.rate is not None)}"


def _results(runs: Sequence[Mapping[str, Measurement]], goal: Goal) -> dict[str, Result]:
    """Return what each model gave in several runs; without the models whose runs gave no figures."""
    every = {name: pooled.results for name, pooled in _pool(runs, goal).items()}
    return {name: results[0] for name, results in every.items() if results}


def _pool(runs: Sequence[Mapping[str, Measurement]], goal: Goal) -> dict[str, Runs]:
    """Return the runs of each model, which had the same settings in all of them."""
    every = {name: Runs(goal) for name in (runs[0] if runs else ())}
    for run in runs:
        for name, pooled in every.items():
            pooled.add(run[name])
    return every


def _compare(
    current: Mapping[str, Configuration],
    chosen: Mapping[str, Configuration],
    turns: Sequence[Turn],
    goal: Goal,
    measure: Measure,
) -> Shared:
    """Run all models with their old and their new settings in turn, and return the verdict."""
    if chosen == current:
        why = "no model gets other settings"
        return Shared(tuple(turns), dict(current), {}, {}, None, False, why)
    sides = _in_turn((current, chosen), goal, measure)
    before, after = (_results(side, goal) for side in sides)
    is_kept = len(after) == len(current) and all(result.keeps for result in after.values())
    is_known = not any(_are_disturbed(side, goal) for side in sides)
    gains = {name: Runs(goal).ratio(after[name], before[name]) for name in after if name in before}
    was_out = _surely_fails(sides[0], goal)
    gain = _mean(gains.values()) if not was_out and len(gains) == len(current) else None
    is_better = is_kept and is_known and (was_out or (gain is not None and gain.low > 1))
    why = _say(is_kept, is_known, was_out, gain, gains, of_p99=goal.rate is not None)
    return Shared(tuple(turns), dict(chosen if is_better else current), before, after, gain, is_better, why)


def _in_turn(
    settings: Sequence[Mapping[str, Configuration]], goal: Goal, measure: Measure
) -> list[list[Mapping[str, Measurement]]]:
    """Return what all models give with each of the settings, measured several times in turn."""
    sides: list[list[Mapping[str, Measurement]]] = [[] for _ in settings]
    for _ in range(REPEATS):
        for side, configurations in zip(sides, settings, strict=True):
            side.append(measure({name: (one, goal.loads[0]) for name, one in configurations.items()}))
    return sides


def _surely_fails(runs: Sequence[Mapping[str, Measurement]], goal: Goal) -> bool:
    """Return whether a model certainly misses the limit with these settings, or answers wrongly or not at all."""
    pools = _pool(runs, goal).values()
    return any(pooled.out or any(pooled.surely_misses(result) for result in pooled.results) for pooled in pools)


def _are_disturbed(runs: Sequence[Mapping[str, Measurement]], goal: Goal) -> bool:
    """Return whether other programs disturbed all runs of a model."""
    pools = _pool(runs, goal).values()
    return any(pooled.are_disturbed(result) for pooled in pools for result in pooled.results)


def _mean(gains: Iterable[Interval]) -> Interval:
    """Return the geometric mean of ratios, with its interval: that of the mean of their logarithms.

    All models ran at the same time, and a slow moment of the machine is one for each of them. So their errors do not
    make up for each other: of two models with ± 8 % each, the mean is ± 8 % as well, and not ± 5.7 %.
    """
    every = list(gains)
    middle = sum(math.log(one.value) for one in every) / len(every)
    half = sum(math.log(one.high / one.low) / 2 for one in every) / len(every)
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def _say(
    is_kept: bool,
    is_known: bool,
    was_out: bool,
    gain: Interval | None,
    gains: Mapping[str, Interval],
    *,
    of_p99: bool,
) -> str:
    if not is_known:
        return "other programs disturbed the runs that compare the new settings with the old ones, which are kept"
    if not is_kept:
        return "with all new settings at once, not every model keeps the limit; the old ones are kept"
    if was_out:
        return "the new settings keep the limit for every model, and the old ones do not"
    if gain is None:
        return "the old settings had too few requests to know their p99, so they may be as good, and are kept"
    span = f"{say_gains(gain, of_p99=of_p99)} on average: {_say_each(gains, of_p99=of_p99)}"
    if gain.low > 1:
        return f"all models with their new settings at once: {span}"
    return f"the new settings of all models at once are not distinguishable from the old ones: {span}"


def _say_each(gains: Mapping[str, Interval], *, of_p99: bool) -> str:
    return ", ".join(f"{name} {say_gain(gain.value, of_p99=of_p99)}" for name, gain in gains.items())
