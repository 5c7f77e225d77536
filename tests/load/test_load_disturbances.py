"""Whole load tests in which something happens: an interrupt, or a server that dies, freezes or changes."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.gateways import Gateway, forwarder
from support.load_run import counting_snapshots, start, wait_until_answered
from support.load_server import (
    classifier,
    serving,
    write_config,
    write_manifest,
    write_model,
    write_reference,
    write_version,
)

from builder.server import Server, free_port

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 2)])
def test_a_run_that_is_stopped_still_reports_what_it_saw(
    server: Server, repository: Path, tmp_path: Path, number: signal.Signals, processes: int
) -> None:
    port = str(free_port())
    several = ("--processes", str(processes), "--master-bind-port", port, "--master-port", port)
    options = ("--repository", str(repository), "--scenario", "constant", "--concurrency", "2", "--stage-time", "5")
    with counting_snapshots() as snapshots:
        more = (*(several if processes > 1 else ()), "--warm-up", "0", "--server-metrics", snapshots.url)
        under_way = start(server, tmp_path, *options, *more)
        snapshots.wait_for(2)
        under_way.process.send_signal(number)
    finished = under_way.finish(timeout_s=20)
    assert (finished.code, finished.last_lines[-1]) == (1, "FAILED: the run was stopped before its end")
    assert "KeyboardInterrupt" not in finished.stderr
    assert finished.result["stages"][0]["requests"] > 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_dies_in_the_middle_is_counted_and_the_run_ends_on_time(
    repository: Path, tmp_path: Path, protocol: str
) -> None:
    with serving(repository) as doomed:
        options = ("--repository", str(repository), "--protocol", protocol, "--scenario", "constant")
        under_way = start(doomed, tmp_path, *options, "--concurrency", "4", "--stage-time", "4", "--warm-up", "0")
        wait_until_answered(doomed, 20)
        os.kill(doomed.pid, signal.SIGKILL)
        finished = under_way.finish(timeout_s=20)
    assert finished.code == 1
    failures = finished.result["totals"]["failures"]
    assert failures.get("refused", 0) > 0
    assert finished.result["totals"]["requests"] > 0
    assert "requests failed" in "".join(finished.last_lines[-3:])


def test_a_server_that_freezes_is_counted_and_the_run_ends_on_time(repository: Path, tmp_path: Path) -> None:
    with serving(repository) as frozen:
        options = ("--repository", str(repository), "--scenario", "constant", "--request-timeout", "8")
        under_way = start(frozen, tmp_path, *options, "--concurrency", "3", "--stage-time", "4", "--warm-up", "0")
        under_way.wait_for("All users spawned")
        wait_until_answered(frozen, 20)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            finished = under_way.finish(timeout_s=40)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
    assert finished.code == 1
    # The stage was over before the first request timed out: what is in flight at the end counts as well.
    assert finished.result["totals"]["failures"] == {"timeout": 3}


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
    with serving(root, model_control_mode="explicit", load_models=["*"]) as running:
        options = ("--repository", str(root), "--scenario", "constant", "--concurrency", "2", "--stage-time", "5")
        under_way = start(running, tmp_path / "out", *options, "--warm-up", "0")
        wait_until_answered(running, 20)
        folder = root / "classifier" / "2"
        folder.mkdir()
        write_model(folder, classifier(9))
        write_reference(folder, classifier(9))
        write_manifest(folder)
        write_config(root, "classifier", served=[2])
        load(running)
        finished = under_way.finish()
    assert finished.code == 0, finished.stdout
    assert finished.result["totals"]["unchecked"] == 0
    (stage,) = finished.result["stages"]
    assert [(v["version"], v["wrong"]) for v in stage["versions"] if v["version"]] == [("1", {}), ("2", {})]


def load(server: Server) -> None:
    import tritonclient.http

    with tritonclient.http.InferenceServerClient(server.http_address) as client:
        client.load_model("classifier", headers=server.admin.http_headers)
