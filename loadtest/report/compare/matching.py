"""Match the stages of two sides, and give each figure of a match its interval."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.errors import SettingsError
from loadtest.report.compare.differences import Difference, find_differences, find_doubts
from loadtest.report.compare.runs import FIGURES, Run, Stage
from loadtest.report.intervals import Estimate, bootstrap, estimate, pool, ratio

_PERCENTS = {"p50_us": 50, "p99_us": 99}


@dataclass(frozen=True, slots=True)
class Change:
    """A figure on both sides, and the second divided by the first; None where there were too few answers."""

    first: Estimate | None
    second: Estimate | None
    ratio: Estimate | None

    @property
    def differs(self) -> bool | None:
        """Whether the interval of the ratio leaves out 1; None if there is no interval."""
        interval = None if self.ratio is None else self.ratio.interval
        return None if interval is None else not interval[0] <= 1 <= interval[1]


@dataclass(frozen=True, slots=True)
class Row:
    """A stage that every run has.

    Attributes:
        name: Its name, in the first run.
        load: Requests per second in an open loop, users in a closed loop.
        changes: By the name of the figure.
        counts: Answers, failures and wrong answers of each side, summed over its runs.
    """

    name: str
    load: float
    changes: Mapping[str, Change]
    counts: tuple[Mapping[str, int], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, stage by stage.

    Attributes:
        labels: Where the runs of each side were read from.
        differences: Settings that are not the same in all runs.
        doubts: What makes single runs doubtful.
        rows: The stages that every run has, in the order of the first run.
        unmatched: The others, as in `B (out/result.json): 32 users`.
    """

    labels: tuple[tuple[str, ...], tuple[str, ...]]
    differences: Sequence[Difference]
    doubts: Sequence[str]
    rows: Sequence[Row]
    unmatched: Sequence[str]


def compare(first: Sequence[Run], second: Sequence[Run]) -> Comparison:
    """Compare two sides of one or more runs each.

    Raises:
        SettingsError: There is no stage that every run has.
    """
    sides = (first, second)
    runs = [*first, *second]
    partners = [_pair(runs[0].stages, run.stages) for run in runs]
    matched = [place for place in range(len(runs[0].stages)) if all(place in pairs for pairs in partners)]
    if not matched:
        loads = "; ".join(f"{run.label}: {_names(run.stages)}" for run in runs)
        raise SettingsError("the results", f"they have no stage in common: {loads}", "run all with the same loads")
    rows = []
    for place in matched:
        stages = [run.stages[pairs[place]] for run, pairs in zip(runs, partners, strict=True)]
        rows.append(_row(stages[: len(first)], stages[len(first) :]))
    unmatched = [
        f"{'AB'[number >= len(first)]} ({run.label}): {_names(left)}"
        for number, (run, pairs) in enumerate(zip(runs, partners, strict=True))
        if (left := _without(run.stages, {pairs[place] for place in matched}))
    ]
    labels = tuple(run.label for run in first), tuple(run.label for run in second)
    return Comparison(labels, find_differences(sides), find_doubts(sides), rows, unmatched)


def _names(stages: Sequence[Stage]) -> str:
    return ", ".join(stage.name for stage in stages) or "none"


def _without(stages: Sequence[Stage], places: set[int]) -> list[Stage]:
    return [stage for place, stage in enumerate(stages) if place not in places]


def _pair(first: Sequence[Stage], second: Sequence[Stage]) -> dict[int, int]:
    """Return which stage of the second run belongs to which of the first, by their places.

    First those with the same load and name, then those left with the same load; equal ones in order. A spike has
    `before` (2 users), `spike` (32) and `after` (2): each is compared with the stage of its name. A soak's `part 1` of
    8 users is compared with the only stage `8 users` of another run, and its other parts have no partner.
    """
    pairs: dict[int, int] = {}
    for with_name in (True, False):
        waiting: dict[Hashable, list[int]] = defaultdict(list)
        for place, stage in enumerate(second):
            if place not in pairs.values():
                waiting[_key(stage, with_name=with_name)].append(place)
        for place, stage in enumerate(first):
            if place not in pairs and waiting[_key(stage, with_name=with_name)]:
                pairs[place] = waiting[_key(stage, with_name=with_name)].pop(0)
    return pairs


def _key(stage: Stage, *, with_name: bool) -> Hashable:
    return stage.is_open_loop, stage.load, stage.name if with_name else ""


def _row(first: Sequence[Stage], second: Sequence[Stage]) -> Row:
    both = [[_estimates(stage) for stage in side] for side in (first, second)]
    changes = {}
    for name in FIGURES:
        pooled = [_pool([figures[name] for figures in side]) for side in both]
        known = [one for one in pooled if one is not None]
        changes[name] = Change(pooled[0], pooled[1], ratio(*known) if len(known) == 2 else None)
    return Row(first[0].name, first[0].load, changes, (_sum(first), _sum(second)))


def _estimates(stage: Stage) -> dict[str, Estimate | None]:
    draws = bootstrap(stage.windows)
    return {name: estimate(stage.figures[name], draws[name], stage.windows, _PERCENTS.get(name)) for name in FIGURES}


def _pool(runs: Sequence[Estimate | None]) -> Estimate | None:
    """Return the mean of all runs; None if one of them has too few answers."""
    known = [run for run in runs if run is not None]
    return pool(known) if len(known) == len(runs) else None


def _sum(stages: Sequence[Stage]) -> dict[str, int]:
    return {name: sum(stage.counts[name] for stage in stages) for name in stages[0].counts}
