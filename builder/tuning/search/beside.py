"""Measure one model of a server while the others are under load: the bench of a turn."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from builder.tuning.measurement import Configuration, Load, Measurement
from builder.tuning.search.goal import Goal
from builder.tuning.wording import count

Wanted = Mapping[str, tuple[Configuration, Load]]
"""What each model runs with, and under which load."""

Measure = Callable[[Wanted], Mapping[str, Measurement]]
"""Puts all models under load at the same time, and returns the measurement of each."""


class Beside:
    """Measures one model while the others are under load.

    What it returns is the model's own measurement, except for the limit, which holds for all: p99 is that of the
    slowest model, and the failed and unchecked answers are those of all together. Wrong answers of another model are an
    error here, so that it is not this one that is said to answer wrongly. If another model does not keep up with its
    rate, this one counts as falling behind as well.

    Attributes:
        seen: What all models gave, for each run.
    """

    def __init__(self, name: str, every: Wanted, measure: Measure, goal: Goal) -> None:
        self._name = name
        self._goal = goal
        self._every = every
        self._measure = measure
        self.seen: list[Mapping[str, Measurement]] = []

    def measure(self, configuration: Configuration, load: Load) -> Measurement:
        """Run the model with this configuration under this load, and all others as they are."""
        found = self._measure({**self._every, self._name: (configuration, load)})
        self.seen.append(found)
        return _with_others(self._name, found, self._goal)


def _with_others(name: str, found: Mapping[str, Measurement], goal: Goal) -> Measurement:
    own, every = found[name], found.values()
    others = {other: one for other, one in found.items() if other != name}
    lost = [f"{other} beside it: {_fault(one)}" for other, one in others.items() if _fault(one)]
    behind = [other for other, one in others.items() if _is_behind(one, goal)]
    slowest = _slowest(found)
    notes = [f"p99 is that of {slowest}, which is slower"] if slowest not in (None, name) else []
    notes += [f"{other} beside it does not keep up with its rate" for other in behind]
    return replace(
        own,
        p99_s=found[slowest].p99_s if slowest else None,
        waiting=own.requests if behind else own.waiting,  # more than any goal allows
        failed=sum(one.failed for one in every),
        unchecked=sum(one.unchecked for one in every),
        notes=(*own.notes, *notes),
        error=own.error or next(iter(lost), ""),
    )


def _fault(one: Measurement) -> str:
    return one.error or (count(one.wrong, "wrong answer") if one.wrong else "")


def _is_behind(one: Measurement, goal: Goal) -> bool:
    """Tell whether a model was sent more requests than it answers."""
    if one.throughput is None:
        return False
    return goal.falls_behind(one) or not goal.keeps_up(one.throughput.value, one.requests)


def _slowest(found: Mapping[str, Measurement]) -> str | None:
    """Return the model with the highest p99; None if that of one is not known."""
    bounds = {name: one.p99_s.high for name, one in found.items() if one.p99_s is not None}
    return max(bounds, key=lambda name: bounds[name]) if len(bounds) == len(found) else None
