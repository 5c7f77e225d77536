"""The ports of a server are its user's, even between the death of one Triton and the start of the next."""

import itertools
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.load_server import serving
from support.serving import DOUBLE, DOUBLE_CONFIG, eventually, parse, write_model

from builder.errors import HostError
from builder.server import free_port, ports

ADDRESSES = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "0.0.0.0"),
    (socket.AF_INET6, "::"),
    (socket.AF_INET6, "::ffff:127.0.0.1"),
)
SHARING = tuple(itertools.product((False, True), repeat=2))
"""Whether a socket sets SO_REUSEADDR and SO_REUSEPORT."""


def can_listen(port: int, family: int, host: str, *, reuse_address: bool, reuse_port: bool) -> bool:
    with closing(socket.socket(family)) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse_address)
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        try:
            attempt.bind((host, port))
            attempt.listen()
        except OSError:
            return False
    return True


@contextmanager
def another_user() -> Iterator[None]:
    """Create sockets as another user, which only root can."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def listening(port: int) -> Iterator[None]:
    """Listen as Triton does with `--reuse-http-port`."""
    with closing(socket.socket()) as triton:
        triton.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        triton.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        triton.bind(("127.0.0.1", port))
        triton.listen()
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            yield


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize(("family", "host"), ADDRESSES)
def test_another_user_gets_a_held_port_neither_before_nor_after_triton_dies(family: int, host: str) -> None:
    port = free_port()

    def taken() -> list[bool]:
        with another_user():
            return [can_listen(port, family, host, reuse_address=a, reuse_port=p) for a, p in SHARING]

    if not any(taken()):
        pytest.skip("this machine has no IPv6")
    with ports.held("127.0.0.1", [port]):
        assert not any(taken())
        for _ in range(2):
            with listening(port):
                assert not any(taken())
            assert not any(taken())


def test_no_other_server_of_the_same_user_gets_a_held_port_by_accident() -> None:
    port = free_port()
    with ports.held("127.0.0.1", [port]):
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(HostError, match="Address already in use\nfix: choose another port"):
                ports.claim_ports(host, [port])


def test_one_port_for_two_endpoints_is_refused_as_such() -> None:
    with pytest.raises(HostError, match="cannot share a port\\nfix: choose another port for one of them"):
        ports.claim_ports("127.0.0.1", [8000, 8001, 8000])
    assert len(set(ports.claim_ports("127.0.0.1", [0, 0, 0]))) == 3


def test_a_port_is_free_again_when_it_is_no_longer_held() -> None:
    def is_free_again() -> bool:
        port = free_port()
        with ports.held("127.0.0.1", [port]):
            pass
        return can_listen(port, socket.AF_INET, "127.0.0.1", reuse_address=True, reuse_port=False)

    assert any(is_free_again() for _ in range(5))  # a connection of another program may take one of them


def test_ports_are_chosen_and_held_in_one_step() -> None:
    with ports.held("127.0.0.1", [0, 0, 0]) as some, ports.held("127.0.0.1", [0, 0, 0]) as others:
        assert len({*some, *others} - {0}) == 6
        for port in some:
            assert not can_listen(port, socket.AF_INET, "127.0.0.1", reuse_address=False, reuse_port=False)
        http, grpc, metrics = (can_listen(port, *ADDRESSES[0], reuse_address=True, reuse_port=False) for port in some)
        assert (http, grpc) == (False, False)
        assert metrics, "Triton sets this option alone for its metrics"
        with ports.held("127.0.0.1", [free_port(), 0]) as given:
            assert 0 not in given


def test_a_port_that_is_taken_cannot_be_held() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=rf"127\.0\.0\.1:{port}: .*in use"), ports.held("127.0.0.1", [0, port]):
            pass


@pytest.mark.slow
def test_the_ports_of_a_triton_that_died_stay_its_users_until_it_starts_again(tmp_path: Path) -> None:
    write_model(tmp_path, "double", DOUBLE_CONFIG, parse(DOUBLE))
    with serving(tmp_path) as server:
        chosen = [int(address.rpartition(":")[2]) for address in (server.http_address, server.grpc_address)]
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not any(map(ports.accepts, (server.http_address, server.grpc_address))))
        for port in chosen:
            assert not can_listen(port, socket.AF_INET, "127.0.0.1", reuse_address=True, reuse_port=False)
        server.restart()
        assert eventually(lambda: all(map(ports.accepts, (server.http_address, server.grpc_address))))


@pytest.mark.slow
def test_triton_does_not_start_again_while_another_program_has_the_port_of_its_metrics(tmp_path: Path) -> None:
    write_model(tmp_path, "double", DOUBLE_CONFIG, parse(DOUBLE))
    with serving(tmp_path) as server:
        host, port = server.metrics_address.split(":")
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not ports.accepts(server.metrics_address))
        with (
            socket.create_server((host, int(port))),
            pytest.raises(HostError, match=rf"{port}: Triton cannot listen on this address: Address already in use"),
        ):
            server.restart()
        server.restart()
        assert ports.accepts(server.metrics_address)
