"""Make a model fit what will run it: a lower precision, or an older release of Triton.

`lower` does what a `LoweringRequest` asks for. `precision` lets the graph compute in fp16 or bf16, `int8` on 8-bit
integers. `plan` decides which nodes stay in fp32 because they would lose too much, `magnitudes` measures how large
their values become, and `edges` changes what flows between them. `targets` knows which ONNX files each release of
NVIDIA's Triton container accepts, and lowers the version numbers in a file if that changes nothing else.
"""

from builder.lowering.dispatch import lower
from builder.lowering.int8 import slow_kinds
from builder.lowering.magnitudes import sample_sets
from builder.lowering.precision import ReducedModel, Reduction, reduce_precision
from builder.lowering.request import QUANTIZED, LoweredModel, LoweringRequest, Precision, Runtime
from builder.lowering.targets import TARGETS, Target, fit

__all__ = [
    "QUANTIZED",
    "TARGETS",
    "LoweredModel",
    "LoweringRequest",
    "Precision",
    "ReducedModel",
    "Reduction",
    "Runtime",
    "Target",
    "fit",
    "lower",
    "reduce_precision",
    "sample_sets",
    "slow_kinds",
]
