"""Predict what every configuration does under every load, and correct that by what was measured.

A simulation predicts (`simulator`), and the residuals of what was measured correct it (`residuals`). The result is an
`Outlook`: a normal distribution for the logarithm of each throughput and each p99.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from builder.tuning.measurement import Configuration, Interval, Load, Measurement, Z
from builder.tuning.search.goal import Goal
from builder.tuning.search.outlook import Outlook
from builder.tuning.search.pooling import Runs, Trial
from builder.tuning.search.residuals import Floats, Scales, features, learn
from builder.tuning.search.space import Space, cap_of
from builder.tuning.simulation import Predicted, fit, simulate_all

THROUGHPUT, P99 = Scales(0.05, 0.14, 0.06), Scales(0.08, 0.14, 0.10)
"""How far predictions are off before anything is measured."""

_FAR_BEYOND = 2.5
"""Loads whose predicted p99 is this many times the limit are not looked at, and no heavier ones either."""

_LOADS_BETWEEN = 2
"""The third load is simulated first, and the lighter ones only where it is beyond the limit: 4 users of 1, 2, 4 …"""

_BOUND = 1.04
"""The upper bound of p99 over p99 itself, before anything is measured."""

_UNLIKELY = 1.5
"""By how many standard deviations a prediction is off, so that the run may be an accident."""

_NOISE = 0.03
"""By how much chance moves what a run says from one moment to the next, before anything is measured."""


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

    def outlook(self, runs: Runs) -> Outlook:
        """Return what is expected of every case, given all runs."""
        spread, (measured, throughputs, p99s) = runs.spread, self._compared(runs)
        fast, late = _logs(throughputs, spread.throughput, THROUGHPUT), _logs(p99s, spread.p99, P99)
        faster, faster_sd = learn(self._where, measured, *fast, THROUGHPUT)
        later, later_sd = learn(self._where, measured, *late, P99)
        raw = [self._predicted[case] for case in self._cases]
        measures, between = (throughputs, spread.throughput) if self.goal.rate is None else (p99s, spread.p99)
        noises = [_inside(one) ** 2 for _, one in measures]
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
            math.hypot(math.sqrt(np.median(noises)) if noises else _NOISE, between),
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
