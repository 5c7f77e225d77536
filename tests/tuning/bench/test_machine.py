"""What this machine's processor did: the server's part, the load generator's and that of others."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.cores import usable_cores
from builder.tuning.bench import machine
from builder.tuning.bench.machine import (
    Busy,
    Stopwatch,
    busy_seconds,
    find_below,
    read_machine,
    tree_seconds,
)

SPIN = "import time\nend = time.process_time() + 0.25\nwhile time.process_time() < end: pass\n"


def spin() -> None:
    end = time.process_time() + 0.25
    while time.process_time() < end:
        pass


@contextmanager
def child(code: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(timeout=20)


def wait_for(pid: int, seconds: float) -> None:
    end = time.monotonic() + 20
    while tree_seconds(pid) < seconds and time.monotonic() < end:
        time.sleep(0.02)


def test_the_facts_are_those_of_this_machine() -> None:
    facts = read_machine()
    assert facts.cores == usable_cores() >= 1
    assert facts.cpu
    assert facts.memory > 1 << 28
    assert facts.kernel.startswith("Linux ")


def test_facts_that_cannot_be_read_are_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    facts = read_machine()
    assert (facts.memory, facts.virtual) == (0, None)
    assert busy_seconds() is None
    assert Stopwatch(None).stop(children_s=0.0).others is None


def test_what_this_process_takes_is_not_that_of_others() -> None:
    stopwatch = Stopwatch(None)
    spin()
    busy = stopwatch.stop(children_s=0.0)
    assert busy.ours_s >= 0.25
    assert busy.total_s is not None
    assert busy.total_s >= 0.2  # counted in ticks of 10 ms


def test_the_processes_below_the_server_are_counted_also_when_they_have_ended() -> None:
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-I', '-S', '-c', {SPIN!r}])\nsys.stdin.read()"
    with child(code) as pid:
        wait_for(pid, 0.25)
        assert tree_seconds(pid) >= 0.2


def test_a_program_is_found_below_another_one_by_its_name() -> None:
    code = "import subprocess, sys\nsubprocess.run(['sleep', '20'])\n"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], start_new_session=True)
    try:
        end = time.monotonic() + 20
        while not (found := [*find_below(process.pid, "sleep")]) and time.monotonic() < end:
            time.sleep(0.02)
        assert len(found) == 1
        assert [*find_below(process.pid, "tritonserver")] == []
    finally:
        subprocess.run(["kill", *map(str, found), str(process.pid)], check=False)
        process.wait()


def test_a_process_that_is_gone_took_nothing() -> None:
    with child("pass") as pid:
        pass
    assert tree_seconds(pid) == 0


@pytest.mark.parametrize(
    ("server_s", "ours_s", "total_s", "share", "others"),
    [
        (6.0, 3.0, 10.0, 0.5, 0.05),
        (6.0, 3.0, 8.99, 0.4495, 0.0),  # ticks of different clocks
        (None, 3.0, 10.0, 0.5, None),  # nobody knows how much of it a server took, as one in a container
        (6.0, 3.0, None, None, None),
        (6.0, 3.0, 25.0, 1.0, 0.8),
    ],
)
def test_the_shares_are_of_the_time_of_all_cores(
    server_s: float | None, ours_s: float, total_s: float | None, share: float | None, others: float | None
) -> None:
    busy = Busy(seconds=5.0, cores=4, server_s=server_s, ours_s=ours_s, total_s=total_s)
    assert busy.share == pytest.approx(share) if share is not None else busy.share is None
    assert busy.others == pytest.approx(others) if others is not None else busy.others is None


def test_under_a_quota_nobody_knows_what_others_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/stat is that of the host, and a quota is a part of its cores."""
    assert busy_seconds() is not None
    monkeypatch.setattr(machine, "has_quota", lambda: True)
    assert busy_seconds() is None


def test_only_the_cores_that_may_be_used_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 100 ticks: user, nice, system, idle, wait for disks, interrupts, soft interrupts, stolen, guests."""
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 999 888 4 5 6 50 0\ncpu1 10000 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert busy_seconds() == pytest.approx(165 / machine._TICKS)
