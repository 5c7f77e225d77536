"""Run a model at several batch sizes and in several orders, and compare every row with a reference."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.errors import VerificationError
from builder.proof.comparison import Comparison, Tolerance, Wrong, allowed, as_numbers, compare
from builder.proof.failing import keep_failing
from builder.proof.session import one_line, onnxruntime_errors, run_errors
from builder.tensors import Array, Arrays

REPORT = "report this failure with that file"


def batch_sizes(largest: int, dimensions: set[int]) -> tuple[int, ...]:
    """Return 1, 2, 3, a size that no tensor of the model has, and the largest.

    At a batch size that is also a size in the model, a batch on the wrong axis could go unnoticed. Example: a
    constant [4, 8] is meant for 4 heads, but was taken for the batch. At batch size 4 it fits by accident; at 5 it
    does not. For a model with the sizes 4 and 8 and `largest` 32, the batch sizes are 1, 2, 3, 5 and 32.
    """
    unused = next((n for n in range(4, largest) if n not in dimensions), largest)
    return tuple(sorted({n for n in (1, 2, 3, unused, largest) if n <= largest}))


def dimensions_of(graph: ir.Graph) -> set[int]:
    """Return every size that a tensor of the graph has, and the numbers in its small constants."""
    values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
    values += [output for node in graph.all_nodes() for output in node.outputs]
    found = {dim for value in values if value.shape is not None for dim in value.shape if isinstance(dim, int)}
    for value in values:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None and tensor.dtype == ir.DataType.INT64 and tensor.size <= 64:
            found |= {int(number) for number in tensor.numpy().reshape(-1)}
    return found


def batches(sizes: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Yield the rows of each batch to run, so that every row runs next to different others.

    Each size runs once, starting at another row. At the second largest size, a batch in reverse order with every
    other row, and one that repeats a single row, follow. The largest size runs until every row has run. Without sizes
    (a static model) each row is a request of its own.

    Example: sizes (1, 2, 4) and 8 rows give the batches
    [1]  [2, 3]  [2, 0]  [7, 7]  [0, 1, 2, 3]  [4, 5, 6, 7].
    """
    if not sizes:
        yield from ([row] for row in range(rows))
        return
    *smaller, largest = sizes
    for size in smaller:
        yield [(size + i) % rows for i in range(size)]
    middle = smaller[-1] if smaller else largest
    if middle > 1:
        yield [(2 * i) % rows for i in reversed(range(middle))]
        yield [rows - 1] * middle
    for start in range(0, rows, largest):
        yield [(start + i) % rows for i in range(largest)]


@dataclass(frozen=True, slots=True)
class Proven:
    """What was found over all batches.

    Attributes:
        largest: The largest difference of each output, over all rows that are right.
        mean: The mean difference of each output over these rows.
        undecided: Rows that differ, but for which the original could have given that answer too.
    """

    largest: Mapping[str, float]
    mean: Mapping[str, float]
    undecided: frozenset[int]

    def worse_of(self, other: "Proven") -> "Proven":
        """Return the larger differences of the two, output by output."""
        return Proven(
            {name: max(value, other.largest[name]) for name, value in self.largest.items()},
            {name: max(value, other.mean[name]) for name, value in self.mean.items()},
            self.undecided | other.undecided,
        )


@dataclass(frozen=True, slots=True)
class Prover:
    """Compares the answers of a model with a reference.

    Attributes:
        where: The model, for messages.
        run: Runs a batch: takes inputs by name, each `[batch, *dims]`, and returns outputs by name.
        reference: The samples and the right answers: `input:NAME` and `output:NAME`, each `[rows, *dims]`.
        tolerances: The tolerance of each output.
        bfloat16: The outputs whose arrays contain the bits of BF16.
        failure_dir: The folder for the inputs and answers of a batch that differs.
        is_excused: Called with `(answer, output, row)`; whether the original could have given this answer too.
        fix: What the user can do when a row differs.
        is_about_batch: Whether another way to a dynamic batch may help then.
    """

    where: Path
    run: Callable[[Arrays], Arrays]
    reference: Arrays
    tolerances: Mapping[str, Tolerance]
    bfloat16: frozenset[str]
    failure_dir: Path
    is_excused: Callable[[Array, str, int], bool] = lambda answer, output, row: False
    fix: str = REPORT
    is_about_batch: bool = False

    def prove(self, sizes: Sequence[int]) -> Proven:
        """Run all batches.

        Raises:
            VerificationError: A row of a batch differs. The following batches are not run.
        """
        largest = dict.fromkeys(self.tolerances, 0.0)
        means: dict[str, list[float]] = {name: [] for name in self.tolerances}
        undecided: set[int] = set()
        for rows in batches(sizes, count_rows(self.reference)):
            answers = self.answer(self.feeds(rows), self.expected(rows), is_static=not sizes)
            for name in self.tolerances:
                found = self._compare(name, answers, rows)
                undecided |= {rows[row.position] for row in found.wrong}
                largest[name] = max(largest[name], found.largest_difference)
                means[name] += [found.mean_difference] * (len(rows) - len(found.wrong))
        mean = {name: sum(rows) / max(1, len(rows)) for name, rows in means.items()}
        return Proven(largest, mean, frozenset(undecided))

    def answer(self, feeds: Arrays, expected: Arrays, *, is_static: bool = False) -> Arrays:
        """Run a batch, which is expected to give these answers; if the model is static, the only row without its axis.

        Raises:
            VerificationError: ONNX Runtime cannot run it.
        """
        try:
            if is_static:
                # A scalar of NumPy is not an array, which ONNX Runtime needs.
                answers = self.run({name: np.asarray(array[0]) for name, array in feeds.items()})
                return {name: array[np.newaxis] for name, array in answers.items()}
            return self.run(feeds)
        except onnxruntime_errors() as error:
            what = f"ONNX Runtime cannot run it: {one_line(error)}"
            raise self.failure(feeds, expected, {}, None, what) from error

    def numbers(self, name: str, array: Array) -> Array:
        """Return the values of an output, which may be stored as the bits of BF16."""
        return as_numbers(array, is_bfloat16=name in self.bfloat16)

    def feeds(self, rows: Sequence[int]) -> dict[str, Array]:
        """Return a batch of samples."""
        return self._rows("input:", rows)

    def expected(self, rows: Sequence[int]) -> dict[str, Array]:
        """Return the right answers to a batch of samples."""
        return self._rows("output:", rows)

    def failure(
        self, feeds: Arrays, expected: Arrays, answers: Arrays, output: str | None, what: str
    ) -> VerificationError:
        """Keep a batch with the answers to it, and return the error that says what is wrong with them."""
        kept = {f"input:{name}": array for name, array in feeds.items()}
        kept |= {f"expected:{name}": array for name, array in expected.items()}
        kept |= {f"got:{name}": array for name, array in answers.items()}
        subject = f"output {output!r} " if output else ""
        where_kept = keep_failing(self.failure_dir / self.where.name, kept)
        size = len(next(iter(feeds.values())))
        said = f"at batch size {size}, {subject}{what}{where_kept}"
        return VerificationError(self.where, said, self.fix, is_about_batch=self.is_about_batch)

    def _rows(self, prefix: str, rows: Sequence[int]) -> dict[str, Array]:
        return {
            key.removeprefix(prefix): array[list(rows)]
            for key, array in self.reference.items()
            if key.startswith(prefix)
        }

    def _compare(self, name: str, answers: Arrays, rows: Sequence[int]) -> Comparison:
        """Compare one output. The wrong rows in the result are excused; for any other an error is raised."""
        wanted, got = self.reference[f"output:{name}"], answers[name]
        if got.shape != (len(rows), *wanted.shape[1:]) or got.dtype.kind != wanted.dtype.kind:
            shape = [len(rows), *wanted.shape[1:]]
            what = f"is {got.dtype}{list(got.shape)} instead of {wanted.dtype}{shape}"
            raise self.failure(self.feeds(rows), self.expected(rows), answers, name, what)
        tolerance = self.tolerances[name]
        numbers = self.numbers(name, got)
        found = compare(numbers, self.numbers(name, wanted), rows, tolerance)
        for row in found.wrong:
            if not self.is_excused(numbers[row.position], name, rows[row.position]):
                what = _describe(found.wrong, len(rows), tolerance) + self._diagnose(name, rows, row)
                raise self.failure(self.feeds(rows), self.expected(rows), answers, name, what)
        return found

    def _diagnose(self, name: str, rows: Sequence[int], wrong: Wrong) -> str:
        """Say whether a row that is wrong in a batch is right when it runs alone."""
        if len(rows) == 1:
            return ""
        alone = [rows[wrong.position]]
        try:
            got = self.run(self.feeds(alone))[name]
        except run_errors():
            return ""
        wanted = self.numbers(name, self.reference[f"output:{name}"])
        is_wrong = (
            got.shape[1:] != wanted.shape[1:]
            or compare(self.numbers(name, got), wanted, alone, self.tolerances[name]).wrong
        )
        if is_wrong:
            return "; the row is wrong when it runs alone too"
        return "; the row is right when it runs alone, so other rows of the batch change it"


def _describe(wrong: Sequence[Wrong], batch_size: int, tolerance: Tolerance) -> str:
    worst = max(wrong, key=lambda row: row.largest_error)
    off, total = worst.values
    return (
        f"differs from the original's in {len(wrong)} of {batch_size} rows; the worst is row {worst.position}: "
        f"{off} of {total} values are wrong, the largest error is {worst.largest_error:.3g} "
        f"({allowed(tolerance, 'original')})"
    )


def count_rows(reference: Arrays) -> int:
    """Return how many rows a reference has."""
    return len(next(iter(reference.values())))
