"""The record of a quantized model, for the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model was quantized to int8.

    Attributes:
        runtime: What it was quantized for: `cpu` or `tensorrt`.
        nodes: The number of nodes that compute on integers.
        weights: The part of the weights that are integers, 0 to 1.
        calibration: The number of rows on which the ranges of values were measured; 0 if the model measures them while
            it runs.
        kept: The nodes that stay in fp32: their number by reason and operator.
        kept_nodes: Those that stay in fp32 because of the error that was measured, by name.
        is_over: Whether the time was up before single nodes were told apart, so that neighbours are among them.
    """

    runtime: str
    nodes: int
    weights: float
    calibration: int
    kept: Mapping[str, Mapping[str, int]]
    kept_nodes: tuple[str, ...] = ()
    is_over: bool = False
