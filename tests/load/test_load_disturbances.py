"""Whole load tests in which something happens: an interrupt, or a server that dies, freezes or changes."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.gateways import Gateway, forwarder
from support.load_run import at_answer, counting_snapshots, run, start, wait_until_answered, write_arrivals
from support.load_server import (
    classifier,
    serving,
    write_config,
    write_manifest,
    write_model,
    write_reference,
    write_version,
)

from builder.server import Server

pytestmark = pytest.mark.slow

UNTIL_STOPPED = ("--scenario", "soak", "--concurrency", "2", "--stage-time", "5", "--stages", "100", "--warm-up", "0")
"""A run that a test stops when it has seen enough; a window takes a second."""


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_dies_in_the_middle_is_counted_and_the_run_ends(
    repository: Path, tmp_path: Path, protocol: str
) -> None:
    replay = write_arrivals(tmp_path / "arrivals.csv", [0] * 100)
    options = ("--repository", str(repository), "--protocol", protocol, "--request-timeout", "60", *replay)
    with serving(repository) as doomed:
        death = at_answer(tmp_path, 20, f"import os; os.kill({doomed.pid}, {signal.SIGKILL:d})")
        finished = run(doomed, tmp_path, *death, *options, "--max-in-flight", "4")
    assert finished.code == 1
    totals = finished.result["totals"]
    assert totals["failures"].get("refused", 0) > 0
    assert totals["requests"] >= 20
    assert totals["requests"] + sum(totals["failures"].values()) == 100
    assert "of 100 requests failed" in finished.stdout


FREEZE = """
import os, signal
os.kill({pid}, signal.SIGSTOP)
while open("/proc/{pid}/stat").read().split()[2] != "T":
    pass
"""


def test_a_server_that_freezes_is_counted_and_the_run_ends(repository: Path, tmp_path: Path) -> None:
    replay = write_arrivals(tmp_path / "arrivals.csv", [0] * 6)
    options = ("--repository", str(repository), "--request-timeout", "5", *replay, "--max-in-flight", "3")
    with serving(repository) as frozen:
        freeze = at_answer(tmp_path, 3, FREEZE.format(pid=frozen.pid))
        try:
            finished = run(frozen, tmp_path, *freeze, *options)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
    assert finished.code == 1
    totals = finished.result["totals"]
    # What was in flight when the server froze may have been answered; the request after the third answer was not.
    assert totals["failures"] == {"timeout": 6 - totals["requests"]}
    assert 3 <= totals["requests"] < 6


def test_a_restart_inside_a_stage_is_noticed(repository: Path, tmp_path: Path) -> None:
    # The server that takes over is ready before: however slow this machine is, it is there before the stage ends.
    with serving(repository) as first, serving(repository) as second, ExitStack() as stack:
        now = first
        http = stack.enter_context(forwarder(iter(lambda: now.http_address, "")))
        grpc = stack.enter_context(forwarder(iter(lambda: now.grpc_address, "")))
        options = ("--repository", str(repository), "--scenario", "constant", "--max-failures", "100")
        with counting_snapshots() as snapshots:
            more = ("--concurrency", "2", "--stage-time", "5", "--warm-up", "0", "--server-metrics", snapshots.url)
            under_way = start(Gateway(http, grpc, ""), tmp_path, *options, *more)
            snapshots.wait_for(2)
            now = second
            os.kill(first.pid, signal.SIGKILL)
            finished = under_way.finish()
    assert finished.code == 0, finished.stdout
    (stage,) = finished.result["stages"]
    assert stage["server_restarted"]
    assert any("the server was restarted" in note for note in finished.result["notes"])


def test_answers_during_a_reload_are_compared_with_the_version_that_gave_them(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    write_version(root)
    with serving(root, model_control_mode="explicit", load_models=["*"]) as running, counting_snapshots() as snapshots:
        under_way = start(running, tmp_path / "out", *UNTIL_STOPPED, "--repository", str(root), *snapshots.option)
        wait_until_answered(running, 20)
        snapshots.wait_for(2)
        folder = root / "classifier" / "2"
        folder.mkdir()
        write_model(folder, classifier(9))
        write_reference(folder, classifier(9))
        write_manifest(folder)
        write_config(root, "classifier", served=[2])
        load(running)
        wait_until_answered(running, 20, "classifier/versions/2")
        snapshots.forget()
        snapshots.wait_for(2)
        under_way.process.send_signal(signal.SIGINT)
        finished = under_way.finish()
    assert "FAILED: the run was stopped before its end" in finished.last_lines
    totals = finished.result["totals"]
    assert (totals["failures"], totals["wrong"], totals["unchecked"]) == ({}, {}, 0), finished.result["messages"]
    assert finished.result["exceptions"] == {}
    assert {version["version"] for stage in finished.result["stages"] for version in stage["versions"]} == {"1", "2"}


def load(server: Server) -> None:
    import tritonclient.http

    with tritonclient.http.InferenceServerClient(server.http_address) as client:
        client.load_model("classifier", headers=server.admin.http_headers)
