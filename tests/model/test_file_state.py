"""A file's state tells whether anybody may have written to the file since it was read."""

import fcntl
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from builder.model import file_state
from builder.model.file_state import RELIABLE_FILESYSTEMS, read_state


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file on a filesystem that counts as reliable, left alone for longer than is required (here: 0.1 s)."""
    monkeypatch.setattr(file_state, "SETTLED_NS", 100_000_000)
    monkeypatch.setattr(file_state, "_filesystem", lambda path: "ext4")
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    time.sleep(0.15)
    return path


def write(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"WEIGHTS")


def write_and_set_the_time_back(path: Path) -> None:
    before = path.stat()
    write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"!")


def put_another_in_its_place(path: Path) -> None:
    other = path.with_name("other.bin")
    other.write_bytes(b"WEIGHTS")
    other.replace(path)


def test_it_holds_while_others_read(file: Path) -> None:
    state = read_state(file)

    assert file.read_bytes() == b"weights"
    assert read_state(file) == state
    assert state.still_holds(file)


@pytest.mark.parametrize("change", [write, write_and_set_the_time_back, append, put_another_in_its_place, Path.unlink])
def test_it_no_longer_holds_after_a_change(file: Path, change: Callable[[Path], None]) -> None:
    state = read_state(file)

    change(file)

    assert not state.still_holds(file)


def test_a_write_by_a_program_that_had_the_file_open_before_is_noticed(file: Path) -> None:
    with file.open("r+b", buffering=0) as stream:
        state = read_state(file)
        stream.write(b"WEIGHTS")

        assert not state.still_holds(file)


def test_a_write_through_a_memory_map_is_noticed(file: Path) -> None:
    if real_filesystem(file) not in RELIABLE_FILESYSTEMS:
        pytest.skip(f"{real_filesystem(file)} is not known to notice writes through a memory map")
    state = read_state(file)
    assert state.still_holds(file)

    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as view:
        view[1:2] = b"E"

        assert not state.still_holds(file)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_file_that_a_program_has_open_for_writing_is_never_certain(file: Path, is_mapped: bool) -> None:
    """A write that is under way has the time of its start, and a write to a mapped page may leave none."""
    with file.open("r+b") as stream:
        view = mmap.mmap(stream.fileno(), 0) if is_mapped else nullcontext()
        if is_mapped:
            stream.close()
        with view:
            assert not read_state(file).still_holds(file)

    assert read_state(file).still_holds(file)


@pytest.mark.slow
def test_a_program_that_opens_the_file_at_the_same_time_does_not_end_this_one(file: Path) -> None:
    opening = [sys.executable, "-c", f"for _ in range(20000): open({str(file)!r}, 'r+b').close()"]
    with subprocess.Popen(opening) as other:
        while other.poll() is None:
            read_state(file)

    assert other.returncode == 0
    assert read_state(file).still_holds(file)


def test_a_file_that_changed_just_before_is_never_certain(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next write may come in the same step of the filesystem's clock, and leave the same change time."""
    assert read_state(file).still_holds(file)
    monkeypatch.setattr(file_state, "SETTLED_NS", 3_600 * 10**9)  # so that this is just before on any machine

    assert not read_state(file).still_holds(file)


def test_a_change_time_in_the_future_is_never_certain(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: file.stat().st_ctime_ns - 3_600 * 10**9)

    assert not read_state(file).still_holds(file)


@pytest.mark.parametrize("filesystem", ["nfs4", "cifs", "fuse.sshfs", "virtiofs", "9p", "tmpfs", "overlay", None])
def test_a_filesystem_whose_times_cannot_be_relied_on_is_never_certain(
    file: Path, monkeypatch: pytest.MonkeyPatch, filesystem: str | None
) -> None:
    monkeypatch.setattr(file_state, "_filesystem", lambda path: filesystem)

    assert not read_state(file).still_holds(file)


def test_a_file_of_another_owner_is_never_certain(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, command: int, argument: int) -> None:
        raise PermissionError("only the owner may take a lease")

    monkeypatch.setattr(fcntl, "fcntl", refuse)

    assert not read_state(file).still_holds(file)


def test_nobody_who_opens_the_file_for_writing_has_to_wait(file: Path) -> None:
    state = read_state(file)

    os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))

    assert state.still_holds(file)


def real_filesystem(path: Path) -> str | None:
    from builder.model.file_state import _filesystem

    return _filesystem(path)


def test_the_filesystem_is_the_one_that_the_system_names(tmp_path: Path) -> None:
    df = subprocess.run(["df", "--output=fstype", tmp_path], capture_output=True, check=True, text=True).stdout
    (tmp_path / "w.bin").touch()

    assert real_filesystem(tmp_path / "w.bin") == df.split()[-1]
    assert real_filesystem(Path("/proc/self/status")) == "proc"
    assert real_filesystem(tmp_path / "missing") is None


MOUNT = """
set -e
mkdir tmpfs overlay lower
mount -t tmpfs tmpfs tmpfs
mkdir tmpfs/upper tmpfs/work
echo weights | tee tmpfs/w.bin lower/w.bin > alone.bin
mount --bind tmpfs/w.bin alone.bin
mount -t overlay overlay -o lowerdir=lower,upperdir=tmpfs/upper,workdir=tmpfs/work overlay
exec "$@"
"""
"""Mount a tmpfs, one file of it by itself, and an overlay that writes to it, then run a command."""


@pytest.mark.slow
@pytest.mark.parametrize(("file", "expected"), [("alone.bin", "tmpfs"), ("overlay/w.bin", "overlay")])
def test_a_write_that_leaves_no_trace_on_a_mount_is_never_missed(tmp_path: Path, file: str, expected: str) -> None:
    """Write through a memory map: where that changes no time, the state must not have been certain."""
    script = f"""
import mmap, time
from pathlib import Path
from builder.model import file_state
file_state.SETTLED_NS = 100_000_000
path = Path({file!r})
path.write_bytes(b"weights")
time.sleep(0.15)
state = file_state.read_state(path)
with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as view:
    view[1:2] = b"E"
print(file_state._filesystem(path), state.still_holds(path))
"""
    command = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode and not done.stdout and "Traceback" not in done.stderr:
        pytest.skip(f"this user may not mount here: {done.stderr.strip()}")

    assert done.stdout.split() == [expected, "False"], done.stderr
