"""Find the best configuration in few runs: what to try next, and when to stop."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from builder.tuning.measurement import Bench, Measurement
from builder.tuning.search.calibration import calibrations
from builder.tuning.search.found import Found, Purpose, Result, Step
from builder.tuning.search.goal import Goal
from builder.tuning.search.outlook import HOPELESS, WORTH_TRYING, Idea, Outlook
from builder.tuning.search.planner import Planner
from builder.tuning.search.pooling import Runs, Trial, is_disturbed
from builder.tuning.search.repeating import count_missing, find_repeat
from builder.tuning.search.space import Space
from builder.tuning.search.verdict import SURE_RUNS, conclude
from builder.tuning.simulation import Predicted
from builder.tuning.wording import figure, say_configuration, say_gain, say_load

FEWEST_RUNS = 4
"""The fewest runs that can find anything: one to learn from, the current configuration, another one, and that again."""

_RUNS_FOR_SEVERAL = 6
"""The fewest runs of which more than one is spent on how long batches take."""

_FAR_BEHIND = -0.4
"""An expected gain that is so far below nothing that several instances are not tried for what they may teach."""

_LAST = 3
"""If nothing has kept the limit when so few runs are left, what surely keeps it is tried."""

_DOUBTFUL = 0.25
"""A load that fills all instances is not tried if it keeps the limit with less than this probability."""

_SIMPLER = 0.01
"""A simpler configuration is preferred to one that is better by no more than this share, if runs do not tell them
apart."""

_SURPRISE, _MOST_RELEARNED = 0.10, 2
"""How far throughput may be from what was expected, as a logarithm, and how often everything is predicted anew if it is
further off."""

_STOOD_STILL = 2.0
"""How many times as high as expected p99 is in a run in which something stood still for a moment."""


def search(
    bench: Bench,
    space: Space,
    goal: Goal,
    *,
    runs: int = 10,
    here: bool = True,
    done: Sequence[Measurement] = (),
    observed: Callable[[Step], None] = lambda step: None,
) -> Found:
    """Find the best configuration of a space.

    The first runs show how long batches take. From them, a simulation predicts every configuration under every load.
    Each further run goes where the expected gain is largest, and corrects the predictions. Some runs are kept back, in
    which the current configuration and the best one are repeated in turn.

    Args:
        bench: What measures: a server, or a simulation of one.
        space: The configurations; the current one is the baseline.
        goal: The limit, the load, and what is better.
        runs: The most runs, all together: 4 or more.
        here: Whether the load generator runs on the server's machine.
        done: The measurements of an interrupted tuning, in order. They count as runs, and are not made again.
        observed: Called before and after each run.

    Raises:
        BuilderError: The bench ended the tuning.
    """
    one = _Search(bench, space, goal, runs, Planner(space, goal, here), Runs(goal), list(done), observed)
    one.calibrate()
    if one.planner.is_ready:
        one.explore()
    is_ready = one.planner.is_ready
    untried = one.untried() if is_ready else ""
    return conclude(space, one.runs, one.best, one.steps, one.notes, is_predicted=is_ready, untried=untried)


@dataclass(slots=True)
class _Search:
    """A search in progress."""

    bench: Bench
    space: Space
    goal: Goal
    of: int
    planner: Planner
    runs: Runs
    done: list[Measurement]
    observed: Callable[[Step], None]
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: list[Measurement] = field(default_factory=list)
    relearned: int = 0

    @property
    def left(self) -> int:
        """How many runs are left."""
        return self.of - len(self.steps)

    @property
    def kept_back(self) -> int:
        """How many runs are kept for the end, in which the best one and the baseline are repeated.

        While nothing keeps the limit, there is nothing to repeat. Once both were repeated, one is kept, to repeat what
        may be found yet.
        """
        best, most = self.best, 2 * self.of // 5
        if best is None:
            return 0 if self.planner.is_ready and len(self.steps) > _RUNS_FOR_SEVERAL else most
        return min(max(1, count_missing(self.runs, self.outlook(), best)), most)

    # ---- The three parts

    def calibrate(self) -> None:
        """Measure how long batches of each size take, for one or two numbers of threads."""
        for trial, why in calibrations(self.space, several=self.of >= _RUNS_FOR_SEVERAL):
            self.run(trial, "calibration", why)
        self.predict()
        if not self.planner.is_ready and self.left:
            self.run((self.space.current, self.goal.loads[0]), "calibration", "the current settings")
            self.predict()

    def explore(self) -> None:
        """Measure the baseline, and then whatever promises most; repeat what seems best before the runs are used up."""
        usual = self.outlook().usual(self.space.current) if self.space.current not in self.runs.out else None
        if self.left and usual:
            self.run(usual.trial, "search", f"the current settings, {_say_chance(usual)}", usual.predicted)
            self.predict()
        if self.left:
            self.share_cores()
        while self.left:
            has_time = self.left > self.kept_back
            if not (has_time and self.try_another()) and not self.confirm() and (has_time or not self.try_another()):
                return

    def try_another(self) -> bool:
        """Measure what promises most; return whether anything was worth it."""
        outlook, best = self.outlook(), self.best
        idea = outlook.idea(self.decided, best.trial if best else None)
        if best is None:
            idea = self.last_resort(outlook, idea)
        elif idea is not None and idea.worth < WORTH_TRYING:
            return False
        if idea is None:
            return False
        self.run(idea.trial, "search", _say_idea(idea, best), idea.predicted)
        self.relearn(idea)
        return True

    def untried(self) -> str:
        """Return what is predicted to be better than the current settings, and for which no runs were left, in words.

        It is empty where something better was found anyway.
        """
        outlook, best, current = self.outlook(), self.best, self.space.current
        if self.left or best is None or best.configuration != current:
            return ""
        mine = [case for case in outlook.cases if case[0] == current]
        idea = outlook.idea([*self.runs.trials, *mine], best.trial)
        if idea is None or idea.worth < WORTH_TRYING or idea.gain <= 0:
            return ""
        return f"{say_configuration(idea.trial[0])} at {say_load(idea.trial[1])} ({_say_idea(idea, best)})"

    def share_cores(self) -> None:
        """Measure the most promising case of several instances that need no more threads than there are cores.

        How instances slow each other down cannot be known from one that runs alone, nor from several that are rarely
        busy at the same time. The run is left out where even so it is expected to be far behind.
        """
        outlook, best = self.outlook(), self.best
        left_out = [*self.runs.trials, *outlook.crowded()]
        idea = outlook.idea([*left_out, *outlook.idle()], best.trial if best else None)
        if idea is None or idea.keeps < _DOUBTFUL:
            idea = outlook.idea(left_out, best.trial if best else None)
        if self.of < _RUNS_FOR_SEVERAL or idea is None or idea.gain < _FAR_BEHIND:
            return
        self.run(idea.trial, "search", f"how instances share the cores: {_say_idea(idea, best)}", idea.predicted)
        self.relearn(idea)

    def last_resort(self, outlook: Outlook, idea: Idea | None) -> Idea | None:
        """Return what to try while nothing keeps the limit: the most promising, or what has the lowest p99, once."""
        if idea is not None and idea.keeps >= HOPELESS:
            return (outlook.safest(self.decided) if self.left <= _LAST else None) or idea
        nearest = outlook.nearest()
        return None if nearest is None or self.runs.of(nearest.trial) else nearest

    def confirm(self) -> bool:
        """Repeat the best one or the baseline; return whether that can tell anything."""
        outlook, best = self.outlook(), self.best
        found = None if best is None else find_repeat(self.runs, outlook, best)
        if found is None:
            return False
        trial, why = found
        self.run(trial, "confirmation", why, outlook.expected(trial))
        return True

    # ---- What they share

    def relearn(self, idea: Idea) -> None:
        """Predict everything anew if the throughput was a surprise, which a correction may not explain.

        A new prediction takes seconds, so there are few. A run in which everything stood still for a moment, which is
        seen by its p99 alone, teaches nothing.
        """
        last = self.steps[-1].measurement
        if last is None or last.throughput is None or last.p99_s is None or self.relearned == _MOST_RELEARNED:
            return
        if abs(math.log(last.throughput.value / idea.predicted.throughput)) > _SURPRISE and not _is_accident(
            last, idea
        ):
            self.relearned += 1
            self.predict()

    def predict(self) -> None:
        """Predict everything anew, if there is anything to learn from."""
        with suppress(ValueError):
            self.planner.predict(self.measured)

    def outlook(self) -> Outlook:
        """Return what is expected now."""
        return self.planner.outlook(self.runs)

    @property
    def decided(self) -> list[Trial]:
        """What need not be tried again to know whether it keeps the limit."""
        return [trial for trial in self.runs.trials if not self.runs.is_open(trial)]

    @property
    def best(self) -> Result | None:
        """The best result that keeps the limit, as far as is known: what chance gave is not believed.

        Of those that runs do not tell apart, it is one that was repeated already, and then the simplest.
        """
        kept = [result for result in self.runs.results if result.keeps]
        if not kept or not self.planner.is_ready:
            return None
        outlook = self.outlook()
        values = {one: outlook.value(one.trial) for one in kept}
        top = max(kept, key=lambda one: values[one])
        alike = [one for one in kept if values[one] >= values[top] - _SIMPLER and self.runs.ratio(top, one).low <= 1]
        return min(alike, key=lambda one: (-min(one.runs, SURE_RUNS), self.space.simplicity(one.configuration)))

    def run(self, trial: Trial, purpose: Purpose, why: str, predicted: Predicted | None = None) -> None:
        """Make a run, and once more if other programs disturbed it and there are runs to spare."""
        busy = self.make(trial, purpose, why, predicted, may_repeat=self.left - 1 > self.kept_back)
        if busy:
            self.make(trial, purpose, f"again, because {_say_busy(busy)}", predicted, may_repeat=False)

    def make(
        self, trial: Trial, purpose: Purpose, why: str, predicted: Predicted | None, *, may_repeat: bool
    ) -> float | None:
        """Measure once, or take the measurement of an interrupted tuning.

        Returns:
            The share of the machine that other programs took, if that was too much and the run does not count.
        """
        again = next((one for one in self.done if (one.configuration, one.load) == trial), None)
        number = len(self.steps) + 1
        step = Step(number, self.of, *trial, purpose, why, predicted, best=self.best, resumed=again is not None)
        self.observed(step)
        if again is not None:
            self.done.remove(again)
        measurement = again or self.bench.measure(*trial)
        is_out = bool(measurement.wrong or measurement.error)  # that is no matter of chance, and counts at once
        busy = measurement.others if is_disturbed(measurement) and not is_out else None
        if busy and not may_repeat:
            self.notes.append(f"{_say_busy(busy)} during run {number}")
        if not (busy and may_repeat):
            self.measured.append(measurement)
            self.runs.add(measurement)
        keeps = None if purpose == "calibration" else self.goal.is_kept(measurement)
        self.steps.append(replace(step, measurement=measurement, keeps=keeps, best=self.best))
        self.observed(self.steps[-1])
        return busy if may_repeat else None


def _is_accident(run: Measurement, idea: Idea) -> bool:
    """Tell whether p99 is far beyond what was expected, although the throughput is not below it."""
    if run.throughput is None or run.p99_s is None:
        return False
    late = run.p99_s.value > _STOOD_STILL * idea.predicted.p99_s
    return late and run.throughput.value > (1 - _SURPRISE) * idea.predicted.throughput


# ---- In words


def _say_idea(idea: Idea, best: Result | None) -> str:
    if idea.trial[1].rate is not None:
        return f"predicted p99 {figure(1e3 * idea.predicted.p99_s)} ms, {_say_chance(idea)}"
    if best is None:
        return f"predicted {figure(idea.predicted.throughput)} rows/s, {_say_chance(idea)}"
    what = "the best so far under another load, " if idea.trial[0] == best.configuration else ""
    return f"{what}predicted {say_gain(1 + idea.gain)}, {_say_chance(idea)}"


def _say_chance(idea: Idea) -> str:
    return f"{max(1, min(99, round(100 * idea.keeps)))}% likely to keep the limit"


def _say_busy(busy: float) -> str:
    return f"other programs took {busy:.0%} of the machine"
