"""Socket servers that behave in ways that no real server can be made to, and how clients react."""

import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import pytest

from loadtest.wire import Address, Answer, Array, Connection, ExchangeError, make_client
from support.load_run import PATIENCE_S

Behaviour = Callable[[socket.socket], None]


@dataclass
class ScriptedServer:
    """Where a scripted server listens, what it received first, and a count of the connections it has closed."""

    address: Address
    received: bytearray = field(default_factory=bytearray)
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


@contextmanager
def scripted(behave: Behaviour) -> Iterator[ScriptedServer]:
    """A server that waits for the first bytes of a request and then does what the test says, on every connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client may close first
                made.received.extend(self.request.recv(1 << 16))
                behave(self.request)
                self.close_gently()

        def close_gently(self) -> None:
            """Close after everything was read: with unread bytes, the system would reset the connection."""
            link = self.request
            if link.fileno() >= 0:
                link.shutdown(socket.SHUT_WR)
                made.closed.release()
                while link.recv(1 << 16):
                    pass

    class Listener(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Listener(("127.0.0.1", 0), Handler) as listener:
        made = ScriptedServer(Address("127.0.0.1", listener.server_address[1]))
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            listener.shutdown()
            thread.join()


def say(*parts: bytes) -> Behaviour:
    """Send these bytes, one part after the other."""

    def behave(link: socket.socket) -> None:
        for part in parts:
            link.sendall(part)

    return behave


def be_silent(link: socket.socket) -> None:
    """Send nothing until the client gives up."""
    while link.recv(1 << 16):
        pass


def reset(link: socket.socket) -> None:
    """Reset the connection at once."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


def connect(protocol: str, address: Address, timeout_s: float = PATIENCE_S) -> Connection:
    return make_client(protocol, address, timeout_s).connect()


def failure(protocol: str, behave: Behaviour, timeout_s: float = PATIENCE_S) -> ExchangeError:
    """What a client says about a request to a server that behaves like this."""
    with scripted(behave) as server:
        connection = connect(protocol, server.address, timeout_s)
        with pytest.raises(ExchangeError) as caught:
            connection.infer(b"x" * 20)
        connection.close()
    return caught.value


def floats(answer: Answer) -> dict[str, Array]:
    """The FP32 outputs of an answer."""
    return {
        slot.name: np.frombuffer(answer.body[slot.start : slot.stop], np.float32).reshape(slot.shape)
        for slot in answer.layout.slots
        if slot.datatype == "FP32"
    }
