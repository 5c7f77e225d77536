"""What the runs of a tuning say together: results of several runs with their intervals, and ratios of two."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from builder.tuning.measurement import Configuration, Interval, Load, Measurement, Z
from builder.tuning.search.found import Result
from builder.tuning.search.goal import Goal

Trial = tuple[Configuration, Load]

_ONE_SIDED = 2.05
"""The normal distribution's quantile for an upper bound of 98 %: what is applied may be measured again and again."""

_ONE_IN_20 = 1.645
"""The normal distribution's quantile beyond which 5 % are: what is called better is no better with that chance."""

_USUAL_THROUGHPUT, _USUAL_P99, _USUAL_WEIGHT = 0.03, 0.05, 5
"""By how much runs usually differ, beyond what happens inside a run, as standard deviations of logarithms, and how many
degrees of freedom that is worth against what is seen in repeated runs. On a virtual machine that is otherwise idle,
runs of 4 s differ by 4 % to 8 % in all, and their p99 by 6 % to 15 % (docs/tuning-figures.md)."""


_UNKNOWN = 2.0
"""How many times as high as p99 the upper end of its interval is in a run that hardly knows it."""

_ENOUGH_RUNS = 3
"""So many runs of a trial say whether it keeps the limit."""

MOST_OTHERS = 0.10
"""The share of the machine that other programs may take in a run that counts in full."""


@dataclass(frozen=True, slots=True)
class Spread:
    """By how much runs of the same configuration and load differ, beyond what happens inside a run.

    Attributes:
        throughput: The standard deviation of the logarithm of the throughput.
        p99: That of the logarithm of p99.
        freedom: With how many degrees of freedom both are known.
    """

    throughput: float = _USUAL_THROUGHPUT
    p99: float = _USUAL_P99
    freedom: int = _USUAL_WEIGHT


@dataclass(slots=True)
class Runs:
    """All runs that count, by what was tried under which load.

    Attributes:
        goal: The goal of the tuning.
        dead: The configurations that gave no answers, and why.
    """

    goal: Goal
    _runs: dict[Trial, list[Measurement]] = field(default_factory=dict)
    _wrong: list[Configuration] = field(default_factory=list)
    dead: dict[Configuration, str] = field(default_factory=dict)

    def add(self, measurement: Measurement) -> None:
        """Add a run. One with wrong answers, or without any, puts its configuration out."""
        configuration = measurement.configuration
        if measurement.wrong and configuration not in self._wrong:
            self._wrong.append(configuration)
        if measurement.error:
            self.dead.setdefault(configuration, measurement.error)
        if measurement.throughput is not None and measurement.throughput.value > 0 and not measurement.error:
            self._runs.setdefault((configuration, measurement.load), []).append(measurement)

    @property
    def wrong(self) -> tuple[Configuration, ...]:
        """The configurations that answered wrongly."""
        return tuple(self._wrong)

    @property
    def out(self) -> frozenset[Configuration]:
        """The configurations that are out: they answered wrongly, or not at all."""
        return frozenset((*self._wrong, *self.dead))

    def of(self, trial: Trial) -> Sequence[Measurement]:
        """Return the runs of one configuration under one load."""
        return self._runs.get(trial, ())

    @property
    def trials(self) -> tuple[Trial, ...]:
        """What was tried, in the order of the first runs. Mixed requests that only calibrate are not among them."""
        return tuple(trial for trial in self._runs if trial[1] in self.goal.loads)

    @property
    def spread(self) -> Spread:
        """By how much runs differ: what is usual, and what the repeated ones say.

        A p99 that was decided by a moment in which everything stood still says nothing of how runs usually differ.
        """
        groups = [[run for run in runs if not is_disturbed(run)] for runs in self._runs.values()]
        throughputs = [[math.log(one.throughput.value) for one in runs if one.throughput] for runs in groups]
        p99s = [[math.log(one.p99_s.value) for one in runs if one.p99_s and _is_known(one.p99_s)] for runs in groups]
        freedom = _USUAL_WEIGHT + sum(len(group) - 1 for group in throughputs if group)
        return Spread(_pooled(throughputs, _USUAL_THROUGHPUT), _pooled(p99s, _USUAL_P99), freedom)

    def result(self, trial: Trial) -> Result | None:
        """Return what the runs of one trial say together; None if there are none, or none has a p99.

        Runs that other programs disturbed count only where there is no other. The limit is kept if no run misses it,
        and the upper bound of all of them together is within it.
        """
        every = [run for run in self.of(trial) if run.throughput is not None and run.p99_s is not None]
        runs = [run for run in every if not is_disturbed(run)] or every
        if not runs:
            return None
        spread = self.spread
        wide = student(Z, spread.freedom)
        throughput = _pool([run.throughput for run in runs if run.throughput], wide * spread.throughput)
        p99_s = _pool([run.p99_s for run in runs if run.p99_s], wide * spread.p99)
        return Result(*trial, throughput, p99_s, len(runs), self._do_keep(runs, p99_s))

    def _do_keep(self, runs: Sequence[Measurement], p99_s: Interval) -> bool:
        """Tell whether runs of one trial, with their p99 together, keep the limit, with a margin for another run."""
        limit_s = self.goal.max_p99_s
        another = p99_s.value * math.exp(_ONE_SIDED * self.spread.p99)
        return (
            runs[0].configuration not in self.out
            and all(self.goal.is_sound(run) for run in runs)
            and all(run.p99_s.value <= limit_s for run in runs if run.p99_s)
            and max(p99_s.high, another) <= limit_s
        )

    @property
    def results(self) -> tuple[Result, ...]:
        """The results of everything that was tried and has a p99."""
        found = (self.result(trial) for trial in self.trials)
        return tuple(result for result in found if result is not None)

    def is_open(self, trial: Trial) -> bool:
        """Tell whether one run more may show that a trial keeps the limit, which those so far do not show."""
        runs, result = self.of(trial), self.result(trial)
        if result is None or result.keeps or len(runs) >= _ENOUGH_RUNS:
            return False
        in_order = all(self.goal.is_sound(run) for run in runs)
        return in_order and all(run.p99_s.value <= self.goal.max_p99_s for run in runs if run.p99_s)

    def are_disturbed(self, result: Result) -> bool:
        """Tell whether other programs disturbed all runs of a result."""
        return all(is_disturbed(run) for run in self.of(result.trial))

    def are_sound(self, result: Result) -> bool:
        """Tell whether nothing but p99 may be against a result: in all its runs, it kept up and every answer came."""
        return all(self.goal.is_sound(run) for run in self.of(result.trial))

    def surely_misses(self, result: Result) -> bool:
        """Tell whether a result certainly misses the limit, and does not merely fail to show that it is kept.

        The lower bound of its p99 is beyond the limit, or it did not keep up with the rate. Requests that failed count
        as the slowest ones in p99 already.
        """
        runs, goal = self.of(result.trial), self.goal
        if result.p99_s.low > goal.max_p99_s:
            return True
        if all(goal.falls_behind(run) for run in runs):
            return True
        return not goal.keeps_up(result.throughput.value, sum(run.requests for run in runs))

    def ratio(self, one: Result, other: Result) -> Interval:
        """Return how many times as good one result is as another, with its 90 % interval: below it with 5 %.

        The logarithm of a ratio is the difference of the logarithms, and its variance the sum of their variances: 1,100
        ± 2 % over 1,000 ± 2 %, which are 95 % intervals, is 1.10 ± 2.4 %.
        """
        good, bad = (self._value(result) for result in (one, other))
        log = math.log(good.value / bad.value)
        half = math.hypot(math.log(good.high / good.low) / 2, math.log(bad.high / bad.low) / 2) * self._narrower
        return Interval(math.exp(log), math.exp(log - half), math.exp(log + half))

    def tells_apart(self, noise: float, runs: int) -> float:
        """Return from which ratio on, as a logarithm, two results are told apart by so many runs of each.

        Args:
            noise: By how much chance moves a run, as the standard deviation of a logarithm.
            runs: How many runs each of them has.
        """
        return student(_ONE_IN_20, self.spread.freedom) * noise * math.sqrt(2 / runs)

    @property
    def _narrower(self) -> float:
        """How much narrower a 90 % interval is than a 95 % one."""
        freedom = self.spread.freedom
        return student(_ONE_IN_20, freedom) / student(Z, freedom)

    def _value(self, result: Result) -> Interval:
        """Return how good a result is, with its interval: the throughput, or the inverse of p99 at a given rate."""
        if self.goal.rate is None:
            return result.throughput
        p99_s = result.p99_s
        return Interval(1 / p99_s.value, 1 / p99_s.high, 1 / p99_s.low)


def is_disturbed(run: Measurement) -> bool:
    """Tell whether other programs took so much of the machine that a run says little."""
    return (run.others or 0.0) > MOST_OTHERS


def _is_known(p99_s: Interval) -> bool:
    """Tell whether a run says what its p99 is, and not merely that some requests waited very long."""
    return p99_s.high <= _UNKNOWN * p99_s.value


def _pool(intervals: Sequence[Interval], spread: float) -> Interval:
    """Return the mean of several runs with its interval, on a logarithmic scale.

    Its variance is that of the runs' own means and the spread between runs, both divided by the number of runs.
    """
    number = len(intervals)
    value = math.exp(statistics.fmean(math.log(max(one.value, 1e-12)) for one in intervals))
    below = _half((math.log(one.value / max(one.low, 1e-9 * one.value)) for one in intervals), number, spread)
    above = _half((math.log(max(one.high, one.value) / one.value) for one in intervals), number, spread)
    return Interval(value, value * math.exp(-below), value * math.exp(above))


def _half(halves: Iterable[float], number: int, spread: float) -> float:
    squares = sum(max(half, 0.0) ** 2 for half in halves) / number
    return math.sqrt((squares + spread**2) / number)


def student(normal: float, freedom: float) -> float:
    """Return the quantile of Student's distribution for the normal one's: 2.57 for 1.96, with 5 degrees of freedom.

    Source: Hill, Algorithm 396: Student's t-quantiles (1970); Abramowitz and Stegun (1964), 26.7.5.
    """
    z = normal
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _pooled(groups: Iterable[Sequence[float]], usual: float) -> float:
    """Return the standard deviation inside the groups, drawn towards what is usual.

    With a usual 0.02 that is worth 3 degrees of freedom, and one pair that differs by 0.1, which has 1 degree and the
    square 0.1² / 2 = 0.005: sqrt((3 * 0.0004 + 0.005) / 4) = 0.039.
    """
    squares, freedom = _USUAL_WEIGHT * usual**2, float(_USUAL_WEIGHT)
    for group in groups:
        if len(group) > 1:
            mean = statistics.fmean(group)
            squares += sum((one - mean) ** 2 for one in group)
            freedom += len(group) - 1
    return math.sqrt(squares / freedom)
