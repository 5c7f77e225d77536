"""Ports for the servers of a test, which no other program is given meanwhile."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Reserve free ports of 127.0.0.1. A server that sets SO_REUSEADDR, as nearly all do, can listen on them.

    Until then nobody listens there: a socket that is bound, but does not listen, keeps the kernel from giving the port
    to a program that asks for any.
    """
    with ExitStack() as stack:
        holders = [stack.enter_context(socket.socket()) for _ in range(count)]
        for holder in holders:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))
        yield [holder.getsockname()[1] for holder in holders]


@contextmanager
def unused_address() -> Iterator[str]:
    """Reserve a port, for a test in which nobody listens there."""
    with reserved_ports(1) as (port,):
        yield f"127.0.0.1:{port}"
