"""Ask servers which versions of a model they answer with, for `prune`."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.deployment.live_server import LiveServer
from builder.errors import HostError
from builder.progress import Report, silent
from builder.repository import Asked
from builder.server import is_loopback, read_index, servers_of

_CONNECT_S = 2.0


def ask(name: str, root: Path, servers: Iterable[LiveServer], report: Report = silent) -> tuple[Asked, ...]:
    """Return which versions of a model servers answer with.

    Args:
        name: The model.
        root: The repository. The servers that this user runs on this machine for it are asked too.
        servers: Other servers to ask.
        report: Called with `note` if a server does not know the model.

    Raises:
        HostError: A server does not say which versions it serves.
    """
    asked = [_ask(name, server, report) for server in servers]
    known = {server.server for server in asked}
    return (*asked, *(found for found in _ask_local(name, root) if found.server not in known))


def _ask(name: str, server: LiveServer, report: Report) -> Asked:
    with _needed("; if it exists no more, name it with --gone instead"):
        server.check_access()
        if not server.knows(name):
            report("note", f"{server.address} has no model {name!r} in its repository, so it may read another one")
        return Asked(str(server.address), server.ready_versions(name))


def _ask_local(name: str, root: Path) -> list[Asked]:
    asked = []
    for server in servers_of(root):
        address = f"grpc://{server.grpc_address}"
        with _needed(f"; if it is gone, delete {server.key_file}"):
            if not server.is_answering:
                what, fix = "this server of the repository does not answer", "wait until it serves"
                raise HostError(address, what, f"{fix}, or end it (process {server.pid})")
            index = read_index(server.http_address, server.admin)
        versions = {entry.version for entry in index if entry.model == name and entry.answers}
        asked.append(Asked(address, tuple(sorted(version for version in versions if version is not None))))
    return asked


@contextmanager
def _needed(or_else: str) -> Iterator[None]:
    """Say of an error that nothing was removed, and what else can be done about it."""
    try:
        yield
    except HostError as error:
        what = f"{error.what}; nothing was removed, because any version may be in use there"
        raise HostError(error.where, what, f"{error.fix}{or_else}") from error


def is_stopped(server: str) -> bool:
    """Return whether nothing listens any more at an address `grpc://host:port` of this machine.

    A server that starts there again loads what config.pbtxt names.
    """
    target = server.partition("://")[2]
    host, _, port = target.rpartition(":")
    if not (is_loopback(target) and port.isdigit()):
        return False
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
