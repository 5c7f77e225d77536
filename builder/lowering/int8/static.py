"""Quantize weights and values to int8, with ranges that were measured on calibration data."""

from builder.batching import BatchedModel
from builder.lowering.request import LoweredModel, LoweringRequest


def quantize_statically(batched: BatchedModel, request: LoweringRequest) -> LoweredModel:
    """Quantize the model, with the ranges of its values on the calibration data.

    Raises:
        ModelError: Too little of the model can compute on integers.
    """
    raise NotImplementedError(f"{request.precision} of {batched.original.path}")
