"""Decide which configuration is tried next, under which load: where the expected gain is largest.

A simulation predicts what every configuration does under every load (`simulator`), and what was measured corrects it
(`residuals`). So there is a normal distribution for the logarithm of each throughput and each p99. What a run of a case
is worth is its expected gain over the best result so far, times the probability that it keeps the limit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from builder.tuning.curves import engine_of
from builder.tuning.fitting import fit
from builder.tuning.goal import Goal
from builder.tuning.measurement import Configuration, Interval, Load, Measurement
from builder.tuning.pooling import Runs, Spread, Trial, Z
from builder.tuning.residuals import Floats, Scales, features, learn
from builder.tuning.simulator import Predicted, simulate_all
from builder.tuning.space import Space, cap_of

THROUGHPUT, P99 = Scales(0.05, 0.14, 0.06), Scales(0.08, 0.14, 0.10)
"""How far predictions are off before anything is measured."""

WORTH_TRYING = 0.005
"""The least expected gain, as a share of the best result, for which a run is made."""

HOPELESS = 0.03
"""If no case keeps the limit with this probability, and the one with the lowest p99 did not, none does."""

_FAR_BEYOND = 2.5
"""Loads whose predicted p99 is this many times the limit are not looked at, and no heavier ones either."""

_LOADS_BETWEEN = 2
"""The third load is simulated first, and the lighter ones only where it is beyond the limit: 4 users of 1, 2, 4 …"""

_SPARE = 1.645
"""By how many standard deviations of the spread between runs p99 has to be below the limit."""

_ABOUT = 0.9
"""The share of a rate below which a case is not expected to keep up. Arrivals that come by chance are as far off."""

_BOUND = 1.04
"""The upper bound of p99 over p99 itself, before anything is measured."""


_UNLIKELY = 1.5
"""By how many standard deviations a prediction is off, so that the run may be an accident."""

_NOISE = 0.03
"""By how much chance moves what a run says, before anything is measured."""


@dataclass(frozen=True, slots=True)
class Idea:
    """A case that is worth a run.

    Attributes:
        trial: The configuration and the load.
        predicted: What it will do, corrected by what was measured.
        gain: How much better than the best result it is expected to be, if it keeps the limit: 0.12 is 12 %.
        keeps: With which probability it keeps the limit.
        worth: The expected gain over the best result, chance included.
    """

    trial: Trial
    predicted: Predicted
    gain: float
    keeps: float
    worth: float


@dataclass(slots=True)
class Planner:
    """What is known and expected of every case of a space.

    Attributes:
        space: The configurations.
        goal: The limit and the load.
        here: Whether the load generator runs on the server's machine.
    """

    space: Space
    goal: Goal
    here: bool = True
    _predicted: dict[Trial, Predicted] = field(default_factory=dict)
    _cases: list[Trial] = field(default_factory=list)
    _where: Floats = field(default_factory=lambda: np.zeros((0, 8)))

    def predict(self, measurements: Sequence[Measurement]) -> None:
        """Predict everything anew, from all measurements.

        Raises:
            ValueError: No measurement has the time of a batch.
        """
        machine = fit(measurements, cores=self.space.cores, here=self.here)

        def simulated(trials: Sequence[Trial]) -> Mapping[Trial, Predicted]:
            return dict(zip(trials, simulate_all(trials, machine), strict=True))

        measured = [(one.configuration, one.load) for one in measurements if one.load in self.goal.loads]
        self._predicted = _look_around(self.space.configurations, self.goal, simulated)
        self._predicted.update(simulated([trial for trial in dict.fromkeys(measured) if trial not in self._predicted]))
        self._cases = list(self._predicted)
        self._where = features(self._cases, self.space.cores)

    @property
    def is_ready(self) -> bool:
        """Whether anything was predicted."""
        return bool(self._cases)

    def outlook(self, runs: Runs) -> "Outlook":
        """Return what is expected of every case, given all runs."""
        spread, (measured, throughputs, p99s) = runs.spread, self._compared(runs)
        fast, late = _logs(throughputs, spread.throughput, THROUGHPUT), _logs(p99s, spread.p99, P99)
        faster, faster_sd = learn(self._where, measured, *fast, THROUGHPUT)
        later, later_sd = learn(self._where, measured, *late, P99)
        raw = [self._predicted[case] for case in self._cases]
        noises = [_inside(one) ** 2 for _, one in (throughputs if self.goal.rate is None else p99s)]
        bounds = [interval.high / interval.value for _, interval in p99s]
        return Outlook(
            self.space,
            self.goal,
            tuple(self._cases),
            np.log([max(one.throughput, 1e-9) for one in raw]) + faster,
            faster_sd,
            np.log([max(one.p99_s, 1e-9) for one in raw]) + later,
            later_sd,
            tuple(one.mean_batch for one in raw),
            spread,
            float(np.median(bounds)) if bounds else _BOUND,
            math.sqrt(np.median(noises)) if noises else _NOISE,
            runs.out,
        )

    def _compared(self, runs: Runs) -> tuple[list[int], list[tuple[float, Interval]], list[tuple[float, Interval]]]:
        """Return which case each run is of, and its throughput and p99 over what was predicted, with intervals."""
        measured: list[int] = []
        throughputs: list[tuple[float, Interval]] = []
        p99s: list[tuple[float, Interval]] = []
        number = {trial: index for index, trial in enumerate(self._cases)}
        for trial in runs.trials:
            for run in runs.of(trial):
                if run.throughput is not None and run.p99_s is not None and trial in number:
                    known = self._predicted[trial]
                    measured.append(number[trial])
                    throughputs.append((run.throughput.value / known.throughput, run.throughput))
                    p99s.append((run.p99_s.value / known.p99_s, run.p99_s))
        return measured, throughputs, p99s


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of every case: normal distributions of the logarithms of throughput and p99.

    Attributes:
        space: The configurations.
        goal: The limit and the load.
        cases: What can be tried.
        throughput, throughput_sd: float64[N]: rows each second.
        p99, p99_sd: float64[N]: seconds.
        mean_batches: The mean number of rows in a batch.
        spread: By how much runs differ.
        bound: The upper bound of p99 over p99 itself, as runs usually have it.
        noise: By how much chance moves what a run says of how good a case is: the standard deviation of its logarithm.
        out: Configurations that are out.
    """

    space: Space
    goal: Goal
    cases: tuple[Trial, ...]
    throughput: Floats
    throughput_sd: Floats
    p99: Floats
    p99_sd: Floats
    mean_batches: tuple[float, ...]
    spread: Spread
    bound: float
    noise: float
    out: frozenset[Configuration]

    @property
    def keeps(self) -> Floats:
        """float64[N]: the probability that a run of a case keeps the limit, with the margin for another run."""
        margin = max(math.log(self.bound), _SPARE * self.spread.p99)
        chance = _normal((math.log(self.goal.max_p99_s) - margin - self.p99) / np.hypot(self.p99_sd, self.spread.p99))
        if self.goal.rate is not None:  # what does not keep up has a p99 far beyond the limit, unless the run is short
            chance = chance * (self.throughput >= math.log(_ABOUT * self.goal.rate * self.goal.mean_rows))
        in_it = np.array([configuration not in self.out for configuration, _ in self.cases], dtype=np.float64)
        return np.asarray(chance * in_it, dtype=np.float64)

    @property
    def values(self) -> tuple[Floats, Floats]:
        """Two float64[N]: the logarithm of how good each case is, and its standard deviation."""
        return (self.throughput, self.throughput_sd) if self.goal.rate is None else (-self.p99, self.p99_sd)

    def value(self, trial: Trial) -> float:
        """Return the expected logarithm of how good a case is."""
        return float(self.values[0][self.cases.index(trial)])

    def expected(self, trial: Trial) -> Predicted:
        """Return what a case is expected to do."""
        return self._idea(self.cases.index(trial), None, 0.0).predicted

    def idea(self, tried: Sequence[Trial], best: Trial | None) -> Idea | None:
        """Return what to try next: the most promising, and of what is alike the simplest. None if all was tried.

        Without a best result, a case is worth its value, relative to the best of all, times its chance.

        Args:
            tried: What was tried already.
            best: The best result so far.
        """
        means, spreads = self.values
        learned = spreads**2 / np.hypot(spreads, self.noise)  # how far one run, with its chance, moves what is expected
        gains = np.exp(means - means.max()) if best is None else _expected_gain(means - self.value(best), learned)
        worth = gains * self.keeps
        known = set(tried)
        left = [number for number, case in enumerate(self.cases) if case not in known]
        if not left:
            return None
        least = max(worth[number] for number in left) * _ALIKE
        alike = [number for number in left if worth[number] >= least]
        chosen = min(alike, key=lambda number: (self.space.simplicity(self.cases[number][0]), -worth[number]))
        return self._idea(chosen, best, float(worth[chosen]))

    def crowded(self) -> list[Trial]:
        """Return the cases that do not have several instances with enough cores for the threads of all of them."""
        space = self.space

        def fits(one: Configuration) -> bool:
            threads = engine_of(one, space.cores)[0] or 1
            return one.instances > 1 and one.instances * threads <= max(space.cores, 2)

        return [case for case in self.cases if not fits(case[0])]

    def nearest(self) -> Idea:
        """Return the case with the lowest expected p99, among those that are not out."""
        left = [number for number, case in enumerate(self.cases) if case[0] not in self.out]
        return self._idea(min(left, key=lambda number: float(self.p99[number])), None, 0.0)

    def usual(self, configuration: Configuration) -> Idea | None:
        """Return the load at which a configuration is expected to do best within the limit; None if there is none.

        Its value is weighed by the chance to keep the limit. If the chance is small everywhere, it is the load with
        the lowest p99.
        """
        mine = [number for number, case in enumerate(self.cases) if case[0] == configuration]
        if not mine:
            return None
        means, chances = self.values[0], self.keeps
        best = max(mine, key=lambda number: math.exp(means[number] - means[mine].max()) * chances[number])
        if chances[best] < HOPELESS:
            best = min(mine, key=lambda number: float(self.p99[number]))
        return self._idea(best, None, 0.0)

    def _idea(self, number: int, best: Trial | None, worth: float) -> Idea:
        predicted = Predicted(math.exp(self.throughput[number]), math.exp(self.p99[number]), self.mean_batches[number])
        gain = math.exp(self.values[0][number] - self.value(best)) - 1 if best is not None else 0.0
        return Idea(self.cases[number], predicted, gain, float(self.keeps[number]), worth)


_ALIKE = 0.9
"""Cases that are worth this share of the most promising one count as alike, and the simplest of them is tried."""


def _look_around(
    configurations: Sequence[Configuration],
    goal: Goal,
    simulated: Callable[[Sequence[Trial]], Mapping[Trial, Predicted]],
) -> dict[Trial, Predicted]:
    """Simulate every configuration under the loads that matter.

    Heavier loads are left out where p99 is far beyond the limit, or where more users bring no more throughput; lighter
    ones where a heavier one keeps the limit easily.
    """
    found: dict[Trial, Predicted] = {}
    loads = goal.loads
    first = _LOADS_BETWEEN if len(loads) > _LOADS_BETWEEN else 0
    alive = list(configurations)
    for load in loads[first:]:
        found.update(simulated([(one, load) for one in alive]))
        alive = [one for one in alive if not _is_enough(found, one, load, goal)]
    for index in reversed(range(first)):
        heavier = loads[index + 1]
        beyond = [one for one in configurations if found.get((one, heavier), _NOTHING).p99_s > goal.max_p99_s / 2]
        found.update(simulated([(one, loads[index]) for one in beyond]))
    return found


_NOTHING = Predicted(0.0, 0.0, 0.0)


def _is_enough(found: Mapping[Trial, Predicted], one: Configuration, load: Load, goal: Goal) -> bool:
    """Tell whether heavier loads than this one need not be looked at."""
    now, half = found[one, load], Load(users=(load.users or 0) // 2, rate=load.rate, rows=load.rows)
    before = found.get((one, half), _NOTHING)
    saturated = now.throughput < 1.005 * before.throughput and (load.users or 0) > 4 * one.instances * cap_of(one)
    return now.p99_s > _FAR_BEYOND * goal.max_p99_s or saturated


def _logs(ratios: Sequence[tuple[float, Interval]], spread: float, scales: Scales) -> tuple[list[float], list[float]]:
    """Return the logarithms of ratios, and the variance of each by chance: inside its run, and between runs.

    What is further off than predictions usually are may be an accident, such as a moment in which everything stood
    still. So the variance grows by the square of the excess, and an accident does not condemn its neighbours.
    """
    logs, variances = [], []
    for ratio, interval in ratios:
        excess = max(0.0, abs(math.log(ratio)) - _UNLIKELY * math.sqrt(scales.variance))
        logs.append(math.log(ratio))
        variances.append(_inside(interval) ** 2 + spread**2 + excess**2)
    return logs, variances


def _inside(interval: Interval) -> float:
    """Return the standard deviation of the logarithm of a figure that its interval says."""
    low = max(min(interval.low, interval.value), 0.05 * interval.value)  # windows of a few requests may give 0
    return math.log(max(interval.high, interval.value) / low) / (2 * Z)


def _expected_gain(means: Floats, spreads: Floats) -> Floats:
    """Return the expected gain of each case over the best one, as a share of it.

    `E[max(0, x)]` of a normal `x` with mean m and standard deviation s is `m * Phi(m / s) + s * phi(m / s)`. With m = 0
    and s = 0.1, that is 0.04: a case that is probably no better may still be.
    """
    ratio = means / spreads
    density = np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    return np.asarray(means * _normal(ratio) + spreads * density, dtype=np.float64)


def _normal(values: Floats) -> Floats:
    """Return the distribution function of the normal distribution: 0.5 at 0, 0.84 at 1."""
    return np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in values], dtype=np.float64)
