"""What the ladder says: every configuration under every load, the optimum, and by how much repeated runs differ."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ladder import LARGEST, canonical, disturbance, is_undisturbed, keeps
from measured import Point, Table
from tune_models import Subject

from builder.tuning import Configuration

Key = tuple[Configuration, int]

_T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
ENOUGH, USUAL = 4, (0.03, 0.08)
"""How many points have to be measured again to say by how much runs differ, and what is taken otherwise."""
_FEW = 3.0
"""Student's t for the windows of one short run, of which nobody knows how much they depend on each other."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a configuration under a load.

    Attributes:
        throughput: Rows per second: the mean of the repeated runs, or of the only one.
        low: The lower end of its 95 % interval.
        high: The upper end.
        p99_ms: The p99, likewise; infinite if there were too few requests.
        points: The runs.
    """

    throughput: float
    low: float
    high: float
    p99_ms: float
    points: tuple[Point, ...]

    def overlaps(self, other: "Known") -> bool:
        """Return whether the intervals of both overlap."""
        return self.low <= other.high and other.low <= self.high


class Truth:
    """What the table says of one model.

    The best of many points is among them because it is good, and because its run was lucky. So where points were
    measured again, only these later runs count.
    """

    def __init__(self, subject: Subject, table: Table) -> None:
        self.subject = subject
        runs: dict[Key, list[Point]] = {}
        self.calibrations = {point.configuration: point for point in table.of(subject.name, "calibration")}
        """The runs with requests of several rows."""
        for point in [*table.of(subject.name, "ladder"), *table.of(subject.name, "again")]:
            runs.setdefault((point.configuration, point.users), []).append(point)
        self._runs = {key: _best_runs(points) for key, points in runs.items()}
        self.known = {key: _known(points) for key, points in self._runs.items()}
        self.noise = _noise(self._runs)
        """The standard deviations, from run to run, of the logarithms of throughput and of p99."""

    @property
    def optimum(self) -> Key:
        """The point with the most throughput of those that keep the limit and were measured again, if any were."""
        again = [key for key, points in self._runs.items() if points[0].kind == "again"]
        kept = [key for key in again or self.known if self.keeps(key)]
        return max(kept, key=lambda key: self.known[key].throughput)

    def keeps(self, key: Key, *, slack: float = 1.0) -> bool:
        """Return whether a point keeps the limit."""
        known = self.at(*key)
        right = not any(point.wrong for point in known.points)
        return right and known.p99_ms <= slack * self.subject.limit_ms

    def share(self, key: Key) -> float:
        """Return which part of the optimum a point gives."""
        return self.at(*key).throughput / self.known[self.optimum].throughput

    def configurations(self) -> list[Configuration]:
        """Return what was measured, with its duplicates: the space in which strategies search."""
        return list({configuration: None for configuration, _ in self.known})

    def has(self, configuration: Configuration) -> bool:
        """Return whether a configuration was measured."""
        return bool(self._loads(configuration))

    def calibration(self, configuration: Configuration) -> Point:
        """Return the run with requests of several rows."""
        return self.calibrations[replace(_written(configuration), preferred=(), delay_us=0)]

    def at(self, configuration: Configuration, users: int) -> Known:
        """Return what is known of a point.

        A load between two others is interpolated, by the logarithms of load, throughput and p99. Beyond the heaviest
        load, which misses twice the limit, throughput stays as it is, and p99 grows with the queue.
        """
        loads = self._loads(configuration)
        if users in loads:
            return self.known[loads[users], users]
        if users > max(loads):
            last = self.known[loads[max(loads)], max(loads)]
            return Known(last.throughput, last.low, last.high, last.p99_ms * users / max(loads), last.points)
        below = max((load for load in loads if load < users), default=min(loads))
        above = min(load for load in loads if load > users)
        first, second = (self.known[loads[load], load] for load in (below, above))
        part = math.log(users / below) / math.log(above / below) if above > below else 0.0

        def between(low: float, high: float) -> float:
            return math.exp((1 - part) * math.log(low) + part * math.log(high))

        return Known(
            between(first.throughput, second.throughput),
            between(first.low, second.low),
            between(first.high, second.high),
            between(first.p99_ms, second.p99_ms),
            first.points,
        )

    def _loads(self, configuration: Configuration) -> Mapping[int, Configuration]:
        """Return the loads at which a configuration was measured, each with the one that stands for it there."""
        same = {users: canonical(_written(configuration), users) for users in self.subject.users}
        return {users: stands for users, stands in same.items() if (stands, users) in self.known}


def _best_runs(points: Sequence[Point]) -> list[Point]:
    """Return the repeated runs that nothing disturbed; if there are none, the run that was disturbed the least."""
    again = [point for point in points if point.kind == "again"]
    undisturbed = [point for point in again if is_undisturbed(point)]
    return undisturbed or again or [min(points, key=lambda point: disturbance([point]))]


def _written(configuration: Configuration) -> Configuration:
    """Return the configuration in the form of the ladder."""
    cap = max(configuration.preferred, default=configuration.max_batch_size)
    threads = configuration.threads
    if configuration.instances == 1 and threads == 2:
        threads = None
    elif configuration.instances == 2 and threads is None:  # the embedded server shares the cores
        threads = 1
    preferred = (cap,) if cap < LARGEST else ()
    return Configuration(configuration.instances, threads, LARGEST, preferred, configuration.delay_us)


def _known(points: Sequence[Point]) -> Known:
    """Return the geometric mean of several runs, with the interval that their differences give, or those of windows."""
    logs = [math.log(point.throughput) for point in points]
    tails = [math.log(point.p99_ms) if point.p99_ms else math.inf for point in points]
    if len(points) > 1:
        margin = _T[min(len(points) - 1, 7)] * statistics.stdev(logs) / len(points) ** 0.5
    else:
        windows = [math.log(rows) for rows in points[0].windows if rows > 0]
        margin = _FEW * statistics.stdev(windows) / len(windows) ** 0.5 if len(windows) > 1 else 0.1
    mean = statistics.fmean(logs)
    low, high = math.exp(mean - margin), math.exp(mean + margin)
    return Known(math.exp(mean), low, high, math.exp(statistics.fmean(tails)), tuple(points))


def _noise(runs: Mapping[Key, Sequence[Point]]) -> tuple[float, float]:
    """Return by how much runs of the same point differ; what one usually sees where too few were measured again."""
    spreads = []
    for points in runs.values():
        if len(points) > 1 and all(point.p99_ms for point in points):
            logs = [(math.log(point.throughput), math.log(point.p99_ms or 1)) for point in points]
            spreads.append([statistics.variance(values) for values in zip(*logs, strict=True)])
    if len(spreads) < ENOUGH:
        return USUAL
    throughput, p99 = (statistics.fmean(values) ** 0.5 for values in zip(*spreads, strict=True))
    return throughput, p99


def best_of_ladder(subject: Subject, table: Table) -> list[Point]:
    """Return the points of the first measurement that kept the limit, the best first."""
    return sorted((p for p in table.of(subject.name, "ladder") if keeps(p, subject)), key=lambda p: -p.throughput)
