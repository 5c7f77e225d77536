"""Quantize the weights to int8, and let the model measure the ranges of its values while it runs."""

from builder.batching import BatchedModel
from builder.lowering.request import LoweredModel, LoweringRequest


def quantize_dynamically(batched: BatchedModel, request: LoweringRequest) -> LoweredModel:
    """Quantize the weights of the model.

    Raises:
        ModelError: Too little of the model can compute on integers.
    """
    raise NotImplementedError(f"{request.precision} of {batched.original.path}")
