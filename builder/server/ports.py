"""Choose and check the three ports that a Triton listens on."""

import errno
import socket
from collections.abc import Sequence

from builder.errors import HostError

ENDPOINTS = ("http", "grpc", "metrics")
"""What Triton's options call its three endpoints."""

_FIXES = {
    errno.EADDRNOTAVAIL: "use an address of this machine, such as 127.0.0.1",
    errno.EACCES: "choose a port above 1023",
}


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free at this moment."""
    return claim_ports("127.0.0.1", [0])[0]


def resolve(host: str) -> str:
    """Return the IPv4 address of a host, because Triton's HTTP endpoint does not accept names.

    Raises:
        HostError: It has no IPv4 address.
    """
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        what = f"it has no IPv4 address: {error.strerror or error}"
        raise HostError(host, what, _FIXES[errno.EADDRNOTAVAIL]) from error


def claim_ports(host: str, ports: Sequence[int]) -> list[int]:
    """Return the ports, with a free one for each 0, after checking that all can be listened on at once.

    Raises:
        HostError: One of them cannot be listened on.
    """
    listeners = [socket.socket() for _ in ports]
    try:
        for listener, port in zip(listeners, ports, strict=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _listen(listener, host, port)
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def flags(host: str, ports: Sequence[int]) -> list[str]:
    """Return the options that make `tritonserver` listen on `ports`, which are in the order of `ENDPOINTS`."""
    pairs = zip(ENDPOINTS, ports, strict=True)
    return [flag for name, port in pairs for flag in (f"--{name}-address={host}", f"--{name}-port={port}")]


def accepts(address: str) -> bool:
    """Return whether `host:port` accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _listen(listener: socket.socket, host: str, port: int) -> None:
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        what = f"Triton cannot listen on this address: {error.strerror or error}"
        fix = _FIXES.get(error.errno or 0, "choose another port, or stop the program that uses this one")
        raise HostError(f"{host}:{port}", what, fix) from error
