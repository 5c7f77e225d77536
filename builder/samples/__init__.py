"""The samples a model is proven with: drawn at random from what its inputs may hold, or the caller's own.

`domains` reads from the graph which values each input may take, `reach` follows an input through the graph to find out,
and `draw` draws samples from those values.
"""

from builder.samples.drawing import draw, read_samples

__all__ = ["draw", "read_samples"]
