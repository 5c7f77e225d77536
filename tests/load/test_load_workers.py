"""Whole load tests with several processes: forked, as workers, lost, and late."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from locust import runners
from locust.env import Environment
from support.load_run import LOCUSTFILE, ROOT, at_answer, counting_snapshots, environment, run, start, wait_until

from builder.server import Server
from loadtest.run import Leader

pytestmark = pytest.mark.slow

QUICK = ("--stage-time", "1.2", "--warm-up", "0.2", "--min-requests", "20")


def test_two_processes_give_the_same_report_as_one(
    server: Server, repository: Path, tmp_path: Path, master_port: tuple[str, ...]
) -> None:
    options = ("--repository", str(repository), "--concurrency", "2,4", *QUICK, "--processes", "2")
    finished = run(server, tmp_path, *options, *master_port)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert [stage["concurrency"] for stage in finished.result["stages"]] == [2, 4]
    for stage in finished.result["stages"]:
        assert stage["client_processes"] == 2
        assert stage["server"]["requests"] == pytest.approx(stage["requests"], rel=0.5, abs=50)


def test_an_open_loop_with_fewer_users_than_processes_is_refused(
    server: Server, tmp_path: Path, master_port: tuple[str, ...]
) -> None:
    options = ("--scenario", "rate", "--rate", "50", "--max-in-flight", "1", "--processes", "2")
    finished = run(server, tmp_path, *options, *master_port)
    assert (finished.code, finished.result["stages"]) == (2, [])
    assert "2 processes need at least 2 requests in flight" in "".join(finished.last_lines)


LATE = """
import os
import gevent
from locust import events
from locust.runners import WorkerRunner

@events.init.add_listener
def wait(runner, **_):
    if isinstance(runner, WorkerRunner):
        while os.environ["SENT"] not in open(os.environ["LOG"]).read():
            gevent.sleep(0.05)
        gevent.sleep(0.2)  # after the text comes the message
"""


def be_late(folder: Path, monkeypatch: pytest.MonkeyPatch, sent: str) -> str:
    """Return a locustfile for workers that are set up only after their master printed something."""
    (folder / "late.py").write_text(LATE)
    monkeypatch.setenv("LOG", str(folder / "stderr"))
    monkeypatch.setenv("SENT", sent)
    return str(folder / "late.py")


def test_no_message_is_lost_on_workers_that_are_not_set_up_yet(
    server: Server, repository: Path, tmp_path: Path, master_port: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = be_late(tmp_path, monkeypatch, "steps: 1 stage")
    options = ("-f", f"{late},{LOCUSTFILE}", "--processes", "2", *master_port, "--repository", str(repository))
    finished = run(server, tmp_path, *options, "--concurrency", "2", *QUICK)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert [stage["client_processes"] for stage in finished.result["stages"]] == [2]


def start_worker(master_port: tuple[str, ...], *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--worker", *master_port[2:], *more]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_worker_may_have_no_time_for_heartbeats_for_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "HEARTBEAT_LIVENESS", 3)
    Leader(Environment(), SimpleNamespace(register_message=lambda *_: None)).listen()  # type: ignore[arg-type]
    assert runners.HEARTBEAT_LIVENESS * runners.HEARTBEAT_INTERVAL == 10


def test_a_run_continues_without_a_lost_worker_but_fails_because_it_may_have_seen_wrong_answers(
    server: Server, repository: Path, tmp_path: Path, master_port: tuple[str, ...]
) -> None:
    shared = ("--repository", str(repository), "--scenario", "constant", "--concurrency", "4", "--stage-time", "16")
    more = ("--min-requests", "1000", "--expect-workers", "2")
    master = start(server, tmp_path, *shared, *more, "--master", *master_port[:2])
    death = at_answer(tmp_path, 20, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    workers = [start_worker(master_port, *death), start_worker(master_port)]
    try:
        finished = master.finish()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    (stage,) = finished.result["stages"]
    (lost,) = stage["lost_workers"]
    said = f"FAILED: 1 worker was lost, with the last answers that came there: {lost}"
    assert (finished.code, finished.last_lines[-1]) == (1, said), finished.stderr
    assert stage["concurrency"] == 4
    assert any("1 worker was lost" in note for note in finished.result["notes"])


def test_a_worker_that_connects_during_a_run_makes_load_too(
    server: Server, repository: Path, tmp_path: Path, master_port: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ("--repository", str(repository), "--scenario", "soak", "--concurrency", "4", "--stage-time", "5")
    second_has_answers = tmp_path / "second has answers"
    with counting_snapshots() as snapshots:
        more = ("--stages", "100", *snapshots.option, "--expect-workers", "1")
        master = start(server, tmp_path, *shared, *more, "--master", *master_port[:2])
        workers = [start_worker(master_port)]
        try:
            master.wait_for("All users spawned")
            late = be_late(tmp_path, monkeypatch, "2 workers connected")
            option, files = at_answer(tmp_path, 50, f"open({str(second_has_answers)!r}, 'w')")
            workers.append(start_worker(master_port, option, f"{late},{files}"))
            master.wait_for("2 workers connected")
            wait_until(second_has_answers.exists, lambda: master.read("stderr"))
            snapshots.forget()
            snapshots.wait_for(3)
            master.process.send_signal(signal.SIGINT)
            finished = master.finish()
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert "FAILED: the run was stopped before its end" in finished.last_lines, finished.stderr
    stage = finished.result["stages"][-1]
    assert (stage["client_processes"], stage["concurrency"], stage["failures"]) == (2, 4, {})


@pytest.mark.parametrize("said", [(), ("--web-host", "*", "--master-bind-host", "*")])
def test_the_page_and_the_master_listen_only_on_this_machine_by_default(said: tuple[str, ...]) -> None:
    code = (
        "import sys, loadtest.locustfile\n"
        "from locust.argument_parser import get_parser\n"
        "options = get_parser().parse_args(sys.argv[1:])\n"
        "print(options.web_host, options.master_bind_host)"
    )
    command = [sys.executable, "-c", code, *said]
    printed = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True).stdout
    assert printed.split() == (["*", "*"] if said else ["127.0.0.1", "127.0.0.1"])
