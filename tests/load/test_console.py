"""What is printed may be lost, but the exit code is always that of the work."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from locust.env import Environment
from support.load_run import ROOT, environment
from support.load_settings import read

from loadtest import console
from loadtest.errors import LoadTestError
from loadtest.report import Outcome
from loadtest.run import Run, StageRecord, Tally, Window
from loadtest.scenarios import make_stages


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    "printed", ["print_line('a')", "print_table(['a'], [['b']])", "print_json({})", "print_note('a')"]
)
def test_output_that_nobody_reads_does_not_change_the_exit_code(stream: str, printed: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = f"import sys; from loadtest.console import *; {printed}; {printed}; sys.exit(3)"
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writer}
    try:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=False, **streams)
    finally:
        os.close(writer)
    assert done.returncode == 3


class Broken:
    """A stream that cannot be written to."""

    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, _: object) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        """There is nothing to flush."""

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError


def test_a_result_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(errno.ENOSPC))
    with pytest.raises(LoadTestError, match="stdout: No space left on device"):
        console.print_line("a result")


def end(run: Run) -> int | None:
    """End a run as Locust does, and return the exit code."""
    ended = Environment()
    leader: Any = type("Leader", (), {"run": run})
    Outcome(ended, leader).listen()
    events: Any = ended.events
    for event in (events.test_stop, events.quitting, events.quit):
        event.fire()
    return ended.process_exit_code


def made_run(report_dir: Path, *, passes: bool = True) -> Run:
    settings = read("--model", "m", "--report-dir", str(report_dir))
    run = Run(settings, 0.0, [StageRecord(make_stages(settings.load)[0])])
    wrong = {} if passes else {"nan": 1}
    run.records[0].measure(Window(1.0, {("m", "1"): Tally(requests=1000, rows=1000)}))
    run.records[0].recent[0].tallies["m", "1"].wrong.update(wrong)
    run.complete = True
    return run


@pytest.fixture(autouse=True)
def no_error_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locust.log.unhandled_greenlet_exception", False)


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_the_exit_code_is_that_of_the_verdict_though_it_cannot_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passes: bool, number: int
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(number))
    assert end(made_run(tmp_path, passes=passes)) == (0 if passes else 1)
    said = capsys.readouterr().err.splitlines()
    verdict = ["PASSED" if passes else "FAILED"] if number == errno.ENOSPC else []
    assert [line.partition(":")[0] for line in said[-1:]] == verdict
    assert "Traceback" not in "".join(said)


def test_a_run_whose_result_cannot_be_written_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "result.json").symlink_to("/dev/full")
    assert end(made_run(tmp_path)) == 2
    out, error = capsys.readouterr()
    assert "PASSED" not in out
    assert f"error: {tmp_path}: the report cannot be written: No space left on device\nfix: " in error


def test_a_report_whose_folder_was_removed_meanwhile_is_written_all_the_same(tmp_path: Path) -> None:
    assert end(made_run(tmp_path / "removed")) == 0
    assert (tmp_path / "removed" / "result.json").exists()
