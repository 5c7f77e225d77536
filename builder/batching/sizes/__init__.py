"""Make other axes than the batch dynamic: the height and width of an image, the length of a sequence.

This is a second walk, over the graph that has its batch already. Every dimension is a product of numbers and named
sizes (`dims`), slowest first, so that a Reshape regroups factors, and a target that has a size baked in is rewritten
(`rules`, `writer`). Operators that take no shape from a constant are left to ONNX's own inference (`inference`). A
constant that spells out the old size, such as a table of positions, cannot be stretched: the error names its node.
"""

from builder.batching.sizes.freeing import free_axes
from builder.batching.sizes.rules import RULES

__all__ = ["RULES", "free_axes"]
