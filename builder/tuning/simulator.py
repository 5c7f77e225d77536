"""Predict the throughput and latency of a configuration: simulate Triton's batcher, its instances and its clients."""

from collections.abc import Iterable
from dataclasses import dataclass

from builder.tuning.curves import Curve
from builder.tuning.measurement import Configuration, Load


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of the server, the load generator and the machine that they run on.

    Attributes:
        curve: The time of a batch that runs alone.
        cores: The cores that the model, Triton and the load generator share; None if nothing is known of the server's
            machine, which then has enough of them.
        client_cpu_s: The processor time of the load generator for each request, in seconds. It is one process, and
            handles one request at a time.
        front_cpu_s: The processor time of the server for each request, without the model, in seconds.
        latency_s: What else a request takes when nobody else is there, in seconds: the network, and waking up programs.
        batch_s: How much longer than its batch an instance is busy, in seconds.
        contention: By which share each further busy instance slows the others down, although there are cores enough.
        client_here: Whether the load generator uses the same cores.
    """

    curve: Curve
    cores: int | None
    client_cpu_s: float = 0.0
    front_cpu_s: float = 0.0
    latency_s: float = 0.0
    batch_s: float = 0.0
    contention: float = 0.0
    client_here: bool = True


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a configuration will do under a load.

    Attributes:
        throughput: Rows answered each second.
        p99_s: The time within which 99 % of the requests are answered, in seconds.
        mean_batch: The mean number of rows in a batch.
    """

    throughput: float
    p99_s: float
    mean_batch: float


def simulate(
    configuration: Configuration, load: Load, machine: Machine, *, requests: int = 500, seed: int = 0
) -> Predicted:
    """Simulate a configuration under a load.

    Args:
        configuration: The configuration.
        load: The load.
        machine: The server, the load generator and their machine.
        requests: How many requests are simulated. 99 % of them are a figure from about 500 on.
        seed: What the random numbers begin with; equal seeds give equal results.
    """
    raise NotImplementedError


def simulate_all(
    cases: Iterable[tuple[Configuration, Load]], machine: Machine, *, requests: int = 500, seed: int = 0
) -> list[Predicted]:
    """Simulate many configurations and loads, as `simulate` does for each; return the results in the same order."""
    return [simulate(configuration, load, machine, requests=requests, seed=seed) for configuration, load in cases]
