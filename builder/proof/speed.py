"""Measure how fast a model in a lower precision is beside the same model in fp32, on this CPU.

The models take turns, so that whatever else the machine does slows all of them: one batch of the first, one of the
second, and so on, then in reverse order. What counts is the median of the ratios of times that belong together, not the
ratio of two means.

Processor time is measured beside the time that passes, and the smaller of the two ratios counts. Where other programs
run, long batches are interrupted more often than short ones: a model that needs half of the processor time can take a
quarter of the time then. And a model whose threads wait for each other needs less processor time than it takes.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from builder.bounded import during
from builder.proof.session import Session, onnxruntime_warnings, open_rewritten, run_errors
from builder.record import Speed, SpeedOfBatch
from builder.tensors import Array, Arrays

LEAST_SPEED = 1.02
"""The speed that pays, as a multiple of fp32's. Source: the threshold of NVIDIA ModelOpt's autotune."""

BUDGET_S = 1.5
"""How long each batch size is measured."""

ROUNDS = (3, 60)
"""The fewest and the most times that each model is measured at a batch size, however long that takes."""

LONGEST_BATCH_S = 0.25
"""A smaller batch is measured instead of the largest one where that takes longer in fp32."""

SHORTEST_S = 0.002
"""A batch that takes less is run several times in a row for each measurement."""


class Seconds(NamedTuple):
    """A time on two clocks: what passes, and what the threads of this process compute."""

    passed: float
    computed: float


Clock = Callable[[], Seconds]

Runs = Sequence[Callable[[], object]]
"""Functions that run a batch, one for each model; the first one is fp32."""


def measure_speed(
    models: Sequence[bytes],
    samples: Iterable[Arrays],
    *,
    where: Path,
    largest: int,
    threads: int | None = None,
    least: float = LEAST_SPEED,
    is_static: bool = False,
) -> list[Speed]:
    """Measure models beside the first one, which is in fp32.

    Args:
        models: The .onnx files, with external weights relative to the folder of `where`.
        samples: Choices of inputs, `[rows, *dims]` by name. The first one that the fp32 model accepts is taken.
        where: The original model.
        largest: The largest batch size that will be served.
        threads: The number of threads. Default: one for each core that this process may use, as in Triton.
        least: The ratio that pays, for the result.
        is_static: Whether the models have no batch: a row is run without its axis then.

    Returns:
        The speed of every model but the first. It is empty if the fp32 model accepts none of the samples.

    Raises:
        VerificationError: ONNX Runtime cannot load one of the models.
    """
    threads = threads or usual_threads()
    with during("its speed is measured"), onnxruntime_warnings():
        sessions = [open_rewritten(model, where=where, folder=where.parent, threads=threads) for model in models]
        rows = next((rows for rows in samples if _accepts(sessions[0], rows, is_static=is_static)), None)
        if rows is None:
            return []
        found = [
            measure_batch([partial(session.run, feeds) for session in sessions], size, least)
            for size, feeds in _batches(sessions[0], rows, largest, is_static)
        ]
    return [Speed(threads, tuple(by_model), least) for by_model in zip(*found, strict=True)]


def usual_threads() -> int:
    """Return how many threads ONNX Runtime starts on this machine for each instance, unless it is told."""
    return len(os.sched_getaffinity(0))


def _accepts(session: Session, rows: Arrays, *, is_static: bool) -> bool:
    try:
        session.run(_batch(rows, 0 if is_static else 1))
    except run_errors():
        return False
    return True


def _batch(rows: Arrays, size: int) -> dict[str, Array]:
    """Return a batch of so many rows, which repeat if there are fewer; for 0, the first row without its axis."""
    if size == 0:
        return {name: np.asarray(array[0]) for name, array in rows.items()}
    return {name: array[np.arange(size) % len(array)] for name, array in rows.items()}


def _batches(
    session: Session, rows: Arrays, largest: int, is_static: bool
) -> Iterable[tuple[int, Mapping[str, Array]]]:
    """Yield the batches to measure, with their sizes: one row, and the largest batch that is not too slow."""
    if is_static:
        yield 0, _batch(rows, 0)
        return
    one = _batch(rows, 1)
    yield 1, one
    session.run(one)
    size = min(largest, max(1, int(LONGEST_BATCH_S / _seconds(partial(session.run, one)).passed)))
    if size > 1:
        yield size, _batch(rows, size)


def measure_batch(runs: Runs, size: int, least: float) -> list[SpeedOfBatch]:
    """Compare the others with the first one: for twice as long if noise would decide whether one of them pays."""
    times = take_turns(runs)
    found = [compare(size, times[0], other) for other in times[1:]]
    if not any(each.low < least <= each.high for each in found):
        return found
    times = [[*before, *more] for before, more in zip(times, take_turns(runs), strict=True)]
    return [compare(size, times[0], other) for other in times[1:]]


def now() -> Seconds:
    """Return what two clocks show."""
    return Seconds(time.perf_counter(), time.process_time())


def take_turns(runs: Runs, *, clock: Clock = now) -> list[list[Seconds]]:
    """Return the times of one batch: a list for each function, in the order of the rounds.

    Every second round goes through the functions in reverse order.
    """
    for run in runs:
        run()
    # The second run is the first one that finds its memory.
    repeats = [max(1, round(SHORTEST_S / max(_seconds(run, 1, clock).passed, 1e-6))) for run in runs]
    times: list[list[Seconds]] = [[] for _ in runs]
    fewest, most = ROUNDS
    end = clock().passed + BUDGET_S
    for number in range(most):
        if number >= fewest and clock().passed > end:
            break
        order = range(len(runs)) if number % 2 == 0 else reversed(range(len(runs)))
        for i in order:
            times[i].append(_seconds(runs[i], repeats[i], clock))
    return times


def _seconds(run: Callable[[], object], repeats: int = 1, clock: Clock = now) -> Seconds:
    """Return how long a run takes."""
    start = clock()
    for _ in range(repeats):
        run()
    passed, computed = (end - begin for end, begin in zip(clock(), start, strict=True))
    return Seconds(passed / repeats, computed / repeats)


def compare(size: int, fp32: Sequence[Seconds], other: Sequence[Seconds]) -> SpeedOfBatch:
    """Compare times that were taken in turns: `fp32[i]` and `other[i]` belong together."""
    passed = [one.passed / two.passed for one, two in zip(fp32, other, strict=True)]
    computed = [one.computed / two.computed for one, two in zip(fp32, other, strict=True) if two.computed]
    ratios = min((each for each in (passed, computed) if each), key=statistics.median)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return SpeedOfBatch(
        batch_size=size,
        fp32_ms=round(statistics.median(one.passed for one in fp32) * 1000, 4),
        ms=round(statistics.median(two.passed for two in other) * 1000, 4),
        ratio=round(median, 3),
        low=round(low, 3),
        high=round(high, 3),
    )
