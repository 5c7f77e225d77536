"""How long a batch takes, by its rows and by how an instance runs it.

Triton counts for each size of a batch how often it ran the model, and how long that took. So a single run with requests
of different sizes gives the whole curve of an instance. Sizes between the measured ones are interpolated.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from builder.tuning.measurement import Configuration

Engine = tuple[int | None, tuple[int, ...], bool]
"""How an instance runs the model: its threads, and for a TensorRT plan its profiles and CUDA graphs."""

Points = tuple[tuple[int, float], ...]
"""Pairs of rows and seconds, by rows."""

_PARALLEL = 0.7
"""How the time falls with the threads if only one number of them was measured: as threads to the power of -0.7."""


def engine_of(configuration: Configuration, cores: int | None) -> Engine:
    """Return how the instances of a configuration run the model.

    Without a number of threads, each instance of the embedded server takes an even share of the cores.

    Args:
        configuration: The configuration.
        cores: The number of the server's cores; None if it is not known.
    """
    threads, profiles, cuda_graphs = configuration.threads, configuration.profiles, configuration.cuda_graphs
    if threads is None and cores is not None and not profiles and not cuda_graphs:
        threads = max(1, cores // max(1, configuration.instances))
    return threads, profiles, cuda_graphs


@dataclass(frozen=True, slots=True)
class Curve:
    """The time of a batch that runs alone, for each engine and size.

    Attributes:
        points: For each engine that was measured, pairs of rows and seconds.
        noise: The standard deviation of the logarithm of the time of one batch.
    """

    points: Mapping[Engine, Points] = field(default_factory=dict)
    noise: float = 0.1

    def seconds(self, engine: Engine, rows: int) -> float:
        """Return the mean time of a batch of `rows` rows, in seconds.

        Between two measured sizes, it is a straight line. Above the largest one, the line through the outer two goes
        on; below the smallest one, the time is that of the smallest.

        An engine that was not measured is like the nearest one that was: with other numbers of threads on both sides,
        the logarithm of the time is interpolated over that of the threads; otherwise the time falls with the threads to
        the power of -0.7.

        Raises:
            ValueError: Nothing was measured.
        """
        if (known := self.points.get(engine)) is not None:
            return _interpolate(known, rows)
        return self._guess(engine, rows)

    def _guess(self, engine: Engine, rows: int) -> float:
        threads = engine[0] or 0
        alike = self._alike(engine)
        below = max((known for known in alike if known <= threads), default=0)
        above = min((known for known in alike if known >= threads), default=0)
        nearest = below or above
        if not threads or not nearest:
            return _interpolate(alike[max(alike)], rows)
        if not below or above <= below:
            return _interpolate(alike[nearest], rows) * math.pow(nearest / threads, _PARALLEL)
        first, last = (math.log(_interpolate(alike[known], rows)) for known in (below, above))
        return math.exp(first + (last - first) * math.log(threads / below) / math.log(above / below))

    def _alike(self, engine: Engine) -> Mapping[int, Points]:
        """Return by threads the curves that differ from the engine in nothing else, or else all curves."""
        alike = {key[0] or 0: points for key, points in self.points.items() if key[1:] == engine[1:]}
        alike = alike or {key[0] or 0: points for key, points in self.points.items()}
        if not alike:
            raise ValueError("no time of a batch was measured")
        return alike


def smooth(times: Iterable[tuple[int, int, float]]) -> Points:
    """Return points of a curve that never falls, from measured times: larger batches do not take less time.

    Where they seem to, the sizes are pooled. For example, 1 ms for 4 rows and 0.8 ms for 5 rows, seen equally often,
    become 0.9 ms for both.

    Args:
        times: Rows, how many batches had them, and their mean time in seconds; the same rows may come several times.

    Source: the pool adjacent violators algorithm; Barlow and others, Statistical Inference under Order Restrictions
    (1972).
    """
    sums: dict[int, tuple[float, float]] = {}
    for rows, count, seconds in times:
        weight, total = sums.get(rows, (0.0, 0.0))
        sums[rows] = weight + count, total + count * seconds
    pools: list[tuple[list[int], float, float]] = []
    for rows in sorted(sums):
        pool = [rows], *sums[rows]
        while pools and pools[-1][2] * pool[1] > pool[2] * pools[-1][1]:
            sizes, weight, total = pools.pop()
            pool = [*sizes, *pool[0]], weight + pool[1], total + pool[2]
        pools.append(pool)
    return tuple((rows, total / weight) for sizes, weight, total in pools for rows in sizes)


def _interpolate(points: Points, rows: int) -> float:
    if len(points) == 1 or rows <= points[0][0]:
        return points[0][1] * (max(1.0, rows / points[0][0]) if len(points) == 1 else 1.0)
    at = min(bisect_left(points, (rows, 0.0)), len(points) - 1)
    (few, low), (many, high) = points[max(at, 1) - 1], points[max(at, 1)]
    slope = (high - low) / (many - few)
    if rows > many:  # noise must not make larger batches ever faster
        slope = max(slope, 0.25 * high / many)
    return max(low + slope * (rows - few) if rows <= many else high + slope * (rows - many), 0.25 * low)
