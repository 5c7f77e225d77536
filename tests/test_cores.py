"""How many cores a process may use."""

from pathlib import Path

import pytest

from builder import cores
from builder.cores import has_quota, usable_cores


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "max 100000"}, 8),
        ({"pod/cpu.max": "max 100000", "cpu.max": "100000 100000"}, 1),
        ({"pod/cpu.max": "50000 100000"}, 1),
        ({"cpu,cpuacct/pod/cpu.cfs_quota_us": "400000", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu.max": "damaged"}, 8),
        ({}, 8),
    ],
)
def test_a_container_has_the_cores_that_its_quota_allows(
    files: dict[str, str], allowed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("4:cpu,cpuacct:/pod\n3:memory:/pod\n0::/pod\n")
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    monkeypatch.setattr(cores, "_PROC", tmp_path)
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores() == allowed
    assert has_quota() == (allowed < 8)
