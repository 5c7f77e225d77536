"""Compare an export with its module: the same inputs to both, at several batch sizes and sizes of other axes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.arrays import read_npz
from builder.batching import BatchedModel, BatchedTensor
from builder.errors import Listing, ModelError, VerificationError
from builder.exporting.frozen import Frozen, find_frozen
from builder.exporting.options import ExportOptions
from builder.exporting.subject import Subject
from builder.proof import (
    Prover,
    as_numbers,
    batch_sizes,
    coarsest_precision,
    dimensions_of,
    onnxruntime_warnings,
    open_rewritten,
    refuse_stale_shapes,
    tolerance_for,
)
from builder.samples import draw, read_samples
from builder.tensors import Array, Arrays

LARGEST_BATCH = 8
"""The largest batch that an export is proven with."""

ROWS = 32
"""The number of different samples.

Fewer could all take the branch of an `if` that was frozen in the trace: with 8 samples and an even chance for either
branch, one time in 256.
"""

OTHER_SIZES = ((2, 1), (3, 2), (1, 2))
"""The sizes at which other dynamic axes are proven: 2/1, 3/2 and 1/2 of the given ones."""

Run = Callable[[Arrays], Arrays]
"""Answers a batch, from inputs by name to outputs by name."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared: batch sizes, sizes of other axes by name, and the largest difference found."""

    batch_sizes: tuple[int, ...]
    other_sizes: tuple[Mapping[str, int], ...]
    largest_difference: float

    def describe(self) -> str:
        """Describe it in one line."""
        sizes = f"at batch sizes {', '.join(map(str, self.batch_sizes))}" if self.batch_sizes else "at its one shape"
        others = [" ".join(f"{name}={size}" for name, size in other.items()) for other in self.other_sizes]
        also = f", also with {' and '.join(others)}" if others else ""
        return f"same answers as the module {sizes}{also}; largest difference {self.largest_difference:.1e}"


@dataclass(frozen=True, slots=True)
class Trial:
    """An export, and the module that it is compared with.

    Attributes:
        subject: The module, whose answers are taken as right.
        batched: The export, with the batch as axis 0 of every tensor.
        options: What the user asked for.
        traced: The inputs that it was exported with.
        failures: The path that a kept batch is named after, when the export answers it wrongly.
    """

    subject: Subject
    batched: BatchedModel
    options: ExportOptions
    traced: Arrays
    failures: Path

    def reference(self) -> Arrays:
        """Return samples, the user's or drawn ones, with the module's answers: `input:NAME` and `output:NAME`.

        Raises:
            ModelError: The module cannot answer them, or the samples cannot be read.
        """
        if self.options.samples is not None:
            return self._ask(read_samples(self.options.samples, self.batched))
        return self._draw(self.options.sizes)

    def _draw(self, sizes: Mapping[str, int]) -> Arrays:
        failure = None
        for inputs in draw(self.batched, rows=ROWS, sizes=sizes):
            try:
                reference = self._ask(inputs)
            except ModelError as error:
                failure = failure or error
                continue
            if self._is_numeric(reference):
                return reference
        what = "its answers to random inputs are mostly NaN or infinite"
        raise failure or ModelError(self.subject.where, what, "give realistic inputs with --samples FILE.npz")

    def _is_numeric(self, reference: Arrays) -> bool:
        """Return whether at least half of every output is finite."""
        outputs = [self._numbers(t, reference[f"output:{t.name}"]) for t in self.batched.outputs]
        return all(np.isfinite(o).mean() >= 0.5 for o in outputs if o.dtype.kind == "f" and o.size)

    def _numbers(self, tensor: BatchedTensor, array: Array) -> Array:
        return as_numbers(array, is_bfloat16=tensor.dtype == ir.DataType.BFLOAT16)

    def _ask(self, inputs: Arrays) -> Arrays:
        """Return the inputs with the module's answers, asked in chunks of the batch size that it was exported with."""
        rows, step = min(map(len, inputs.values())), self.batched.static_batch
        chunks = []
        for start in range(0, rows, step):
            taken = np.minimum(np.arange(start, start + step), rows - 1)
            chunks.append(self.answer({name: array[taken] for name, array in inputs.items()}))
        found = {f"input:{name}": array[:rows] for name, array in inputs.items()}
        for tensor in self.batched.outputs:
            found[f"output:{tensor.name}"] = np.concatenate([chunk[tensor.name] for chunk in chunks])[:rows]
        return found

    def answer(self, feeds: Arrays) -> dict[str, Array]:
        """Return the module's answers to one batch, `[batch, *dims]` in and out.

        Raises:
            ModelError: `forward` fails, or an output does not have a row for each row of the batch.
        """
        size = len(next(iter(feeds.values())))
        answers = self.subject.run(self.laid_out(feeds))
        return {tensor.name: self._rows(tensor, answers[tensor.original], size) for tensor in self.batched.outputs}

    def laid_out(self, feeds: Arrays) -> Arrays:
        """Return a batch, given as `[batch, *dims]`, with its axes in the order that `forward` expects."""
        return {tensor.original: tensor.join(feeds[tensor.name]) for tensor in self.batched.inputs}

    def _rows(self, tensor: BatchedTensor, answer: Array, size: int) -> Array:
        if tensor.batch_axis is not None:
            fits = answer.ndim == len(tensor.original_shape) and answer.shape[tensor.batch_axis] == size * tensor.rows
            if not fits:
                what = f"for a batch of {size}, forward returns {tensor.name!r} with shape {list(answer.shape)}"
                raise ModelError(self.subject.where, what, "return outputs with one entry per row, or use --static")
        return tensor.split(answer)

    def refuse_mixing(self, reference: Arrays) -> None:
        """Check that the module gives a row the same answer in any batch, if it accepts other batch sizes at all.

        Raises:
            VerificationError: A row's answer depends on its batch.
        """
        if self.batched.is_static:
            return
        try:
            self._prover(reference, self.answer).prove((1, 2, 3))
        except ModelError:
            return  # forward is written for one batch size: other sizes can only be tried with the export
        except VerificationError as error:
            alone = self.laid_out({t.name: reference[f"input:{t.name}"][:1] for t in self.batched.inputs})
            found = self._explain(alone, "for a row alone", "in this batch")
            what = Listing(f"the module itself answers a row differently in a batch than alone: {error.what}", found)
            fix = "make each row's answer independent of the others, remove randomness from forward, or use --static"
            raise VerificationError(self.subject.where, what, fix) from error

    def prove(self, model_bytes: bytes, folder: Path, reference: Arrays) -> Proof:
        """Compare the answers of the bytes that will be written with the module's.

        Raises:
            ModelError: ONNX Runtime cannot load them, or the module accepts no other size of the dynamic axes.
            VerificationError: The answers differ. The message says which values were frozen, if that can be found.
        """
        dimensions = dimensions_of(self.batched.original.ir.graph)
        sizes = () if self.batched.is_static else batch_sizes(LARGEST_BATCH, dimensions)
        with onnxruntime_warnings() as warnings:
            run = self._open(model_bytes, folder)
            largest = self._compare(self._prover(reference, run), sizes, "")
            others = tuple(self._others())
            for other, rows in others:
                named = ", ".join(f"{name}={size}" for name, size in other.items())
                largest = max(largest, self._compare(self._prover(rows, run), (1, 2, 3), f"with {named}, "))
        refuse_stale_shapes(self.failures, warnings)
        return Proof(sizes, tuple(other for other, _ in others), largest)

    def _open(self, model_bytes: bytes, folder: Path) -> Run:
        try:
            return open_rewritten(model_bytes, where=self.failures, folder=folder).run
        except VerificationError as error:
            fix = "use operators and types in forward that ONNX Runtime supports on the CPU"
            raise ModelError(self.subject.where, error.what, fix) from error

    def _compare(self, prover: Prover, sizes: Sequence[int], context: str) -> float:
        """Return the largest difference."""
        try:
            return max(prover.prove(sizes).largest.values(), default=0.0)
        except VerificationError as error:
            found = self._explain(self.traced, "during the export", "here")
            raise VerificationError(self.subject.where, Listing(f"{context}{error.what}", found), error.fix) from error

    def _others(self) -> Iterator[tuple[Mapping[str, int], Arrays]]:
        """Yield other sizes of the dynamic axes that the module accepts, and its answers there.

        Raises:
            ModelError: It accepts none of them.
        """
        given, failures = self.options.sizes, []
        for numerator, denominator in OTHER_SIZES if given else ():
            sizes = {name: max(1, size * numerator // denominator) for name, size in given.items()}
            try:
                yield sizes, self._draw(sizes)
            except ModelError as error:
                failures.append(error)
        if len(failures) == len(OTHER_SIZES):
            what = f"it works only at the size given for its dynamic axes: {failures[0].what}"
            raise ModelError(self.subject.where, what, "leave out --dynamic") from failures[0]

    def _prover(self, reference: Arrays, run: Run) -> Prover:
        precision = coarsest_precision(self.batched.original.ir.graph)
        outputs = {t.name: self._numbers(t, reference[f"output:{t.name}"]) for t in self.batched.outputs}
        return Prover(
            where=self.failures,
            run=run,
            reference=reference,
            tolerances={name: tolerance_for(rows, precision) for name, rows in outputs.items()},
            bfloat16=frozenset(t.name for t in self.batched.outputs if t.dtype == ir.DataType.BFLOAT16),
            failure_dir=self.failures.parent,
            fix="export it with --static, and report this failure with that file",
        )

    def _explain(self, traced: Arrays, before: str, now: str) -> list[str]:
        """List the lines of code whose values were frozen and make the answers to the kept batch wrong."""
        kept_in = self.failures.with_suffix(".failed.npz")
        if not kept_in.exists():
            return []
        kept = read_npz(kept_in)
        feeds = {t.name: kept[f"input:{t.name}"] for t in self.batched.inputs}
        rows = len(next(iter(feeds.values())))
        batches = [feeds, *({name: array[i : i + 1] for name, array in feeds.items()} for i in range(rows))]
        outputs = {t.name for t in self.batched.outputs}
        wrong = {name for name in outputs if _differs(kept, name)} or outputs
        frozen: list[Frozen] = find_frozen(self.subject, traced, map(self.laid_out, batches), wrong)
        return [f"frozen at {found.describe(before, now)}" for found in frozen]


def _differs(kept: Arrays, name: str) -> bool:
    """Return whether an output of the kept batch is clearly wrong."""
    got, expected = kept.get(f"got:{name}"), kept[f"expected:{name}"]
    return got is None or got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-3, equal_nan=True)
