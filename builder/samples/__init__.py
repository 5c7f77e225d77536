"""Make the samples that a model is proven with: random ones that its inputs accept, or the ones that the user gives.

`domains` reads from the graph which values each input may hold: token ids that stay inside their table, masks, lengths.
It uses `reach`, which follows the values of an input through the graph. `drawing` draws samples from those values, and
reads samples from a file.
"""

from builder.samples.drawing import draw, read_samples

__all__ = ["draw", "read_samples"]
