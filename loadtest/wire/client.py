"""The client of each protocol; both are used in the same way."""

from typing import Protocol

from loadtest.wire.exchange import Address
from loadtest.wire.grpc import GrpcClient
from loadtest.wire.http import HttpClient
from loadtest.wire.messages import Answer

Client = HttpClient | GrpcClient

CLIENTS: dict[str, type[HttpClient] | type[GrpcClient]] = {"http": HttpClient, "grpc": GrpcClient}


class Connection(Protocol):
    """One user's kept connection."""

    def infer(self, encoded: bytes) -> Answer:
        """Send an encoded request and return the answer to it.

        Raises:
            ExchangeError: There was none. Unless `usable`, the connection is closed and opens again at the next call.
        """

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""


def make_client(protocol: str, address: Address, timeout_s: float) -> Client:
    """Return the client of a protocol, `http` or `grpc`, for one server."""
    return CLIENTS[protocol](address, timeout_s)
