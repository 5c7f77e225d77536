"""Prove that the rewritten model answers, row by row, what the original model answers.

`verify` serializes the rewritten model once and runs exactly these bytes. `truth` asks the original model for its
answers, `rewritten` opens the rewritten model, and `settling` corrects the shapes it declares. `prover` runs batches of
several sizes and orders, `neighbours` the same rows beside others, and `other_sizes` other sizes of axes that were made
dynamic. `comparison` says when two answers are equal, and `interface` whether Triton would load the model with its
config. `verify_published` repeats the proof of a published version, and `as_it_is` proves a file that others made.
`original_runs` tries the original at different sizes of its dynamic dimensions, in a process of its own (`child`).
`telling` finds outputs about which a proof says little. `accuracy` judges the answers by the user's labels, and `speed`
measures a lower precision beside fp32. `session` is ONNX Runtime.
"""

from builder.proof.accuracy import (
    MOST_TOGETHER,
    AccuracyOptions,
    Baseline,
    Batches,
    Wanted,
    check_accuracy,
    measure_original,
)
from builder.proof.choosing_sizes import free_sizes
from builder.proof.comparison import (
    Tolerance,
    Wrong,
    as_numbers,
    coarsest_precision,
    compare,
    differences,
    mean_limit,
    tolerance_for,
)
from builder.proof.failing import keep_failing
from builder.proof.original_runs import OriginalRuns
from builder.proof.prover import Proven, Prover, batch_sizes, batches, dimensions_of
from builder.proof.published import check_files, verify_published
from builder.proof.results import Effort
from builder.proof.rewritten import Rewritten
from builder.proof.session import (
    Session,
    one_line,
    onnxruntime_errors,
    onnxruntime_warnings,
    open_original,
    open_rewritten,
    refuse_stale_shapes,
    run_errors,
)
from builder.proof.speed import LEAST_SPEED, measure_speed
from builder.proof.telling import lost_outputs, says_nothing
from builder.proof.verification import VerifiedModel, verify

__all__ = [
    "LEAST_SPEED",
    "MOST_TOGETHER",
    "AccuracyOptions",
    "Baseline",
    "Batches",
    "Effort",
    "OriginalRuns",
    "Proven",
    "Prover",
    "Rewritten",
    "Session",
    "Tolerance",
    "VerifiedModel",
    "Wanted",
    "Wrong",
    "as_numbers",
    "batch_sizes",
    "batches",
    "check_accuracy",
    "check_files",
    "coarsest_precision",
    "compare",
    "differences",
    "dimensions_of",
    "free_sizes",
    "keep_failing",
    "lost_outputs",
    "mean_limit",
    "measure_original",
    "measure_speed",
    "one_line",
    "onnxruntime_errors",
    "onnxruntime_warnings",
    "open_original",
    "open_rewritten",
    "refuse_stale_shapes",
    "run_errors",
    "says_nothing",
    "tolerance_for",
    "verify",
    "verify_published",
]
