"""Two results side by side."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.load_results import result_of
from support.load_run import ROOT

from loadtest.errors import SettingsError
from loadtest.report import compare_stages, read_result
from loadtest.report.compare import estimate


def test_an_estimate_carries_a_95_percent_interval() -> None:
    made = estimate([10.0, 12.0, 14.0])
    assert made.mean == 12.0
    assert made.margin == pytest.approx(4.303 * 2 / 3**0.5)
    assert estimate([5.0]).margin is None


def test_stages_of_the_same_load_are_compared() -> None:
    rows = compare_stages(result_of((100, 1000), (150, 2000)), result_of((100, 1000), (300, 2000), (400, 3000)))
    assert [(row.load, row.ratio, row.differs) for row in rows] == [(1.0, 1.0, False), (2.0, 2.0, True)]


def test_runs_without_a_common_load_are_refused() -> None:
    other = result_of((100, 1000))
    other["stages"][0]["concurrency_asked"] = 7
    with pytest.raises(SettingsError, match="no load in common"):
        compare_stages(result_of((100, 1000)), other)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 99}'])
def test_a_file_that_is_not_a_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match="fix: name the result"):
        read_result(path)


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "loadtest", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_prints_a_table_and_draws_a_picture(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("static.json", "dynamic.json")]
    for path, ladder in zip(paths, [((100, 1000), (150, 2000)), ((100, 1000), (300, 2000))], strict=True):
        path.write_text(json.dumps(result_of(*ladder)))
    picture = tmp_path / "both.png"
    done = command("compare", *map(str, paths), "--picture", str(picture))
    assert done.returncode == 0, done.stderr
    assert "2.00" in done.stdout
    assert "1.00 (within noise)" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    done = command("compare", str(paths[0]), str(tmp_path / "none.json"))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "none.json" in done.stderr
