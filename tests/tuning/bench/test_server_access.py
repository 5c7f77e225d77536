"""How a server of the user's is reached: by its key, over TLS, and at an HTTP address beside that of gRPC."""

import socket
from pathlib import Path
from typing import Any

import pytest

from builder.deployment import Address
from builder.errors import HostError
from builder.server import AdminAccess
from builder.server.key_files import KeyFile
from builder.tuning import ServerAccess


def url_of(access: ServerAccess) -> str:
    options = access.options()
    return options[options.index("--host") + 1]


@pytest.mark.parametrize(
    ("address", "http", "expected"),
    [
        ("grpc://triton:8001", None, "http://triton:8000"),
        ("grpcs://triton:8001", None, "https://triton:8000"),
        ("[2001:db8::1]:9001", None, "http://[2001:db8::1]:9000"),
        ("grpc://triton:8001", "gateway:80", "http://gateway:80"),
        ("grpcs://triton:443", "gateway:443", "https://gateway:443"),
        ("grpcs://triton:8001", "http://triton:8000", "http://triton:8000"),
        ("grpc://triton:8001", "https://gateway/team", "https://gateway/team"),
    ],
)
def test_the_load_test_is_told_the_http_address(address: str, http: str | None, expected: str) -> None:
    assert url_of(ServerAccess(Address.parse(address), http=http)) == expected


def test_the_http_address_of_a_server_that_this_user_runs_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        grpc = f"127.0.0.1:{listening.getsockname()[1]}"
        key_file = KeyFile("127.0.0.1:1234", grpc, AdminAccess())
        assert url_of(ServerAccess(Address.parse(grpc))) == "http://127.0.0.1:1234"
        key_file.remove()


def test_files_are_passed_on_by_their_names_and_no_key_is(tmp_path: Path) -> None:
    files: dict[str, Any] = {name: tmp_path / name for name in ("header_file", "ca_file", "client_cert", "client_key")}
    access = ServerAccess(Address.parse("grpcs://h:8001"), admin=AdminAccess("the-key"), **files)
    options = access.options()
    for name, path in files.items():
        option = f"--{name.replace('_', '-')}"
        assert options[options.index(option) + 1] == str(path)
    assert options[options.index("--grpc-address") + 1] == "grpcs://h:8001"
    assert not any("the-key" in option for option in options)


def test_a_name_that_stands_for_several_servers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.0.0.{host}", 0)) for host in (1, 2)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(HostError, match="stands for 2 servers, and a tuning measures one") as caught:
        ServerAccess(Address.parse("grpc://triton:8001")).connect()
    assert "grpc://10.0.0.1:8001" in caught.value.fix


def test_a_file_that_is_missing_is_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="headers cannot be read"):
        ServerAccess(Address.parse("grpc://h:8001"), header_file=tmp_path / "none").connect()
