"""What the HTTP and the gRPC client share: addresses, sockets, and the error for a request that got no answer."""

import socket
import ssl
import time
import zlib
from dataclasses import dataclass, field

RECEIVE_BYTES = 1 << 18
MEMO_LIMIT = 512
"""The most parsed headings that are kept for reuse. When there are more, the cache is emptied."""

_SECRET_CHARACTERS = 6
"""A shorter value of a header, as in `X-Debug: 1`, is no secret."""

IDLE_S = 1.0
"""After this long without a request, the server may have closed the connection. The client then opens a new one."""


_INFLATERS = {"gzip": 31, "deflate": 15}
"""The window bits of zlib for the ways to compress that HTTP and gRPC share."""

_LARGEST_ANSWER = (1 << 31) - 1

_KINDS: dict[str, tuple[type[OSError], ...]] = {
    "timeout": (TimeoutError,),
    "refused": (ConnectionRefusedError,),
    "cut": (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError),
    "tls": (ssl.SSLError,),
}
"""The kinds of failure that the operating system and TLS report; the first that fits counts."""


class ExchangeError(Exception):
    """A request got no answer, or one that cannot be read.

    Args:
        kind: The name this failure is counted under: `refused`, `timeout`, `cut`, `tls`, `malformed`,
            `http_503`, `grpc_UNAVAILABLE`…
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
    """One port of a server, and how to reach it.

    Attributes:
        host: Its name or IP address.
        port: The port's number.
        tls: How connections are encrypted, None for plain text. It is made once, because reading certificates is slow.
        path: What the path of every URL begins with, as in `/triton`; gRPC does not use it.
        headers: Sent with every request. They may be secret, so they are never shown.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    path: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def connect(self, timeout_s: float) -> socket.socket:
        """Open a connection that sends small packets at once (without Nagle's delay).

        Raises:
            ExchangeError: The connection was refused, or not accepted in time, or the two sides did not agree on TLS.
        """
        try:
            link = socket.create_connection((self.host, self.port), timeout_s)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return link if self.tls is None else _secure(link, self.tls, self.host)
        except OSError as error:
            raise to_exchange_error(error) from error

    def conceal(self, text: str) -> str:
        """Return what the server said without the values of our headers, which it may repeat."""
        secrets = {part for _, value in self.headers for part in (value, value.rpartition(" ")[2])}
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _SECRET_CHARACTERS:
                text = text.replace(secret, "***")
        return text


def _secure(link: socket.socket, tls: ssl.SSLContext, host: str) -> socket.socket:
    try:
        return tls.wrap_socket(link, server_hostname=host)
    except OSError:
        link.close()
        raise


def inflate(data: bytes, encoding: str) -> bytes:
    """Return what a server compressed. It may do so although nobody asked for it.

    Raises:
        ExchangeError: It is not compressed in this way, is not complete, or would fill the memory.
    """
    try:
        inflater = zlib.decompressobj(_INFLATERS[encoding])
        inflated = inflater.decompress(data, _LARGEST_ANSWER)
    except (KeyError, zlib.error):
        inflater, inflated = None, b""
    if inflater is None or not inflater.eof or inflater.unused_data:
        raise ExchangeError("malformed", f"the answer is not compressed as it says: {encoding[:40]!r}")
    return inflated


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
    for kind, errors in _KINDS.items():
        if isinstance(error, errors):
            return ExchangeError(kind, "no answer in time" if kind == "timeout" else _reason(error))
    return ExchangeError("network", _reason(error))


def _reason(error: OSError) -> str:
    """Return what went wrong, as in `Connection refused` or `certificate verify failed: certificate has expired`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "the server closed the encrypted connection"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)


def closed_early() -> ExchangeError:
    """Return the error for a connection that was closed in the middle of an answer."""
    return ExchangeError("cut", "the server closed the connection before its answer was complete")
