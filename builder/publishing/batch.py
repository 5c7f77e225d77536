"""Make the batch of a model dynamic, in the way that the options ask for."""

from builder.batching import BatchedModel, add_batch_axis, free_axes, keep_static, run_one_by_one
from builder.bounded import during
from builder.model import Model
from builder.proof import OriginalRuns, free_sizes
from builder.publishing.options import PublishOptions
from builder.record import check_served
from builder.samples import refuse_batch_sizes


def make_batch_dynamic(model: Model, options: PublishOptions, *, runs: OriginalRuns | None = None) -> BatchedModel:
    """Make the batch dynamic, or keep the model static.

    Args:
        model: The model.
        options: What the caller asked for.
        runs: Runs the original; by default with the usual budget of time.

    Raises:
        ModelError: The model has no such batch, a size that was asked for is one of the batch, or Triton cannot
            serve what comes out.
    """
    with during("its batch is made dynamic"):
        batched = _make_batch_dynamic(model, options, runs or OriginalRuns(model))
    if options.sizes:
        refuse_batch_sizes(batched)
    check_served(batched)
    return batched


def _make_batch_dynamic(model: Model, options: PublishOptions, original: OriginalRuns) -> BatchedModel:
    if options.is_static:
        return keep_static(model)
    if options.is_per_sample:
        return run_one_by_one(model, batch_axes=options.batch_axes, original=original)
    batched = add_batch_axis(model, batch_axes=options.batch_axes, original=original)
    if options.dynamic:
        batched = free_axes(batched, options.dynamic, next(iter(free_sizes(batched)), {}))
    return batched
