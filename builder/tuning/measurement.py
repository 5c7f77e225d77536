"""What is tried, and what was measured: a configuration of a model under a load."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

Z = 1.96
"""The normal distribution's quantile for a two-sided interval of 95 %."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of a model that are searched.

    Attributes:
        instances: How many copies of the model run at the same time (`instance_group.count`).
        threads: CPU threads of each instance (`intra_op_thread_count`); None leaves them to the server: NVIDIA's
            takes one for each core, and the embedded one divides the cores among the instances.
        max_batch_size: The largest batch that Triton forms, in rows. 0 for a model without a batch.
        preferred: Batch sizes at which Triton stops waiting for more requests (`preferred_batch_size`), ascending.
        delay_us: How long a request may wait for others (`max_queue_delay_microseconds`).
        profiles: The optimization profiles that the instances of a TensorRT plan use; empty means the first one.
        cuda_graphs: Whether a TensorRT plan runs as a CUDA graph.
    """

    instances: int
    threads: int | None
    max_batch_size: int
    preferred: tuple[int, ...] = ()
    delay_us: int = 0
    profiles: tuple[int, ...] = ()
    cuda_graphs: bool = False

    @property
    def engine(self) -> tuple[int | None, tuple[int, ...], bool]:
        """What the time of a batch depends on: the threads, and for a TensorRT plan the profiles and CUDA graphs."""
        return self.threads, self.profiles, self.cuda_graphs


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one run: a number of users that send one request after the other, or a rate.

    Attributes:
        users: How many users there are in a closed loop.
        rate: How many requests are sent each second in an open loop, whose arrivals are a Poisson process. One of the
            two is None.
        rows: How often a request has how many rows, as pairs of rows and weight.
    """

    users: int | None = None
    rate: float | None = None
    rows: tuple[tuple[int, float], ...] = ((1, 1.0),)

    @classmethod
    def of_all_sizes(cls, largest: int) -> "Load":
        """Return the load under which batches are timed: one user sends requests of all sizes, one after the other.

        Larger requests are rarer, so that they do not take all the time.
        """
        sizes = (2**power for power in range(largest.bit_length()))
        return cls(users=1, rows=tuple((size, round(size**-0.5, 3)) for size in sizes))

    @property
    def is_of_all_sizes(self) -> bool:
        """Whether it is such a load. Requests of one size are also what a user may ask for, and no such load."""
        return len(self.rows) > 1 and self == Load.of_all_sizes(self.rows[-1][0])


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval; that of a gain is the 90 % one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """How often Triton ran the model on batches of one size, and how long that took.

    Attributes:
        count: How many batches there were.
        seconds: The mean time of one, from the start of its input to the end of its output.
    """

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run: what was measured of a configuration under a load.

    Attributes:
        configuration: What was tried.
        load: Under which load.
        throughput: Rows answered each second.
        p99_s: The time within which 99 % of the requests were answered, in seconds; a request that got no answer counts
            as slower than any other. None if there were too few requests.
        requests: How many requests were measured.
        waiting: How many more requests waited for an answer at the end of the measured time than at its start.
        wrong: How many answers were wrong.
        failed: How many requests got no answer.
        unchecked: How many answers could not be checked.
        mean_batch: The mean number of rows in a batch.
        batches: What Triton executed, by the number of rows.
        queue_s: The mean time that a request waited in Triton's queue, in seconds.
        latency_s: The mean latency of a request, as its client saw it, in seconds.
        client_cpu_s: The processor time of the load generator for each request, in seconds.
        server_cpu_s: The processor time of the server for each request, in seconds; None if the server is elsewhere.
        others: The share of this machine's cores that other programs took meanwhile; None if that is not known.
        seconds: How long was measured.
        notes: What limits what this says: that the load generator or the machine was the bottleneck, for example.
        error: Why there is no measurement, if the configuration did not load or gave no answers; empty otherwise.
    """

    configuration: Configuration
    load: Load
    throughput: Interval | None
    p99_s: Interval | None
    requests: int = 0
    waiting: int = 0
    wrong: int = 0
    failed: int = 0
    unchecked: int = 0
    mean_batch: float = 0.0
    batches: Mapping[int, BatchTimes] = field(default_factory=dict)
    queue_s: float = 0.0
    latency_s: float = 0.0
    client_cpu_s: float = 0.0
    server_cpu_s: float | None = None
    others: float | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: str = ""


class Bench(Protocol):
    """Something that measures configurations: a real server under load, or a simulation of one."""

    def measure(self, configuration: Configuration, load: Load) -> Measurement:
        """Load the configuration, and measure it under this load."""
        ...
