"""`python -m loadtest run`: what `locust -f loadtest/locustfile.py --headless` does, from any folder."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.load_run import PATIENCE_S, environment
from support.load_schema import check

from builder.server import Server
from loadtest import launch
from loadtest.report.markdown import to_markdown


def command(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "loadtest", "run", *arguments]
    how: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "timeout": PATIENCE_S}
    return subprocess.run(line, cwd=folder, env=environment(), **how)


@pytest.mark.slow
def test_a_run_needs_no_more_than_server_and_model(server: Server, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('a file of the working directory was imported')")
    quick = (
        "--stage-time",
        "1",
        "--warm-up",
        "0.2",
        "--min-requests",
        "20",
        "--report-dir",
        "out",
        "--markdown",
        "summary.md",
    )
    (tmp_path / "summary.md").write_text("another step\n")
    where = ("-H", f"http://{server.http_address}", "--model", "classifier", "--repository", str(repository))
    done = command(*where, *quick, "--scenario", "constant", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("PASSED")
    begin, stage = done.stderr.splitlines()  # and neither Locust's log nor its tables
    assert begin.startswith("constant: 1 stage, at most 12 s")
    assert re.match(r"stage 1 of 1: 8 users: [\d,.]+ rows/s, p50 ", stage)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    check(result)
    assert [stage["concurrency"] for stage in result["stages"]] == [8]
    assert (tmp_path / "summary.md").read_text() == f"another step\n\n{to_markdown(result)}"


@pytest.mark.slow
def test_a_run_that_cannot_take_place_has_the_documented_exit_code(tmp_path: Path) -> None:
    done = command("--host", "http://127.0.0.1:1", "--model", "m", folder=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (6, False)
    done = command("--host", "http://127.0.0.1:1", "--model", "m", "--concurency", "8", folder=tmp_path)
    assert done.returncode == 2
    assert "Did you mean '--concurrency'?" in done.stderr


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The logger that prints Locust's tables, with Locust's entry point replaced by nothing."""
    logger = logging.getLogger("locust.stats_logger")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr("locust.main.main", lambda: None)
    return logger


QUIET = ["--loglevel", "WARNING"]


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (("--model", "m", "-H", "h"), ["--headless", "--only-summary", *QUIET, "--model", "m", "-H", "h"]),
        (("--web", "--web-port", "0"), ["--only-summary", "--web-port", "0"]),
        (("--worker",), ["--headless", "--only-summary", "--worker"]),
        (("--print-stats",), ["--headless", *QUIET, "--print-stats"]),
    ],
)
def test_locusts_page_log_and_tables_are_there_on_request(
    arguments: tuple[str, ...], passed_on: list[str], tables: logging.Logger
) -> None:
    launch.start(arguments)
    assert sys.argv[1:] == ["--locustfile", str(launch.LOCUSTFILE), *passed_on]
    table = logging.LogRecord(tables.name, logging.INFO, "", 0, "", None, None)
    assert bool(tables.filter(table)) is ("--print-stats" in arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--processes", "2", "--master-bind-port", "7001"),
        ("--processes=2", "--master-bind-port=7001"),
        ("--processes", "2", "--master-bind-port", "7001", "--master-port", "7001"),
    ],
)
@pytest.mark.usefixtures("tables")
def test_the_processes_of_a_run_connect_to_the_port_that_it_listens_on(arguments: tuple[str, ...]) -> None:
    launch.start(arguments)
    assert sys.argv[sys.argv.index("--master-port") + 1] == "7001"
    assert sys.argv.count("--master-port") == 1


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [(("--processes", "2"), True), (("--processes=2",), True), (("--processes", "2", "--worker"), False)],
)
@pytest.mark.usefixtures("tables")
def test_the_processes_of_a_run_have_a_port_of_their_own(arguments: tuple[str, ...], chosen: bool) -> None:
    launch.start(arguments)
    ports = [sys.argv[place + 1] for place, given in enumerate(sys.argv) if given.startswith("--master-")]
    assert (len(ports), len({*ports})) == ((2, 1) if chosen else (0, 0))
