"""Give a model that was exported for one batch size a batch of any size.

An exporter bakes the batch size it saw into a model: in the shapes of its inputs and outputs, in the target of a
Reshape, in a constant with a row for each sample. `add_batch_axis` makes axis 0 of every input and output symbolic. It
walks the graph and knows at each value where the samples are (`layout`). For each node that reads samples, the rule of
its operator (`rules`) says how the node works for any number of them, or refuses it because it would mix them;
branches, loops and sequences are resolved on the way (`control_flow`). The result is a `BatchedModel`: the new graph
beside the original, which stays the reference for the proof.

Symbolic dimensions get numbers for a walk (`pins`), each walk is an `attempt`, and `batch_axis` decides from the
attempts, and from runs of the original, whether the batch is dynamic already. Axes that are dynamic besides the batch
stay so: `following` walks the graph at several sizes, and `merging` makes one graph of these walks.

`free_axes` makes other axes dynamic too, in a second walk over the new graph (`sizes`). For models that no rule can
carry there are two other ways: `run_one_by_one` runs the whole graph once for each sample, and `keep_static` keeps the
model as it is.
"""

from builder.batching.batch_axis import add_batch_axis
from builder.batching.batched import BatchedModel, BatchedTensor, Rewrite
from builder.batching.keeping import keep_static
from builder.batching.layout import Shape
from builder.batching.one_by_one import run_one_by_one
from builder.batching.sizes import free_axes

__all__ = [
    "BatchedModel",
    "BatchedTensor",
    "Rewrite",
    "Shape",
    "add_batch_axis",
    "free_axes",
    "keep_static",
    "run_one_by_one",
]
