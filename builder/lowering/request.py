"""What the caller asks of a lower precision, and what comes out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from builder.batching import BatchedModel
from builder.record import Quantization
from builder.tensors import Arrays

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic"]

QUANTIZED: Collection[Precision] = ("int8", "int8-dynamic")
"""The precisions that compute on integers."""

Runtime = Literal["cpu", "tensorrt"]
"""What will run the model: ONNX Runtime on a CPU, or TensorRT."""


@dataclass(frozen=True, slots=True)
class LoweringRequest:
    """What the caller asks for.

    Attributes:
        precision: The precision to compute in.
        runtime: What will run the model. Quantized models differ by it, and only TensorRT's opset is raised.
        newest_opset: The newest opset that what serves the model accepts; None if that is not known.
        samples: The user's samples, `[rows, *dims]` by input; None if there are none.
        calibration: The user's inputs to measure ranges of values on, in the same form; None if there are none.
        keep: The names of nodes of the batched graph that stay in fp32.
        slow: The names of those that stay in fp32 because they are slower in the lower precision.
        sensitive: The names of those that are known to cause too large an error.
        max_error: The allowed error, as `verify` takes it; None for the default of the precision.
    """

    precision: Precision
    runtime: Runtime = "cpu"
    newest_opset: int | None = None
    samples: Arrays | None = None
    calibration: Arrays | None = None
    keep: frozenset[str] = frozenset()
    slow: frozenset[str] = frozenset()
    sensitive: frozenset[str] = frozenset()
    max_error: float | None = None


@dataclass(frozen=True, slots=True)
class LoweredModel:
    """A model that computes in a lower precision, or the same model if that is fp32.

    Attributes:
        batched: The model. Its inputs and outputs have the types that they had.
        rounded: For fp16 and bf16, the same arithmetic in fp32 with every value rounded; otherwise None.
        description: What was done, in a few words; empty for fp32.
        kept: The nodes that stay in fp32: their number by reason and operator.
        quantization: For int8, the facts for the manifest; otherwise None.
    """

    batched: BatchedModel
    rounded: ir.Model | None = None
    description: str = ""
    kept: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    quantization: Quantization | None = None
