"""Measure how right the original is on the user's samples, and then a model that takes its place."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from builder.batching import BatchedModel
from builder.bounded import during
from builder.errors import BuilderError, ModelError, VerificationError
from builder.proof.accuracy.choosing import Wanted, choose
from builder.proof.accuracy.functions import Function, find_function
from builder.proof.accuracy.running import Batches, collect, count
from builder.proof.accuracy.scoring import Scoring
from builder.proof.accuracy.unclear import UnclearLabelsError
from builder.proof.truth import Original
from builder.record import Accuracy, Score, accuracy_figure, accuracy_limit, accuracy_points
from builder.samples import Labels, Samples
from builder.tensors import Array, Arrays

DEFAULT_DROP = 0.005
"""How much lower a figure of a model in a lower precision may be, unless the caller says: half a point of a hundred."""

MOST_DROP = 0.999
"""The largest drop that can be allowed, with room for rounding."""

FINER = "publish without --precision, or in a finer one"

MOST_TOGETHER = 32
"""The largest batch in which a model runs the samples."""

UNASKED_S = 60.0
"""How long it may take to measure the accuracy if nobody asked for it, seconds."""

_SLACK = 1e-9
"""What rounding may add to a difference of two figures."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AccuracyOptions:
    """What the caller asks about accuracy.

    Attributes:
        metric: What judges the answers: `accuracy`, `top-1`, `top-5`, `f1`, `mean-iou` or `r2`, the first and `f1` also
            with a threshold as in `f1@0.3`; or a function as `package.module:function`. Default: what fits the labels.
        label_output: The output that the labels are for. Default: the one that they fit.
        max_accuracy_drop: How much lower than the original's a figure may be, 0 to 1: 0.005 allows 97.2 % to become
            96.7 %. Default: 0.005 in a lower precision, and no limit otherwise.
    """

    metric: str | None = None
    label_output: str | None = None
    max_accuracy_drop: float | None = None

    @property
    def is_given(self) -> bool:
        """Whether the caller asks for anything."""
        return self != AccuracyOptions()

    @property
    def function(self) -> str | None:
        """The metric if it is a function."""
        return self.metric if self.metric is not None and ":" in self.metric else None

    def to_manifest(self) -> dict[str, str | float]:
        """Return what was asked for, as `manifest.json` records it."""
        given = {
            "metric": self.metric,
            "label_output": self.label_output,
            "max_accuracy_drop": self.max_accuracy_drop,
        }
        return {option: value for option, value in given.items() if value is not None}

    def check(self) -> None:
        """Check that the metric can be had, which may import code of the user's, and that the limit is a part.

        Raises:
            ModelError: One of them is not.
        """
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop < 1:
            what = f"the accuracy may not drop by {self.max_accuracy_drop:g}"
            raise ModelError("max_accuracy_drop", what, "give a part from 0 up to less than 1, such as 0.005")
        if self.function is not None:
            find_function(self.function)
        elif self.metric is not None:
            try:
                Wanted.parse(self.metric)
            except ValueError as error:
                raise ModelError(
                    "metric", str(error), "name a figure such as f1, or package.module:function"
                ) from error


@dataclass(frozen=True, slots=True)
class Baseline:
    """How right the original is.

    Attributes:
        batched: The original, made dynamic.
        inputs: The samples, `[rows, *dims]` by input.
        scoring: What judges the answers.
        kept: What was kept of the original's answers.
        before: Its figures by name, the main one first.
        max_drop: How much lower they may become; None for any.
        is_lowered: Whether a model in a lower precision is to take its place.
        notes: What the caller should know, one sentence each.
    """

    batched: BatchedModel
    inputs: Arrays
    scoring: Scoring
    kept: Arrays
    before: Mapping[str, float]
    max_drop: float | None
    is_lowered: bool = False
    notes: tuple[str, ...] = field(default=())

    def measure(self, batches: Batches, *, report: Tell = lambda _: None) -> Accuracy:
        """Return how right another model is, beside the original.

        Raises:
            VerificationError: It cannot run a sample, or a figure cannot be computed from its answers.
            ModelError: The user's metric fails.
        """
        rows, where = count(self.inputs), self.batched.original.path
        with during("its accuracy is measured"):
            chunks = batches.answers(self.inputs, where, self._fix("leave this sample out"))
            kept = collect(chunks, self.scoring, rows, where=where, report=report)
        after = self.scoring.scores(kept)
        for name, value in after.items():
            if not math.isfinite(value):
                what = f"its {name} cannot be computed, because answers are NaN or infinite"
                raise VerificationError(where, what, self._fix("leave out the samples with such answers"))
        metric, *others = self.before
        return Accuracy(
            metric=metric,
            rows=rows,
            before=self.before[metric],
            after=after[metric],
            max_drop=self.max_drop,
            output=self.scoring.output,
            changed=self.scoring.changed(self.kept, kept),
            ignored=self.scoring.ignored,
            others={name: Score(self.before[name], after[name]) for name in others},
        )

    def check(self, found: Accuracy) -> None:
        """Refuse a model of which a figure is lower than it may be.

        Raises:
            VerificationError: One is.
        """
        if found.max_drop is None:
            return
        for name, score in found.scores.items():
            drop = score.before - score.after
            if drop > found.max_drop + _SLACK:
                raise self._too_low(found, name, score)

    def _fix(self, otherwise: str) -> str:
        return f"{FINER}, or {otherwise}" if self.is_lowered else otherwise

    def _too_low(self, found: Accuracy, name: str, score: Score) -> VerificationError:
        drop = score.before - score.after
        changed = "" if found.changed is None else f"; {found.changed:,} of {found.rows:,} rows are decided otherwise"
        most = accuracy_points(name, found.max_drop or 0.0)
        limit = f"at most {most} are allowed" if found.max_drop else "no loss is allowed"
        what = (
            f"on {found.rows:,} labelled rows, {name} falls from {accuracy_figure(name, score.before)} to "
            f"{accuracy_figure(name, score.after)}, which is {accuracy_points(name, drop)} lower, and {limit}{changed}"
        )
        fix = self._fix(f"accept the loss with --max-accuracy-drop {accuracy_limit(name, drop)}")
        if drop >= MOST_DROP:  # R² and what a function returns can fall by more than the option takes
            fix = FINER if self.is_lowered else "leave out --max-accuracy-drop"
        return VerificationError(self.batched.original.path, what, fix)


def measure_original(
    batched: BatchedModel,
    samples: Samples | None,
    options: AccuracyOptions,
    *,
    is_lowered: bool,
    report: Tell = lambda _: None,
) -> Baseline | None:
    """Return how right the original is on the user's samples; None if they have no labels and nothing was asked.

    Args:
        batched: The original, made dynamic and with its final names.
        samples: The samples, from `read_samples`.
        options: What the caller asks.
        is_lowered: Whether a model in a lower precision is to take its place. Labels that cannot be used are refused
            then, and else only noted.
        report: Called now and then with how far it is.

    Raises:
        ModelError: The labels cannot be used.
        VerificationError: The original cannot run a sample.
    """
    labels = None if samples is None else samples.labels
    if samples is None or labels is None or not (labels or labels.inputs or options.is_given):
        return None
    try:
        with _refused(labels):
            labels.check(count(samples))
            return _measure(batched, samples, labels, options, is_lowered=is_lowered, report=report)
    except BuilderError as error:
        if options.is_given or (is_lowered and labels):
            raise
        report(f"not measured: {error.what}")
        return None


@contextmanager
def _refused(labels: Labels) -> Iterator[None]:
    """Turn the error for labels that could mean several things into one that names the file."""
    try:
        yield
    except UnclearLabelsError as error:
        raise ModelError(labels.where, error.what, error.fix) from error


def _measure(
    batched: BatchedModel,
    samples: Samples,
    labels: Labels,
    options: AccuracyOptions,
    *,
    is_lowered: bool,
    report: Tell,
) -> Baseline:
    where, rows = batched.original.path, count(samples)
    original = Original(batched)
    try:
        with during("the original's accuracy is measured"):
            scoring = _scoring(batched, original, samples, labels, options)
            kept = collect(
                original.answer_all(samples),
                scoring,
                rows,
                where=where,
                report=report,
                repeats=3 if is_lowered else 2,
                most_s=math.inf if is_lowered or options.is_given else UNASKED_S,
            )
    finally:
        original.close()
    kept = {name: _protected(array) for name, array in kept.items()}
    scoring = scoring.settled(kept)
    if (doubt := scoring.doubt(kept)) is not None:
        what = f"the labels seem not to belong to output {scoring.output!r} or to these samples: {doubt}"
        fix = "give the right answer to each sample, in the same order; name another output with --label-output"
        raise ModelError(labels.where, what, f"{fix}; or judge the answers with a function of yours with --metric")
    before = scoring.scores(kept)
    max_drop = options.max_accuracy_drop
    if max_drop is None and is_lowered:
        max_drop = DEFAULT_DROP
    baseline = Baseline(batched, dict(samples), scoring, kept, before, max_drop, is_lowered)
    return replace(baseline, notes=tuple(_notes(baseline, rows)))


def _scoring(
    batched: BatchedModel, original: Original, samples: Samples, labels: Labels, options: AccuracyOptions
) -> Scoring:
    """Return what judges the answers, by the labels and the answers to the first samples."""
    if options.function is not None:
        return Function(options.function, find_function(options.function), labels.for_function())
    name, array = labels.single()
    _, answers = next(original.answer_all(samples))
    output = _output(batched, name.removeprefix("label:") if ":" in name else None, options.label_output)
    return choose(array, answers, Wanted.parse(options.metric) if options.metric else Wanted(), output=output)


def _output(batched: BatchedModel, labelled: str | None, asked: str | None) -> str | None:
    """Return the output that labels are for, by its name in the published model; None if nobody says.

    Raises:
        UnclearLabelsError: There is no such output.
    """
    wanted = asked or labelled
    if wanted is None:
        return None
    for tensor in batched.outputs:
        if wanted in (tensor.name, tensor.original):
            return tensor.name
    listed = ", ".join(tensor.name for tensor in batched.outputs)
    by = "--label-output" if asked else f"the array 'label:{wanted}'"
    raise UnclearLabelsError(f"{by} names {wanted!r}, but there is no such output", f"use one of {listed}")


def _notes(baseline: Baseline, rows: int) -> Iterator[str]:
    """Say if the rows are too few to show the drop that is allowed."""
    step = baseline.scoring.smallest_step
    if step is not None and baseline.max_drop is not None and 0 < baseline.max_drop < step - _SLACK:
        name = next(iter(baseline.before))
        yield (
            f"{rows} labelled rows are few: one more wrong answer is {accuracy_points(name, step)}, and only "
            f"{accuracy_points(name, baseline.max_drop)} are allowed, so that no answer may get worse"
        )


def _protected(array: Array) -> Array:
    """Return an array that code of the user's cannot change."""
    view = array.view()
    view.flags.writeable = False
    return view
