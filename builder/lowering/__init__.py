"""Make a model fit what will run it: a lower precision, or an older release of Triton.

`precision` lets the graph compute in fp16 or bf16. `plan` decides which nodes stay in fp32 because they would lose too
much, `magnitudes` measures how large their values become, and `edges` changes what flows between them. `targets` knows
which ONNX files each release of NVIDIA's Triton container accepts, and lowers the version numbers in a file if that
changes nothing else.
"""

from builder.lowering.plan import Precision
from builder.lowering.precision import ReducedModel, Reduction, reduce_precision
from builder.lowering.targets import TARGETS, Target, fit

__all__ = ["TARGETS", "Precision", "ReducedModel", "Reduction", "Target", "fit", "reduce_precision"]
