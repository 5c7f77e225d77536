"""Prove that the other rows of a batch do not change a row's answer.

A quantized model may be off from the original by a step of its quantization, which is more than a few percent of the
batch's mean. So a row is also compared with itself: in batches of one size and at one position, beside other rows. The
same kernels then compute the same sums, and only a neighbour can make a difference: the answers of 111 rewritten
models, int8 and fp16 among them, were equal to the bit (ONNX Runtime 1.31.1). Some neighbours have values that no
sample has, because neighbours may matter only above a threshold.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from builder.proof.comparison import Tolerance, Wrong, allowed, compare, differences, rounding_for
from builder.proof.prover import Prover, count_rows
from builder.proof.session import run_errors
from builder.proof.truth import NUDGES, moved
from builder.tensors import Array, Arrays

SIZE = 3
"""How many rows the batches have. Some rows then have a neighbour before or behind them, and one farther away."""

FAR = 1000
"""How many times larger an extreme neighbour's values are than a sample's."""


def prove_neighbours(prover: Prover, precision: str, *, largest: int, nudge: float) -> None:
    """Run one batch several times, each time with every other row replaced by another sample.

    Args:
        prover: Runs the model; its reference has the samples.
        precision: The least precise float type in the graph. Answers may differ by two of its roundings.
        largest: The largest batch size; a row in a batch of 1 has no neighbours.
        nudge: The part of its values by which a row is changed whose answer differs, to see if rounding explains it.

    Raises:
        VerificationError: A row's answer differs, or there is not one answer for each row.
    """
    rows = _rows(prover, largest)
    if len(rows) < 2:
        return
    usual = _Batch(prover, precision, nudge, rows)
    others = prover.feeds([(row + 1) % count_rows(prover.reference) for row in rows])
    for kept in _halves(rows):
        beside = _replaced(usual.feeds, others, kept)
        usual.compare(beside, prover.answer(beside, usual.answers), kept)


def prove_extreme_neighbours(prover: Prover, precision: str, *, largest: int, nudge: float) -> None:
    """Do the same with rows unlike any sample: values a thousand times as large, of either sign, and zeros.

    The model may fail on them. If a kernel throws on a thread of its own, ONNX Runtime ends the process, so `prover`
    has to run the model on one thread.

    Args:
        prover: Runs the model; its reference has the samples.
        precision: See `prove_neighbours`.
        largest: The largest batch size.
        nudge: See `prove_neighbours`.

    Raises:
        VerificationError: See `prove_neighbours`.
    """
    rows = _rows(prover, largest)
    if len(rows) < 2:
        return
    usual = _Batch(prover, precision, nudge, rows)
    for extreme in _extreme_rows(usual.feeds, prover.reference):
        for kept in _halves(rows):
            beside = _replaced(usual.feeds, extreme, kept)
            try:
                answers = prover.run(beside)
            except run_errors():
                continue
            usual.compare(beside, answers, kept)


def _rows(prover: Prover, largest: int) -> list[int]:
    """Return the samples of the batch."""
    size = min(SIZE, largest)
    return [(size + i) % count_rows(prover.reference) for i in range(size)]


def _halves(rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the even and the odd positions in the batch."""
    return list(range(0, len(rows), 2)), list(range(1, len(rows), 2))


class _Batch:
    """The usual batch and its answers, to compare others with."""

    def __init__(self, prover: Prover, precision: str, nudge: float, rows: Sequence[int]) -> None:
        self.prover = prover
        self.nudge = nudge
        self.feeds = prover.feeds(rows)
        self.answers = prover.answer(self.feeds, prover.expected(rows))
        self.tolerances = {
            name: rounding_for(prover.numbers(name, prover.reference[f"output:{name}"]), precision)
            for name in prover.tolerances
        }

    def compare(self, beside: Arrays, answers: Arrays, kept: Sequence[int]) -> None:
        """Compare the answers to the rows that are the same in both batches.

        Args:
            beside: The other batch.
            answers: Its answers.
            kept: The positions of these rows.

        Raises:
            VerificationError: One of them differs.
        """
        for name, tolerance in self.tolerances.items():
            usual, got = self.answers[name], answers[name]
            if got.shape != usual.shape:
                what = f"is {got.dtype}{list(got.shape)} beside some rows and {list(usual.shape)} beside others"
                raise self.prover.failure(beside, self.answers, answers, name, what)
            wanted, numbers = (self.prover.numbers(name, array)[kept] for array in (usual, got))
            found = compare(numbers, wanted, range(len(kept)), tolerance)
            unexplained = [w for w in found.wrong if not self._explains(numbers[w.position], name, kept[w.position])]
            if unexplained:
                what = self._describe(name, unexplained, kept, tolerance)
                raise self.prover.failure(beside, self.answers, answers, name, what)

    def _explains(self, answer: Array, output: str, position: int) -> bool:
        """Return whether the row can give this answer, value by value, when its own inputs change by rounding."""
        rng = np.random.default_rng(position)
        tolerance = self.tolerances[output]
        unexplained = np.ones(answer.shape, np.bool_)
        for _ in range(NUDGES):
            nudged = {name: array.copy() for name, array in self.feeds.items()}
            for array in nudged.values():
                array[position] = moved(array[position], self.nudge, rng)
            answers = self.prover.numbers(output, self.prover.run(nudged)[output])
            unexplained &= differences(answer, answers[position], tolerance)[1]
        return not unexplained.any()

    def _describe(self, output: str, wrong: Sequence[Wrong], kept: Sequence[int], tolerance: Tolerance) -> str:
        again = self.prover.run(self.feeds)[output]
        if not np.array_equal(again, self.answers[output], equal_nan=again.dtype.kind == "f"):
            return "is different each time the model runs"
        worst = max(wrong, key=lambda row: row.largest_error)
        off, total = worst.values
        return (
            f"changes in row {kept[worst.position]} when other rows of the batch do: {off} of {total} values, the "
            f"largest by {worst.largest_error:.3g} ({allowed(tolerance, 'usual')})"
        )


def _replaced(feeds: Arrays, others: Arrays, kept: Sequence[int]) -> dict[str, Array]:
    """Return the batch with the rows at the positions `kept`, and the other rows from another batch."""
    replaced = {name: array.copy() for name, array in others.items()}
    for name, array in replaced.items():
        array[kept] = feeds[name][kept]
    return replaced


def _extreme_rows(rows: Arrays, reference: Arrays) -> Iterator[Arrays]:
    """Yield rows with values unlike a sample's: large floats of either sign, zeros, and the ends of integers' range.

    Floats that hold whole numbers may be indices or a mask, so they too stay in their range at first. They may also be
    pixels, so they are scaled in the last rounds.
    """
    samples = {name: reference[f"input:{name}"] for name in rows}
    floats = {name for name, array in samples.items() if array.dtype.kind == "f"}
    fractions = {name for name in floats if (samples[name] != np.floor(samples[name])).any()}
    for scaled, factors in ((fractions, (FAR, -FAR, 0)), (floats, (FAR, -FAR) if floats > fractions else ())):
        for factor in factors:
            yield {
                name: _scaled(array, factor) if name in scaled else _at_end(array, samples[name], largest=factor > 0)
                for name, array in rows.items()
            }


def enlarged(feeds: Arrays, factor: int) -> dict[str, Array]:
    """Return floats so many times as large, within what their type can hold; other types stay as they are."""
    return {name: _scaled(array, factor) if array.dtype.kind == "f" else array for name, array in feeds.items()}


def _scaled(rows: Array, factor: int) -> Array:
    most = np.finfo(rows.dtype).max
    with np.errstate(over="ignore"):
        scaled: Array = np.clip(np.clip(rows, -most, most).astype(np.float64) * factor, -most, most)
    return scaled.astype(rows.dtype)


def _at_end(rows: Array, samples: Array, *, largest: bool) -> Array:
    """Return rows that consist of the largest or the smallest value of all samples; strings stay as they are."""
    if rows.dtype.kind == "U":
        return rows
    return np.full_like(rows, samples.max() if largest else samples.min())
