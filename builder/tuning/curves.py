"""How long a batch takes: by the settings of an instance and the number of rows, with its noise.

Triton counts, for each size of a batch, how often it ran the model and how long that took. A few runs with requests of
different sizes therefore give the whole curve of each setting; sizes between the measured ones are interpolated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.tuning.measurement import Configuration

Engine = tuple[int | None, tuple[int, ...], bool]
"""What the time of a batch depends on beside its size: the threads, the optimization profiles, and CUDA graphs."""


def engine_of(configuration: Configuration, cores: int | None) -> Engine:
    """Return what the time of a batch depends on.

    Without a number of threads, each instance of the embedded server takes an even share of the cores.

    Args:
        configuration: The configuration.
        cores: The number of cores of the server; None if it is not known.
    """
    threads = configuration.threads
    if threads is None and cores is not None and not configuration.profiles and not configuration.cuda_graphs:
        threads = max(1, cores // max(1, configuration.instances))
    return threads, configuration.profiles, configuration.cuda_graphs


@dataclass(frozen=True, slots=True)
class Curve:
    """The time of a batch, for each engine and size.

    Attributes:
        points: For each engine, pairs of rows and seconds, by rows.
        noise: The standard deviation of the logarithm of the time of one batch.
    """

    points: Mapping[Engine, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    noise: float = 0.1

    def seconds(self, engine: Engine, rows: int) -> float:
        """Return the mean time of a batch of `rows` rows, in seconds."""
        raise NotImplementedError
