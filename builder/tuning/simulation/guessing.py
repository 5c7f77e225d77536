"""A first guess of what a machine is like, from the processor times that were measured and from what is usual."""

from collections.abc import Mapping, Sequence

import numpy as np

from builder.tuning.measurement import Measurement
from builder.tuning.simulation.curves import Curve, Engine, Points, engine_of, smooth
from builder.tuning.simulation.simulator import Machine

_WAKE_S = 6e-5
"""What it usually costs the load generator to wake up, in seconds of a processor."""

_LATENCY_S = 1.5e-4
"""What a request usually takes beside all processor times, in seconds."""

_FRONT_S = 1.2e-4
"""What a request usually costs the server without the model, in seconds of a processor."""


def first_guess(useful: Sequence[Measurement], cores: int | None) -> Machine:
    """Return a machine from the processor times that were measured, and from what is usual."""
    alone = [one for one in useful if one.load.users == 1] or useful
    loaded = [one for one in useful if one.load.users != 1]
    client, wake, client_row = _client_times(alone, loaded)
    front, busy = _processor_times(alone, cores)
    rows = mean_rows(alone)
    rest = float(np.median([one.latency_s - _batch_s(one) for one in alone]))
    rest -= front + 0.7 * (client + wake + client_row * (rows - 1))
    others = [one.others for one in useful if one.others is not None]
    return Machine(
        curve=Curve(_points(useful, cores)),
        cores=cores,
        client_cpu_s=client,
        client_wake_s=wake,
        client_row_s=client_row,
        front_cpu_s=front,
        front_row_s=max(rest - _LATENCY_S, 0.0) / (rows - 1) if rows > 1.5 else 0.0,
        latency_s=max(min(rest, _LATENCY_S) if rows > 1.5 else rest, 3e-5),
        batch_s=3e-5,
        request_s=1.5e-5,
        contention=0.08,
        background=float(np.median(others)) * cores if others and cores else 0.0,
        busy=busy,
    )


def _client_times(alone: Sequence[Measurement], loaded: Sequence[Measurement]) -> tuple[float, float, float]:
    """Return what a request costs a busy load generator, what waking it up costs, and what each further row costs."""
    slow, rows = _mean(alone, "client_cpu_s"), mean_rows(alone)
    wake = min(_WAKE_S, 0.4 * slow)
    busy = _mean(loaded, "client_cpu_s") - 0.25 * wake if loaded else min(0.6 * slow, 1e-4)
    busy = max(busy, 1e-6)
    return busy, max(wake, 1e-7), max(slow - busy - wake, 0.0) / (rows - 1) if rows > 1.5 else 0.0


def _points(useful: Sequence[Measurement], cores: int | None) -> Mapping[Engine, Points]:
    """Return the curve of each engine: from its runs with one user, in which every batch ran alone, if they suffice."""
    runs: dict[Engine, list[Measurement]] = {}
    for one in useful:
        runs.setdefault(engine_of(one.configuration, cores), []).append(one)
    points = {}
    for engine, every in runs.items():
        alone = [one for one in every if one.load.users == 1]
        is_enough = 2 * _largest(alone) >= _largest(every)  # one size says nothing about the others
        chosen = alone if is_enough else every
        points[engine] = smooth(
            (rows, times.count, times.seconds) for one in chosen for rows, times in one.batches.items()
        )
    return points


def _largest(measurements: Sequence[Measurement]) -> int:
    return max((rows for one in measurements for rows in one.batches), default=0)


def _processor_times(alone: Sequence[Measurement], cores: int | None) -> tuple[float, tuple[tuple[Engine, float], ...]]:
    """Return the processor time of a request without the model, and how many cores an instance of each engine uses.

    An instance with one thread keeps one core busy. So what the server took beyond the time of its batches is the rest
    of the request. What an instance with more threads took beyond that rest, over the time of its batches, is how many
    cores it kept busy.
    """
    known = [(engine_of(one.configuration, cores), one.server_cpu_s, _batch_s(one)) for one in alone]
    measured = [(engine, engine[0] or 1, cpu, batch) for engine, cpu, batch in known if cpu is not None]
    if cores is None or not measured:
        return 0.0 if cores is None else _FRONT_S, ()
    fewest = min(threads for _, threads, _, _ in measured)
    few = [(cpu - threads * batch, batch) for _, threads, cpu, batch in measured if threads == fewest]
    rest, batch = (float(np.median(values)) for values in zip(*few, strict=True))
    # the difference of two large numbers says little, so it counts less the longer the batches are
    trust = (0.6 * _FRONT_S) ** 2 / ((0.6 * _FRONT_S) ** 2 + (0.08 * batch) ** 2)
    front = max(_FRONT_S + trust * (rest - _FRONT_S), 0.25 * _FRONT_S)
    busy = {
        engine: min(max((cpu - front) / max(batch, 1e-9), 0.5), float(threads))
        for engine, threads, cpu, batch in measured
    }
    return front, tuple(busy.items())


def _batch_s(one: Measurement) -> float:
    """Return the mean time of a batch."""
    count = sum(times.count for times in one.batches.values())
    return sum(times.count * times.seconds for times in one.batches.values()) / max(1, count)


def _mean(measurements: Sequence[Measurement], name: str) -> float:
    weights = [max(1, one.requests) for one in measurements]
    return float(np.average([getattr(one, name) for one in measurements], weights=weights))


def mean_rows(measurements: Sequence[Measurement]) -> float:
    """Return the mean rows of a request in several runs."""
    loads = [one.load.rows for one in measurements]
    return float(np.mean([sum(r * w for r, w in mix) / sum(w for _, w in mix) for mix in loads]))
