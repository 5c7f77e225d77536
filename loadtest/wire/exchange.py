"""One request, one answer, over one kept connection: what the HTTP and the gRPC client share."""

import socket
import ssl
from dataclasses import dataclass
from typing import Protocol

from loadtest.checking.answers import Answer

RECEIVE_BYTES = 1 << 18
MEMO_LIMIT = 512
IDLE_S = 1.0
"""A connection kept idle so long may have been hung up by the server, which then is no failure."""


class ExchangeError(Exception):
    """No answer came, or none that can be read.

    Args:
        kind: What failures are counted by: `refused`, `timeout`, `cut`, `malformed`, `http_503`, `grpc_UNAVAILABLE`…
        message: What the server or the operating system said.
        usable: Whether the connection can carry the next request.
    """

    def __init__(self, kind: str, message: str, *, usable: bool = False) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.usable = usable


class Connection(Protocol):
    """A kept connection of one user."""

    def ask(self, wire: bytes) -> Answer:
        """Send an encoded request and wait for its answer.

        Raises:
            ExchangeError: It failed; unless `usable`, the connection is closed and opens anew at the next call.
        """

    def close(self) -> None:
        """Hang up."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def connect(self, timeout_s: float, alpn: str | None = None) -> socket.socket:
        """Open a connection without Nagle's delay.

        Raises:
            ExchangeError: Nobody accepts it in time.
        """
        try:
            link = socket.create_connection((self.host, self.port), timeout_s)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._secure(link, alpn) if self.tls else link
        except OSError as error:
            raise to_exchange_error(error) from error

    def _secure(self, link: socket.socket, alpn: str | None) -> socket.socket:
        context = ssl.create_default_context()
        if alpn:
            context.set_alpn_protocols([alpn])
        return context.wrap_socket(link, server_hostname=self.host)


def poll(link: socket.socket) -> bytes | None:
    """What came on a connection while nobody asked: None is nothing, empty is the other side's hanging up."""
    timeout_s = link.gettimeout()
    link.settimeout(0)
    try:
        return link.recv(RECEIVE_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None
    except OSError:
        return b""
    finally:
        link.settimeout(timeout_s)


def send_all(link: socket.socket, data: bytes) -> None:
    """`sendall`, cheaper under gevent when the system takes all bytes at once."""
    sent = link.send(data)
    if sent < len(data):
        link.sendall(memoryview(data)[sent:])


def to_exchange_error(error: OSError) -> ExchangeError:
    """Name what the operating system reports by the kind it is counted under."""
    if isinstance(error, TimeoutError):
        return ExchangeError("timeout", "no answer in time")
    if isinstance(error, ConnectionRefusedError):
        return ExchangeError("refused", str(error))
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return ExchangeError("cut", str(error))
    return ExchangeError("network", str(error))
