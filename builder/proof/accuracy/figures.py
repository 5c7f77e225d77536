"""The figures by which answers are judged. Each is at most 1, and higher is better."""

import math

import numpy as np

from builder.tensors import Array


def accuracy(decided: Array, right: Array) -> float:
    """Return the part of the decisions that are right; both are `[values]`."""
    return float((decided == right).mean())


def f1(decided: Array, right: Array) -> float:
    """Return the harmonic mean of precision and recall of the ones among zeros and ones; 1 if there are none at all.

    Source: https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html
    """
    found = int((decided & right).sum())
    total = int(decided.sum()) + int(right.sum())
    return 2 * found / total if total else 1.0


def macro_f1(decided: Array, right: Array) -> float:
    """Return the mean of the F1 of each class that occurs."""
    classes = np.union1d(decided, right)
    return float(np.mean([f1(decided == number, right == number) for number in classes]))


def mean_iou(decided: Array, right: Array) -> float:
    """Return the mean, over the classes that occur, of intersection over union."""
    parts = []
    for number in np.union1d(decided, right):
        chosen, wanted = decided == number, right == number
        parts.append(float((chosen & wanted).sum()) / float((chosen | wanted).sum()))
    return float(np.mean(parts))


def r2(values: Array, right: Array) -> float:
    """Return R², the part of the variance of numbers `[rows, columns]` that the answers explain.

    It is 1 for perfect answers, and 0 for answers as good as each column's mean. Columns count by their variance. It is
    NaN if the right numbers do not vary.

    Source: https://scikit-learn.org/stable/modules/generated/sklearn.metrics.r2_score.html (variance_weighted)
    """
    wanted = right.astype(np.float64)
    total = float(((wanted - wanted.mean(axis=0)) ** 2).sum())
    with np.errstate(over="ignore", invalid="ignore"):
        missed = float(((values.astype(np.float64) - wanted) ** 2).sum())
    return 1 - missed / total if total else math.nan


def by_chance(decided: Array, right: Array) -> float:
    """Return the accuracy to expect if the same decisions were made in a random order.

    Source: Cohen's kappa, https://scikit-learn.org/stable/modules/model_evaluation.html#cohen-kappa
    """
    count = len(right)
    chosen = dict(zip(*np.unique(decided, return_counts=True), strict=True))
    wanted = dict(zip(*np.unique(right, return_counts=True), strict=True))
    return sum(float(chosen.get(each, 0)) * float(number) for each, number in wanted.items()) / count**2
