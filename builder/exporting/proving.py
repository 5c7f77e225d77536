"""Compare an export with its module: the same inputs to both, at several batch sizes and sizes of other axes."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.arrays import read_npz
from builder.batching import BatchedModel
from builder.errors import Listing, ModelError, VerificationError
from builder.exporting.asking import Asking, ModuleError, WrongRowsError
from builder.exporting.branches import find_other_branches, reference_of
from builder.exporting.frozen import FROZEN, UNKNOWN, Frozen, find_frozen
from builder.exporting.options import ExportOptions
from builder.exporting.repeating import refuse_other_answers
from builder.exporting.sizes import OtherSizes, in_file
from builder.exporting.subject import Diagnosis, Subject
from builder.proof import (
    Prover,
    batch_sizes,
    coarsest_precision,
    dimensions_of,
    onnxruntime_warnings,
    open_rewritten,
    refuse_stale_shapes,
    tolerance_for,
)
from builder.samples import Samples, read_samples
from builder.tensors import Arrays

LARGEST_BATCH = 8
"""The largest batch that an export is proven with."""

MOST_UNEXPLAINED = 4
"""How many wrong answers to inputs unlike the samples are looked into, if no frozen line explains any."""

Run = Callable[[Arrays], Arrays]
"""Answers a batch, from inputs by name to outputs by name."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared, and the largest difference found.

    Attributes:
        batch_sizes: Batch sizes.
        sizes: The sizes of other dynamic axes in the samples, by their names in the file.
        other_sizes: Sizes of these axes with which it was also compared, by the user's names.
        skipped: Sizes with which it was not, because the module fails there.
        largest_difference: The largest difference.
        drawn: What the samples of each input are, in words.
    """

    batch_sizes: tuple[int, ...]
    sizes: Mapping[str, int]
    other_sizes: tuple[Mapping[str, int], ...]
    skipped: tuple[Mapping[str, int], ...]
    largest_difference: float
    drawn: Mapping[str, str]

    def describe(self) -> str:
        """Describe it in one line."""
        sizes = f"at batch sizes {', '.join(map(str, self.batch_sizes))}" if self.batch_sizes else "at its one shape"
        also = f", also with {_listed(self.other_sizes)}" if self.other_sizes else ""
        but = f", but not with {_listed(self.skipped)}, where forward fails" if self.skipped else ""
        return f"same answers as the module {sizes}{also}{but}; largest difference {self.largest_difference:.1e}"


def _listed(choices: Sequence[Mapping[str, int]]) -> str:
    return " and ".join(" ".join(f"{name}={size}" for name, size in sizes.items()) for sizes in choices)


@dataclass(frozen=True, slots=True)
class Trial:
    """An export, and the module that it is compared with.

    Attributes:
        asking: The module, and the export, with the batch as axis 0 of every tensor.
        options: What the user asked for.
        traced: The inputs that it was exported with.
    """

    asking: Asking
    options: ExportOptions
    traced: Arrays

    @property
    def subject(self) -> Subject:
        """The module."""
        return self.asking.subject

    @property
    def batched(self) -> BatchedModel:
        """The export."""
        return self.asking.batched

    @property
    def failures(self) -> Path:
        """The path that a kept batch is named after, when the export answers it wrongly."""
        return self.asking.failures

    def reference(self) -> Arrays:
        """Return samples, the user's or drawn ones, with the module's answers: `input:NAME` and `output:NAME`.

        Raises:
            ModelError: The module cannot answer them, or the samples cannot be read.
            ModuleError: The shape of an output depends on the values, or answers change from run to run.
            VerificationError: An output does not have a row for each row of the batch.
        """
        try:
            if self.options.samples is not None:
                found = self.asking.ask(read_samples(self.options.samples, self.batched), are_own=True)
            else:
                found = self.asking.drawn(in_file(self.batched, self.options, self.options.given_sizes))
        except WrongRowsError as wrong:
            raise wrong.error from wrong
        self._refuse_other_answers(found)
        return found

    def _refuse_other_answers(self, reference: Arrays) -> None:
        """Ask for the first answers again: in between the module has answered all the others.

        Raises:
            ModuleError: They are different now.
        """
        rows = np.minimum(np.arange(self.batched.static_batch), len(next(iter(reference.values()))) - 1)
        feeds = self.asking.laid_out({t.name: reference[f"input:{t.name}"][rows] for t in self.batched.inputs})
        answers = {t.original: t.join(reference[f"output:{t.name}"][rows]) for t in self.batched.outputs}
        refuse_other_answers(self.subject, feeds, answers)

    def refuse_mixing(self, reference: Arrays) -> None:
        """Check that the module gives a row the same answer in any batch, if it accepts other batch sizes at all.

        It may be written for one batch size: it then fails at others, or gives the same wrong number of rows whatever
        the values are. Other sizes can only be tried with the export then.

        Raises:
            ModuleError: A row's answer depends on its batch, or the number of rows on their values.
        """
        if self.batched.is_static:
            return
        try:
            self._prover(reference, self.asking.answer).prove((1, 2, 3))
        except ModelError:
            return
        except WrongRowsError as wrong:
            if found := self.asking.depends_on_values(reference, wrong.size):
                raise found from None
        except ModuleError:
            raise
        except VerificationError as error:
            raise self._mixes(reference, error) from error

    def _mixes(self, reference: Arrays, error: VerificationError) -> VerificationError:
        """Return the error about a row that is answered otherwise in a batch than alone.

        Raises:
            ModuleError: The same batch is answered otherwise each time, so its rows are not what matters.
        """
        if (kept_in := self.failures.with_suffix(".failed.npz")).exists():
            kept = read_npz(kept_in)
            feeds = self.asking.laid_out({t.name: kept[f"input:{t.name}"] for t in self.batched.inputs})
            with contextlib.suppress(ModelError):
                refuse_other_answers(self.subject, feeds, self.subject.run(feeds))
        alone = self.asking.laid_out({t.name: reference[f"input:{t.name}"][:1] for t in self.batched.inputs})
        found = self._explain(alone, "for a row alone", "in this batch")
        what = Listing(f"the module itself answers a row differently in a batch than alone: {error.what}", found)
        fix = "make each row's answer independent of the others, or use --static"
        return ModuleError(self.subject.where, what, fix, is_about_batch=True)

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
            for rows in self.asking.of_other_shapes:
                largest = max(largest, self._compare(self._prover(rows, run), sizes, "with answers of another shape, "))
            others = OtherSizes(self.asking, self.options)
            found = tuple(others.find())
            for other, rows in found:
                named = ", ".join(f"{name}={size}" for name, size in other.items())
                largest = max(largest, self._compare(self._prover(rows, run), (1, 2, 3), f"with {named}, "))
            self._compare_other_branches(reference, run)
        refuse_stale_shapes(self.failures, warnings)
        given = in_file(self.batched, self.options, self.options.given_sizes)
        drawn = reference.words if isinstance(reference, Samples) else {}
        return Proof(sizes, given, tuple(other for other, _ in found), tuple(others.skipped), largest, drawn)

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

    def _compare_other_branches(self, reference: Arrays, run: Run) -> None:
        """Compare answers to inputs for which the module takes another branch; the user's samples have all branches.

        They are unlike the samples, so an answer may be off by rounding alone: it counts if a frozen line is found.

        Raises:
            VerificationError: A branch was frozen, or there the module gives a wrong number of rows.
        """
        if self.options.samples is not None:
            return
        unexplained = 0
        for inputs in find_other_branches(self.asking, reference):
            rows = reference_of(self.asking, inputs)
            sizes = () if self.batched.is_static else (1,)
            try:
                self._compare(self._prover(rows, run), sizes, "where forward takes another branch, ")
            except VerificationError as error:
                if isinstance(error.what, Listing) and len(error.what.lines) > 1:
                    raise
                self.failures.with_suffix(".failed.npz").unlink(missing_ok=True)
                if (unexplained := unexplained + 1) == MOST_UNEXPLAINED:
                    return

    def _prover(self, reference: Arrays, run: Run) -> Prover:
        precision = coarsest_precision(self.batched.original.ir.graph)
        outputs = {t.name: self.asking.numbers(t, reference[f"output:{t.name}"]) for t in self.batched.outputs}
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
        with Diagnosis() as diagnosis:
            frozen = self._frozen(read_npz(kept_in), traced)
            return [f"{FROZEN} {found.describe(before, now)}" for found in frozen]
        return [f"{UNKNOWN}: {diagnosis.failure}"]

    def _frozen(self, kept: Arrays, traced: Arrays) -> list[Frozen]:
        feeds = {t.name: kept[f"input:{t.name}"] for t in self.batched.inputs}
        rows = len(next(iter(feeds.values())))
        batches = [feeds, *({name: array[i : i + 1] for name, array in feeds.items()} for i in range(rows))]
        outputs = {t.name for t in self.batched.outputs}
        wrong = {name for name in outputs if _differs(kept, name)} or outputs
        return find_frozen(self.subject, traced, map(self.asking.laid_out, batches), wrong)


def _differs(kept: Arrays, name: str) -> bool:
    """Return whether an output of the kept batch is clearly wrong."""
    got, expected = kept.get(f"got:{name}"), kept[f"expected:{name}"]
    return got is None or got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-3, equal_nan=True)
