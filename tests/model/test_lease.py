"""A lease tells whether anybody may have written to a file since it was taken."""

import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder.model.lease import Lease


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    return path


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_it_holds_while_others_read(file: Path) -> None:
    lease = Lease(file)

    assert file.read_bytes() == b"weights"
    assert Lease(file).is_unbroken()
    assert lease.is_unbroken()


def test_whoever_opens_the_file_for_writing_breaks_it_and_waits(file: Path) -> None:
    lease = Lease(file)
    writer = [sys.executable, "-c", "import sys; open(sys.argv[1], 'r+b').write(b'W')", str(file)]

    with subprocess.Popen(writer) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert not lease.is_unbroken()
        assert file.read_bytes() == b"weights"
        del lease
        assert process.wait(30) == 0
    assert file.read_bytes() == b"Weights"


def test_a_file_put_in_its_place_breaks_it(file: Path) -> None:
    lease = Lease(file)
    other = file.with_name("other.bin")
    other.write_bytes(b"WEIGHTS")
    other.replace(file)

    assert not lease.is_unbroken()


def test_a_file_moved_away_and_back_breaks_it(file: Path) -> None:
    lease = Lease(file)
    file.rename(file.with_name("away.bin"))
    assert not lease.is_unbroken()

    file.with_name("away.bin").rename(file)
    assert not lease.is_unbroken()


@pytest.mark.parametrize("is_mapped", [False, True])
def test_none_is_granted_while_somebody_can_write(file: Path, is_mapped: bool) -> None:
    with file.open("r+b") as stream:
        view = mmap.mmap(stream.fileno(), 0) if is_mapped else None
        if is_mapped:
            stream.close()
        lease = Lease(file)
    if view is not None:
        view.close()

    assert not lease.is_unbroken()


def test_a_filesystem_without_leases_counts_as_broken(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETLEASE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)

    assert not Lease(file).is_unbroken()


def test_its_end_gives_the_file_back(file: Path) -> None:
    before = open_files()
    lease = Lease(file)
    assert open_files() == before + 1

    del lease
    assert open_files() == before
    os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))


def test_the_signal_of_a_break_does_not_end_the_process(file: Path) -> None:
    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL, "this test would say nothing"
    lease = Lease(file)

    with pytest.raises(BlockingIOError):
        os.open(file, os.O_WRONLY | os.O_NONBLOCK)
    assert not lease.is_unbroken()
