"""Bring a model down to what will run it: a lower precision, or an older release of Triton.

`precision` lets the graph compute in fp16 or bf16 and keeps in fp32 what would not survive it; `targets` knows which
ONNX files each release of NVIDIA's Triton container takes.
"""

from builder.lowering.precision import Precision, reduce_precision
from builder.lowering.targets import TARGETS, fit

__all__ = ["TARGETS", "Precision", "fit", "reduce_precision"]
