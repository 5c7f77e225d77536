"""Ask a module for its answers to samples, and tell what it cannot run on from what it ran on and got wrong.

If `forward` raises an exception, that says nothing about the export: it may not accept such values, so more cautious
samples are drawn, and a note says so. If it runs, what it gives is a finding, however cautious other samples are: a
number of rows that is not the batch's, or a shape that depends on the values, is refused, and the inputs are kept.

In one draw, some samples may be answered while `forward` fails on others. What it answered still counts: it is refused
for a wrong shape there, and if there are enough answers, they are the reference, without the samples that failed.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel, BatchedTensor
from builder.errors import ModelError, VerificationError
from builder.exporting.options import InputSpec
from builder.exporting.subject import Subject
from builder.proof import as_numbers, keep_failing
from builder.samples import Samples, draw
from builder.tensors import Array, Arrays

ROWS = 32
"""The number of different samples.

Fewer could all take the branch of an `if` that was frozen in the trace: with 8 samples and an even chance for either
branch, one time in 256.
"""

MIN_ROWS = 8
"""If `forward` fails on some samples, this many answers are enough."""

OTHERS = 8
"""How many other inputs a module is asked before it is exported."""

BUDGET_S = 2.0
"""The longest time for that. The proof asks about more."""

MOST_SHOWN = 6
"""How many values of an input a message shows."""

WITH_SHAPES = "return one entry for each row, for example with torch.where in place of a boolean index; or use --static"


class ModuleError(VerificationError):
    """What the module itself does, whichever way it is exported: no other export can help."""


class WrongRowsError(Exception):
    """The module ran, but an output has another number of rows than the batch, or other axes.

    Attributes:
        size: The size of the batch.
        error: What to raise if that is an error.
    """

    def __init__(self, size: int, error: VerificationError) -> None:
        super().__init__(str(error))
        self.size, self.error = size, error


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One run of the module: the rows of the samples in it, its inputs as `[batch, *dims]`, and its answers."""

    rows: Sequence[int]
    feeds: Arrays
    answers: Arrays

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((name, answer.shape) for name, answer in self.answers.items())


@dataclass(frozen=True, slots=True)
class Asking:
    """A module that is asked for the right answers, with the tensors of its export.

    Attributes:
        subject: The module, whose answers are taken as right.
        batched: The export, with the batch as axis 0 of every tensor.
        failures: The path that a kept batch is named after.
        notes: What the user should know about the samples, one sentence each.
        of_other_shapes: Samples and answers as in the reference whose answers have other shapes than those there.
            Without a batch, shapes may depend on the values.
    """

    subject: Subject
    batched: BatchedModel
    failures: Path
    notes: list[str] = field(default_factory=list)
    of_other_shapes: list[Arrays] = field(default_factory=list)

    def drawn(self, sizes: Mapping[str, int]) -> Arrays:
        """Return drawn samples that the module can answer, with its answers: `input:NAME` and `output:NAME`.

        Raises:
            ModelError: It answers none of them, or its answers are not numbers.
            ModuleError: The shape of an output depends on the values of the samples.
            VerificationError: An output does not have a row for each row of the batch.
        """
        failures: list[ModelError] = []
        noted = len(self.notes)
        for inputs in draw(self.batched, rows=ROWS, sizes=sizes, is_traced=True):
            try:
                reference = self.ask(inputs)
                self._refuse_unusable(reference)
            except ModelError as error:
                failures.append(error)
                del self.notes[noted:]  # they are about samples that are not used
                continue
            if failures:
                self._note(f"the samples that were drawn at first are not used, but others: {failures[0].what}")
            return reference
        raise failures[0]

    def fault_at(self, sizes: Mapping[str, int]) -> ModelError | None:
        """Return why the module fails on one batch of samples of these sizes; None if it accepts one."""
        failed = None
        for inputs in draw(self.batched, rows=self.batched.static_batch, sizes=sizes):
            try:
                self.subject.run(self.laid_out(inputs))
            except ModelError as error:
                failed = error
            else:
                return None
        return failed

    def ask(self, inputs: Arrays, *, are_own: bool = False) -> Arrays:
        """Return samples with the module's answers, asked in chunks of the batch size that it was exported with.

        Args:
            inputs: The samples, `[rows, *dims]` each.
            are_own: Whether they are the user's, who wants each of them answered.

        Raises:
            ModelError: `forward` fails, on one of the user's samples or on nearly all of those that were drawn.
            ModuleError: The shape of an output depends on the values of the samples.
            VerificationError: An output does not have a row for each row of the batch.
        """
        chunks, failures = self._chunks(inputs, are_own=are_own)
        first, *others = self._by_shape(chunks) or [[]]
        rows = [row for chunk in chunks for row in chunk.rows]
        total = min(map(len, inputs.values()))
        if failures:
            if len(rows) < min(MIN_ROWS, total):
                raise failures[0]
            self._note(f"{total - len(rows)} of {total} drawn samples are not used: {failures[0].what}")
        self.of_other_shapes[:] = [self._reference(inputs, each) for each in others]
        return Samples(self._reference(inputs, first), inputs.words if isinstance(inputs, Samples) else {})

    def _reference(self, inputs: Arrays, chunks: Sequence[_Chunk]) -> Arrays:
        rows = [row for chunk in chunks for row in chunk.rows]
        found = {f"input:{name}": array[rows] for name, array in inputs.items()}
        split = [self._split(chunk.feeds, chunk.answers) for chunk in chunks]
        for tensor in self.batched.outputs:
            parts = [each[tensor.name][: len(chunk.rows)] for each, chunk in zip(split, chunks, strict=True)]
            found[f"output:{tensor.name}"] = np.concatenate(parts)
        return found

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _chunks(self, inputs: Arrays, *, are_own: bool) -> tuple[list[_Chunk], list[ModelError]]:
        """Run the module on all samples that it accepts; if it fails on the first few, it is not asked about more."""
        rows, step = min(map(len, inputs.values())), self.batched.static_batch
        chunks: list[_Chunk] = []
        failures: list[ModelError] = []
        for start in range(0, rows, step):
            taken = np.minimum(np.arange(start, start + step), rows - 1)
            feeds = {name: array[taken] for name, array in inputs.items()}
            try:
                answers = self.subject.run(self.laid_out(feeds))
            except ModelError as error:
                if are_own:
                    raise
                failures.append(error)
                if not chunks and len(failures) * step >= MIN_ROWS:
                    break
                continue
            chunks.append(_Chunk(range(start, min(start + step, rows)), feeds, answers))
        return chunks, failures

    def _by_shape(self, chunks: Sequence[_Chunk]) -> list[list[_Chunk]]:
        """Return the chunks whose answers have the same shapes together, first those with the most common shapes.

        Raises:
            ModuleError: There is a batch, and shapes differ.
        """
        groups: dict[object, list[_Chunk]] = {}
        for chunk in chunks:
            groups.setdefault(chunk.shapes, []).append(chunk)
        found = sorted(groups.values(), key=len, reverse=True)
        if len(found) < 2 or self.batched.is_static:
            return found
        right = next((chunk for chunk in chunks if self._fits(chunk)), found[0][0])
        wrong = next((chunk for chunk in chunks if not self._fits(chunk)), found[1][0])
        raise refuse_shape(self.subject, wrong.feeds, wrong.answers, wrong.rows, right.answers, self.failures)

    def _fits(self, chunk: _Chunk) -> bool:
        try:
            self._split(chunk.feeds, chunk.answers)
        except WrongRowsError:
            return False
        return True

    def _refuse_unusable(self, reference: Arrays) -> None:
        outputs = [self.numbers(tensor, reference[f"output:{tensor.name}"]) for tensor in self.batched.outputs]
        if not all(np.isfinite(o).mean() >= 0.5 for o in outputs if o.dtype.kind == "f" and o.size):
            what = "its answers to random inputs are mostly NaN or infinite"
            raise ModelError(self.subject.where, what, "give realistic inputs with --samples FILE.npz")

    def numbers(self, tensor: BatchedTensor, array: Array) -> Array:
        """Return the values of an output, which may be stored as the bits of BF16."""
        return as_numbers(array, is_bfloat16=tensor.dtype == ir.DataType.BFLOAT16)

    def answer(self, feeds: Arrays) -> dict[str, Array]:
        """Return the module's answers to one batch, `[batch, *dims]` in and out.

        If an input has no batch, each row brings its own, and is answered alone.

        Raises:
            ModelError: `forward` fails.
            WrongRowsError: An output does not have a row for each row of the batch.
        """
        size = len(next(iter(feeds.values())))
        if size > 1 and not self.batched.is_static and any(t.batch_axis is None for t in self.batched.inputs):
            alone = [self.answer({name: rows[[row]] for name, rows in feeds.items()}) for row in range(size)]
            return {name: np.concatenate([answer[name] for answer in alone]) for name in alone[0]}
        return self._split(feeds, self.subject.run(self.laid_out(feeds)))

    def laid_out(self, feeds: Arrays) -> Arrays:
        """Return a batch, given as `[batch, *dims]`, with its axes in the order that `forward` expects."""
        return {tensor.original: tensor.join(feeds[tensor.name]) for tensor in self.batched.inputs}

    def _split(self, feeds: Arrays, answers: Arrays) -> dict[str, Array]:
        size = len(next(iter(feeds.values())))
        return {tensor.name: self._rows(tensor, feeds, answers, size) for tensor in self.batched.outputs}

    def _rows(self, tensor: BatchedTensor, feeds: Arrays, answers: Arrays, size: int) -> Array:
        answer, axis = answers[tensor.original], tensor.batch_axis
        if axis is None:
            if size != self.batched.static_batch:
                raise self._inseparable(tensor, answer, size)
            return tensor.split(answer).repeat(size, axis=0)
        if answer.ndim != len(tensor.original_shape) or answer.shape[axis] != size * tensor.rows:
            what = f"for a batch of {size}, forward returns {tensor.name!r} with shape {list(answer.shape)}"
            fix = f"{self.subject.without_scalars()}return outputs with one entry per row, or use --static"
            raise WrongRowsError(size, VerificationError(self.subject.where, what, fix, is_about_batch=True))
        return tensor.split(answer)

    def _inseparable(self, tensor: BatchedTensor, answer: Array, size: int) -> ModuleError:
        what = (
            f"how many rows of {tensor.name!r} belong to a row of the batch depends on the sizes of dynamic axes: for "
            f"a batch of {size} its shape is {list(answer.shape)}"
        )
        fix = f"{self.subject.without_scalars()}return one entry for each row of the batch, or use --static"
        return ModuleError(self.subject.where, what, fix, is_about_batch=True)

    def depends_on_values(self, reference: Arrays, size: int) -> ModuleError | None:
        """Return the error for shapes that depend on the values of a batch of this size; None if they do not.

        A module that is written for one batch size gives a wrong number of rows at others, but always the same one.
        """
        inputs = {tensor.name: reference[f"input:{tensor.name}"] for tensor in self.batched.inputs}
        seen: list[_Chunk] = []
        for rows in _batches(size, len(next(iter(inputs.values())))):
            feeds = {name: array[rows] for name, array in inputs.items()}
            try:
                seen.append(_Chunk(rows, feeds, self.subject.run(self.laid_out(feeds))))
            except ModelError:
                continue
            if seen[-1].shapes != seen[0].shapes:
                wrong, right = (seen[0], seen[-1]) if self._fits(seen[-1]) else (seen[-1], seen[0])
                found = (wrong.feeds, wrong.answers, wrong.rows, right.answers)
                return refuse_shape(self.subject, *found, self.failures)
        return None


def _batches(size: int, rows: int) -> Iterator[list[int]]:
    """Yield batches of different rows, and some that repeat a row."""
    for start in range(0, min(rows, 4 * size), size):
        yield [(start + i) % rows for i in range(size)]
    yield [0] * size
    yield [rows - 1] * size


def refuse_shape(
    subject: Subject, feeds: Arrays, answers: Arrays, rows: Sequence[int], others: Arrays, failures: Path
) -> ModuleError:
    """Keep a batch whose answers have other shapes than those to another batch, and return the error about it.

    Args:
        subject: The module.
        feeds: The inputs of the batch.
        answers: The module's answers to it.
        rows: Which of the samples it consists of.
        others: The module's answers to another batch of the same shapes.
        failures: The path that the kept batch is named after.
    """
    kept = {f"input:{name}": array for name, array in feeds.items()}
    kept |= {f"got:{name}": array for name, array in answers.items()}
    where_kept = keep_failing(failures, kept)
    for_which = f"sample{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows))} ({_shown(feeds)})"
    if list(answers) != list(others):
        what = f"what forward returns depends on the values of its inputs: {_named(answers)} for {for_which}, but "
        what += f"{_named(others)} for others"
    else:
        name = next(name for name in answers if answers[name].shape != others[name].shape)
        what = (
            f"the shape of {name!r} depends on the values of the inputs: it is {list(answers[name].shape)} for "
            f"{for_which}, but {list(others[name].shape)} for others"
        )
    return ModuleError(subject.where, what + where_kept, WITH_SHAPES, is_about_batch=True)


def _named(answers: Arrays) -> str:
    return ", ".join(map(repr, answers)) or "nothing"


def _shown(feeds: Arrays) -> str:
    return ", ".join(f"{name} = {_short(array)}" for name, array in feeds.items())


def _short(array: Array) -> str:
    """Return the first values of an array."""
    values = array.reshape(-1)[:MOST_SHOWN]
    listed = [f"{float(value):.3g}" if array.dtype.kind == "f" else str(value) for value in values]
    return f"[{', '.join(listed)}{', …' if array.size > MOST_SHOWN else ''}]"


def other_examples(subject: Subject, example: Arrays) -> Iterator[Arrays]:
    """Yield other inputs of the same shapes: normal floats, and zeros and ones for other types."""
    for number in range(OTHERS):
        rng = np.random.default_rng(number)
        yield {spec.name: _other(spec, example[spec.name], rng) for spec in subject.specs}


def _other(spec: InputSpec, array: Array, rng: np.random.Generator) -> Array:
    if not spec.dtype.is_floating_point():
        return rng.integers(0, 2, array.shape).astype(array.dtype)
    values = rng.standard_normal(array.shape)
    if spec.dtype == ir.DataType.BFLOAT16:
        return values.astype(spec.dtype.numpy()).view(array.dtype)
    return values.astype(array.dtype)


def refuse_varying(subject: Subject, first: Arrays, answers: Arrays, others: Sequence[Arrays], failures: Path) -> None:
    """Refuse a module whose outputs have other shapes for other values of its inputs.

    Args:
        subject: The module.
        first: Inputs that it has answered.
        answers: Its answers to them.
        others: Other inputs of the same shapes, which it may fail on.
        failures: The path that a kept batch is named after.

    Raises:
        ModuleError: The shapes differ.
    """
    started = time.monotonic()
    usual = _Chunk((0,), first, answers)
    for number, feeds in enumerate(others, 1):
        try:
            chunk = _Chunk((number,), feeds, subject.run(feeds))
        except ModelError:
            continue
        if chunk.shapes != usual.shapes:
            # Of two shapes, the smaller one is that from which something was dropped.
            few, many = sorted((usual, chunk), key=lambda each: sum(a.size for a in each.answers.values()))
            raise refuse_shape(subject, few.feeds, few.answers, few.rows, many.answers, failures)
        if time.monotonic() - started > BUDGET_S:
            return
