"""The record of a model's speed beside fp32, for the manifest."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the model is on the machine that published it.

    Attributes:
        ratio: Its throughput as a multiple of the fp32 model's.
        batch_size: The batch size at which both were measured.
    """

    ratio: float
    batch_size: int
