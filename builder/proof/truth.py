"""Ask the original: what it answers to which samples, and whether an answer is firm."""

import math
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel, BatchedTensor
from builder.errors import VerificationError
from builder.model import stored_dtype
from builder.proof.comparison import Tolerance, as_numbers, differences
from builder.proof.session import Session, one_line, onnxruntime_errors, open_original
from builder.samples import draw
from builder.tensors import Array, Arrays

MIN_ROWS, MAX_ROWS = 8, 32
MAX_OWN_ROWS = 256
"""How many of the caller's own samples a reference takes, if they are small."""
REFERENCE_BYTES = 12 << 20
LARGEST_BATCH = 4096
"""The largest batch to run: whatever goes wrong with the batch does so before."""
HUGE_ROW_BYTES = 16 << 20
"""Beyond this a row is so large that 4 of them must do."""
READ_BYTES = 8 << 30
"""How much of weights the original may read to draw rows for: each row reads all of them."""
TIME_BUDGET_S = 30.0
"""The longest that all rows of the original, or one batch of the rewritten model, should take. It cuts only what
would take minutes, so that the bytes of any ordinary model do not depend on the machine's speed."""
_NUDGES = 8
"""How often: each time a pair of candidates as good as equal falls one way or the other."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The original's answers, and what one row cost.

    Attributes:
        reference: `input:NAME` and `output:NAME`, each `[rows, *dims]`, by the names in the batched graph.
        row_s: Seconds.
        row_bytes: Memory that grew with the first run.
    """

    reference: Arrays
    row_s: float
    row_bytes: int

    def largest_affordable(self, max_batch_size: int) -> int:
        """`max_batch_size` or 4096, halved until one batch fits the time and half of the memory that is free."""
        size = min(max_batch_size, LARGEST_BATCH)
        while size > 3 and (size * self.row_s > TIME_BUDGET_S or size * self.row_bytes > _free_bytes() // 2):
            size //= 2
        return size


class UnusableSamplesError(Exception):
    """The original has no answer to these samples that proves anything."""


class Original:
    """The model as it came, asked in chunks of its own static batch.

    Its session is opened when it is first asked, and closed with `close`; it opens again when asked again.
    """

    def __init__(self, batched: BatchedModel) -> None:
        self._batched = batched

    @cached_property
    def _session(self) -> Session:
        return open_original(self._batched.original.path, self._batched.original.zipmaps)

    def close(self) -> None:
        """Give the session's memory back."""
        self.__dict__.pop("_session", None)

    def find_truth(self, samples: Arrays | None, *, max_batch_size: int) -> Truth:
        """Answer the caller's samples, or the first drawn ones that can be answered.

        Args:
            samples: `[rows, *dims]` by input; None to draw them.
            max_batch_size: No more rows are drawn than the largest batch takes.

        Raises:
            ModelError: ONNX Runtime cannot load the model.
            VerificationError: The model answers no samples, or with nothing but NaN.
        """
        most = max(MIN_ROWS, min(MAX_ROWS, max_batch_size))
        tried = [samples] if samples is not None else draw(self._batched, rows=self._rows_to_draw(most))
        reason = ""
        for inputs in tried:
            try:
                return self._ask(inputs, MAX_OWN_ROWS if samples is not None else most)
            except UnusableSamplesError as error:
                reason = reason or str(error)
        fix = "give inputs that it can answer with --samples FILE.npz"
        what = f"the original itself gives no answers to compare with: {reason}"
        raise VerificationError(self._batched.original.path, what, fix)

    def explains(
        self, answer: Array, output: str, row: int, reference: Arrays, tolerance: Tolerance, *, nudge: float
    ) -> bool:
        """Whether the original, its inputs moved by rounding, gives what differs in `answer`, value by value.

        So it is where two candidates of an ArgMax or TopK are as good as equal: which comes first is for the
        order of summation to say, and that depends on the batch size. `nudge` is the part of their value that
        inputs are moved by: what rounding can do.

        Raises:
            VerificationError: The original does not repeat its own answer.
        """
        rng = np.random.default_rng(row)
        inputs = {
            key.removeprefix("input:"): array[row : row + 1]
            for key, array in reference.items()
            if key.startswith("input:")
        }
        (tensor,) = (tensor for tensor in self._batched.outputs if tensor.name == output)

        def ask(nudge: float) -> Array:
            moved = {name: _moved(array, nudge, rng) for name, array in inputs.items()}
            answers = _numbers(tensor, self._answer_chunk(moved, 0)[output])
            return np.asarray(answers[0])

        wanted = _numbers(tensor, reference[f"output:{output}"])[row]
        if differences(ask(0.0), wanted, tolerance)[1].any():
            what = f"the original itself answers differently from run to run in output {tensor.original!r}"
            raise VerificationError(self._batched.original.path, what, "export it without what is random in it")
        unexplained = differences(answer, wanted, tolerance)[1]
        for _ in range(_NUDGES):
            unexplained &= differences(answer, ask(nudge), tolerance)[1]
        return not unexplained.any()

    def _rows_to_draw(self, most: int) -> int:
        """By the size of the inputs and of the weights alone."""
        sizes = [
            stored_dtype(tensor.dtype).itemsize * math.prod(dim if isinstance(dim, int) else 64 for dim in tensor.dims)
            for tensor in self._batched.inputs
        ]
        weights = sum(file.stat().st_size for file in self._batched.original.files)
        return min(_rows_within(sum(sizes), most), max(4, READ_BYTES // max(1, weights)))

    def _ask(self, inputs: Arrays, most: int) -> Truth:
        """Run the original on as many of the samples as a reference may hold.

        Raises:
            UnusableSamplesError: It cannot run on them, or most of what it answers is not a number.
        """
        step = self._batched.static_batch
        _ = self._session
        resident = _resident_bytes()
        chunks = [self._answer_chunk(inputs, 0)]
        grown = max(0, _resident_bytes() - resident)
        row_bytes = sum(array[:1].nbytes for array in (*inputs.values(), *chunks[0].values()))
        rows = min([_rows_within(row_bytes, most), *map(len, inputs.values())])
        started, elapsed = time.perf_counter(), 0.0
        while len(chunks) * step < rows and (elapsed < TIME_BUDGET_S or len(chunks) * step < MIN_ROWS):
            chunks.append(self._answer_chunk(inputs, len(chunks) * step))
            elapsed = time.perf_counter() - started
        rows = min(rows, len(chunks) * step)
        reference = {f"input:{name}": array[:rows] for name, array in inputs.items()}
        for tensor in self._batched.outputs:
            reference[f"output:{tensor.name}"] = _joined(tensor, [chunk[tensor.name] for chunk in chunks])[:rows]
        return Truth(reference, elapsed / max(1, (len(chunks) - 1) * step), grown // step)

    def _answer_chunk(self, inputs: Arrays, start: int) -> dict[str, Array]:
        """The answers to one static batch, the last row repeated where there are too few: `[B0, *dims]`."""
        size = self._batched.static_batch
        feeds = dict(self._batched.original.constants)
        for tensor in self._batched.inputs:
            rows = inputs[tensor.name]
            feeds[tensor.original] = tensor.join(rows[np.minimum(np.arange(start, start + size), len(rows) - 1)])
        try:
            answers = self._session.run(feeds)
        except onnxruntime_errors() as error:
            raise UnusableSamplesError(one_line(error)) from error
        return {tensor.name: self._cut(tensor, answers[tensor.original]) for tensor in self._batched.outputs}

    def _cut(self, tensor: BatchedTensor, answer: Array) -> Array:
        """The rows of one answer, `[B0, *dims]`; without a batch axis it is every sample's."""
        size = self._batched.static_batch
        rows = tensor.split(answer)
        if tensor.batch_axis is None:
            rows = rows.repeat(size, axis=0)
        if len(rows) != size:
            what = f"output {tensor.original!r} has {len(rows)} rows for a batch of {size}"
            raise VerificationError(self._batched.original.path, what, "publish it as it is with --static")
        return rows


def _rows_within(row_bytes: int, most: int) -> int:
    least = 4 if row_bytes > HUGE_ROW_BYTES else MIN_ROWS
    return max(least, min(most, REFERENCE_BYTES // max(1, row_bytes)))


def _joined(tensor: BatchedTensor, chunks: Sequence[Array]) -> Array:
    """The rows of all chunks, most of which must be numbers."""
    shapes = sorted({chunk.shape[1:] for chunk in chunks})
    if len(shapes) > 1:
        raise UnusableSamplesError(f"the shape of output {tensor.name!r} depends on the values: {shapes}")
    rows = np.concatenate(chunks)
    numbers = _numbers(tensor, rows)
    if numbers.dtype.kind == "f" and numbers.size and np.isfinite(numbers).mean() < 0.5:
        raise UnusableSamplesError(f"most of output {tensor.name!r} is NaN or infinite")
    return rows


def _numbers(tensor: BatchedTensor, array: Array) -> Array:
    return as_numbers(array, is_bfloat16=tensor.dtype == ir.DataType.BFLOAT16)


def _moved(array: Array, nudge: float, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f" or not nudge:
        return array
    # At least to the next number that the type has.
    nudge = max(nudge, 2 * float(np.finfo(array.dtype).eps))
    moved: Array = array * (1 + nudge * rng.standard_normal(array.shape))
    return moved.astype(array.dtype)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _free_bytes() -> int:
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found.group(1)) << 10 if found else sys.maxsize
