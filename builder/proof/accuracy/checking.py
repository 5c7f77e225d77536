"""Measure the very bytes that are published, and refuse them if they are right too seldom."""

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from builder.proof.accuracy.measuring import MOST_TOGETHER, Baseline
from builder.proof.accuracy.running import Batches
from builder.proof.rewritten import Rewritten
from builder.proof.verification import VerifiedModel
from builder.record import Accuracy


def check_accuracy(
    baseline: Baseline,
    verified: VerifiedModel,
    rounded: ir.Model | None,
    *,
    is_lowered: bool,
    report: Callable[[str], None] = lambda _: None,
) -> Accuracy:
    """Return how right a model is beside the original: its bytes, and its rounded copy if there is one.

    The worse of the two counts.

    Args:
        baseline: How right the original is.
        verified: The model.
        rounded: For fp16 and bf16, the same in fp32 with every value rounded; otherwise None.
        is_lowered: Whether it computes in a lower precision than the original.
        report: Called now and then with how far it is.

    Raises:
        VerificationError: A figure is lower than it may be, or a sample cannot be run.
    """
    model = Rewritten.of(verified.batched, rounded, is_lowered=is_lowered)
    model = replace(model, model_bytes=verified.model_bytes)
    most = min(MOST_TOGETHER, max(verified.proof.batch_sizes, default=1))
    found = [
        baseline.measure(Batches(session.run, verified.batched.is_static, most, bfloat16=model.bfloat16), report=report)
        for session in model.open_sessions()
    ]
    worst = max(found, key=lambda each: max(score.before - score.after for score in each.scores.values()))
    baseline.check(worst)
    return worst
