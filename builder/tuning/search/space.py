"""The configurations that are tried, in a fixed order, and which of two is the simpler."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from builder.tuning.measurement import Configuration
from builder.tuning.plan_choices import PlanUse

Kind = Literal["cpu", "gpu", "tensorrt"]
"""What runs the model: ONNX Runtime on the CPU, ONNX Runtime on a GPU, or a TensorRT plan."""

DELAYS_US = (100, 500, 2000)
"""How long requests wait for others in the queue, besides not at all."""

PART_OF_LIMIT = 0.25
"""The longest delay that is tried, as a part of the limit of p99: what waits longer has little time left to run."""

GPU_INSTANCES = (1, 2, 4)
"""How many instances of a model are tried on a GPU, where the number of cores says nothing."""


@dataclass(frozen=True, slots=True)
class Space:
    """The configurations that a tuning chooses from.

    Triton refuses requests of more rows than `max_batch_size`, so no configuration has a lower one than the current. A
    preferred batch size without a delay limits the batches as well, and refuses nothing: the batcher runs the largest
    preferred size that the queue fills. So smaller batches are asked for by such a size, which is called the cap.

    Attributes:
        current: The configuration of now, which is the first that is tried.
        configurations: All of them, the current one first.
        cores: How many cores the server has.
        largest_batch: The most rows in a batch of any configuration; 1 for a model without a batch.
    """

    current: Configuration
    configurations: tuple[Configuration, ...]
    cores: int
    largest_batch: int

    @classmethod
    def of(
        cls,
        current: Configuration,
        *,
        cores: int,
        proven_max_batch: int,
        largest_request: int = 1,
        kind: Kind = "cpu",
        max_p99_s: float = math.inf,
        plan: Sequence[PlanUse] = (),
    ) -> "Space":
        """List what can be tried.

        Args:
            current: The configuration of now.
            cores: How many cores the server has.
            proven_max_batch: The largest batch at which the model was proven; 0 for a model without a batch.
            largest_request: The most rows of a request. No batch is smaller.
            kind: What runs the model. Threads are tried on the CPU only.
            max_p99_s: The limit of p99, in seconds. Delays of more than a part of it are left out.
            plan: The ways to run a TensorRT plan. Each is combined with all others, up to the batch that it takes.
        """
        largest = max(1, current.max_batch_size, proven_max_batch if current.max_batch_size else 0)
        pairs = _pairs(current, cores) if kind == "cpu" else [(count, current.threads) for count in GPU_INSTANCES]
        longest_us = max_p99_s * PART_OF_LIMIT * 1e6
        delays = [0, *(delay for delay in DELAYS_US if delay <= longest_us)]
        found = {current: None}
        for use in plan or [PlanUse(current.profiles, current.cuda_graphs, largest, ())]:
            caps = _steps(largest_request, use.largest, use.usual)
            for instances, threads in pairs:
                shape = replace(current, instances=instances, threads=threads)
                shape = replace(shape, profiles=use.profiles, cuda_graphs=use.cuda_graphs)
                found.update(dict.fromkeys(_batching(shape, current.max_batch_size, caps, delays)))
        return cls(current, tuple(found), cores, largest)

    def simplicity(self, configuration: Configuration) -> tuple[float, ...]:
        """Return a key by which configurations are sorted: the simplest is the least.

        Simpler is what differs from the current configuration in fewer settings, then what has fewer instances, no
        delay, no cap, and fewer threads.
        """
        current = self.current
        changes = sum(
            (
                configuration.instances != current.instances,
                configuration.threads != current.threads,
                configuration.max_batch_size != current.max_batch_size,
                configuration.preferred != current.preferred,
                configuration.delay_us != current.delay_us,
                configuration.profiles != current.profiles,
                configuration.cuda_graphs != current.cuda_graphs,
            )
        )
        return (
            changes,
            configuration.instances,
            configuration.delay_us,
            len(configuration.preferred),
            configuration.threads or self.cores,
            -cap_of(configuration),
        )


def cap_of(configuration: Configuration) -> int:
    """Return the most rows in a batch while nothing waits: the largest preferred size, or the largest batch."""
    return max(configuration.preferred, default=max(1, configuration.max_batch_size))


def _pairs(current: Configuration, cores: int) -> list[tuple[int, int | None]]:
    """Return instances and threads, up to two threads for each core.

    Threads are always said, since a server that is left the choice may give each instance of several fewer: one
    instance alone gets one for each core either way, and stays as it is.
    """
    counts = _steps(1, cores)
    pairs: list[tuple[int, int | None]] = []
    for threads in sorted({*counts, current.threads or cores}):
        for count in sorted({*counts, current.instances}):
            unsaid = current.threads is None and (count, threads) == (1, cores)
            if count * threads <= 2 * cores:
                pairs.append((count, None if unsaid else threads))
    return pairs


def _batching(shape: Configuration, served: int, caps: list[int], delays: list[int]) -> Iterator[Configuration]:
    """Yield every way to batch with these instances: caps and delays, for a model that has a batch."""
    if not served:
        yield shape
        return
    for cap in caps:
        for delay in delays if cap > 1 else [0]:
            if cap < served:
                yield replace(shape, preferred=(cap,), delay_us=delay)
            else:
                yield replace(shape, max_batch_size=cap, preferred=(), delay_us=delay)


def _steps(least: int, most: int, also: Iterable[int] = ()) -> list[int]:
    """Return the powers of two from `least` to `most`, both ends, and other sizes that lie between them."""
    inner = [*(2**power for power in range(most.bit_length())), *also]
    return sorted({min(least, most), most, *(size for size in inner if least <= size <= most)})
