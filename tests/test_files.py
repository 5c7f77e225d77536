"""Files that anybody may have written: only regular ones are read, to a limit, and from inside a folder."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import files as of_builder
from builder.files import create, open_file, read, reason, size
from loadtest import files as of_loadtest


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


SPECIAL = {
    "folder": (Path.mkdir, "a folder"),
    "pipe": (os.mkfifo, "a named pipe"),
    "socket": (make_socket, "a socket"),
    "device": (link("/dev/zero"), "a device"),
    "link to itself": (link("file"), "Too many levels"),
    "link to nothing": (link("gone"), "No such file"),
}


@pytest.mark.parametrize(("make", "what"), SPECIAL.values(), ids=SPECIAL)
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], what: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 108 bytes
    path = tmp_path / "file"
    make(path)
    with pytest.raises(OSError, match=what):
        read(path, limit=100)
    with pytest.raises(OSError, match=what):
        size(path)
    with pytest.raises(OSError, match=what if "No such" in what or "Too many" in what else "not a file"):
        of_loadtest.open_file(path)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read(path, limit=5) == b"12345"
    with pytest.raises(OSError, match="it has 5 B, and only 4 B are read"):
        read(path, limit=4)


def test_a_file_of_endless_zeros_is_not_read_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(OSError, match=r"it has 1\.1 TB"):
        read(path, limit=1000)


def test_a_file_whose_size_nobody_knows_has_a_limit_too() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    with pytest.raises(OSError, match="only 100 B are read"):
        read(Path("/proc/self/status"), limit=100)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The folder of a version, beside which lies what it may not read."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"secret")
    folder = tmp_path / "model/1"
    (folder / "below").mkdir(parents=True)
    (folder / "below/file").write_bytes(b"own")
    (folder / "link inside").symlink_to("below/file")
    (folder / "link out").symlink_to("../../outside/file")
    (folder / "folder out").symlink_to(tmp_path / "outside")
    return folder


@pytest.mark.parametrize("path", ["link out", "folder out/file", "below/../../../outside/file", "../../outside/file"])
@pytest.mark.parametrize("opened", [of_builder.open_file, of_loadtest.open_file])
def test_a_path_that_leads_out_of_its_folder_is_refused(
    version: Path, path: str, opened: Callable[..., object]
) -> None:
    with pytest.raises(OSError, match="it leads out of"):
        opened(version / path, inside=version)


@pytest.mark.parametrize("path", ["below/file", "link inside"])
@pytest.mark.parametrize("module", [of_builder, of_loadtest])
def test_a_link_within_the_folder_is_followed(version: Path, path: str, module: object) -> None:
    assert hasattr(module, "open_file")
    with module.open_file(version / path, inside=version) as stream:
        assert stream.read() == b"own"


def test_a_folder_that_is_itself_a_link_is_outside(version: Path) -> None:
    (version.parent / "2").symlink_to(version)
    with pytest.raises(OSError, match="it leads out of"):
        open_file(version.parent / "2/below/file", inside=version.parent / "2")


def test_a_folder_reached_through_a_link_is_the_folder_itself(version: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(version.parent)
    assert read(tmp_path / "alias/1/below/file", limit=9, inside=tmp_path / "alias/1") == b"own"


def test_without_a_folder_a_users_own_link_is_followed(version: Path) -> None:
    assert read(version / "link out", limit=9) == b"secret"


def test_an_error_of_the_system_names_the_path_and_not_the_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")

    def refuse(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", "/proc/self/fd/7")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError) as caught:
        open_file(path)
    assert caught.value.filename == str(path)
    assert reason(caught.value) == "Permission denied"


@pytest.mark.parametrize(
    ("text", "what"), [("[" * 100_000, "nested too deeply"), ("{", "Expecting"), ("\xff", "decode")]
)
def test_json_that_cannot_be_read_is_a_value_error(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "file").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=what):
        of_loadtest.read_json(tmp_path / "file")


def test_json_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as stream:
        stream.truncate(200_000_000)
    with pytest.raises(ValueError, match="larger than 128 MB"):
        of_loadtest.read_json(tmp_path / "file")


def test_a_file_is_created_or_replaced(tmp_path: Path) -> None:
    for content in (b"longer", b"new"):
        with create(tmp_path / "file") as stream:
            stream.write(content)
        assert (tmp_path / "file").read_bytes() == content


PLANTED: dict[str, Callable[[Path], None]] = {
    "link": link("victim"),
    "link to nothing": link("gone"),
    "second name": lambda path: path.hardlink_to(path.parent / "victim"),
    "pipe": os.mkfifo,
    "socket": make_socket,
    "device": link("/dev/null"),
}


@pytest.mark.parametrize("make", PLANTED.values(), ids=PLANTED)
def test_what_somebody_put_under_the_name_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_bytes(b"precious")
    make(tmp_path / "file")
    with pytest.raises(OSError, match="this name belongs to something other than a file of yours"):
        create(tmp_path / "file")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "gone").exists()


def test_a_file_of_another_user_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"theirs")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(OSError, match="something other"):
        create(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"theirs"
