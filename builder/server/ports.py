"""Choose and check the three ports that a Triton listens on, and keep them from other users."""

import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence

from builder.errors import HostError
from builder.files import reason

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
        if not host:  # which would be every address
            raise UnicodeError("it is empty")
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:  # a UnicodeError if it cannot be the name of a host
        what = f"it has no IPv4 address: {reason(error)}"
        raise HostError(host or "--host ''", what, _FIXES[errno.EADDRNOTAVAIL]) from error


def claim_ports(host: str, ports: Sequence[int]) -> list[int]:
    """Return the ports, with a free one for each 0, after checking that all can be listened on at once.

    Raises:
        HostError: One of them cannot be listened on, or is there twice.
    """
    if twice := [port for port in ports if port and ports.count(port) > 1]:
        what = "two of the three endpoints cannot share a port"
        raise HostError(f"{host}:{twice[0]}", what, "choose another port for one of them")
    listeners = [socket.socket() for _ in ports]
    try:
        for listener, port in zip(listeners, ports, strict=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with _reported(host, port):
                listener.bind((host, port))
                listener.listen()
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


@contextlib.contextmanager
def held(host: str, ports: Sequence[int]) -> Iterator[list[int]]:
    """Keep ports for a Triton until the block ends, even while it does not listen there; yield them, without zeros.

    A port that is 0 is chosen and kept in one step: between two, another program could be given it. A socket that is
    bound, but does not listen, keeps the port, and the kernel lets Triton have it too, for another reason each:

    - HTTP and gRPC: both set SO_REUSEPORT and belong to the same user. When Triton has died, another user could
      otherwise take its port before it starts again, and would get the admin key from a client that sends it with its
      next request.
    - Metrics: both set SO_REUSEADDR, which is all that Triton sets. This keeps the kernel from giving the port to a
      program that asks for any, but not another program from taking it by its number.

    Args:
        host: The address to listen on.
        ports: The ports, in the order of `ENDPOINTS`, with a 0 for each that is to be chosen.

    Raises:
        HostError: One of them cannot be listened on, or is there twice.

    Source: socket(7), SO_REUSEADDR and SO_REUSEPORT
    """
    claim_ports(host, [port for port in ports if port])
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(socket.socket()) for _ in ports]
        for endpoint, holder, port in zip(ENDPOINTS, holders, ports, strict=False):
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, endpoint != "metrics")
            with _reported(host, port):
                holder.bind((host, port))
            if endpoint != "metrics":  # others that set it could share the port
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield [holder.getsockname()[1] for holder in holders]


def flags(host: str, ports: Sequence[int]) -> list[str]:
    """Return the options that make `tritonserver` listen on `ports`, which are in the order of `ENDPOINTS`."""
    pairs = zip(ENDPOINTS, ports, strict=True)
    listen = [flag for name, port in pairs for flag in (f"--{name}-address={host}", f"--{name}-port={port}")]
    return [*listen, "--reuse-http-port=true", "--reuse-grpc-port=true"]  # share them with the sockets of `held`


def accepts(address: str) -> bool:
    """Return whether `host:port` accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _reported(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"Triton cannot listen on this address: {error.strerror or error}"
        fix = _FIXES.get(error.errno or 0, "choose another port, or stop the program that uses this one")
        raise HostError(f"{host}:{port}", what, fix) from error
