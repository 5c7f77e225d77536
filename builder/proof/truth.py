"""Ask the original model: for its answers to samples, and whether rounding could change an answer."""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel, BatchedTensor
from builder.bounded import OutOfMemoryError, memory_left
from builder.errors import VerificationError
from builder.model import stored_dtype
from builder.proof.comparison import Tolerance, as_numbers, differences
from builder.proof.failing import keep_failing
from builder.proof.session import Session, one_line, open_original, run_errors
from builder.samples import Samples, Sizes, draw, resized
from builder.tensors import Array, Arrays

MIN_ROWS, MAX_ROWS = 8, 32
"""How many drawn samples a reference has."""
FEW_ROWS = 4
"""How many samples are drawn at other sizes."""
MAX_OWN_ROWS = 256
"""How many of the caller's own samples a reference has, if they are small."""
REFERENCE_BYTES = 12 << 20
"""The size that a reference should not exceed."""
LARGEST_BATCH = 4096
"""The largest batch to run: mistakes in the rewriting show long before that."""
HUGE_ROW_BYTES = 16 << 20
"""If a row is larger than this, 4 rows are enough."""
READ_BYTES = 8 << 30
"""How many bytes of weights the original may read for all drawn samples together; each sample reads all weights."""
TIME_BUDGET_S = 30.0
"""The longest time for all rows of the original, or for one batch of the rewritten model.

Only models that would take minutes reach it, so the published bytes of others do not depend on the machine's speed.
"""
CAUTIOUS = "the samples that were drawn at first are not used, but others"
"""What the caller should know if the original cannot answer the first samples; the reason follows."""

NUDGES = 8
"""How many times to ask with changed inputs: each time, two almost equal candidates can swap places."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The original's answers, and the cost of one row.

    Attributes:
        reference: The samples and answers: `input:NAME` and `output:NAME`, each `[rows, *dims]`, with the names of the
            rewritten model.
        row_s: The time to run one row, seconds.
        row_bytes: How much the memory grew in the first run, per row.
        drawn: In a few words, what the samples of each input are.
        notes: What the caller should know about the samples, one sentence each.
    """

    reference: Arrays
    row_s: float
    row_bytes: int
    drawn: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def largest_affordable(self, max_batch_size: int) -> int:
        """Return `max_batch_size` or 4096, halved until a batch fits the time budget and half of the free memory."""
        size = min(max_batch_size, LARGEST_BATCH)
        while size > 3 and (size * self.row_s > TIME_BUDGET_S or size * self.row_bytes > memory_left() // 2):
            size //= 2
        return size


class UnusableSamplesError(Exception):
    """The original cannot run on these samples, or its answers are not numbers: others may be better.

    A shape that depends on the values of the samples is not among these reasons. The model ran, and no other samples
    make that unseen.
    """


class Original:
    """The original model, run on chunks of its own static batch.

    The session is opened for the first question. `close` closes it, and the next question opens it again.

    Args:
        batched: The rewritten model.
        failure_dir: The folder for samples whose answers have other shapes than those of others.
    """

    def __init__(self, batched: BatchedModel, failure_dir: Path = Path()) -> None:
        self._batched = batched
        self._failure_dir = failure_dir

    @cached_property
    def _session(self) -> Session:
        original = self._batched.original
        return open_original(original.path, original.zipmaps, outputs=original.output_names)

    def close(self) -> None:
        """Free the memory of the session."""
        self.__dict__.pop("_session", None)

    def find_truth(self, samples: Arrays | None, *, max_batch_size: int, sizes: Sizes | None = None) -> Truth:
        """Answer the caller's samples, or the first drawn ones that the model can answer.

        Args:
            samples: The caller's samples by input, `[rows, *dims]`; None to draw them.
            max_batch_size: The largest batch size; no more rows than that are drawn.
            sizes: The sizes of dynamic dimensions of drawn samples, by name.

        Raises:
            ModelError: ONNX Runtime cannot load the model.
            VerificationError: The model cannot answer the samples, most of its answers are NaN, or their shapes depend
                on the samples.
            OutOfMemoryError: It needs more memory for them than it may use.
        """
        most = max(MIN_ROWS, min(MAX_ROWS, max_batch_size))
        attempts = [samples] if samples is not None else draw(self._batched, rows=self._rows_to_draw(most), sizes=sizes)
        first: UnusableSamplesError | None = None
        for inputs in attempts:
            try:
                found = self._ask(inputs, MAX_OWN_ROWS if samples is not None else most)
            except UnusableSamplesError as error:
                first = first or error
                continue
            return found if first is None else replace(found, notes=(f"{CAUTIOUS}: {first}",))
        if first is not None and isinstance(first.__cause__, OutOfMemoryError):
            raise first.__cause__
        fix = "give samples that the model can answer with --samples FILE.npz"
        what = f"the original model gives no answers to compare with: {first}"
        raise VerificationError(self._batched.original.path, what, fix, is_about_batch=not self._batched.is_static)

    def answer_at(self, sizes: Sizes, like: Arrays | None = None) -> Arrays | None:
        """Return a few samples with other sizes, and the answers to them; None if there are no usable answers.

        Args:
            sizes: The sizes, by name.
            like: The samples to make them from, `[rows, *dims]` by input; drawn at random if it is None.

        Raises:
            VerificationError: The shapes of the answers depend on the samples.
        """
        found = () if like is None else (resized(self._batched, like, sizes, rows=FEW_ROWS),)
        for inputs in found or draw(self._batched, rows=FEW_ROWS, sizes=sizes):
            with suppress(UnusableSamplesError):
                return self._ask(inputs, FEW_ROWS).reference
        return None

    def answer_all(self, inputs: Arrays) -> Iterator[tuple[int, Arrays]]:
        """Yield the answers to all samples: the number of a first row, and `[some rows, *dims]` for each output.

        Raises:
            VerificationError: The model cannot run one of them.
        """
        rows = min(map(len, inputs.values()))
        for start in range(0, rows, self._batched.static_batch):
            try:
                answers = self._answer_chunk(inputs, start)
            except UnusableSamplesError as error:
                what = f"the original cannot run the samples from row {start} on: {error}"
                raise VerificationError(self._batched.original.path, what, "correct them, or leave them out") from error
            outputs = self._batched.outputs
            yield start, {each.name: _numbers(each, answers[each.name][: rows - start]) for each in outputs}

    def explains(
        self, answer: Array, output: str, row: int, reference: Arrays, tolerance: Tolerance, *, nudge: float
    ) -> bool:
        """Return whether rounding explains every value that differs in an answer.

        It does where the original gives the same value when its inputs change a little. Example: an ArgMax over the
        scores 0.7000000 and 0.7000001 answers 1, but 0 if a sum is computed in another order, as it is at another
        batch size. Both answers are right, so the row proves nothing.

        Args:
            answer: The answer of the rewritten model to one row.
            output: The output's name.
            row: The row of the reference.
            reference: The samples and the original's answers.
            tolerance: The tolerance of the output.
            nudge: By which part of their value to change the inputs.

        Raises:
            VerificationError: The original gives another answer when it is asked the same again.
        """
        rng = np.random.default_rng(row)
        inputs = {
            key.removeprefix("input:"): array[row : row + 1]
            for key, array in reference.items()
            if key.startswith("input:")
        }
        (tensor,) = (tensor for tensor in self._batched.outputs if tensor.name == output)

        def ask(nudge: float) -> Array:
            changed = {name: moved(array, nudge, rng) for name, array in inputs.items()}
            answers = _numbers(tensor, self._answer_chunk(changed, 0)[output])
            return np.asarray(answers[0])

        wanted = _numbers(tensor, reference[f"output:{output}"])[row]
        if differences(ask(0.0), wanted, tolerance)[1].any():
            what = f"the original model gives another answer in output {tensor.original!r} each time it runs"
            raise VerificationError(self._batched.original.path, what, "export the model without random operators")
        unexplained = differences(answer, wanted, tolerance)[1]
        for _ in range(NUDGES):
            unexplained &= differences(answer, ask(nudge), tolerance)[1]
        return not unexplained.any()

    def _rows_to_draw(self, most: int) -> int:
        """Return how many samples to draw, which depends only on the size of the inputs and of the weights."""
        sizes = [
            stored_dtype(tensor.dtype).itemsize * math.prod(dim if isinstance(dim, int) else 64 for dim in tensor.dims)
            for tensor in self._batched.inputs
        ]
        weights = sum(file.stat().st_size for file in self._batched.original.files)
        return min(_rows_within(sum(sizes), most), max(4, READ_BYTES // max(1, weights)))

    def _ask(self, inputs: Arrays, most: int) -> Truth:
        """Run the original on as many of the samples as a reference may have.

        Raises:
            UnusableSamplesError: The model cannot run on them, or most of its answers are NaN or infinite.
            VerificationError: The shapes of the answers depend on the samples, of those that it can run on.
        """
        step = self._batched.static_batch
        _ = self._session
        resident = _resident_bytes()
        answered: dict[int, Arrays] = {}
        try:
            answered[0] = self._answer_chunk(inputs, 0)
            grown = max(0, _resident_bytes() - resident)
            row_bytes = sum(array[:1].nbytes for array in (*inputs.values(), *answered[0].values()))
            rows = min([_rows_within(row_bytes, most), *map(len, inputs.values())])
            started, elapsed = time.perf_counter(), 0.0
            while len(answered) * step < rows and (elapsed < TIME_BUDGET_S or len(answered) * step < MIN_ROWS):
                answered[len(answered)] = self._answer_chunk(inputs, len(answered) * step)
                elapsed = time.perf_counter() - started
        except UnusableSamplesError:
            failed = len(answered)
            for number in range(failed + 1, failed + 1 + MIN_ROWS):
                with suppress(UnusableSamplesError):
                    answered[number] = self._answer_chunk(inputs, number * step)
            self._refuse_shapes(inputs, answered)
            raise
        self._refuse_shapes(inputs, answered)
        chunks = list(answered.values())
        rows = min(rows, len(chunks) * step)
        kept = _alike(chunks[:rows]) if self._batched.is_static else list(range(rows))
        reference = {f"input:{name}": array[kept] for name, array in inputs.items()}
        for tensor in self._batched.outputs:
            used = [chunks[row] for row in kept] if self._batched.is_static else chunks
            reference[f"output:{tensor.name}"] = _joined(tensor, [chunk[tensor.name] for chunk in used])[: len(kept)]
        drawn = inputs.words if isinstance(inputs, Samples) else {}
        return Truth(reference, elapsed / max(1, (len(chunks) - 1) * step), grown // step, drawn)

    def _refuse_shapes(self, inputs: Arrays, answered: Mapping[int, Arrays]) -> None:
        """Refuse a model whose answers have another shape for some samples than for others, and keep those samples.

        Without a batch, each request has its own answer, of any shape.
        """
        for tensor in () if self._batched.is_static else self._batched.outputs:
            shapes = {number: answers[tensor.name].shape[1:] for number, answers in answered.items()}
            usual = max(shapes.values(), key=list(shapes.values()).count, default=())
            odd = next((number for number, shape in shapes.items() if shape != usual), None)
            if odd is None:
                continue
            path, start = self._batched.original.path, odd * self._batched.static_batch
            kept = {
                f"input:{name}": array[start : start + self._batched.static_batch] for name, array in inputs.items()
            }
            kept |= {f"got:{name}": array for name, array in answered[odd].items()}
            what = (
                f"the shape of output {tensor.original!r} depends on the values of the samples: it is "
                f"{list(shapes[odd])} for sample {start} and {list(usual)} for most others"
            )
            fix = "export it so that the shape of each row's answer is the same whatever its values are"
            where_kept = keep_failing(self._failure_dir / path.name, kept)
            raise VerificationError(path, what + where_kept, fix, is_about_batch=True)

    def _answer_chunk(self, inputs: Arrays, start: int) -> dict[str, Array]:
        """Answer one static batch, `[B0, *dims]`; if there are too few samples, the last one is repeated."""
        size = self._batched.static_batch
        feeds = dict(self._batched.original.constants)
        for tensor in self._batched.inputs:
            rows = inputs[tensor.name]
            feeds[tensor.original] = tensor.join(rows[np.minimum(np.arange(start, start + size), len(rows) - 1)])
        try:
            answers = self._session.run(feeds)
        except run_errors() as error:
            raise UnusableSamplesError(one_line(error)) from error
        return {tensor.name: self._cut(tensor, answers[tensor.original]) for tensor in self._batched.outputs}

    def _cut(self, tensor: BatchedTensor, answer: Array) -> Array:
        """Return the rows of one answer, `[B0, *dims]`; without a batch axis, every sample gets the whole answer."""
        size = self._batched.static_batch
        axis = tensor.batch_axis
        if axis is not None and (answer.ndim <= axis or answer.shape[axis] % tensor.rows):
            shapes = f"{list(answer.shape)} when it runs, but the file declares {list(tensor.original_shape)}"
            what = f"output {tensor.original!r} has the shape {shapes}"
            raise VerificationError(
                self._batched.original.path, what, "export the model with the right shapes declared"
            )
        rows = tensor.split(answer)
        if tensor.batch_axis is None:
            rows = rows.repeat(size, axis=0)
        if len(rows) != size:
            what = f"output {tensor.original!r} has {len(rows)} rows for a batch of {size}"
            fix = "export it with as many rows in every output as in its inputs"
            raise VerificationError(self._batched.original.path, what, fix, is_about_batch=True)
        return rows


def _rows_within(row_bytes: int, most: int) -> int:
    least = 4 if row_bytes > HUGE_ROW_BYTES else MIN_ROWS
    return max(least, min(most, REFERENCE_BYTES // max(1, row_bytes)))


def _alike(requests: Sequence[Arrays]) -> list[int]:
    """Return the requests whose answers have the most common shapes: others cannot be stored beside them.

    Example: a detector answers 3, 5, 3 and 4 boxes. The first and the third request are kept.
    """
    shapes = [tuple(answer.shape for answer in answers.values()) for answers in requests]
    usual = max(shapes, key=shapes.count)
    return [row for row, shape in enumerate(shapes) if shape == usual]


def _joined(tensor: BatchedTensor, chunks: Sequence[Array]) -> Array:
    """Join the rows of all chunks, after checking that most values are numbers."""
    rows = np.concatenate(chunks)
    numbers = _numbers(tensor, rows)
    if numbers.dtype.kind == "f" and numbers.size and np.isfinite(numbers).mean() < 0.5:
        raise UnusableSamplesError(f"most of output {tensor.name!r} is NaN or infinite")
    return rows


def _numbers(tensor: BatchedTensor, array: Array) -> Array:
    return as_numbers(array, is_bfloat16=tensor.dtype == ir.DataType.BFLOAT16)


def moved(array: Array, nudge: float, rng: np.random.Generator) -> Array:
    """Return an array whose floats are changed at random by this part of their value; other types stay as they are."""
    if array.dtype.kind != "f" or not nudge:
        return array
    # At least to the next number that the type can represent.
    nudge = max(nudge, 2 * float(np.finfo(array.dtype).eps))
    changed: Array = array * (1 + nudge * rng.standard_normal(array.shape))
    return changed.astype(array.dtype)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
