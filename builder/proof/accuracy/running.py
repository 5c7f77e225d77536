"""Run a model on all samples, in batches, and keep of its answers only what judges them."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builder.bounded import OutOfMemoryError, OutOfTimeError, memory_left, time_left
from builder.errors import VerificationError
from builder.progress import format_bytes
from builder.proof.accuracy.scoring import Scoring
from builder.proof.comparison import as_numbers
from builder.proof.session import one_line, onnxruntime_errors
from builder.tensors import Array, Arrays

Run = Callable[[Arrays], Arrays]
"""Answers a batch, from inputs by name to outputs by name."""

Chunk = tuple[int, Arrays]
"""The number of a first row, and the answers to it and the rows that follow it: `[some rows, *dims]` by output."""

TELL_S = 10.0
"""How often to say how far it is, in seconds."""


@dataclass(frozen=True, slots=True)
class Batches:
    """How a model takes its samples.

    Attributes:
        run: Runs a batch.
        is_static: Whether it takes one sample, without a batch.
        most: The largest batch to run.
        least: The smallest batch that it takes; the last sample is repeated where there are fewer.
        bfloat16: The outputs whose arrays contain the bits of BF16.
    """

    run: Run
    is_static: bool
    most: int
    least: int = 1
    bfloat16: frozenset[str] = frozenset()

    def answers(self, inputs: Arrays, where: Path, fix: str) -> Iterator[Chunk]:
        """Yield the answers to all samples, batch by batch.

        Raises:
            VerificationError: The model cannot run one of them.
        """
        rows = count(inputs)
        step = 1 if self.is_static else self.most
        for start in range(0, rows, step):
            size = min(step, rows - start)
            taken = np.minimum(np.arange(start, start + max(size, 1 if self.is_static else self.least)), rows - 1)
            try:
                found = self._answer({name: array[taken] for name, array in inputs.items()})
            except onnxruntime_errors() as error:
                what = f"it cannot run the samples from row {start} on: {one_line(error)}"
                raise VerificationError(where, what, fix) from error
            yield start, {name: self._numbers(name, array[:size]) for name, array in found.items()}

    def _answer(self, feeds: Arrays) -> Arrays:
        if not self.is_static:
            return self.run(feeds)
        alone = self.run({name: np.asarray(array[0]) for name, array in feeds.items()})
        return {name: np.asarray(array)[np.newaxis] for name, array in alone.items()}

    def _numbers(self, name: str, array: Array) -> Array:
        return as_numbers(array, is_bfloat16=name in self.bfloat16)


def count(inputs: Arrays) -> int:
    """Return how many samples there are."""
    return min(map(len, inputs.values()))


def collect(
    chunks: Iterator[Chunk],
    scoring: Scoring,
    rows: int,
    *,
    where: Path,
    report: Callable[[str], None],
    repeats: int = 1,
    most_s: float = math.inf,
) -> dict[str, Array]:
    """Keep what judges all answers, by name: `[rows, ...]`, or an array of objects if the answers differ in shape.

    Args:
        chunks: The answers.
        scoring: What judges them.
        rows: How many there will be.
        where: The model, for messages.
        report: Called now and then with how far it is.
        repeats: How many times as long as this the whole takes, other models after it included.
        most_s: How long the whole may take, seconds, if more time than that is left.

    Raises:
        OutOfTimeError: The time will not be enough for all rows.
        OutOfMemoryError: The memory will not be enough to keep what is needed of them.
    """
    kept: list[Mapping[str, Array]] = []
    started = told = time.monotonic()
    for start, answers in chunks:
        kept.append({name: np.array(array) for name, array in scoring.keep(answers, start).items()})
        done = start + len(next(iter(answers.values())))
        if start == 0:
            _check_memory(kept[0], rows / max(1, done), where)
        now = time.monotonic()
        if now - told > TELL_S:
            told = now
            report(f"{done:,} of {rows:,} rows")
            spent = now - started
            _check_time(spent * (rows * repeats - done) / done, most_s - spent, rows, where)
    return {name: _joined([each[name] for each in kept]) for name in kept[0]}


def _joined(parts: Sequence[Array]) -> Array:
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    rows = [row for part in parts for row in part]
    joined = np.empty(len(rows), object)
    joined[:] = rows
    return joined


def _check_memory(first: Mapping[str, Array], chunks: float, where: Path) -> None:
    needed = int(sum(array.nbytes for array in first.values()) * chunks)
    if 2 * needed > memory_left():
        what = f"the answers to all labelled samples take {format_bytes(needed)}, and {format_bytes(memory_left())} "
        fix = "give fewer samples, or use a machine with more memory"
        raise OutOfMemoryError(where, f"{what}of memory is left for two of that", fix)


def _check_time(needed: float, allowed: float, rows: int, where: Path) -> None:
    if needed > min(allowed, time_left()):
        what = f"measuring the accuracy on {rows:,} rows takes about {_minutes(needed)} more, which is too long"
        fix = f"allow more time, such as --prove-timeout {_minutes(2 * needed + 600)}, or give fewer samples"
        raise OutOfTimeError(where, what, fix)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))}m"
