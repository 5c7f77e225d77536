"""Lower a model to the precision that was asked for."""

from builder.batching import BatchedModel
from builder.lowering.int8 import quantize_dynamically, quantize_statically
from builder.lowering.plan import NEWEST
from builder.lowering.precision import reduce_precision
from builder.lowering.request import LoweredModel, LoweringRequest


def lower(batched: BatchedModel, request: LoweringRequest) -> LoweredModel:
    """Let the model compute in a lower precision wherever that keeps its answers.

    Args:
        batched: The model, with its final names.
        request: The precision, what will run the model, and the data to measure it on.

    Raises:
        ModelError: Too little of the model can compute in it, or the model fails on every sample.
    """
    match request.precision:
        case "fp32":
            return LoweredModel(batched)
        case "int8":
            return quantize_statically(batched, request)
        case "int8-dynamic":
            return quantize_dynamically(batched, request)
    reduced = reduce_precision(
        batched,
        request.precision,
        samples=request.samples,
        keep=request.keep,
        raise_to=_raise_to(request),
    )
    return LoweredModel(reduced.batched, reduced.rounded, str(reduced.reduction), reduced.reduction.kept)


def _raise_to(request: LoweringRequest) -> int:
    """Return the newest opset that the model may be raised to; 0 if it has to stay in its own.

    Only TensorRT has the same operators in every opset. ONNX Runtime's CUDA provider has none for some of them in
    opset 22: GlobalAveragePool, ConvTranspose and GRU among others.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md
    """
    if request.runtime != "tensorrt":
        return 0
    return NEWEST if request.newest_opset is None else min(NEWEST, request.newest_opset)
