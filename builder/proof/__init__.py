"""Prove that the rewritten model answers, row by row, what the original model answers.

`verify` serializes the rewritten model once and runs those very bytes; `truth` asks the original model, `prover` runs
batches of several sizes and orders, `comparison` says when two answers are equal, and `session` is ONNX Runtime.
"""

from builder.proof.verification import Effort, VerifiedModel, verify, verify_published

__all__ = ["Effort", "VerifiedModel", "verify", "verify_published"]
