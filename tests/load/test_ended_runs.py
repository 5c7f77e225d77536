"""Whole load tests that end early: they are stopped, killed or refused, or their worker does not answer any more."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.load_run import (
    LOCUSTFILE,
    PATIENCE_S,
    answered,
    arguments,
    counting_snapshots,
    environment,
    start,
    wait_until,
    wait_until_answered,
)
from support.load_server import serving

from builder.server import Server

pytestmark = pytest.mark.slow

CONSTANT = ("--scenario", "constant", "--concurrency", "2", "--stage-time", "6000", "--warm-up", "0")
"""A load whose first window would last for twenty minutes."""


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 2)])
def test_a_run_that_is_stopped_counts_its_unfinished_window_and_all_that_was_in_flight(
    repository: Path, tmp_path: Path, master_port: tuple[str, ...], number: signal.Signals, processes: int
) -> None:
    several = ("--processes", str(processes), *master_port) if processes > 1 else ()
    options = (*several, "--repository", str(repository), "--request-timeout", "60")
    with serving(repository) as mine, counting_snapshots() as snapshots:
        under_way = start(mine, tmp_path, *CONSTANT, *options, *snapshots.option)
        snapshots.wait_for(1)
        wait_until_answered(mine, 20)
        under_way.process.send_signal(number)
        finished = under_way.finish()
        counted = finished.result["totals"]["requests"]
        wait_until(lambda: answered(mine) >= counted, lambda: "the run counted more answers than the server")
        assert answered(mine) == counted
    assert (finished.code, finished.last_lines[-1]) == (1, "FAILED: the run was stopped before its end")
    assert finished.result["verdict"]["reasons"] == ["the run was stopped before its end"]
    assert "KeyboardInterrupt" not in finished.stderr
    (stage,) = finished.result["stages"]
    assert (len(stage["windows"]), stage["complete"]) == (1, False)
    assert stage["requests"] > 0


LOOKING = """
import gevent
import locust.runners

locust.runners.MASTER_HEARTBEAT_TIMEOUT = 1e9
locust.runners.WorkerRunner.connect_to_master = lambda _: gevent.sleep(1e9)
"""
"""Workers that look for their master for ever, and do not notice that there is none any more."""


@pytest.mark.parametrize(
    ("model", "code", "said"), [("classifier", 1, "Address already in use"), ("nothing", 6, "does not serve this")]
)
def test_a_run_that_does_not_start_ends_its_processes(
    server: Server, tmp_path: Path, master_port: tuple[str, ...], model: str, code: int, said: str
) -> None:
    """They hold its output, so that it ends only with the last of them."""
    (tmp_path / "looking.py").write_text(LOOKING)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = ("--master-bind-port", str(other.getsockname()[1]))
        more = ("--headless", "--processes", "2", *master_port, *(taken if model == "classifier" else ()))
        files = ("-f", f"{LOCUSTFILE},{tmp_path / 'looking.py'}")
        command = arguments(server, tmp_path / "out", *more, *files, model=model)
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_the_processes_of_a_run_that_is_killed_end_too(
    server: Server, tmp_path: Path, master_port: tuple[str, ...]
) -> None:
    (tmp_path / "patient.py").write_text("import locust.runners\nlocust.runners.MASTER_HEARTBEAT_TIMEOUT = 1e9\n")
    files = ("-f", f"{LOCUSTFILE},{tmp_path / 'patient.py'}")
    command = arguments(server, tmp_path / "out", "--headless", *CONSTANT, "--processes", "2", *master_port, *files)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as master:
        try:
            wait_until_answered(server, 20)
        finally:
            master.kill()
        master.communicate(timeout=PATIENCE_S)
    assert master.returncode == -signal.SIGKILL


def test_a_run_whose_only_worker_stops_answering_says_so(
    server: Server, tmp_path: Path, master_port: tuple[str, ...]
) -> None:
    master = start(server, tmp_path, *CONSTANT, "--master", *master_port[:2], "--expect-workers", "1")
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--worker", *master_port[2:]]
    worker = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_answered(server, 20)
        worker.send_signal(signal.SIGSTOP)
        finished = master.finish()
    finally:
        worker.kill()
        worker.wait()
    (said, *_) = finished.result["verdict"]["reasons"]
    assert (finished.code, f"FAILED: {said}" in finished.last_lines) == (1, True), finished.stderr
    assert re.fullmatch(r"\S+_[0-9a-f]{32}: stopped answering, so that no worker was left; fix: .+", said)
