"""What a comparison with the original found."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OutputProof:
    """How much an output differed from the original's, and how much it was allowed to.

    Attributes:
        rtol: The tolerance as a part of each value.
        atol: The tolerance added to that.
        largest_difference: The largest difference of any value; None when nothing was compared.
        mean_difference: The mean difference over all values; None when nothing was compared.
    """

    rtol: float
    atol: float
    largest_difference: float | None
    mean_difference: float | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """The comparison with the original that these bytes passed.

    Attributes:
        batch_sizes: The batch sizes that were run; empty for a static model, and when nothing was compared.
        rows: How many rows the reference has.
        onnxruntime: The version of ONNX Runtime that ran both models.
        outputs: The result for each output, by name.
        effort: `sample`: a few batch sizes; `full`: every one up to the largest; `off`: nothing was compared.
        other_sizes: Sizes of other dynamic axes, by the axis' name, at which a few rows were compared too: with the
            original if the axis is dynamic there, or else with the same rows run one at a time.
        drawn: In a few words, what the samples of each input are, such as `normal` or `0..1999`; `given` if they are
            the user's. Empty in versions of earlier releases.
    """

    batch_sizes: tuple[int, ...]
    rows: int
    onnxruntime: str
    outputs: Mapping[str, OutputProof]
    effort: str = "sample"
    other_sizes: tuple[Mapping[str, int], ...] = ()
    drawn: Mapping[str, str] = field(default_factory=dict)
