"""Measure configurations of a model on a real server: `NAME.candidate` beside the model that clients use."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.deployment import Address
from builder.progress import Report, silent
from builder.repository import Repository
from builder.server import AdminAccess
from builder.tuning.measurement import Configuration, Load, Measurement


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """A server of the user's, and what a client needs to reach it.

    Attributes:
        address: Its gRPC endpoint.
        http: `host:port` or the URL of its HTTP endpoint. Default: the port before that of gRPC, with TLS if gRPC has
            it.
        admin: The key to its restricted APIs, if they are restricted. Default: that of this user's server there.
        header_file: A file with headers to send with every request.
        ca_file: The certificates of the authorities that sign the server's certificate, in PEM.
        client_cert: The certificate that says who the client is, in PEM.
        client_key: The key of that certificate, in PEM.
        timeout_s: How long it may take to load a configuration, in seconds.
    """

    address: Address
    http: str | None = None
    admin: AdminAccess | None = None
    header_file: Path | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    timeout_s: float = 300.0


class ServerBench:
    """Measures configurations of a model on a real server.

    Attributes:
        current: The configuration that config.pbtxt says now.
        version: The version that is measured.
        proven_max_batch: Up to which batch size it was proven; 0 for a model without a batch.
        kind: Where the instances run: `cpu` or `gpu`.
        cores: How many cores the server has, if it is on this machine; else those that are assumed: this machine's.
        is_here: Whether the server is on this machine.
        server: The address of the server; empty for the embedded one.
        notes: What a reader of the result must know about the server.
    """

    current: Configuration
    version: int
    proven_max_batch: int
    kind: Literal["cpu", "gpu"]
    cores: int
    is_here: bool
    server: str
    notes: tuple[str, ...]

    def measure(self, configuration: Configuration, load: Load) -> Measurement:
        """Load the configuration as `NAME.candidate`, and measure it under this load.

        A configuration that does not load, or that gives no answer, is a measurement with an `error`.

        Raises:
            HostError: The server is gone, or the load test does not run.
            VerificationError: The stored reference cannot be used.
        """
        raise NotImplementedError


@contextmanager
def open_bench(
    repository: Repository,
    name: str,
    *,
    version: int | None = None,
    server: ServerAccess | None = None,
    stage_time_s: float = 5.0,
    protocol: Literal["http", "grpc"] = "grpc",
    report: Report = silent,
) -> Iterator[ServerBench]:
    """Prepare a server to measure a model's configurations, and leave nothing of it behind.

    Args:
        repository: The repository that has the model.
        name: The model.
        version: The version to measure. Default: the one that config.pbtxt names.
        server: A server of the user's that reads the repository. Default: an embedded one on this machine, for the
            duration of the block.
        stage_time_s: How long each run measures, in seconds.
        protocol: What the requests are sent over.
        report: Called with each step.

    Raises:
        RepositoryError: There is no such version, its answers cannot be compared, or the repository cannot be written.
        HostError: There is no server that can be controlled, or it does not load the model as it is.
    """
    raise NotImplementedError
    yield ServerBench()
