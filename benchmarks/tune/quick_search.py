"""Model Analyzer's quick search, rewritten from its documentation and checked against its source, version 1.58.

It climbs from the smallest point of two dimensions: `max_batch_size`, in powers of two, and the number of instances. At
each point there are twice as many users as rows fit into all instances. Around the point it is at (its home), it
measures points within a distance of 3 until three of them are known. If all of these keep the limit, or none does, it
steps towards where they are better, by the gain per step in each dimension: one step for more than 9 %, two for more
than 30 %, three for more than 100 %. If some keep it and others do not, it measures all direct neighbours and moves to
the best of those that do. It ends where it does not move, or at a point that was home before. The best three points and
the default are then swept over users, 1, 2, 4 … 1024, until four in a row gain less than 5 %, and each sweep ends with
up to five halvings between the highest load that kept the limit and the lowest one that did not.

Threads and delays are not searched: instances share the cores, and nothing waits.

Source: docs/config_search.md and model_analyzer/config/generate (quick_run_config_generator.py, neighborhood.py) and
model_analyzer/result/parameter_search.py in https://github.com/triton-inference-server/model_analyzer
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

RADIUS = 3
ENOUGH = 3
STEPS = (0.09, 0.3, 1.0)
SWEPT = 3
MOST_USERS = 1024
SATURATED = 0.05
TRIES = 4
HALVINGS = 5

Place = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run: rows per second, and p99 as a multiple of the limit."""

    batch: int
    instances: int
    users: int
    throughput: float
    p99_of_limit: float

    @property
    def passes(self) -> bool:
        """Whether it keeps the limit."""
        return self.p99_of_limit <= 1

    @property
    def rank(self) -> tuple[float, float]:
        """What is compared: those that keep the limit by throughput, the others by how much they miss it."""
        return (1, self.throughput) if self.passes else (0, -self.p99_of_limit)


Measure = Callable[[int, int, int], Trial]
"""Measures a largest batch, a number of instances and a number of users."""


class QuickSearch:
    """One search.

    Args:
        measure: Makes a run.
        batches: The largest batch that may be tried, a power of two.
        instances: The most instances that may be tried.
    """

    def __init__(self, measure: Measure, *, batches: int, instances: int) -> None:
        self._measure = measure
        self._largest = (batches.bit_length() - 1, instances - 1)
        self._known: dict[Place, Trial] = {}
        self._visits: dict[Place, int] = {}
        self._forced = False
        self._home_passed = False
        self.trials: list[Trial] = []

    def run(self, default: tuple[int, int]) -> Trial | None:
        """Climb, sweep, and return the best run that keeps the limit; None if none does.

        Args:
            default: The largest batch and the instances of the default configuration, which is measured first.
        """
        self.trials.append(self._measure(*default, 2 * default[0] * default[1]))
        self._climb()
        best = sorted(self._known.values(), key=lambda trial: trial.rank, reverse=True)[:SWEPT]
        swept = {(trial.batch, trial.instances): None for trial in best} | {default: None}
        for batch, instances in swept:
            self._sweep(batch, instances)
        return max((trial for trial in self.trials if trial.passes), key=lambda trial: trial.rank, default=None)

    def _climb(self) -> None:
        home: Place = (0,) * len(self._largest)
        self._try(home)
        has_arrived, is_done = True, False
        while not is_done:
            if has_arrived and self._stepped_off(home):
                best = max(self._known, key=lambda place: self._known[place].rank)
                place = min(self._neighbours(home), key=lambda place: math.dist(place, best))
                is_done, self._forced = place == home, True
            elif self._has_enough(home):
                place = self._next(home)
                is_done, self._forced = place == home or self._visits.get(place, 0) >= 2, False
            else:
                has_arrived = False
                if (neighbour := self._next_to_try(home)) is None:
                    return
                self._try(neighbour)
                continue
            home, has_arrived = place, True
            self._visits[home] = self._visits.get(home, 0) + 1
            self._try(home)

    def _try(self, place: Place) -> None:
        if place not in self._known:
            batch, instances = 2 ** place[0], place[1] + 1
            self._known[place] = self._measure(batch, instances, 2 * batch * instances)
            self.trials.append(self._known[place])

    def _stepped_off(self, home: Place) -> bool:
        """Return whether this home misses the limit after one that kept it."""
        self._home_passed |= self._known[home].passes
        return self._home_passed and not self._known[home].passes

    def _neighbours(self, home: Place) -> list[Place]:
        ends = zip(home, self._largest, strict=True)
        ranges = [range(max(0, at - RADIUS), min(most, at + RADIUS) + 1) for at, most in ends]
        return [place for place in itertools.product(*ranges) if math.dist(place, home) <= RADIUS]

    def _adjacent(self, home: Place) -> Iterator[Place]:
        for dimension, step in itertools.product(range(len(home)), (-1, 1)):
            place = tuple(at + step * (number == dimension) for number, at in enumerate(home))
            if 0 <= place[dimension] <= self._largest[dimension]:
                yield place

    def _measured(self, home: Place) -> Mapping[Place, Trial]:
        return {place: self._known[place] for place in self._neighbours(home) if place != home and place in self._known}

    def _is_slow(self, home: Place) -> bool:
        """Return whether the limit runs through the neighbourhood."""
        kept = [trial.passes for trial in self._measured(home).values()]
        return self._forced or (not all(kept) if self._known[home].passes else any(kept))

    def _has_enough(self, home: Place) -> bool:
        if self._is_slow(home):
            return all(place in self._known for place in self._adjacent(home))
        return len(self._measured(home)) >= ENOUGH

    def _next_to_try(self, home: Place) -> Place | None:
        """Return the point with the most values that no measured neighbour has; in slow mode a direct neighbour."""
        if self._is_slow(home):
            return next(place for place in self._adjacent(home) if place not in self._known)
        covered = [{place[number] for place in self._measured(home)} for number in range(len(home))]
        left = [place for place in self._neighbours(home) if place not in self._known]
        return max(
            left, key=lambda place: sum(at not in seen for at, seen in zip(place, covered, strict=True)), default=None
        )

    def _next(self, home: Place) -> Place:
        """Return where to step."""
        measured = self._measured(home)
        if self._is_slow(home):
            kept = {place: trial for place, trial in {**measured, home: self._known[home]}.items() if trial.passes}
            return max(kept, key=lambda place: kept[place].rank, default=home)
        gains, distances = [0.0] * len(home), [0] * len(home)
        for place, trial in measured.items():
            for number, (at, start) in enumerate(zip(place, home, strict=True)):
                gains[number] += _gain(self._known[home], trial) * ((at > start) - (at < start))
                distances[number] += abs(at - start)
        slopes = [gain / distance if distance else 0.0 for gain, distance in zip(gains, distances, strict=True)]
        steps = [sum(abs(slope) > bound for bound in STEPS) * (1 if slope > 0 else -1) for slope in slopes]
        moved = [at + step for at, step in zip(home, steps, strict=True)]
        return tuple(min(max(at, 0), most) for at, most in zip(moved, self._largest, strict=True))

    def _sweep(self, batch: int, instances: int) -> None:
        """Sweep over users, and then halve the interval in which the limit is reached."""
        found: list[Trial] = []
        users = 1
        while users <= MOST_USERS and not _is_saturated(found):
            found.append(self._measure(batch, instances, users))
            users *= 2
        self.trials += found
        low, high = _boundary(found)
        last = high
        for _ in range(HALVINGS if high else 0):
            middle = (low + high) // 2
            if middle in (last, 0):
                break
            self.trials.append(self._measure(batch, instances, middle))
            low, high = (middle, high) if self.trials[-1].passes else (low, middle)
            last = middle


def _new_values(place: Place, covered: Sequence[Collection[int]]) -> int:
    """Return how many values of a point are new."""
    return sum(at not in seen for at, seen in zip(place, covered, strict=True))


def _gain(first: Trial, second: Trial) -> float:
    """Return how much better the second is: in throughput, or if both miss the limit, in how much they miss it."""
    if first.passes:
        return (second.throughput - first.throughput) / ((first.throughput + second.throughput) / 2)
    return first.p99_of_limit - second.p99_of_limit


def _is_saturated(found: Sequence[Trial]) -> bool:
    last = found[-TRIES:]
    if len(last) < TRIES:
        return False
    best = max(last, key=lambda trial: trial.throughput)
    return (best.throughput - last[0].throughput) / ((best.throughput + last[0].throughput) / 2) < SATURATED


def _boundary(found: Sequence[Trial]) -> tuple[int, int]:
    """Return the highest load that kept the limit before one that missed it, and that one; 0 and 0 if none missed."""
    for earlier, later in reversed(list(itertools.pairwise(found))):
        if earlier.passes and not later.passes:
            return earlier.users, later.users
    return (0, 0) if found[0].passes else (0, found[0].users)
