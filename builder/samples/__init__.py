"""Make the samples that a model is proven with: random ones that its inputs accept, or the ones that the user gives.

`domains` reads from the graph which values each input may hold: token ids that stay inside their table, masks, lengths.
It uses `reach`, which follows the bounds of an input's values through the graph, and `uses`, which finds out what the
model does with them. `drawing` draws samples from those values, also `around` the points at which the model does
something else, and reads samples from a file, with their `labels`. `sizes` has the sizes to try for dynamic dimensions;
those that the graph shows to be equal, or of one size, come from `constraints`. `asked` reads the sizes that the caller
asks for, and `relations` finds others near them that keep the relations between the axes.
"""

from builder.samples.asked import ask_sizes, ask_sizes_of, refuse_batch_sizes, resized, sizes_of
from builder.samples.domains import Domains
from builder.samples.drawing import GIVEN, Samples, check_labels, draw, draw_feeds, read_samples
from builder.samples.kinds import list_in_words
from builder.samples.labels import Labels
from builder.samples.relations import FRACTIONS, mended, never_varied, other_sizes, searched_sizes
from builder.samples.sizes import USUAL, Sizes, candidates, completed, free_names

__all__ = [
    "FRACTIONS",
    "GIVEN",
    "USUAL",
    "Domains",
    "Labels",
    "Samples",
    "Sizes",
    "ask_sizes",
    "ask_sizes_of",
    "candidates",
    "check_labels",
    "completed",
    "draw",
    "draw_feeds",
    "free_names",
    "list_in_words",
    "mended",
    "never_varied",
    "other_sizes",
    "read_samples",
    "refuse_batch_sizes",
    "resized",
    "searched_sizes",
    "sizes_of",
]
