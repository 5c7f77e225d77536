"""Run a model at several batch sizes, in several orders, and compare every row with a reference."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.errors import VerificationError
from builder.proof.comparison import Comparison, Tolerance, Wrong, as_numbers, compare
from builder.proof.session import one_line, onnxruntime_errors
from builder.record import write_arrays
from builder.tensors import Array, Arrays

REPORT = "publish it as it is with --static, and report it with that file"


def batch_sizes(largest: int, dimensions: set[int]) -> tuple[int, ...]:
    """1, 2, 3, the first size that no dimension has, and the largest.

    At a size that is also a dimension of the model, a batch that landed on the wrong axis would go unseen.
    """
    unlike = next((n for n in range(4, largest) if n not in dimensions), largest)
    return tuple(sorted({n for n in (1, 2, 3, unlike, largest) if n <= largest}))


def dimensions_of(graph: ir.Graph) -> set[int]:
    """Every size that a tensor of the graph has, and the numbers in its small constants."""
    values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
    values += [output for node in graph.all_nodes() for output in node.outputs]
    found = {dim for value in values if value.shape is not None for dim in value.shape if isinstance(dim, int)}
    for value in values:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None and tensor.dtype == ir.DataType.INT64 and tensor.size <= 64:
            found |= {int(number) for number in tensor.numpy().reshape(-1)}
    return found


def batches(sizes: Sequence[int], rows: int) -> Iterator[list[int]]:
    """The rows of each batch to run, so that every row stands beside different others.

    Each size once, from another row on; then, at the second largest size, rows in reverse that were never
    neighbours, and one row repeated. The largest size comes as often as it takes to run every row. Without
    sizes, of a model that is kept static, each row is a request of its own.
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
    """What came of all batches.

    Attributes:
        largest: The largest difference of each output, over the rows that were held to the reference.
        mean: The mean difference of each output over those rows.
        undecided: Rows that differ, but where the original could as well have given that answer.
    """

    largest: Mapping[str, float]
    mean: Mapping[str, float]
    undecided: frozenset[int]

    def beside(self, other: "Proven") -> "Proven":
        """The worse of two proofs, output by output."""
        return Proven(
            {name: max(value, other.largest[name]) for name, value in self.largest.items()},
            {name: max(value, other.mean[name]) for name, value in self.mean.items()},
            self.undecided | other.undecided,
        )


@dataclass(frozen=True, slots=True)
class Prover:
    """Compares what `run` answers with a reference.

    Attributes:
        where: The model, for messages.
        run: From inputs by name, each `[batch, *dims]`, to outputs by name.
        reference: `input:NAME` and `output:NAME`, each `[rows, *dims]`.
        tolerances: By output.
        bfloat16: The outputs whose arrays hold the bits of BF16.
        failure_dir: Where a failing batch is kept.
        is_excused: Whether the original could as well have given this answer: `(answer, output, row)`.
        fix: What to do when a row differs.
    """

    where: Path
    run: Callable[[Arrays], Arrays]
    reference: Arrays
    tolerances: Mapping[str, Tolerance]
    bfloat16: frozenset[str]
    failure_dir: Path
    is_excused: Callable[[Array, str, int], bool] = lambda answer, output, row: False
    fix: str = REPORT

    def prove(self, sizes: Sequence[int]) -> Proven:
        """Run all batches.

        Raises:
            VerificationError: On the first batch with a row that differs.
        """
        largest = dict.fromkeys(self.tolerances, 0.0)
        means: dict[str, list[float]] = {name: [] for name in self.tolerances}
        undecided: set[int] = set()
        for rows in batches(sizes, count_rows(self.reference)):
            answers = self._answers(rows, is_static=not sizes)
            for name in self.tolerances:
                found = self._compare(name, answers, rows)
                undecided |= {rows[row.position] for row in found.wrong}
                largest[name] = max(largest[name], found.largest_difference)
                means[name] += [found.mean_difference] * (len(rows) - len(found.wrong))
        mean = {name: sum(rows) / max(1, len(rows)) for name, rows in means.items()}
        return Proven(largest, mean, frozenset(undecided))

    def _compare(self, name: str, answers: Arrays, rows: Sequence[int]) -> Comparison:
        """Compare one output; the rows that are wrong in what is returned are excused."""
        wanted, got = self.reference[f"output:{name}"], answers[name]
        if got.shape != (len(rows), *wanted.shape[1:]) or got.dtype.kind != wanted.dtype.kind:
            shape = [len(rows), *wanted.shape[1:]]
            what = f"is {got.dtype}{list(got.shape)}, the original's rows make {wanted.dtype}{shape}"
            raise self._failure(rows, answers, name, what)
        tolerance = self.tolerances[name]
        numbers = self._numbers(name, got)
        found = compare(numbers, self._numbers(name, wanted), rows, tolerance)
        for row in found.wrong:
            if not self.is_excused(numbers[row.position], name, rows[row.position]):
                what = _describe(found.wrong, len(rows), tolerance) + self._diagnose(name, rows, row)
                raise self._failure(rows, answers, name, what)
        return found

    def _diagnose(self, name: str, rows: Sequence[int], wrong: Wrong) -> str:
        """Whether a row that is wrong in company is right by itself."""
        if len(rows) == 1:
            return ""
        alone = [rows[wrong.position]]
        try:
            got = self.run(self._feeds(alone))[name]
        except onnxruntime_errors():
            return ""
        wanted = self._numbers(name, self.reference[f"output:{name}"])
        is_wrong = (
            got.shape[1:] != wanted.shape[1:]
            or compare(self._numbers(name, got), wanted, alone, self.tolerances[name]).wrong
        )
        return (
            "; by itself the row is wrong too" if is_wrong else "; by itself the row is right: its neighbours change it"
        )

    def _numbers(self, name: str, array: Array) -> Array:
        return as_numbers(array, is_bfloat16=name in self.bfloat16)

    def _feeds(self, rows: Sequence[int]) -> dict[str, Array]:
        return {
            key.removeprefix("input:"): array[list(rows)]
            for key, array in self.reference.items()
            if key.startswith("input:")
        }

    def _answers(self, rows: Sequence[int], *, is_static: bool) -> Arrays:
        feeds = self._feeds(rows)
        try:
            if is_static:
                answers = self.run({name: array[0] for name, array in feeds.items()})
                return {name: array[np.newaxis] for name, array in answers.items()}
            return self.run(feeds)
        except onnxruntime_errors() as error:
            raise self._failure(rows, {}, None, f"cannot run: {one_line(error)}") from error

    def _failure(self, rows: Sequence[int], answers: Arrays, output: str | None, what: str) -> VerificationError:
        kept = {f"input:{name}": array for name, array in self._feeds(rows).items()}
        for name in self.tolerances:
            kept[f"expected:{name}"] = self.reference[f"output:{name}"][list(rows)]
        kept |= {f"got:{name}": array for name, array in answers.items()}
        subject = f"output {output!r} " if output else ""
        where_kept = _keep(self.failure_dir / f"{self.where.stem}.failed.npz", kept)
        return VerificationError(
            self.where,
            f"at batch size {len(rows)}, {subject}{what}{where_kept}",
            self.fix,
        )


def _describe(wrong: Sequence[Wrong], batch_size: int, tolerance: Tolerance) -> str:
    worst = max(wrong, key=lambda row: row.largest_error)
    off, total = worst.values
    allowed = (
        "must be equal" if tolerance.rtol == 0 else f"allowed {tolerance.atol:g} + {tolerance.rtol:g} * |reference|"
    )
    return (
        f"differs from the original's in {len(wrong)} of {batch_size} rows; row {worst.position} is worst: "
        f"{off} of {total} values off, largest error {worst.largest_error:.3g} ({allowed})"
    )


def _keep(path: Path, arrays: Arrays) -> str:
    """Write the failing batch; say where, or that it could not be kept."""
    try:
        with path.open("wb") as stream:
            write_arrays(stream, arrays)
    except OSError as error:
        return f"; the failing batch could not be kept in {path}: {error.strerror}"
    return f"; the failing batch is kept in {path}"


def count_rows(reference: Arrays) -> int:
    """How many samples the reference holds."""
    return len(next(iter(reference.values())))
