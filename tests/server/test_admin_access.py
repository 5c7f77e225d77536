"""Which keys and headers are taken, and from where."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from builder import cli
from builder.errors import HostError
from builder.server import AdminAccess, given_access, read_header

UNFIT = {
    "": "is empty",
    " ": "space",
    " secret": "begins or ends with a space",
    "secret\t": "begins or ends with a space",
    "two\nlines": "a header cannot carry",
    "nul\0": "a header cannot carry",
    "escape\x1b": "a header cannot carry",
    "schlüssel": "a header cannot carry",
    "k" * 4097: "has more than 4,096 characters",
}
FIT = ["k", "a key", "a:b", "a=b", "a,b", "--", "'\"$(x)", "k" * 4096]

Run = Callable[..., tuple[int | str | None, str]]
"""From the arguments of a command to its exit code and what it prints to stderr."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", ["builder", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


def key_file(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize("key", UNFIT)
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=UNFIT[key]):
        AdminAccess(key)
    with pytest.raises(HostError, match=UNFIT[key]) as caught:
        given_access(key_file(tmp_path / "file", key), "admin-key")
    assert len(key) < 2 or key not in str(caught.value)


@pytest.mark.parametrize("key", FIT)
def test_any_other_text_is_a_key(key: str, tmp_path: Path) -> None:
    for end in ("", "\n", "\r\n"):
        assert given_access(key_file(tmp_path / "key", key + end), "admin-key") == AdminAccess(key)
    assert given_access(None, "admin-key", variables={"TRITON_ADMIN_KEY": key}) == AdminAccess(key)


def test_a_file_comes_before_the_variable_and_an_empty_variable_is_none(tmp_path: Path) -> None:
    variables = {"TRITON_ADMIN_KEY": "of the variable"}
    path = key_file(tmp_path / "key", "of the file")
    assert given_access(path, "x", variables=variables) == AdminAccess("of the file", "x")
    assert given_access(None, "x", variables={"TRITON_ADMIN_KEY": ""}) is None
    assert given_access(None, "x", variables={}) is None


def test_a_bad_key_in_the_variable_is_an_error_that_names_it() -> None:
    with pytest.raises(HostError, match=r"TRITON_ADMIN_KEY: .*\nfix: set it to a key"):
        given_access(None, "x", variables={"TRITON_ADMIN_KEY": "two\nlines"})


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o644, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(HostError, match=f"mode {mode:o}.*\nfix: run chmod 600 '.*my key'"):
        given_access(key_file(tmp_path / "my key", "secret", mode), "x")


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_file(tmp_path / "key", "secret")
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(HostError, match="belongs to another user"):
        given_access(path, "x")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(HostError, match=r"it is a (named pipe|device), not a file"):
            given_access(path, "x")
    with pytest.raises(HostError, match="cannot be read: No such file"):
        given_access(tmp_path / "missing", "x")
    with pytest.raises(HostError, match="it is a folder, not a file"):
        given_access(tmp_path, "x")


def test_a_random_key_is_long_and_new_each_time_and_no_representation_shows_it() -> None:
    keys = {AdminAccess().key for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= 43
    assert AdminAccess("secret").key not in repr(AdminAccess("secret"))


@pytest.mark.parametrize(
    ("given", "name"),
    [("X-Admin", "x-admin"), ("triton-grpc-protocol-admin-key", "admin-key"), ("a.b_c", "a.b_c"), ("0", "0")],
)
def test_a_header_is_named_as_in_tritons_options(given: str, name: str) -> None:
    assert read_header(given) == name
    access = AdminAccess("k", given)
    assert (access.http_headers, access.grpc_headers) == ({name: "k"}, {f"triton-grpc-protocol-{name}": "k"})


@pytest.mark.parametrize("given", ["", "a b", "a:b", "a=b", "a\nb", "ä", "key-bin", "-", "triton-grpc-protocol-"])
@pytest.mark.parametrize("command", [("serve",), ("deploy", "m", "--server", "127.0.0.1:1")])
def test_a_header_that_one_of_the_protocols_cannot_carry_is_wrong_usage(
    run: Run, command: Sequence[str], given: str
) -> None:
    with pytest.raises(ValueError, match="not the name of a header"):
        AdminAccess("k", given)
    code, printed = run(*command, "--admin-header", given)
    assert (code, "fix: use letters, digits" in printed) == (2, True)


def test_the_commands_refuse_a_file_that_others_may_read(run: Run, tmp_path: Path) -> None:
    path = key_file(tmp_path / "key", "secret", 0o440)
    for command in (("serve",), ("deploy", "m", "--server", "127.0.0.1:1")):
        code, printed = run(*command, "--repository", tmp_path, "--admin-key-file", path)
        assert code == 6
        assert f"error: {path}: others may read" in printed
        assert "secret" not in printed
