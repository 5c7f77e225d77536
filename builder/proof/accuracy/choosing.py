"""Find the output that labels belong to, and how they judge its answers, from the shapes and types of both."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from builder.proof.accuracy.scoring import Classes, Flags, Labelled, Numbers, Same
from builder.proof.accuracy.unclear import UnclearLabelsError
from builder.tensors import Array, Arrays

METRICS = ("accuracy", "top-1", "top-5", "f1", "mean-iou", "r2")
"""The figures that `--metric` knows by name; the first and `f1` may have a threshold, as in `f1@0.3`."""

_NAMED = re.compile(rf"({'|'.join(METRICS)})(?:@([-+0-9.e]+))?")

IGNORED = (-100, -1)
"""Labels that are not looked at, as in PyTorch's cross-entropy and in transformers."""

IGNORED_PIXEL = 255
"""The label of pixels that are not looked at, as in PASCAL VOC and Cityscapes, if there is no such class."""

_BY_FUNCTION = "write a function that judges the answers, and give it with --metric PACKAGE.MODULE:FUNCTION"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A figure that the user names.

    Attributes:
        name: One of `METRICS`; empty if the labels decide.
        threshold: The score above which an answer is yes; NaN if the answers decide.
    """

    name: str = ""
    threshold: float = math.nan

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """Read `NAME` or `NAME@THRESHOLD`.

        Raises:
            ValueError: It is neither.
        """
        found = _NAMED.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is neither {', '.join(METRICS[:-1])} or {METRICS[-1]} nor a function")
        name = "accuracy" if found[1] == "top-1" else found[1]
        if found[2] is None:
            return cls(name)
        if name not in ("accuracy", "f1"):
            raise ValueError(f"{found[1]} has no threshold: only accuracy and f1 can have one")
        with suppress(ValueError):
            if math.isfinite(threshold := float(found[2])):
                return cls(name, threshold)
        raise ValueError(f"{found[2]!r} is no threshold: it has to be a number, as in {name}@0.3")


def choose(labels: Array, answers: Arrays, wanted: Wanted, *, output: str | None = None) -> Labelled:
    """Return how labels judge the answers of a model.

    Args:
        labels: The labels of all rows, `[rows, ...]`.
        answers: The answers to the first few rows, by output, `[some, *dims]`.
        wanted: The figure that the user wants.
        output: The output that the user names; None for the one that fits.

    Raises:
        UnclearLabelsError: The labels fit no output or several, or could mean several things.
    """
    labels = _plain(labels)
    names = list(answers) if output is None else [output]
    reasons: dict[str, UnclearLabelsError] = {}
    found: list[Labelled] = []
    for name in names:
        try:
            found.append(_fit(labels, name, answers[name], wanted))
        except UnclearLabelsError as error:
            reasons[name] = error
    exact: list[Labelled] = [each for each in found if isinstance(each, Same)]
    if len(exact) == 1 and all(isinstance(each, Same | Classes) for each in found):
        found = exact  # a classifier of scikit-learn answers the class, and beside it a score for each
    if len(found) > 1:
        listed = " and ".join(each.tensor for each in found)
        what = f"the labels fit the outputs {listed}"
        raise UnclearLabelsError(what, f"name the one that they are for: --label-output {found[0].tensor}")
    if found:
        return found[0]
    if len(reasons) == 1:
        raise next(iter(reasons.values()))
    listed = "; ".join(str(error) for error in reasons.values())
    raise UnclearLabelsError(f"the labels fit no output: {listed}", _BY_FUNCTION)


def _plain(labels: Array) -> Array:
    """Return labels in their simplest form: without axes of size 1, and whole floats as int64."""
    labels = labels.reshape(len(labels), *_squeezed(labels.shape[1:]))
    if labels.dtype.kind in "iub":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise UnclearLabelsError("some labels are NaN or infinite", "give every sample a label; -1 leaves one out")
        if (labels == np.rint(labels)).all() and np.abs(labels).max(initial=0.0) < 2**53:
            return labels.astype(np.int64)
    if labels.dtype.kind not in "fU":
        what = f"the labels are of the type {labels.dtype.name}"
        raise UnclearLabelsError(what, "give numbers, such as those of classes, or texts that an output answers")
    return labels


def _fit(labels: Array, name: str, answers: Array, wanted: Wanted) -> Labelled:
    """Return how labels judge one output.

    Raises:
        UnclearLabelsError: They cannot.
    """
    kind = answers.dtype.kind
    is_same_size = _squeezed(labels.shape[1:]) == _squeezed(answers.shape[1:])
    if kind in "iubU" or labels.dtype.kind == "U":
        return _fit_same(labels, name, answers, wanted)
    if labels.dtype.kind == "i":
        if is_same_size and wanted.name != "r2":
            return _fit_equal_sizes(labels, name, answers, wanted)
        if not is_same_size:
            return _fit_classes(labels, name, answers, wanted)
    if not is_same_size:
        raise _misfit(labels, name, answers)
    return _numbers(labels, name, wanted)


def _fit_same(labels: Array, name: str, answers: Array, wanted: Wanted) -> Labelled:
    """Judge answers that are classes themselves, whatever number or text each has."""
    is_text = answers.dtype.kind == "U"
    alike = is_text == (labels.dtype.kind == "U")
    if not alike or labels.dtype.kind == "f" or _squeezed(labels.shape[1:]) != _squeezed(answers.shape[1:]):
        raise _misfit(labels, name, answers)
    if wanted.name in ("top-5", "mean-iou", "r2") or not math.isnan(wanted.threshold):
        raise _without_scores(name, wanted)
    counted = np.ones(labels.shape, bool) if is_text else labels != IGNORED[0]
    return Same(name, labels, _some(counted), wanted.name or "accuracy")


def _fit_equal_sizes(labels: Array, name: str, answers: Array, wanted: Wanted) -> Labelled:
    """Judge scores that are as many as the labels: zeros and ones, alone or as one of several classes, or numbers."""
    counted = ~np.isin(labels, IGNORED)
    values = set(np.unique(labels[counted]).tolist())
    if values == {1} and (labels == -1).any():
        what = f"the labels for output {name!r} are -1 and 1, and -1 usually leaves a row out"
        raise UnclearLabelsError(what, "give 0 and 1 instead")
    if not values <= {0, 1}:
        if wanted.name:
            what = f"output {name!r} has one value for each label, and the labels are not only 0 and 1"
            raise UnclearLabelsError(what, f"leave out --metric {wanted.name}: R² judges numbers")
        return _numbers(labels, name, wanted)
    dims = _squeezed(labels.shape[1:])
    is_one_hot = len(dims) == 1 and counted.all() and (labels.reshape(len(labels), -1).sum(axis=1) == 1).all()
    if is_one_hot and math.isnan(wanted.threshold):
        classes = labels.reshape(len(labels), -1).argmax(axis=1)
        return _fit_classes(classes, name, answers, wanted)
    if wanted.name in ("top-5", "mean-iou"):
        raise _without_scores(name, wanted)
    metric = wanted.name or ("f1" if dims else "accuracy")
    return Flags(name, labels == 1, _some(counted), metric, wanted.threshold)


def _fit_classes(labels: Array, name: str, answers: Array, wanted: Wanted) -> Labelled:
    """Judge scores for each of several classes, by one number for each row or each position."""
    axes = list(_class_axes(labels.shape[1:], answers.shape))
    if not axes:
        raise _misfit(labels, name, answers)
    if wanted.name == "r2" or not math.isnan(wanted.threshold):
        reason = "r2 judges numbers" if wanted.name == "r2" else "the best one is chosen without a threshold"
        what = f"output {name!r} has a score for each of {answers.shape[axes[0]]} classes, and {reason}"
        raise UnclearLabelsError(what, "leave out --metric, or give accuracy, top-5, f1 or mean-iou")
    classes = answers.shape[axes[0]]
    if len(axes) > 1:
        what = f"the classes of output {name!r} {list(answers.shape[1:])} can be on axis {axes[0]} or {axes[1]}"
        raise UnclearLabelsError(what, _BY_FUNCTION)
    counted = ~np.isin(labels, IGNORED)
    if labels.ndim > 1 and classes <= IGNORED_PIXEL:
        counted &= labels != IGNORED_PIXEL
    low, high = int(labels[_some(counted)].min()), int(labels[counted].max())
    if low < 0 or high >= classes:
        what = f"the labels go from {low} to {high}, and output {name!r} has {classes} classes, 0 to {classes - 1}"
        fix = "subtract 1 from the labels: classes are counted from 0" if (low, high) == (1, classes) else ""
        raise UnclearLabelsError(what, fix or "give the labels as the numbers of the output's classes, from 0")
    return Classes(name, labels, counted, classes, axes[0], wanted.name or "accuracy")


def _class_axes(labels: tuple[int, ...], answers: tuple[int, ...]) -> Iterator[int]:
    """Yield the axes of an output that can hold the classes: the first after the batch, or the last.

    With labels `[H, W]` per row, the axis is 1 for answers `[rows, classes, H, W]`, and 3 for `[rows, H, W, classes]`.
    """
    for axis in dict.fromkeys((1, len(answers) - 1)):
        if 0 < axis < len(answers) and answers[axis] > 1:
            positions = (*answers[1:axis], *answers[axis + 1 :])
            if _squeezed(positions) == _squeezed(labels):
                yield axis


def _numbers(labels: Array, name: str, wanted: Wanted) -> Labelled:
    if wanted.name not in ("", "r2"):
        what = f"the labels for output {name!r} are numbers, which {wanted.name} does not judge"
        raise UnclearLabelsError(what, "leave out --metric, or give r2")
    rows = labels.reshape(len(labels), -1)
    if (rows == rows[:1]).all():
        what = "all rows have the same labels, so that R² is not defined"
        raise UnclearLabelsError(what, f"give samples with different labels, or {_BY_FUNCTION}")
    return Numbers(name, labels)


def _squeezed(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dim for dim in dims if dim != 1)


def _some(counted: Array) -> Array:
    """Return which labels count, if there are any."""
    if not counted.any():
        raise UnclearLabelsError("all labels are left out, as -1 and -100 are", "give at least one label that counts")
    return counted


def _misfit(labels: Array, name: str, answers: Array) -> UnclearLabelsError:
    def shown(array: Array) -> str:
        kind = "text" if array.dtype.kind == "U" else array.dtype.name
        return f"{kind}[{', '.join(['rows', *map(str, array.shape[1:])])}]"

    what = f"labels {shown(labels)} do not fit output {name!r} {shown(answers)}"
    fix = f"give the number of the right class, int64[rows], or what the output should answer; or {_BY_FUNCTION}"
    return UnclearLabelsError(what, fix)


def _without_scores(name: str, wanted: Wanted) -> UnclearLabelsError:
    what = f"output {name!r} does not have a score for each class, which {wanted.name} needs"
    if not math.isnan(wanted.threshold):
        what = f"output {name!r} has classes and no scores, so that there is no threshold"
    return UnclearLabelsError(what, "leave out --metric, or give accuracy or f1")
