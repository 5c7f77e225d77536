"""The addresses of servers: how they are written, and which servers a name in the DNS stands for."""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from builder import files
from builder.errors import HostError

_DNS = "dns:///"
_MOST_BYTES = 1 << 20
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server's gRPC endpoint.

    Attributes:
        target: `host:port`.
        tls: Whether to use TLS.
        name: `host:port` with the name that `target` was found under, if that is a number found in the DNS. The
            server's certificate is for this name.
    """

    target: str
    tls: bool = False
    name: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `grpc://host:port`, `grpcs://host:port`, `dns:///host:port` or `host:port`.

        Raises:
            ValueError: It is anything else, for example an HTTP address.
        """
        given = text.removeprefix(_DNS)
        parts = urlsplit(given if "//" in given else f"grpc://{given}")
        try:
            is_endpoint = bool(parts.hostname and parts.port)
        except ValueError:  # the port is no number
            is_endpoint = False
        has_more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in ("grpc", "grpcs") or not is_endpoint or has_more:
            raise ValueError(f"{text!r} is not a gRPC address: write it as grpc://host:8001")
        return cls(parts.netloc, parts.scheme == "grpcs")

    def __str__(self) -> str:
        return f"{'grpcs' if self.tls else 'grpc'}://{self.target}"

    def resolved(self) -> "tuple[Address, ...]":
        """Return the servers that the address stands for: one for each address that the DNS has for its name.

        A name with one address, a number, and a name that is not known here stay as they are. If the name has IPv4
        addresses, its IPv6 addresses are left out: they are most often the same machines.
        """
        host, _, port = self.target.rpartition(":")
        numbers = _numbers(host)
        if len(numbers) < 2:
            return (self,)
        return tuple(replace(self, target=f"{number}:{port}", name=self.target) for number in numbers)


def every_server(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Return the servers that addresses stand for, each once, in the order in which they were given."""
    found: dict[str, Address] = {}
    for address in addresses:
        for server in address.resolved():
            host, _, port = server.target.rpartition(":")
            number = "127.0.0.1" if host == "localhost" else next(iter(_numbers(host)), host)
            found.setdefault(f"{number}:{port}", server)
    return tuple(found.values())


def read_servers(path: Path) -> tuple[Address, ...]:
    """Read a file of addresses: one on each line. Empty lines, and what follows a `#`, do not count.

    Raises:
        HostError: It cannot be read, one line is not an address, or there is none.
    """
    try:
        lines = files.read(path, limit=_MOST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the file of servers cannot be read: {files.reason(error)}"
        raise HostError(path, what, "name a text file with one address on each line") from error
    written = {number: line.partition("#")[0].strip() for number, line in enumerate(lines, 1)}
    found = [_read_line(path, number, text) for number, text in written.items() if text]
    if not found:
        raise HostError(path, "it names no server", "write one address on each line, such as grpc://10.0.0.1:8001")
    return tuple(found)


def _read_line(path: Path, number: int, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        what, _, fix = str(error).rpartition(": ")
        raise HostError(f"{path}, line {number}", what, fix) from None


def _numbers(host: str) -> list[str]:
    """Return the addresses of a name, as they stand in `host:port`; none for a number or an unknown name."""
    name = host.strip("[]")
    if name == "localhost" or _is_number(name):
        return []
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    by_family = {family: sorted({str(at[0]) for kind, *_, at in found if kind == family}) for family in _FAMILIES}
    return by_family[socket.AF_INET] or [f"[{number}]" for number in by_family[socket.AF_INET6]]


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
