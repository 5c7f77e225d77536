"""How addresses are written, and which servers they stand for."""

import socket
from pathlib import Path
from typing import Any

import pytest

from builder.deployment import Address, every_server, read_servers
from builder.errors import HostError

A, B = ("10.0.0.1", 0), ("10.0.0.2", 0)
IPV6 = ("fd00::1", 0, 0, 0)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names: `pods` has two IPv4 addresses and one of IPv6, `one` has one."""
    known: dict[str, list[tuple[int, Any]]] = {
        "pods": [(socket.AF_INET, B), (socket.AF_INET6, IPV6), (socket.AF_INET, A)],
        "one": [(socket.AF_INET, A)],
        "six": [(socket.AF_INET6, IPV6), (socket.AF_INET6, ("fd00::2", 0, 0, 0))],
    }

    def look_up(host: str, *_: object, **__: object) -> list[Any]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, socket.SOCK_STREAM, 6, "", at) for family, at in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host:8001", "grpc://host:8001"),
        ("grpc://host:8001/", "grpc://host:8001"),
        ("grpcs://[::1]:8001", "grpcs://[::1]:8001"),
        ("dns:///host:8001", "grpc://host:8001"),
    ],
)
def test_addresses_are_read(text: str, shown: str) -> None:
    assert str(Address.parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["host", "host:", "http://host:80", "grpc://host:x", "grpc://host:99999", "grpc://u:p@host:1", "a:1/b", ""]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a gRPC address: write it as grpc://host:8001"):
        Address.parse(text)


@pytest.mark.usefixtures("names")
def test_a_name_with_several_addresses_stands_for_a_server_at_each() -> None:
    first, second = every_server([Address.parse("grpcs://pods:8001")])

    assert [str(first), str(second)] == ["grpcs://10.0.0.1:8001", "grpcs://10.0.0.2:8001"]
    assert first.name == "pods:8001", "the certificate is for this name"
    assert [str(one) for one in every_server([Address.parse("six:1")])] == ["grpc://[fd00::1]:1", "grpc://[fd00::2]:1"]


@pytest.mark.usefixtures("names")
def test_a_server_that_is_named_twice_counts_once() -> None:
    given = [
        "one:8001",
        "pods:8001",
        "10.0.0.2:8001",
        "10.0.0.2:9001",
        "unknown:1",
        "unknown:1",
        "localhost:1",
        "127.0.0.1:1",
    ]

    found = every_server(map(Address.parse, given))

    assert [one.target for one in found] == [
        "one:8001",
        "10.0.0.2:8001",
        "10.0.0.2:9001",
        "unknown:1",
        "localhost:1",
    ]


def test_a_file_of_servers_has_one_on_each_line(tmp_path: Path) -> None:
    file = tmp_path / "servers"
    file.write_text("# all of them\ngrpc://a:1\n\n  b:2  # the second\n")
    assert [str(one) for one in read_servers(file)] == ["grpc://a:1", "grpc://b:2"]


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        (b"a:1\nhttp://b:2\n", ", line 2", "'http://b:2' is not a gRPC address"),
        (b"# nothing\n", "servers", "names no server"),
        (b"\xff\xfe", "servers", "cannot be read"),
        (None, "servers", "cannot be read"),
    ],
)
def test_a_file_that_names_no_servers_is_refused(tmp_path: Path, content: bytes | None, where: str, what: str) -> None:
    file = tmp_path / "servers"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(HostError, match=what) as caught:
        read_servers(file)
    assert caught.value.where.endswith(where)
