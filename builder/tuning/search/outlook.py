"""Say which configuration is worth a run next, under which load: where the expected gain is largest.

What a run of a case is worth is its expected gain over the best result so far, times the probability that it keeps the
limit. Both come from normal distributions of the logarithms of its throughput and its p99.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from builder.tuning.measurement import Configuration
from builder.tuning.search.goal import Goal
from builder.tuning.search.pooling import Spread, Trial
from builder.tuning.search.residuals import Floats
from builder.tuning.search.space import Space, cap_of
from builder.tuning.simulation import Predicted, engine_of

WORTH_TRYING = 0.005
"""The least expected gain, as a share of the best result, for which a run is made."""

HOPELESS = 0.03
"""If no case keeps the limit with this probability, and the one with the lowest p99 did not, none does."""

_SPARE = 2.05
"""By how many standard deviations of the spread between runs p99 has to be below the limit."""

_ABOUT = 0.9
"""The share of a rate below which a case is not expected to keep up. Arrivals that come by chance are as far off."""

_ALIKE = 0.9
"""Cases that are worth this share of the most promising one count as alike, and the simplest of them is tried."""


_SURE = 0.9
"""With this probability, a case surely keeps the limit."""

_TOO_GOOD = 0.06
"""By how much more than other cases the throughput with a delay is overestimated, as a logarithm: by 0.03 to 0.15 with
two models and each of their instances and threads (benchmarks/tune/ladder.jsonl)."""

_FILLING = 4
"""How many users for each instance keep all instances busy."""


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

    def chance(self, trial: Trial) -> float:
        """Return the probability that a case keeps the limit."""
        return float(self.keeps[self.cases.index(trial)])

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
        if best is None or not best[0].delay_us:  # else other delays are as easily overestimated as the best one's
            means = means - self._doubts
        learned = spreads**2 / np.hypot(spreads, self.noise)  # how far one run, with its chance, moves what is expected
        gains = np.exp(means - means.max()) if best is None else _expected_gain(means - self.value(best), learned)
        worth = gains * self.keeps
        known = {_filled(trial) for trial in tried}
        left = [number for number, case in enumerate(self.cases) if _filled(case) not in known]
        if not left:
            return None
        least = max(worth[number] for number in left) * _ALIKE
        alike = [number for number in left if worth[number] >= least]
        chosen = min(alike, key=lambda number: (self.space.simplicity(self.cases[number][0]), -worth[number]))
        return self._idea(chosen, best, float(worth[chosen]))

    @property
    def _doubts(self) -> Floats:
        """float64[N]: by how much a case has to be better to be worth a try, if it has a delay.

        It is simpler without one, and what a delay brings is often less than what separates two runs. Besides, the
        simulation takes delays to be better than they are: real users do not come back all at the same moment.
        """
        doubt = self.noise + _TOO_GOOD
        return np.array([doubt * (one.delay_us > 0) for one, _ in self.cases], dtype=np.float64)

    def crowded(self) -> list[Trial]:
        """Return the cases that do not have several instances with enough cores for the threads of all of them."""
        space = self.space

        def fits(one: Configuration) -> bool:
            threads = engine_of(one, space.cores)[0] or 1
            return one.instances > 1 and one.instances * threads <= max(space.cores, 2)

        return [case for case in self.cases if not fits(case[0])]

    def idle(self) -> list[Trial]:
        """Return the cases whose instances often have nothing to do, or wait for more requests.

        With two users for each instance, each has a request in the queue while it runs another one, if they happen to
        be shared out evenly. With twice as many, the queue is rarely empty anyhow.
        """
        return [
            (one, load)
            for one, load in self.cases
            if one.delay_us or (load.users is not None and load.users < _FILLING * one.instances)
        ]

    def nearest(self) -> Idea | None:
        """Return the case with the lowest expected p99, among those that are not out; None if all are."""
        left = [number for number, case in enumerate(self.cases) if case[0] not in self.out]
        return self._idea(min(left, key=lambda number: float(self.p99[number])), None, 0.0) if left else None

    def safest(self, tried: Sequence[Trial]) -> Idea | None:
        """Return the best case that keeps the limit almost surely; None if there is none."""
        known = {_filled(trial) for trial in tried}
        sure = [n for n, keeps in enumerate(self.keeps) if keeps >= _SURE and _filled(self.cases[n]) not in known]
        return self._idea(max(sure, key=lambda number: float(self.values[0][number])), None, 0.0) if sure else None

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


def _filled(trial: Trial) -> Trial:
    """Return a case with the batches that its users can fill: 8 of them never have more than 8 requests at once.

    So without a delay, a cap of 16 does the same as one of 32. With a delay, the batcher waits for 16 or for 32.
    """
    one, load = trial
    if load.users is None or one.delay_us:
        return trial
    most = load.users * max(rows for rows, _ in load.rows)
    return (replace(one, max_batch_size=0, preferred=()) if cap_of(one) >= most else one), load


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
