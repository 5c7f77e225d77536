"""How far predictions are off, learned from what was measured: by neighbourhood, and shrunk towards no error at all.

The residual of a case is the logarithm of what was measured over what was predicted. Residuals are taken to be a
Gaussian process: all cases share a part of the error, those with the same instances and threads share another, and
those that are alike in everything a third. One measurement therefore corrects all predictions, its neighbours most.

For example, if all parts had a variance of 0.01 and a measurement had one of 0.01, a residual of 0.04 would move the
case itself by 0.04 * 0.03 / (0.03 + 0.01) = 0.03, and a case that has only the common part with it by 0.01.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.tuning.measurement import Configuration, Load
from builder.tuning.search.space import cap_of
from builder.tuning.simulation import engine_of

Floats = NDArray[np.float64]

_SHAPE = 5
"""How many of the features say what an instance is and how many there are."""


_MANY = 1 << 20
"""How many requests may wait at the same time at a given rate. Of users, each has one: no batch is larger."""


@dataclass(frozen=True, slots=True)
class Scales:
    """How large the parts of the errors are, as standard deviations of a logarithm.

    Attributes:
        common: What all cases have in common.
        shape: What cases with the same instances and threads have in common.
        local: What only cases have in common that are alike in everything.
    """

    common: float
    shape: float
    local: float

    @property
    def variance(self) -> float:
        """The variance of a case of which nothing is known."""
        return self.common**2 + self.shape**2 + self.local**2


def features(cases: Sequence[tuple[Configuration, Load]], cores: int) -> Floats:
    """Return float64[N, 8]: where each case lies on a server with so many cores. Neighbours have a distance of 1."""
    return np.array([_features(configuration, load, cores) for configuration, load in cases]).reshape(len(cases), 8)


def _features(one: Configuration, load: Load, cores: int) -> tuple[float, ...]:
    threads, profiles, cuda_graphs = engine_of(one, cores)
    return (
        math.log2(one.instances),
        math.log2(threads or cores),
        math.log2(max(1.0, one.instances * (threads or 1) / cores)),
        sum(3.0**profile for profile in profiles),
        float(cuda_graphs),
        math.log2(min(cap_of(one), (load.users or _MANY) * max(rows for rows, _ in load.rows))) / 2,
        math.log2(1 + one.delay_us / 100) / 3,
        math.log2(load.users or 1) / 3,
    )


def learn(
    where: Floats, measured: Sequence[int], residuals: Sequence[float], variances: Sequence[float], scales: Scales
) -> tuple[Floats, Floats]:
    """Return the expected residual of every case, and its standard deviation.

    Args:
        where: float64[N, 8]: the features of all cases.
        measured: Which cases were measured. One may occur several times.
        residuals: The residual of each measurement.
        variances: The variance of each measurement's residual by chance.
        scales: How large the parts of the errors are.

    Returns:
        Two float64[N].
    """
    if not measured:
        return np.zeros(len(where)), np.full(len(where), math.sqrt(scales.variance))
    there = where[list(measured)]
    among = _covariance(there, there, scales) + np.diag(np.asarray(variances))
    across = _covariance(where, there, scales)
    means = across @ np.linalg.solve(among, np.asarray(residuals))
    known = np.einsum("nm,mn->n", across, np.linalg.solve(among, across.T))
    spread: Floats = np.sqrt(np.maximum(scales.variance - known, 1e-8))
    return np.asarray(means, dtype=np.float64), spread


def _covariance(left: Floats, right: Floats, scales: Scales) -> Any:
    """Return float64[L, R]: the covariance of the errors of each pair of cases."""
    apart = np.abs(left[:, None, :] - right[None, :, :])
    shape = np.exp(-apart[:, :, :_SHAPE].sum(axis=2))
    rest = np.exp(-apart[:, :, _SHAPE:].sum(axis=2))
    return scales.common**2 + scales.shape**2 * shape + scales.local**2 * shape * rest
