"""Prove that the rewritten model answers, row by row, what the original model answers.

`verify` serializes the rewritten model once and runs exactly these bytes. `truth` asks the original model for its
answers, `rewritten` opens the rewritten model, `prover` runs batches of several sizes and orders, `other_sizes` does
so where other axes were made dynamic, and `comparison` says when two answers are equal. `verify_published` repeats the
proof of a published version. `original_runs` tries the original at different sizes of its free
dimensions. `session` is ONNX Runtime.
"""

from builder.proof.comparison import Tolerance, Wrong, as_numbers, coarsest_precision, compare, tolerance_for
from builder.proof.original_runs import OriginalRuns, free_sizes
from builder.proof.prover import Proven, Prover, batch_sizes, batches, dimensions_of
from builder.proof.published import verify_published
from builder.proof.results import Effort
from builder.proof.session import (
    Session,
    one_line,
    onnxruntime_errors,
    onnxruntime_warnings,
    open_original,
    open_rewritten,
    refuse_stale_shapes,
)
from builder.proof.verification import VerifiedModel, verify

__all__ = [
    "Effort",
    "OriginalRuns",
    "Proven",
    "Prover",
    "Session",
    "Tolerance",
    "VerifiedModel",
    "Wrong",
    "as_numbers",
    "batch_sizes",
    "batches",
    "coarsest_precision",
    "compare",
    "dimensions_of",
    "free_sizes",
    "one_line",
    "onnxruntime_errors",
    "onnxruntime_warnings",
    "open_original",
    "open_rewritten",
    "refuse_stale_shapes",
    "tolerance_for",
    "verify",
    "verify_published",
]
