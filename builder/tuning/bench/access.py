"""A server of the user's that a tuning measures on, and how its two clients reach it: ours and the load test."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.deployment import Address, Certificates, LiveServer, read_headers
from builder.errors import HostError
from builder.server import AdminAccess, find_server


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """A server of the user's, and what a client needs to reach it.

    Attributes:
        address: Its gRPC endpoint.
        http: `host:port` or the URL of its HTTP endpoint. Default: that of this user's server there, or else the port
            before that of gRPC, with TLS if gRPC has it.
        admin: The key to its restricted APIs, if they are restricted. Default: that of this user's server there.
        header_file: A file with headers to send with every request.
        ca_file: The certificates of the authorities that sign the server's certificate, in PEM.
        client_cert: The certificate that says who the client is, in PEM.
        client_key: The key of that certificate, in PEM.
        timeout_s: How long it may take to load a configuration, in seconds.
        cores: How many cores it may use. Default: as many as this machine has.
    """

    address: Address
    http: str | None = None
    admin: AdminAccess | None = None
    header_file: Path | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    timeout_s: float = 300.0
    cores: int | None = None

    def connect(self) -> LiveServer:
        """Return a client that controls the server.

        Raises:
            HostError: A file cannot be read, or the address stands for several servers.
        """
        servers = self.address.resolved()
        if len(servers) > 1:
            what = f"this name stands for {len(servers)} servers, and a tuning measures one"
            raise HostError(self.address, what, f"name one of them, such as {servers[0]}")
        return LiveServer(
            self.address,
            admin=self.admin,
            headers=read_headers(self.header_file) if self.header_file else None,
            certificates=Certificates.read(self.ca_file, self.client_cert, self.client_key),
            timeout_s=self.timeout_s,
        )

    def options(self) -> list[str]:
        """Return the options of a load test that reach it."""
        address = self.address
        files: Mapping[str, Path | None] = {
            "--header-file": self.header_file,
            "--ca-file": self.ca_file,
            "--client-cert": self.client_cert,
            "--client-key": self.client_key,
        }
        given = [part for name, file in files.items() if file is not None for part in (name, str(file.absolute()))]
        grpc = f"{'grpcs' if address.tls else 'grpc'}://{address.name or address.target}"
        return ["--host", self._http_url(), "--grpc-address", grpc, "--server-metrics", "none", *given]

    def _http_url(self) -> str:
        scheme = "https" if self.address.tls else "http"
        if self.http is not None:
            return self.http if "://" in self.http else f"{scheme}://{self.http}"
        if not self.address.tls and (found := find_server(self.address.target)):
            return f"{scheme}://{found.http_address}"
        host, _, port = (self.address.name or self.address.target).rpartition(":")
        return f"{scheme}://{host}:{int(port) - 1}"
