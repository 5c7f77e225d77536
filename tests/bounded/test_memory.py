"""How much memory there is, as the machine and its control groups say."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from builder.bounded import memory
from builder.bounded.board import Board
from builder.bounded.limits import format_seconds

V2 = {"memory.max": "1000000", "memory.current": "700000", "memory.stat": "anon 5\ninactive_file 200000\n"}
V1 = {
    "memory.limit_in_bytes": "1000000",
    "memory.usage_in_bytes": "400000",
    "memory.stat": "cache 7\ntotal_inactive_file 100\n",
}


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    return tmp_path


def put(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_a_group_of_its_own_limits_the_memory(groups: Path) -> None:
    put(groups, V2)
    assert memory.available_bytes() == 500_000


def test_a_group_without_a_limit_limits_nothing(groups: Path) -> None:
    put(groups, V2 | {"memory.max": "max\n"})
    assert memory.available_bytes() > 10_000_000


def test_the_older_groups_are_read_too(groups: Path) -> None:
    put(groups / "memory", V1)
    lines = Path("/proc/self/cgroup").read_text()
    if ":memory" not in lines and ",memory" not in lines:
        pytest.skip("this machine has no such groups")
    assert memory.available_bytes() == 600_100


def test_a_group_that_is_full_has_nothing_left(groups: Path) -> None:
    put(groups, V2 | {"memory.current": "1900000"})
    assert memory.available_bytes() == 0


def test_a_limit_of_the_process_limits_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    used = memory.data_bytes()
    limits = {resource.RLIMIT_AS: resource.RLIM_INFINITY, resource.RLIMIT_DATA: used + 50_000_000}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (limits[limit], resource.RLIM_INFINITY))
    assert memory.available_bytes() == pytest.approx(50_000_000, abs=5_000_000)


def test_memory_of_this_process_is_counted_when_it_is_used() -> None:
    before = memory.used_bytes(os.getpid())
    array = np.ones(100_000_000, np.uint8)
    grown = memory.used_bytes(os.getpid()) - before
    assert grown == pytest.approx(array.nbytes, rel=0.1)


def test_a_process_that_has_ended_uses_nothing() -> None:
    pid = os.fork() or os._exit(0)
    os.waitpid(pid, 0)
    assert memory.used_bytes(pid) == 0


def test_a_board_keeps_what_was_said_last() -> None:
    board = Board(5.0)
    board.text = "it is read"
    board.text = "ö" * 10_000
    assert set(board.text) <= {"ö", "�"}
    assert len(board.text) > 1_000
    board.text = "\udc80"
    assert board.text == "?"
    board.text = ""
    assert board.text == ""


def test_more_time_moves_the_deadline() -> None:
    board = Board(5.0)
    before = board.deadline
    board.allow(65.0)
    assert (board.seconds, board.deadline) == (65.0, before + 60)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25s"), (1, "1s"), (90, "90s"), (60, "1m"), (600.0, "10m"), (7200, "2h"), (5400, "90m"), (1e9, "1e+09s")],
)
def test_a_duration_is_written_as_an_option_takes_it(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
