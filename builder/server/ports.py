"""The three addresses a Triton listens on: choose them, check them, hand them over."""

import socket
from collections.abc import Sequence

from builder.errors import HostError

FRONTS = ("http", "grpc", "metrics")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    return claim_ports("127.0.0.1", [0])[0]


def resolve(host: str) -> str:
    """The IPv4 address of a host: Triton's HTTP front end takes no names.

    Raises:
        HostError: It has none.
    """
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        what = f"it has no IPv4 address: {error.strerror or error}"
        raise HostError(host, what, "name an address of this machine, such as 127.0.0.1") from error


def claim_ports(host: str, ports: Sequence[int]) -> list[int]:
    """Check that each port can be listened on, all at once, and choose one for each 0.

    Raises:
        HostError: One of them cannot.
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
    """The options that tell `tritonserver` to listen there, `ports` in the order of FRONTS."""
    fronts = zip(FRONTS, ports, strict=True)
    return [flag for front, port in fronts for flag in (f"--{front}-address={host}", f"--{front}-port={port}")]


def accepts(address: str) -> bool:
    """Whether somebody listens on `host:port`."""
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
        what = f"Triton cannot listen there: {error.strerror or error}"
        raise HostError(f"{host}:{port}", what, "choose another port, or free this one") from error
