"""Make the batch of a model dynamic, in the way that the options ask for."""

from builder.batching import BatchedModel, add_batch_axis, free_axes, keep_static, run_one_by_one
from builder.model import Model
from builder.proof import OriginalRuns, free_sizes
from builder.publishing.options import PublishOptions
from builder.record import check_served


def make_batch_dynamic(model: Model, options: PublishOptions, *, runs: OriginalRuns | None = None) -> BatchedModel:
    """Make the batch dynamic, or keep the model static.

    Args:
        model: The model.
        options: What the caller asked for.
        runs: Runs the original; by default with the usual budget of time.

    Raises:
        ModelError: The model has no such batch, or Triton cannot serve what comes out.
    """
    original = runs or OriginalRuns(model)
    if options.is_static:
        batched = keep_static(model)
    elif options.is_per_sample:
        batched = run_one_by_one(model, batch_axes=options.batch_axes, original=original)
    else:
        batched = add_batch_axis(model, batch_axes=options.batch_axes, original=original)
        if options.dynamic:
            batched = free_axes(batched, options.dynamic, next(iter(free_sizes(batched)), {}))
    check_served(batched)
    return batched
