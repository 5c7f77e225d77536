"""How many cores a process may use."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest

from builder import cores
from builder.cores import has_quota, usable_cores
from builder.server import installation
from builder.server.installation import Installation


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


BACKEND = Path(installation.__file__).parent / "backends" / "onnxruntime" / "model.py"


def test_the_embedded_server_divides_the_cores_that_the_quota_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "usable_cores", lambda: 5)
    made = Installation(*[Path("nowhere")] * 5).environment()
    spec = importlib.util.spec_from_file_location("backend", BACKEND)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    config = {"instance_group": [{"count": 2}]}
    monkeypatch.setattr(os, "environ", made)
    assert backend.fair_share(config) == 2
    assert backend.fair_share({"instance_group": [{"count": 8}]}) == 1
    del made[installation.CORES]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert backend.fair_share(config) == 4  # a server that was started otherwise
