"""The file with a server's key: only its user can read it, and nobody else can get the key through it."""

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.server import AdminAccess, find_server, key_files
from builder.server.key_files import KeyFile

ADMIN = AdminAccess("secret", "x-admin")
NOBODY = 2**22 + 1
"""A process id that Linux never gives."""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's own folder, and a folder for temporary files beside it."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return folder


@pytest.fixture
def temporary(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for keys if $XDG_RUNTIME_DIR is not set. It is not there yet."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    return Path(tempfile.gettempdir()) / f"triton-repository-builder-{os.geteuid()}"


@pytest.fixture
def address() -> Iterator[str]:
    """An address that this process listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def become_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)


# ---- where it is


def test_only_its_user_can_read_the_file_and_enter_its_folder(runtime: Path) -> None:
    before = os.umask(0)
    try:
        path = KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN, Path("/models/../mine")).path
    finally:
        os.umask(before)
    assert path == runtime / "triton-repository-builder" / "127.0.0.1:2.json"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert json.loads(path.read_text()) == {
        "pid": os.getpid(),
        "http": "127.0.0.1:1",
        "grpc": "127.0.0.1:2",
        "header": "x-admin",
        "key": "secret",
        "repository": "/mine",
    }


def test_without_a_runtime_folder_it_is_in_the_folder_for_temporary_files(temporary: Path) -> None:
    assert KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN).path.parent == temporary


@pytest.mark.parametrize("value", ["", "relative", "/no/such/folder", "/etc/passwd"])
def test_a_runtime_folder_that_is_none_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN).path.parent == temporary


def test_a_runtime_folder_that_others_may_enter_is_not_used(runtime: Path) -> None:
    runtime.chmod(0o755)
    assert runtime not in KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN).path.parents


# ---- what others may have put in its place


def refusal() -> str:
    with pytest.raises(HostError, match="fix: set XDG_RUNTIME_DIR to a folder of yours") as caught:
        KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN)
    return caught.value.what


def test_a_link_in_place_of_the_folder_is_refused(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    temporary.symlink_to(tmp_path / "elsewhere")
    assert refusal() == "the admin key cannot be left here for other commands: it is a link or a file"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_dangling_link_and_a_file_in_place_of_the_folder_are_refused(temporary: Path, tmp_path: Path) -> None:
    temporary.symlink_to(tmp_path / "missing")
    assert "it is a link or a file" in refusal()
    temporary.unlink()
    temporary.touch(mode=0o700)
    assert "it is a link or a file" in refusal()


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o722, 0o777])
def test_a_folder_that_others_may_enter_is_refused(temporary: Path, mode: int) -> None:
    temporary.mkdir()
    temporary.chmod(mode)
    assert f"others may enter it (mode {mode:o})" in refusal()
    assert list(temporary.iterdir()) == []


def test_a_folder_of_another_user_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    become_another_user(monkeypatch)
    temporary.with_name(temporary.name.replace(f"-{owner}", f"-{owner + 1}")).mkdir(mode=0o700)
    assert "it belongs to another user" in refusal()


def test_a_link_in_place_of_the_file_is_replaced_and_not_followed(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("untouched")
    temporary.mkdir(mode=0o700)
    (temporary / "127.0.0.1:2.json").symlink_to(tmp_path / "mine")
    path = KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN).path
    assert (path.is_symlink(), (tmp_path / "mine").read_text()) == (False, "untouched")


# ---- how long it is there


def test_the_file_is_removed_with_its_server(runtime: Path) -> None:
    key_file = KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN)
    key_file.remove()
    assert not key_file.path.exists()
    key_file.remove()


def test_a_server_does_not_remove_the_file_of_the_next_one(runtime: Path) -> None:
    first = KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN)
    second = KeyFile("127.0.0.1:1", "127.0.0.1:2", AdminAccess())
    first.remove()
    assert second.path.exists()


def test_files_of_processes_that_have_ended_are_removed_and_those_of_others_stay(runtime: Path) -> None:
    running = KeyFile("127.0.0.1:1", "127.0.0.1:2", ADMIN).path
    ended = running.with_name("127.0.0.1:3.json")
    ended.write_text(running.read_text().replace(str(os.getpid()), str(NOBODY)))
    foreign = running.with_name("notes")
    foreign.write_text("not ours")
    KeyFile("127.0.0.1:4", "127.0.0.1:5", ADMIN)
    assert (running.exists(), ended.exists(), foreign.exists()) == (True, False, True)


# ---- who finds it


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_is_found_by_each_of_its_addresses(runtime: Path, address: str, host: str) -> None:
    for http, grpc in ((address, "127.0.0.1:1"), ("127.0.0.1:1", address)):
        key_file = KeyFile(http, grpc, ADMIN)
        found = find_server(address.replace("127.0.0.1", host))
        assert found is not None
        assert (found.address, found.admin, found.http_address) == (address, ADMIN, http)
        key_file.remove()
        assert find_server(address) is None


def test_a_server_is_found_from_a_session_with_another_runtime_folder(
    temporary: Path, runtime: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyFile("127.0.0.1:1", address, ADMIN)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert find_server(address) is not None


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "0.0.0.0", "127.0.0.2", "[::1]", "::1", "localhost.evil"])
def test_the_key_is_not_given_for_another_address(runtime: Path, address: str, host: str) -> None:
    KeyFile("127.0.0.1:1", address, ADMIN)
    assert find_server(address.replace("127.0.0.1", host)) is None


def test_an_address_of_the_network_is_not_found_even_if_the_server_listens_there(runtime: Path, address: str) -> None:
    outside = address.replace("127.0.0.1", "192.0.2.1")
    KeyFile("127.0.0.1:1", outside, ADMIN)
    assert find_server(outside) is None


def test_the_key_is_not_given_if_nothing_listens_there(runtime: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        KeyFile("127.0.0.1:1", address, ADMIN)
        assert find_server(address) is not None
    assert find_server(address) is None


def test_the_key_is_not_given_if_another_user_listens_there(
    runtime: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyFile("127.0.0.1:1", address, ADMIN)
    ours, theirs = os.geteuid(), os.geteuid() + 1
    port = f"{int(address.rpartition(':')[2]):04X}"
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    row = "   0: {host}:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid:5} 0 1\n"
    for rows, is_found in (
        ([("0100007F", port, "0A", ours)], True),
        ([("0100007F", port, "0A", theirs)], False),
        ([("0100007F", port, "0A", ours), ("0" * 32, port, "0A", theirs)], False),
        ([("0100007F", port, "0A", ours), ("0100007F", "0001", "0A", theirs)], True),
        ([("0100007F", port, "0A", ours), ("0100007F", port, "01", theirs)], True),
        ([("0100007F", port, "01", ours)], False),
        ([], False),
    ):
        table = tmp_path / "tcp"
        named = ("host", "port", "state", "uid")
        table.write_text(head + "".join(row.format(**dict(zip(named, values, strict=True))) for values in rows))
        monkeypatch.setattr(key_files, "_TABLES", (str(table),))
        assert (find_server(address) is not None) is is_found, rows


def test_the_file_of_a_process_that_has_ended_is_not_used(runtime: Path, address: str) -> None:
    path = KeyFile("127.0.0.1:1", address, ADMIN).path
    path.write_text(path.read_text().replace(str(os.getpid()), str(NOBODY)))
    assert find_server(address) is None


def test_a_folder_or_file_that_is_damaged_or_unsafe_is_not_used(runtime: Path, address: str, tmp_path: Path) -> None:
    path = KeyFile("127.0.0.1:1", address, ADMIN).path
    good = path.read_text()
    damaged = ["", "{}", "[]", "null", "[" * 100_000, good[:-5], good.replace('"secret"', "7"),
               good.replace('"secret"', '""'), good.replace("x-admin", "a b")]  # fmt: skip
    for text in damaged:
        path.write_text(text)
        assert find_server(address) is None, text
    path.unlink()
    (tmp_path / "planted").write_text(good)
    path.symlink_to(tmp_path / "planted")
    assert find_server(address) is None
    path.unlink()
    path.write_text(good)
    assert find_server(address) is not None
    path.parent.chmod(0o777)
    assert find_server(address) is None
