"""Find out what a machine is like from what was measured on it.

The times of batches come from Triton's own statistics. What else there is to know is a handful of numbers: what a
request costs the load generator and the server, and how much the cores slow each other down. Each has a first guess,
from the processor times that were measured; then all of them are moved until the simulation gives the measured
throughputs, batches and latencies. A number on which the measurements say little stays near its guess.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.tuning.measurement import Measurement
from builder.tuning.simulation.curves import Engine, Points, engine_of, smooth
from builder.tuning.simulation.guessing import first_guess, mean_rows
from builder.tuning.simulation.simulator import Machine, Predicted, simulate

_REQUESTS = 250
"""How many requests each simulation of the fit has."""

_STEPS = 3
"""How often the numbers are moved at most, with each of the two curves."""

_DOUBT = 30.0
"""The curve of batches that ran alone counts as much as so many batches that ran under load."""

_ALLOWED = {
    "throughput": 0.03,
    "mean_batch": 0.15,
    "latency_s": 0.06,
    "p99_s": 0.25,
    "client_cpu_s": 0.1,
    "server_cpu_s": 0.1,
}
"""How far each figure of a prediction may be off, as a logarithm."""

_FAR = 2.0
"""What is further off than so many times what is allowed counts less: the run was disturbed, or the simulation is wrong
there, and the other runs should not have to make up for it."""

_FARTHEST = 2.5
"""How many times its spread a number is moved at most."""


@dataclass(frozen=True, slots=True)
class _Number:
    """A number of the machine that is moved.

    Attributes:
        name: The attribute of `Machine`, or `noise` of its curve.
        guess: Where it starts, in the unit of the attribute.
        spread: How far it may move: the standard deviation of its logarithm.
        step: How far it is moved to see what changes, as a logarithm.
    """

    name: str
    guess: float
    spread: float
    step: float = 0.1


def fit(measurements: Sequence[Measurement], *, cores: int | None, here: bool = True) -> Machine:
    """Return the machine on which the measurements are most likely.

    Each further measurement makes it better. One is enough: what cannot be known from it is guessed.

    Args:
        measurements: What was measured, of any configurations under any loads; failed ones are left out.
        cores: The number of cores of the server's machine; None if it is not known.
        here: Whether the server and the load generator run on the same machine.

    Raises:
        ValueError: No measurement has the time of a batch.
    """
    useful = [one for one in measurements if not one.error and one.batches and one.throughput is not None]
    if not useful:
        raise ValueError("no measurement has the time of a batch")
    guess = first_guess(useful, cores if here else None)
    # Where the sizes take turns, caches are cold, and large requests cost everybody more.
    loaded = [one for one in useful if not one.load.is_of_all_sizes]
    first = _Fit(loaded or useful, guess)
    machine = first.machine(at := first.best(np.zeros(len(first.numbers))))
    if loaded:
        second = _Fit(loaded, replace(guess, curve=replace(guess.curve, points=_corrected(loaded, machine))))
        machine = second.machine(second.best(at))
    return replace(machine, tail=_tail(loaded, machine))


def _tail(loaded: Sequence[Measurement], machine: Machine) -> float:
    """Return how much longer than simulated the slowest requests take, as if one run more had been as simulated."""
    known = [(one, one.p99_s.value) for one in loaded if one.p99_s is not None and one.p99_s.value > 0]
    off = [math.log(p99 / _predict(one, machine).p99_s) for one, p99 in known]
    return math.exp(min(max(sum(off) / (len(off) + 1), -0.5), 1.0))


def _corrected(loaded: Sequence[Measurement], machine: Machine) -> Mapping[Engine, Points]:
    """Return the curves again, corrected by the batches that ran under load.

    A batch under load takes longer, because others compute as well; the simulation says how much. What is left is a
    difference between the curve and the truth. It is about the same for similar sizes, and for other engines.
    """
    seen: list[tuple[Engine, float, float, float]] = []
    for one in loaded:
        engine, slowdown = engine_of(one.configuration, machine.cores), _predict(one, machine).slowdown
        rows_of_request = mean_rows([one])
        for rows, times in one.batches.items():
            requests = max(1.0, rows / rows_of_request)
            alone = machine.curve.seconds(engine, rows) + machine.request_s * (requests - 1)
            off = math.log(times.seconds / slowdown / alone)
            seen.append((engine, math.log2(rows), min(max(off, -1.0), 1.0), float(times.count)))
    points = {}
    for engine, known in machine.curve.points.items():
        sizes = sorted({rows for rows, _ in known} | {round(2**size) for other, size, _, _ in seen if other == engine})
        points[engine] = smooth(
            (rows, 1, machine.curve.seconds(engine, rows) * math.exp(_correction(engine, math.log2(rows), seen)))
            for rows in sizes
        )
    return points


def _correction(engine: Engine, size: float, seen: Sequence[tuple[Engine, float, float, float]]) -> float:
    """Return the logarithm of a correction, from those that were seen at similar sizes."""
    weight, total = _DOUBT, 0.0
    for other, at, off, count in seen:
        nearness = math.exp(-((size - at) ** 2)) * (1.0 if other == engine else 0.5)
        weight += nearness * count
        total += nearness * count * off
    return total / weight


def _predict(one: Measurement, machine: Machine) -> Predicted:
    """Simulate what was measured, beside the other programs that ran at that time."""
    others = 0.0 if one.others is None or machine.cores is None else one.others * machine.cores
    return simulate(one.configuration, one.load, replace(machine, background=others), requests=_REQUESTS, seed=1)


class _Fit:
    """Moves the numbers of a machine: damped least squares, in units of how far each may move.

    Source: Marquardt, An algorithm for least-squares estimation of nonlinear parameters (1963).
    """

    def __init__(self, useful: Sequence[Measurement], guess: Machine) -> None:
        self._useful = useful
        self._guess = guess
        self.numbers = [*_numbers(guess, useful)]

    def best(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where the numbers are best, from a first try; 0 is the guess, and 1 is one spread above it."""
        off = self._residuals(at)
        for _ in range(_STEPS):
            slopes = np.column_stack([self._slope(at, off, index) for index in range(len(at))])
            step = -np.linalg.solve(slopes.T @ slopes + np.eye(len(at)), slopes.T @ off + at)
            cost = off @ off + at @ at
            for share in (1.0, 0.4, 0.1):
                moved = np.clip(at + share * step, -_FARTHEST, _FARTHEST)
                after = self._residuals(moved)
                new_cost = after @ after + moved @ moved
                if new_cost < cost:
                    break
            else:
                break
            at, off = moved, after
            if new_cost > 0.98 * cost:
                break
        return at

    def _slope(self, at: NDArray[np.float64], off: NDArray[np.float64], index: int) -> NDArray[np.float64]:
        number = self.numbers[index]
        moved = at.copy()
        moved[index] += number.step / number.spread
        return (self._residuals(moved) - off) * number.spread / number.step

    def machine(self, at: NDArray[np.float64]) -> Machine:
        """Return the machine with these numbers."""
        values: dict[str, Any] = {
            number.name: number.guess * math.exp(number.spread * float(moved))
            for number, moved in zip(self.numbers, at, strict=True)
        }
        curve = replace(self._guess.curve, noise=values.pop("noise"))
        return replace(self._guess, curve=curve, **values)

    def _residuals(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        machine = self.machine(at)
        found: list[float] = []
        for one in self._useful:
            found += _differences(one, _predict(one, machine))
        return np.array(found)


def _numbers(guess: Machine, useful: Sequence[Measurement]) -> Iterator[_Number]:
    """Yield what is moved.

    How batches slow each other down is seen only where several instances run at the same time. Without such a run, it
    would take the blame for whatever else makes requests slow, and several instances would seem worse than they are.
    """
    yield _Number("client_cpu_s", guess.client_cpu_s, 0.3)
    yield _Number("client_wake_s", guess.client_wake_s, 0.4, 0.2)
    yield _Number("latency_s", guess.latency_s, 0.4)
    yield _Number("batch_s", guess.batch_s, 0.6, 0.4)
    yield _Number("request_s", guess.request_s, 0.6, 0.4)
    yield _Number("noise", guess.curve.noise, 0.5, 0.3)
    if guess.cores is not None:
        yield _Number("front_cpu_s", guess.front_cpu_s, 0.35)
        if any(one.configuration.instances > 1 for one in useful):
            yield _Number("contention", guess.contention, 1.0, 0.4)


def _differences(one: Measurement, predicted: Predicted) -> Iterator[float]:
    """Yield how far the prediction is off, in units of how far it may be."""
    throughput = one.throughput.value if one.throughput else 0.0
    noise = (one.throughput.high - one.throughput.low) / (4 * throughput) if one.throughput and throughput else 0.0
    is_mixed = one.load.is_of_all_sizes  # the slowest are the largest ones, as is known already
    for name, measured in (
        ("throughput", throughput),
        ("mean_batch", one.mean_batch),
        ("latency_s", one.latency_s),
        ("p99_s", 0.0 if one.p99_s is None or is_mixed else one.p99_s.value),
        ("client_cpu_s", one.client_cpu_s),
        ("server_cpu_s", one.server_cpu_s or 0.0),
    ):
        value, allowed = getattr(predicted, name), _ALLOWED[name]
        if name == "throughput":
            allowed = math.hypot(allowed, noise)
        is_known = measured > 0 and 0 < value < math.inf
        yield _damped(math.log(value / measured) / allowed) if is_known else 0.0


def _damped(off: float) -> float:
    """Return a difference whose square grows like the difference itself where it is far off.

    Source: Huber, Robust Estimation of a Location Parameter (1964).
    """
    return off if abs(off) <= _FAR else math.copysign(math.sqrt(_FAR * (2 * abs(off) - _FAR)), off)
