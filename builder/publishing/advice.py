"""Find options that publish a model which was refused, by trying them on this model.

A way to publish it is named if the result is proven right on a few samples. The ways are, in order of gain: another
axis for the batch, inputs that become constants, outputs that are left out, all inputs as one sample, one sample after
the other, and no batch at all. A search takes a few seconds; ways that it did not get to are not named.
"""

import math
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from builder import bounded
from builder.batching import BatchedModel
from builder.errors import BuilderError, ModelError, VerificationError
from builder.model import Model, fix_inputs, keep_outputs, load
from builder.proof import OriginalRuns, verify
from builder.publishing.batch import make_batch_dynamic
from builder.publishing.choices import Axes, compared_with, other_axes, settings
from builder.publishing.options import PublishOptions
from builder.publishing.wording import in_words
from builder.samples import draw, read_samples
from builder.tensors import Arrays

TIME_BUDGET_S = 8.0
"""After this time, no further way is tried. A try that is running is completed."""

RUNS_BUDGET_S = 2.0
"""The longest time, in each try, to look for sizes at which the original runs."""

LARGEST_BYTES = 256 << 20
"""If the files are larger, no way is tried, because every try loads the model twice."""

MOST_AXES = 200
"""How many combinations of axes to try. Most of them are refused at once."""

ROWS = 2
"""How many samples to try with."""

FAILURES = (
    BuilderError, ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What a way that does not work may raise. The error that is reported is always the first one."""


@contextmanager
def advised(loaded: Model, options: PublishOptions, *, is_module: bool = False) -> Iterator[None]:
    """If the batch cannot be made dynamic in the way that was asked for, name the ways that work in the error.

    Args:
        loaded: The model as it was loaded.
        options: What the caller asked for.
        is_module: Whether the file was exported from a PyTorch module, whose inputs are as the caller declared them.

    Raises:
        BuilderError: The error of the block, with the ways in its `fix`.
    """
    try:
        yield
    except BuilderError as error:
        is_proof = isinstance(error, VerificationError)
        if not error.is_about_batch or (is_proof and options.precision != "fp32"):
            raise
        search = _Search(loaded, options, keeps_inputs=is_module or is_proof)
        with bounded.fall_back(error), bounded.during("other ways to publish it are tried"):
            fix = _fix(error, list(search.ways()), is_over=search.is_over)
        raise type(error)(error.where, error.what, fix, is_about_batch=True) from error


def works_per_sample(path: Path) -> bool:
    """Return whether the static model at `path` can be published one sample after the other: its proof is tried."""
    asked = PublishOptions()
    return _Search(load(path), asked, keeps_inputs=True).works(replace(asked, is_per_sample=True))


def _fix(error: BuilderError, ways: list[str], *, is_over: bool) -> str:
    if ways:
        return f"publish it {', or '.join(ways)}; or {error.fix}"
    if is_over:
        return f"{error.fix}, or try --per-sample or --static (not tried here, to save time)"
    return (
        f"{error.fix}; none of the options that were tried can publish it"
        if isinstance(error, ModelError)
        else error.fix
    )


class _Search:
    """Tries options on a model until the time is up.

    Args:
        loaded: The model.
        asked: The options that failed.
        keeps_inputs: Whether the inputs and their batch axes stay as they are, and only the way to run them may change.

    Attributes:
        is_over: Whether some ways were not tried because the time was up.
    """

    def __init__(self, loaded: Model, asked: PublishOptions, *, keeps_inputs: bool) -> None:
        is_large = sum(file.stat().st_size for file in loaded.files) > LARGEST_BYTES
        self.is_over = False
        self._loaded = loaded
        self._asked = asked
        self._plain = replace(asked, is_static=False, is_per_sample=False)
        self._inputs = [spec for spec in loaded.inputs if spec.name not in asked.constants]
        self._keeps_inputs = keeps_inputs
        self._end = time.monotonic() + (0 if is_large else TIME_BUDGET_S)

    def ways(self) -> Iterator[str]:
        """Yield each way that works, as `with OPTIONS (what they mean)`."""
        for way in self._working():
            yield in_words(way, self._asked, self._loaded)

    def _working(self) -> Iterator[PublishOptions]:
        if plain := self._first([self._plain, replace(self._plain, batch_axes={})]):
            yield from plain
            return
        found = self._with_other_inputs()
        if not found:
            found = self._first(self._without_scalars())
        if not found:
            found = self._first(replace(self._plain, batch_axes=axes) for axes in self._axes(is_whole=True))
        yield from found
        # Tried before `--per-sample`, although named after it, because it is quick and works most often.
        static = self._first([replace(self._plain, is_static=True, batch_axes={}, dynamic={})])
        yield from self._first(self._one_by_one(keeps_axes=bool(found)))
        yield from static

    def _first(self, candidates: Iterable[PublishOptions]) -> list[PublishOptions]:
        """Return the first candidate that works, if there is one. What was asked for is not a candidate."""
        for options in candidates:
            if time.monotonic() > self._end:
                self.is_over = True
                break
            if options != self._asked and self.works(options):
                return [options]
        return []

    def works(self, options: PublishOptions) -> bool:
        """Return whether the model can be made with these options, and is proven right on a few samples."""
        try:
            model = fix_inputs(keep_outputs(self._loaded, options.outputs), options.constants)
            batched = make_batch_dynamic(model, options, runs=OriginalRuns(model, budget_s=RUNS_BUDGET_S))
            samples = (
                next(draw(batched, rows=ROWS)) if options.samples is None else read_samples(options.samples, batched)
            )
            few = {name: rows[:ROWS] for name, rows in samples.items()}
            # If the model cannot answer these samples, the proof draws others.
            return _is_proven(batched, few) or (options.samples is None and _is_proven(batched, None))
        except bounded.OutOfTimeError:
            self._end = -math.inf
            return False
        except FAILURES:
            return False

    # ------------------------------------------------------------------ candidates

    def _axes(self, *, is_whole: bool) -> Iterator[Axes]:
        """Yield other axes for the batch; if `is_whole`, none for any input, so that all inputs are one sample."""
        every = () if self._keeps_inputs else other_axes(self._inputs, self._asked.batch_axes)
        for axes in islice(every, MOST_AXES):
            if is_whole == all(axes.get(spec.name, 0) is None for spec in self._inputs):
                yield axes

    def _with_other_inputs(self) -> list[PublishOptions]:
        """Return the first other axes that work, and the first constants in place of inputs without a batch."""
        found: list[PublishOptions] = []
        tried: Axes = {}
        for axes in self._axes(is_whole=False):
            found = self._first([replace(self._plain, batch_axes=axes)])
            found += self._first(self._with_constants(axes, settings(self._inputs, axes)))
            if found:
                tried = axes
                break
        has_constant = any(way.constants != self._asked.constants for way in found)
        if self._keeps_inputs or has_constant or (found and None not in tried.values()):
            return found
        return found + self._first(self._with_constants(self._asked.batch_axes, settings(self._inputs)))

    def _with_constants(self, axes: Axes, choices: Iterable[list[str]]) -> Iterator[PublishOptions]:
        """Yield constants for some inputs: the number that the graph compares an input with, or else 1 or 0."""
        for names in choices:
            rest = {name: axis for name, axis in axes.items() if name not in names}
            compared = {name: compared_with(self._loaded, name) for name in names}
            for number in (1.0, 0.0) if None in compared.values() else (1.0,):
                values = {name: number if value is None else value for name, value in compared.items()}
                yield replace(self._plain, constants={**self._plain.constants, **values}, batch_axes=rest)

    def _without_scalars(self) -> Iterator[PublishOptions]:
        """Yield the outputs that have rows, if others are one number for the whole batch, such as a loss."""
        having = tuple(spec.name for spec in self._loaded.outputs if spec.shape)
        if 0 < len(having) < len(self._loaded.outputs):
            yield replace(self._plain, outputs=having)

    def _one_by_one(self, *, keeps_axes: bool) -> Iterator[PublishOptions]:
        """Yield one sample after the other, with other axes for the batch too unless `keeps_axes`."""
        asked = replace(self._plain, is_per_sample=True, dynamic={})
        yield asked
        for axes in () if keeps_axes else chain(self._axes(is_whole=False), self._axes(is_whole=True)):
            yield replace(asked, batch_axes=axes)


def _is_proven(batched: BatchedModel, samples: Arrays | None) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            verify(batched, max_batch_size=ROWS, samples=samples, failure_dir=Path(folder))
        except VerificationError:
            return False
    return True
