"""Measure how right a model is on the user's own samples, before and after it was changed, and refuse a loss.

The labels come with the samples (`builder.samples.labels`). `choosing` finds the output that they belong to, and how
they judge it; `scoring` has the ways to judge, `figures` their formulas, and `functions` the user's own function.
`running` runs a model on all samples, `measuring` compares it with the original, and `checking` does that with the
bytes that are published. `unclear` is the error for labels that could mean several things.
"""

from builder.proof.accuracy.checking import check_accuracy
from builder.proof.accuracy.choosing import METRICS, Wanted
from builder.proof.accuracy.functions import find_function
from builder.proof.accuracy.measuring import (
    DEFAULT_DROP,
    MOST_TOGETHER,
    AccuracyOptions,
    Baseline,
    measure_original,
)
from builder.proof.accuracy.running import Batches

__all__ = [
    "DEFAULT_DROP",
    "METRICS",
    "MOST_TOGETHER",
    "AccuracyOptions",
    "Baseline",
    "Batches",
    "Wanted",
    "check_accuracy",
    "find_function",
    "measure_original",
]
