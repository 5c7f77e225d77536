"""The record of a model's speed beside fp32, for the manifest."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpeedOfBatch:
    """How fast batches of one size are.

    Attributes:
        batch_size: The number of rows.
        fp32_ms: The median time of a batch in the fp32 model, in milliseconds.
        ms: The same in the model that computes in the lower precision.
        ratio: How many times as fast it is as fp32: the median of ratios of times that were measured in succession, of
            the time that passed or of the processor time, whichever ratio is smaller.
        low: A quarter of these ratios are smaller.
        high: A quarter of these ratios are larger.
    """

    batch_size: int
    fp32_ms: float
    ms: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        batch = f" at a batch of {self.batch_size}" if self.batch_size else ""
        return f"{self.ratio:.2f} times the throughput of fp32{batch} (mostly {self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model in a lower precision is beside the same model in fp32, on the CPU that published it.

    Attributes:
        threads: The number of threads of ONNX Runtime.
        batches: What was measured, one for each batch size; the batch size 0 is for a model without a batch.
        least: The ratio that was asked for.
    """

    threads: int
    batches: tuple[SpeedOfBatch, ...]
    least: float

    @property
    def ratio(self) -> float:
        """How many times as fast as fp32 it is, at the batch size at which it gains least."""
        return min(batch.ratio for batch in self.batches)

    @property
    def pays(self) -> bool:
        """Whether it is as fast as was asked for, at every batch size."""
        return self.ratio >= self.least

    def __str__(self) -> str:
        """Say it in a few words: `1.84 times the throughput of fp32 at a batch of 1 (mostly 1.80 to 1.90), …`."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        first, *others = map(str, self.batches)
        rest = [other.replace(" the throughput of fp32", "") for other in others]
        return f"{', '.join((first, *rest))}, with {threads} of this CPU"
