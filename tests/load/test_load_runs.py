"""Whole load tests: Locust in a process of its own against a real Triton."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from support.kserve_server import serving_kserve
from support.load_run import LOCUSTFILE, ROOT, environment, run, start
from support.load_server import (
    classifier,
    serving,
    write_config,
    write_manifest,
    write_model,
    write_reference,
    write_version,
)
from support.load_settings import read

from builder.server import Server, free_port
from loadtest.errors import LoadTestError
from loadtest.server import target

QUICK = ("--stage-time", "1.2", "--warm-up", "0.2")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models: `classifier`, `static` without batching, `bent` whose model is not the reference's, `rare` likewise."""
    path: Path = tmp_path_factory.mktemp("repository")
    write_version(path)
    write_version(path, "static", seed=3, max_batch_size=0)
    write_model(write_version(path, "bent", seed=4), classifier(5))
    write_rare(path)
    return path


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository) as running:
        yield running


def write_rare(repository: Path, rows: int = 10_000) -> None:
    """A model with a reference of 10,000 rows, changed afterwards so that it answers a single one wrongly."""
    folder = write_version(repository, "rare", seed=6)
    model = classifier(6)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(8).standard_normal((rows, 5)).astype(np.float32)
    scores, labels = session.run(["scores", "label"], {"image": images})
    np.savez(folder / "reference.npz", **{"input:image": images, "output:scores": scores, "output:label": labels})
    write_model(folder, corrupted(model, images[1234]))


def corrupted(model: onnx.ModelProto, victim: Any) -> onnx.ModelProto:
    """The same model, but for the row `victim` (FP32[5]) 0.01 is added to the scores."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = made.graph.node
    softmax = next(node for node in nodes if node.op_type == "Softmax")
    softmax.output[0] = "clean"
    constants = {"victim": victim, "five": np.array([4.5], np.float32), "off": np.array([0.01], np.float32)}
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    made.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    extra = [
        helper.make_node("Equal", ["image", "victim"], ["same"]),
        helper.make_node("Cast", ["same"], ["same_f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["same_f", "axis"], ["hits"], keepdims=1),
        helper.make_node("Greater", ["hits", "five"], ["is_victim"]),
        helper.make_node("Cast", ["is_victim"], ["is_victim_f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["is_victim_f", "off"], ["shift"]),
        helper.make_node("Add", ["clean", "shift"], ["scores"]),
    ]
    ordered = [*nodes[:2], *extra, *nodes[2:]]
    del nodes[:]
    nodes.extend(ordered)
    return made


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_ladder_of_right_answers_passes_and_joins_both_sides(
    server: Server, repository: Path, tmp_path: Path, protocol: str
) -> None:
    options = ("--protocol", protocol, "--repository", str(repository), "--rows", "1=3,4=1", "--concurrency", "1,8")
    finished = run(server, tmp_path, *options, *QUICK)
    assert (finished.code, finished.last_lines[-1][:6]) == (0, "PASSED"), finished.stdout + finished.stderr
    assert finished.result["run"]["protocol"] == protocol
    assert [stage["concurrency"] for stage in finished.result["stages"]] == [1, 8]
    for stage in finished.result["stages"]:
        assert stage["requests"] > 50
        assert stage["rows"] > stage["requests"]
        assert (stage["failures"], stage["wrong"], stage["unchecked"]) == ({}, {}, 0)
        latency = stage["latency_us"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert stage["server"]["requests"] == pytest.approx(stage["requests"], rel=0.5, abs=50)
        sizes = {int(size): count for size, count in stage["server"]["batch_sizes"].items()}
        assert sum(sizes.values()) == pytest.approx(stage["server"]["executions"], abs=8)
        inside = sum(stage["server"][f"{part}_us"] for part in ("queue", "compute_input", "compute_infer"))
        assert 0 < inside < latency["mean"]
        assert stage["versions"][0]["version"] == "1"
    in_locusts_table = re.search(rf"{protocol}\s+classifier\s+(\d+)", finished.stderr)
    assert in_locusts_table is not None
    assert int(in_locusts_table[1]) == finished.result["totals"]["requests"]
    hold_report(tmp_path)


def hold_report(directory: Path) -> None:
    """Hold that the page needs nothing from elsewhere and the CSV has a line per stage."""
    page = (directory / "report.html").read_text()
    assert '"schema": 1' in page
    assert "src=" not in page
    assert "href=" not in page
    with (directory / "stages.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["concurrency"] for line in lines] == ["1", "8"]
    assert all(float(line["p99_us"]) > 0 and ":" in line["server_batch_sizes"] for line in lines)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_model_changed_behind_the_references_back_fails_the_run(
    server: Server, repository: Path, tmp_path: Path, protocol: str
) -> None:
    options = ("--repository", str(repository), "--protocol", protocol, "--concurrency", "2")
    finished = run(server, tmp_path, *options, *QUICK, model="bent")
    assert finished.code == 1
    assert "answers were wrong" in finished.last_lines[-1]
    (stage,) = finished.result["stages"]
    assert sum(stage["wrong"].values()) > 0.9 * stage["requests"]
    kept = sorted((tmp_path / "wrong").glob("*.npz"))
    assert kept
    address = {"http": server.http_address, "grpc": server.grpc_address}[protocol]
    command = [
        sys.executable,
        "-m",
        "loadtest",
        "reproduce",
        str(kept[0]),
        "--address",
        address,
        "--protocol",
        protocol,
    ]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout[:11]) == (1, "still wrong")


def test_one_corrupted_row_in_ten_thousand_fails_the_run(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--scenario", "constant", "--concurrency", "8", "--rows", "4")
    finished = run(server, tmp_path, *options, "--stage-time", "6", "--warm-up", "0", model="rare")
    assert finished.code == 1, finished.stdout
    totals = finished.result["totals"]
    assert totals["rows"] >= 10_000
    assert 1 <= sum(totals["wrong"].values()) <= 1 + totals["rows"] // 10_000


def test_a_missed_limit_fails_the_run_and_the_last_line_says_which(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    options = ("--repository", str(repository), "--concurrency", "2", *QUICK)
    slow = run(server, tmp_path, *options, "--max-p99-ms", "0.001")
    assert (slow.code, slow.last_lines[-1][:38]) == (1, "FAILED: no stage kept p99 within 0.001")


def test_without_a_repository_inputs_are_drawn_and_the_report_says_so(server: Server, tmp_path: Path) -> None:
    finished = run(server, tmp_path, "--concurrency", "2", *QUICK, model="classifier=1,static=1")
    assert finished.code == 0, finished.stdout
    assert "answers not checked" in finished.result["notes"][0]
    assert finished.last_lines[-1] == "PASSED: answers were not checked, and every limit held"
    (stage,) = finished.result["stages"]
    assert stage["unchecked"] == stage["requests"] > 0
    assert {version["model"] for version in stage["versions"]} == {"classifier", "static"}


@dataclass(frozen=True)
class Addresses:
    """Where a server that is not Triton listens."""

    http_address: str
    grpc_address: str
    metrics_address: str = "127.0.0.1:9"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(("model", "verdict"), [("classifier", "PASSED"), ("bent", "FAILED")])
def test_answers_of_a_kserve_server_that_is_not_triton_are_checked(
    repository: Path, tmp_path: Path, protocol: str, model: str, verdict: str
) -> None:
    options = ("--repository", str(repository), "--protocol", protocol, "--concurrency", "2", "--rows", "1,3")
    with serving_kserve(repository / model / "1" / "model.onnx") as addresses:
        finished = run(Addresses(*addresses), tmp_path, *options, *QUICK)
    assert finished.last_lines[-1][:6] == verdict, finished.stdout + finished.stderr
    totals = finished.result["totals"]
    assert totals["requests"] > 20
    assert (totals["failures"], totals["unchecked"]) == ({}, 0)
    assert finished.result["stages"][0]["server"] is None


def test_a_model_without_batching_is_checked(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--protocol", "grpc", "--concurrency", "2")
    finished = run(server, tmp_path, *options, *QUICK, model="static")
    assert finished.code == 0, finished.stdout
    assert finished.result["totals"]["unchecked"] == 0


def test_an_open_loop_achieves_the_rate_it_was_asked_for(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--scenario", "rate", "--rate", "50,150", "--arrivals", "poisson")
    finished = run(server, tmp_path, *options, "--stage-time", "2.5", "--warm-up", "0.3", "--max-in-flight", "32")
    assert finished.code == 0, finished.stdout
    for stage in finished.result["stages"]:
        assert stage["throughput_requests_per_s"] == pytest.approx(stage["rate_asked"], rel=0.35)
        assert stage["late_us"]["p50"] > 0


def test_an_open_loop_counts_latency_from_when_a_request_was_due(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    arrivals = tmp_path / "burst.csv"
    arrivals.write_text("".join(f"{0.5 + turn * 1e-6}\n" for turn in range(600)))
    options = ("--repository", str(repository), "--scenario", "replay", "--arrivals-file", str(arrivals))
    finished = run(server, tmp_path, *options, "--max-in-flight", "1")
    assert finished.code == 0, finished.stdout
    (stage,) = finished.result["stages"]
    assert finished.result["totals"]["requests"] == 600
    # One user works the burst off in turn: the last request waited for all the others.
    assert stage["latency_us"]["max"] > 10 * stage["server"]["compute_infer_us"]
    assert stage["latency_us"]["p99"] > 1.5 * stage["latency_us"]["p50"]


def test_a_spike_is_measured_from_its_first_moment(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--scenario", "spike", "--concurrency", "1,6", "--stage-time", "0.8")
    finished = run(server, tmp_path, *options)
    assert finished.code == 0, finished.stdout
    stages = finished.result["stages"]
    assert [(stage["name"], stage["concurrency"]) for stage in stages] == [("before", 1), ("spike", 6), ("after", 1)]
    assert all(stage["discarded"]["seconds"] < 0.5 for stage in stages[1:])


def test_two_processes_give_the_same_report_as_one(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--concurrency", "2,4", *QUICK, "--processes", "2")
    port = str(free_port())
    finished = run(server, tmp_path, *options, "--master-bind-port", port, "--master-port", port)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert [stage["concurrency"] for stage in finished.result["stages"]] == [2, 4]
    for stage in finished.result["stages"]:
        assert stage["client_processes"] == 2
        assert stage["server"]["requests"] == pytest.approx(stage["requests"], rel=0.5, abs=50)


def test_an_open_loop_with_fewer_users_than_processes_is_refused(server: Server, tmp_path: Path) -> None:
    port = str(free_port())
    options = ("--scenario", "rate", "--rate", "50", "--max-in-flight", "1", "--processes", "2")
    finished = run(server, tmp_path, *options, "--master-bind-port", port, "--master-port", port)
    assert (finished.code, finished.result["stages"]) == (2, [])
    assert "2 processes need at least one request under way each" in "".join(finished.last_lines)


SLOW = """
import os
import time
from locust.runners import WorkerRunner

connect = WorkerRunner.connect_to_master

def connect_late(worker):
    time.sleep(4)
    connect(worker)
    open(f"{os.environ['MET']}/{os.getpid()}", "w").close()

WorkerRunner.connect_to_master = connect_late
"""


def test_a_run_that_is_refused_ends_its_processes_however_late_they_are(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "met").mkdir()
    monkeypatch.setenv("MET", str(tmp_path / "met"))
    port = str(free_port())
    options = ("-f", f"{LOCUSTFILE},{tmp_path / 'slow.py'}", "--processes", "2")
    finished = run(server, tmp_path, *options, "--master-bind-port", port, "--master-port", port, model="nothing")
    assert (finished.code, finished.result) == (6, {})
    assert "the server does not serve it" in finished.stderr
    assert len(list((tmp_path / "met").iterdir())) == 2, "each met its master, and was sent home"


def start_worker(port: str) -> "subprocess.Popen[bytes]":
    locustfile = str(ROOT / "loadtest" / "locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", locustfile, "--worker", "--master-port", port]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_lost_worker_is_reported_and_survived(server: Server, repository: Path, tmp_path: Path) -> None:
    port = str(free_port())
    shared = ("--repository", str(repository), "--scenario", "constant", "--concurrency", "4", "--stage-time", "10")
    master = start(server, tmp_path, *shared, "--master", "--master-bind-port", port, "--expect-workers", "2")
    workers = [start_worker(port) for _ in range(2)]
    try:
        master.wait_for("Sending spawn jobs")
        time.sleep(2.5)
        workers[0].kill()
        finished = master.finish()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert finished.code == 0, finished.stdout + finished.stderr
    (stage,) = finished.result["stages"]
    assert len(stage["lost_workers"]) == 1
    assert stage["concurrency"] == 4
    assert any("lost the workers" in note for note in finished.result["notes"])


def test_a_worker_that_comes_in_the_middle_makes_load_too(server: Server, repository: Path, tmp_path: Path) -> None:
    port = str(free_port())
    shared = ("--repository", str(repository), "--scenario", "constant", "--concurrency", "4", "--stage-time", "15")
    master = start(server, tmp_path, *shared, "--master", "--master-bind-port", port, "--expect-workers", "1")
    workers = [start_worker(port)]
    try:
        master.wait_for("All users spawned")
        workers.append(start_worker(port))
        finished = master.finish()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert finished.code == 0, finished.stdout + finished.stderr
    (stage,) = finished.result["stages"]
    assert stage["client_processes"] == 2
    last = stage["windows"][-1]
    assert last["mean_us"] * last["requests"] / last["seconds"] / 1e6 == pytest.approx(4, abs=0.8)


@pytest.mark.parametrize("said", [(), ("--web-host", "*", "--master-bind-host", "*")])
def test_the_page_and_the_master_stay_on_this_machine_unless_told_otherwise(said: tuple[str, ...]) -> None:
    code = (
        "import sys, loadtest.locustfile\n"
        "from locust.argument_parser import get_parser\n"
        "options = get_parser().parse_args(sys.argv[1:])\n"
        "print(options.web_host, options.master_bind_host)"
    )
    command = [sys.executable, "-c", code, *said]
    printed = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True).stdout
    assert printed.split() == (["*", "*"] if said else ["127.0.0.1", "127.0.0.1"])


def test_a_model_that_is_not_served_is_refused_before_the_first_user(server: Server, tmp_path: Path) -> None:
    finished = run(server, tmp_path, model="nothing")
    assert (finished.code, finished.result) == (6, {})
    assert "model nothing: the server does not serve it" in finished.stderr
    assert "choose one that it serves (bent, classifier, rare, static)" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_file_that_is_not_there_is_refused_before_the_first_user(server: Server, tmp_path: Path) -> None:
    finished = run(server, tmp_path, "--scenario", "replay", "--arrivals-file", str(tmp_path / "none.csv"))
    assert (finished.code, finished.result) == (2, {})
    assert "none.csv: it cannot be read" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_first_user(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished = run(server, tmp_path, "--report-dir", str(tmp_path / "file"))
    assert (finished.code, finished.result) == (2, {})
    assert "the report cannot be written" in finished.stderr
    assert "users" not in finished.stderr


def refusal(http_address: str, *options: str) -> LoadTestError:
    with pytest.raises(LoadTestError) as caught:
        target.prepare(read("--model", "classifier", *options, host=f"http://{http_address}"))
    return caught.value


def grpc(address: str) -> tuple[str, ...]:
    return ("--protocol", "grpc", "--grpc-address", address)


def test_a_wrong_target_is_refused_with_its_reason(server: Server) -> None:
    cases = {
        "model classifier version 9: the server does not": (6, server.http_address, ("--model-version", "9")),
        "64 rows per request, but model classifier takes at most 16": (2, server.http_address, ("--rows", "64")),
        "the server does not answer": (6, f"127.0.0.1:{free_port()}", ()),
        "does not speak KServe v2": (6, server.metrics_address, ()),
        "GET /v2 answers nonsense": (6, server.grpc_address, ()),
        "but its gRPC port does not answer: refused": (6, server.http_address, grpc(f"127.0.0.1:{free_port()}")),
        "but its gRPC port does not answer: cut": (6, server.http_address, grpc(server.http_address)),
    }
    for said, (code, http_address, options) in cases.items():
        fault = refusal(http_address, *options)
        assert said in str(fault)
        assert fault.exit_code == code


def test_a_server_that_is_not_ready_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path)
    with serving(tmp_path, model_control_mode="explicit") as empty:
        assert "classifier" in str(refusal(empty.http_address))


def test_a_repository_that_is_not_the_one_served_is_refused_naming_both_sides(server: Server, tmp_path: Path) -> None:
    option = ("--repository", str(tmp_path))
    assert "no version with a reference" in str(refusal(server.http_address, *option))
    folder = write_version(tmp_path, version=2)
    assert "the server has version 1, the repository has 2" in str(refusal(server.http_address, *option))
    folder = folder.rename(folder.with_name("1"))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("TYPE_INT64", "TYPE_INT32"))
    fault = refusal(server.http_address, *option)
    assert "the repository's version 1 has scores FP32[3], label INT32[1]" in fault.what
    assert f"the server http://{server.http_address} has scores FP32[3], label INT64[1]" in fault.what
    (folder / "reference.npz").write_bytes(b"PK damaged")
    assert refusal(server.http_address, *option).exit_code == 2


def test_a_run_that_is_interrupted_still_reports_what_it_saw(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--scenario", "constant", "--concurrency", "2", "--stage-time", "5")
    under_way = start(server, tmp_path, *options, "--warm-up", "0")
    under_way.wait_for("All users spawned")
    time.sleep(2.5)
    under_way.process.send_signal(signal.SIGINT)
    finished = under_way.finish(timeout_s=20)
    assert (finished.code, finished.last_lines[-1]) == (1, "FAILED: the run was stopped before its end")
    assert finished.result["stages"][0]["requests"] > 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_dies_in_the_middle_is_counted_and_the_run_ends_on_time(
    repository: Path, tmp_path: Path, protocol: str
) -> None:
    with serving(repository) as doomed:
        options = ("--repository", str(repository), "--protocol", protocol, "--scenario", "constant")
        under_way = start(doomed, tmp_path, *options, "--concurrency", "4", "--stage-time", "4", "--warm-up", "0")
        under_way.wait_for("All users spawned")
        time.sleep(1)
        os.kill(doomed.pid, signal.SIGKILL)
        finished = under_way.finish(timeout_s=20)
    assert finished.code == 1
    failures = finished.result["totals"]["failures"]
    assert failures.get("refused", 0) > 0
    assert finished.result["totals"]["requests"] > 0
    assert "requests failed" in "".join(finished.last_lines[-3:])


def test_a_server_that_freezes_is_counted_and_the_run_ends_on_time(repository: Path, tmp_path: Path) -> None:
    with serving(repository) as frozen:
        options = ("--repository", str(repository), "--scenario", "constant", "--request-timeout", "5")
        under_way = start(frozen, tmp_path, *options, "--concurrency", "3", "--stage-time", "4", "--warm-up", "0")
        under_way.wait_for("All users spawned")
        time.sleep(1)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            finished = under_way.finish(timeout_s=20)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
    assert finished.code == 1
    # The stage was over before the first request timed out: what is under way at the end counts as well.
    assert finished.result["totals"]["failures"] == {"timeout": 3}


def test_a_restart_inside_a_stage_is_noticed(repository: Path, tmp_path: Path) -> None:
    with serving(repository) as first:
        options = ("--repository", str(repository), "--scenario", "constant", "--max-failures", "100000")
        more = ("--concurrency", "2", "--stage-time", "10", "--warm-up", "0")
        under_way = start(first, tmp_path, *options, *more)
        under_way.wait_for("All users spawned")
        time.sleep(2.5)
        os.kill(first.pid, signal.SIGKILL)
    ports = [int(text.rpartition(":")[2]) for text in (first.http_address, first.grpc_address, first.metrics_address)]
    names = ("http_port", "grpc_port", "metrics_port")
    with Server.start(repository, **dict(zip(names, ports, strict=True))):  # type: ignore[arg-type]
        finished = under_way.finish()
    assert finished.code == 0, finished.stdout
    (stage,) = finished.result["stages"]
    assert stage["server_restarted"]
    assert any("the server restarted" in note for note in finished.result["notes"])


def test_answers_during_a_reload_are_held_against_the_version_that_gave_them(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    write_version(root)
    with serving(root, model_control_mode="explicit", load_models=["*"]) as running:
        options = ("--repository", str(root), "--scenario", "constant", "--concurrency", "2", "--stage-time", "5")
        under_way = start(running, tmp_path / "out", *options, "--warm-up", "0")
        under_way.wait_for("All users spawned")
        time.sleep(0.5)
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
        client.load_model("classifier")
