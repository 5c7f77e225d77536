"""What the HTTP and the gRPC client share: addresses, sockets, and the error for a request that got no answer."""

import socket
import ssl
import time
from dataclasses import dataclass

RECEIVE_BYTES = 1 << 18
MEMO_LIMIT = 512
"""The most parsed headings that are kept for reuse. When there are more, the cache is emptied."""

IDLE_S = 1.0
"""After this long without a request, the server may have closed the connection. The client then opens a new one."""


class ExchangeError(Exception):
    """A request got no answer, or one that cannot be read.

    Args:
        kind: The name this failure is counted under: `refused`, `timeout`, `cut`, `malformed`, `http_503`,
            `grpc_UNAVAILABLE`…
        message: What the server or the operating system said.
        usable: Whether the connection can still carry the next request.
    """

    def __init__(self, kind: str, message: str, *, usable: bool = False) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.usable = usable


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
        """Open a connection that sends small packets at once (without Nagle's delay).

        Raises:
            ExchangeError: The connection was refused, or not accepted in time.
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
    """Return what arrived on an idle connection: None if nothing did, empty bytes if the server closed it."""
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


def limit_wait(link: socket.socket, deadline: float) -> None:
    """Let the next call on `link` wait until `deadline` at most, in seconds of `time.perf_counter`.

    A socket's own timeout starts again with every call: a server that sends one byte just before it runs out, and
    nothing after that, would keep a client waiting for twice as long.

    Raises:
        TimeoutError: The deadline has passed.
    """
    left_s = deadline - time.perf_counter()
    if left_s <= 0:
        raise TimeoutError
    link.settimeout(left_s)


def send_all(link: socket.socket, data: bytes) -> None:
    """Do what `sendall` does; under gevent this is cheaper when the system takes all bytes at once."""
    sent = link.send(data)
    if sent < len(data):
        link.sendall(memoryview(data)[sent:])


def to_exchange_error(error: OSError) -> ExchangeError:
    """Turn what the operating system reports into the kind of failure that it is counted under."""
    if isinstance(error, TimeoutError):
        return ExchangeError("timeout", "no answer in time")
    if isinstance(error, ConnectionRefusedError):
        return ExchangeError("refused", str(error))
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return ExchangeError("cut", str(error))
    return ExchangeError("network", str(error))


def closed_early() -> ExchangeError:
    """Return the error for a connection that was closed in the middle of an answer."""
    return ExchangeError("cut", "the server closed the connection before its answer was complete")
