"""Figures with their 95 % intervals, and the ratio of two of them.

A figure is measured in windows, and its windows differ: this is all that one run says about its uncertainty. How much
the figure depends on which windows were measured shows when windows are drawn from them again and again, with
replacement (the bootstrap). Everything is computed with logarithms, because figures are positive and two of them are
compared by their ratio: 100 and 110 differ by log(1.1), and so do 1000 and 1100.

Three windows of 90, 100 and 110 rows/s: draws such as (90, 90, 110) have throughputs from 90 to 110, whose logarithms
have a standard deviation of 0.048. The bootstrap draws from three windows as if there were no others, which makes it
too small by sqrt(2/3), so the standard error is 0.058. With three windows, Student's t for 2 degrees of freedom is 4.3:
the interval is 100 times or divided by exp(4.3 * 0.058) = 1.28, so from 78 to 128.

Source: T. Hesterberg, What Teachers Should Know about the Bootstrap, 2014, https://arxiv.org/abs/1411.5279
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DRAWS = 500
_WIDEST = 100.0
"""The longest interval: times or divided by exp(100)."""

_ROUNDING = 0.001**2 / 12
"""The variance of a percentile's logarithm that comes from keeping it to three digits."""

Z = 1.959964
"""The normal distribution's quantile for a two-sided interval of 95 %."""

_T_DEGREES = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, math.inf)
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3060, 2.2281, 2.1314, 2.0860, 2.0423, 2.0003, Z)
"""Student's t for a two-sided 95 % interval, by degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one stage of one run, n of them.

    Attributes:
        seconds: float64[n], how long each was.
        rows: float64[n], rows answered in it.
        total_us: float64[n], the sum of its latencies.
        values_us: float64[k], every latency that occurs in one of them, in ascending order.
        counts: float64[n, k], how often each occurs.
    """

    seconds: Array
    rows: Array
    total_us: Array
    values_us: Array
    counts: Array

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The logarithm of a figure, its variance (None if unknown), and the variance's degrees of freedom."""

    log: float
    variance: float | None
    degrees: float

    @property
    def value(self) -> float:
        """The figure."""
        return math.exp(self.log)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The figure's 95 % interval."""
        if self.variance is None:
            return None
        margin = min(student_t(self.degrees) * math.sqrt(self.variance), _WIDEST)
        return math.exp(self.log - margin), math.exp(self.log + margin)


def student_t(degrees: float) -> float:
    """Return Student's t for a two-sided 95 % interval; between the entries of the table, by 1 / degrees."""
    return float(np.interp(-1 / degrees, [-1 / one for one in _T_DEGREES], _T))


def bootstrap(windows: Windows) -> dict[str, Array]:
    """Return each figure of windows drawn with replacement: float64[DRAWS] by name; the same for the same windows."""
    number = len(windows)
    drawn = np.random.default_rng(0).multinomial(number, [1 / number] * number, DRAWS).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "throughput_rows_per_s": drawn @ windows.rows / (drawn @ windows.seconds),
            "mean_us": drawn @ windows.total_us / (drawn @ windows.counts.sum(axis=1)),
            **{f"p{percent}_us": _percentiles(windows, drawn, percent) for percent in (50, 99)},
        }


def _percentiles(windows: Windows, drawn: Array, percent: int) -> Array:
    """Return the percentile of each draw, NaN for one without a latency; `drawn` says how often it has each window."""
    found = np.full(len(drawn), np.nan)
    if not windows.counts.any():
        return found
    for part in np.array_split(np.arange(len(drawn)), 10):  # less memory at once
        below = np.cumsum(drawn[part] @ windows.counts, axis=1)
        ranks = np.ceil(below[:, -1:] * percent / 100)
        found[part] = np.where(ranks[:, 0] > 0, windows.values_us[np.argmax(below >= ranks, axis=1)], np.nan)
    return found


def estimate(value: float | None, draws: Array, windows: Windows, percent: int | None = None) -> Estimate | None:
    """Return a figure of one run; None if there is none, or if it is 0.

    Args:
        value: The figure.
        draws: The figure of windows drawn with replacement, float64[DRAWS].
        windows: The windows.
        percent: Which percentile it is, if it is one. Its variance is then at least that of independent requests.
    """
    if not value or value <= 0:
        return None
    if len(windows) < 2 or not (np.isfinite(draws) & (draws > 0)).all():
        return Estimate(math.log(value), None, 1)
    number = len(windows)
    variance = float(np.var(np.log(draws))) * number / (number - 1)
    if percent is not None and (of_ranks := _variance_of_ranks(windows, percent) + _ROUNDING) > variance:
        return Estimate(math.log(value), of_ranks, math.inf)
    return Estimate(math.log(value), variance, number - 1)


def _variance_of_ranks(windows: Windows, percent: int) -> float:
    """Return the variance of a percentile's logarithm if requests do not depend on each other.

    How many of n latencies are below the true p99 is binomial: n * 0.99, with a standard deviation of
    sqrt(n * 0.99 * 0.01). Of 10,000, that is 9,900 and 9.95, so the true p99 lies with 95 % between the latencies of
    ranks 9,900 - 1.96 * 9.95 and 9,900 + 1.96 * 9.95: the 9,880th and the 9,920th.
    """
    below = np.cumsum(windows.counts.sum(axis=0))
    if not len(below):
        return 0.0
    requests, share = float(below[-1]), percent / 100
    margin = Z * math.sqrt(requests * share * (1 - share))
    ranks = np.clip([requests * share - margin, requests * share + margin + 1], 1, requests)
    low, high = windows.values_us[np.searchsorted(below, np.round(ranks))]
    return float((math.log(high / low) / (2 * Z)) ** 2)


def pool(runs: Sequence[Estimate]) -> Estimate:
    """Return the geometric mean of repeated runs.

    Runs differ more than the windows of one run: another process, other memory, another neighbour. So the variance is
    that of the runs' figures, with few degrees of freedom. It cannot be less than that within the runs.

    Three runs of 100, 104 and 108 rows/s: the logarithms have a standard deviation of 0.0385, so the standard error is
    0.0385 / sqrt(3) = 0.0222, and t for 2 degrees of freedom is 4.3: 104 times or divided by exp(0.0956) = 1.10.
    """
    if len(runs) == 1:
        return runs[0]
    number = len(runs)
    logs = np.array([run.log for run in runs])
    between = float(np.var(logs, ddof=1)) / number
    within = [run.variance / number**2 for run in runs if run.variance is not None]
    if sum(within) > between:
        degrees = [run.degrees for run in runs if run.variance is not None]
        return Estimate(float(logs.mean()), sum(within), _satterthwaite(within, degrees))
    return Estimate(float(logs.mean()), between, number - 1)


def ratio(first: Estimate, second: Estimate) -> Estimate:
    """Return the second figure divided by the first."""
    log = second.log - first.log
    if first.variance is None or second.variance is None:
        return Estimate(log, None, 1)
    variances = [first.variance, second.variance]
    return Estimate(log, sum(variances), _satterthwaite(variances, [first.degrees, second.degrees]))


def _satterthwaite(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of variances: between the smallest of them and their sum.

    Source: https://en.wikipedia.org/wiki/Welch%E2%80%93Satterthwaite_equation
    """
    total = sum(variances)
    parts = sum(variance**2 / one for variance, one in zip(variances, degrees, strict=True))
    return total**2 / parts if parts else min(degrees)
