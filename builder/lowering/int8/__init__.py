"""Let a graph compute on 8-bit integers, and keep in fp32 what would lose too much.

`static` measures the ranges of values once, on calibration data. `dynamic` quantizes the weights only, and lets the
model measure the rest while it runs.
"""

from builder.lowering.int8.dynamic import quantize_dynamically
from builder.lowering.int8.kinds import slow_kinds
from builder.lowering.int8.static import quantize_statically

__all__ = ["quantize_dynamically", "quantize_statically", "slow_kinds"]
