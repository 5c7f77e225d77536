"""The command `tune` on a real Triton: it measures, says what it found, and leaves nothing but that."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from builder import ConfigOptions, PublishOptions, publish

ROOT = Path(__file__).parents[2]
SCHEMA = Draft202012Validator(json.loads((ROOT / "loadtest" / "report" / "tuning.schema.json").read_text()))

pytestmark = pytest.mark.slow


ALONE = """
from builder.tuning.bench import machine
machine.Busy.others = property(lambda _: None)
from builder.cli import main
main()
"""
"""The command where nobody knows what other programs take: beside other tests, each run would count as disturbed."""


def tune(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", ALONE, "tune", "digits", "--repository", "models", *arguments]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=path, capture_output=True, text=True, timeout=300)


def config_of(folder: Path) -> bytes:
    return (folder / "models" / "digits" / "config.pbtxt").read_bytes()


def test_a_slow_config_is_tuned_written_back_and_brought_back(tmp_path: Path) -> None:
    slow = ConfigOptions(max_batch_size=32, max_queue_delay_us=10_000, instances=1)
    model = ROOT / "examples" / "digits" / "digits.onnx"
    publish(model, tmp_path / "models", name="digits", options=PublishOptions(config=slow))
    before = config_of(tmp_path)
    load = ("--max-p99-ms", "1000", "--concurrency", "4", "--runs", "4", "--stage-time", "1.5s")

    found = tune(tmp_path, *load, "--json", "--report-dir", "out")
    assert found.returncode == 0, found.stderr
    printed = json.loads(found.stdout)
    assert [error.message for error in SCHEMA.iter_errors(printed)] == []
    assert printed == json.loads((tmp_path / "out" / "tune.json").read_text())
    assert printed["found"]["verdict"] == "better"
    assert printed["found"]["gain"]["low"] > 1
    assert all(not run["measurement"]["wrong"] for run in printed["steps"])
    assert config_of(tmp_path) == before
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["digits"]

    applied = tune(tmp_path, *load, "--apply")
    assert applied.returncode == 0, applied.stderr
    assert "from before: " in applied.stderr
    assert config_of(tmp_path) != before

    undone = tune(tmp_path, "--undo")
    assert undone.returncode == 0, undone.stderr
    assert config_of(tmp_path) == before


def test_a_closed_terminal_leaves_the_model_as_it_is_and_the_runs_so_far(tmp_path: Path) -> None:
    publish(ROOT / "examples" / "digits" / "digits.onnx", tmp_path / "models", name="digits")
    before = config_of(tmp_path)
    command = [sys.executable, "-m", "builder", "tune", "digits", "--repository", "models", "--max-p99-ms", "50"]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--stage-time", "1s"], cwd=tmp_path, env=path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            if line.startswith("run 2"):
                process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 130
    assert config_of(tmp_path) == before
    assert [folder.name for folder in (tmp_path / "models").iterdir()] == ["digits"]
    kept: dict[str, Any] = json.loads((tmp_path / ".models.tune" / "digits.tune.json").read_text())
    assert (len(kept["steps"]), kept["found"], kept["finished"]) == (1, None, None)
    assert [error.message for error in SCHEMA.iter_errors(kept)] == []
