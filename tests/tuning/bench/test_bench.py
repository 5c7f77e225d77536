"""Configurations are measured on a real server, and nothing of that is left: not on disk, not on the server."""

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.artifacts import names, scale, tree
from support.serving import client, eventually, processes_of

from builder.config import ConfigOptions
from builder.deployment import Address, Candidate, LiveServer, OnDisk, make_goal, rehearsal
from builder.errors import HostError, RepositoryError
from builder.publishing import install
from builder.repository import Repository
from builder.server import Server
from builder.tuning.bench.access import ServerAccess
from builder.tuning.bench.driving import Ended
from builder.tuning.bench.measuring import ServerBench
from builder.tuning.bench.opening import open_bench, read_goal
from builder.tuning.measurement import Configuration, Load
from builder.tuning.options import TuneOptions
from builder.tuning.pipeline import tune
from builder.tuning.search import Goal
from builder.tuning.together import tune_together

FEW = Load(users=2)
DELAY_US = 1000
"""Users who wait a while for each answer leave the machine to other tests."""


def publish(folder: Path, name: str = "scale") -> Repository:
    repository = Repository(folder)
    install(repository, name, scale(2.0), options=ConfigOptions(kind="cpu", max_queue_delay_us=DELAY_US))
    return repository


def left(repository: Repository) -> list[str]:
    """What is in the repository, and in our folders beside it, that is not always there."""
    beside = repository.root.parent.glob(f".{repository.root.name}.*/*")
    usual = {".made-by-builder", "lock", "lock.holder", "scale.lock", "scale.lock.holder"}
    return [*names(repository.root), *sorted({path.name for path in beside} - usual)]


# ---- without a server: what cannot be measured is refused at once


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        ("ensemble_scheduling { step { model_name: 'a' model_version: -1 } }", "it is an ensemble"),
        ("sequence_batching { }", "its sequence_batching lets an answer depend on the requests before"),
        ("model_transaction_policy { decoupled: true }", "it is decoupled"),
        ("instance_group { count: 1 } instance_group { count: 2 }", "it has 3 instance groups"),
    ],
)
def test_what_a_load_test_cannot_check_is_refused_before_a_server_starts(
    tmp_path: Path, edit: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = publish(tmp_path / "models")
    config = repository.model("scale").config_path
    text = config.read_text()
    if "scheduling" in edit or "sequence" in edit:
        text = re.sub(r"dynamic_batching \{[^}]*\}\n", "", text)
    config.write_text(f"{text}\n{edit}\n")
    before = tree(repository.root)
    monkeypatch.setattr(Server, "start", lambda *_, **__: pytest.fail("a server was started"))
    with pytest.raises(RepositoryError, match=what), open_bench(repository, "scale"):
        pass
    assert tree(repository.root) == before


@pytest.mark.parametrize(
    ("rows", "fix"),
    [
        (16, "give at most 4, or publish with --max-batch-size 16, which proves it"),
        (8, "give at most 4, or allow them with `python -m builder configure scale --max-batch-size 8`"),
    ],
)
@pytest.mark.parametrize("models", [["scale"], ["scale", "other"]])
def test_requests_that_the_server_would_refuse_are_refused_before_it_starts(
    models: list[str], rows: int, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = publish(tmp_path / "models")
    publish(tmp_path / "models", "other")
    config = repository.model("scale").config_path
    config.write_text(re.sub("max_batch_size: [0-9]+", "max_batch_size: 4", config.read_text()))
    monkeypatch.setattr(Server, "start", lambda *_, **__: pytest.fail("a server was started"))
    options = TuneOptions(Goal(0.02, users=4, rows=((1, 8.0), (rows, 1.0))))
    begin = partial(tune, repository, "scale") if models == ["scale"] else partial(tune_together, repository, models)
    with pytest.raises(RepositoryError, match=f"requests of {rows} rows, and the server refuses more than 4") as found:
        begin(options)
    assert found.value.fix == fix


def test_a_model_without_a_batch_takes_no_requests_of_several_rows(tmp_path: Path) -> None:
    artifact = scale(2.0, max_batch_size=0)
    manifest = artifact.manifest
    inputs, outputs = ([one for one in tensors if one.dims] for tensors in (manifest.inputs, manifest.outputs))
    proven = {one.name: manifest.proof.outputs[one.name] for one in outputs}
    proof = replace(manifest.proof, batch_sizes=(), outputs=proven)
    manifest = replace(manifest, inputs=(*inputs,), outputs=(*outputs,), proof=proof)
    repository = Repository(tmp_path / "models")
    kept = {f"input:{one.name}" for one in inputs} | {f"output:{one.name}" for one in outputs}
    reference = {name: values for name, values in artifact.reference.items() if name in kept}
    unbatched = replace(artifact, manifest=manifest, reference=reference)
    install(repository, "scale", unbatched, options=ConfigOptions(kind="cpu"))
    with pytest.raises(RepositoryError, match="refuses more than 1 in one") as found:
        read_goal(repository, "scale", largest_request=2)
    assert found.value.fix == "give at most 1"


def test_a_model_without_stored_answers_is_refused(tmp_path: Path) -> None:
    repository = publish(tmp_path / "models")
    (repository.model("scale").version_dir(1) / "reference.npz").unlink()
    with pytest.raises(RepositoryError, match=r"reference\.npz"), open_bench(repository, "scale"):
        pass


@pytest.mark.parametrize(
    ("access", "host", "grpc"),
    [
        (ServerAccess(Address.parse("10.0.0.1:8001")), "http://10.0.0.1:8000", "grpc://10.0.0.1:8001"),
        (
            ServerAccess(Address.parse("grpcs://t.example:443"), "t.example"),
            "https://t.example",
            "grpcs://t.example:443",
        ),
        (ServerAccess(Address.parse("h:1"), "https://g/team"), "https://g/team", "grpc://h:1"),
    ],
)
def test_the_load_test_reaches_the_server_over_both_protocols(access: ServerAccess, host: str, grpc: str) -> None:
    options = dict(itertools.pairwise(access.options()))
    assert (options["--host"], options["--grpc-address"], options["--server-metrics"]) == (host, grpc, "none")


def test_the_files_of_the_access_are_absolute_and_secrets_are_no_arguments(tmp_path: Path) -> None:
    access = ServerAccess(Address.parse("h:8001"), header_file=Path("headers.txt"), ca_file=tmp_path / "ca.pem")
    options = dict(itertools.pairwise(access.options()))
    assert options["--header-file"] == str(Path.cwd() / "headers.txt")
    assert options["--ca-file"] == str(tmp_path / "ca.pem")


def test_a_server_that_loads_what_it_finds_is_refused_before_it_could_find_a_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In poll mode, it would serve the candidate as one more model."""

    def refuse(server: LiveServer) -> None:
        raise HostError(server.address, "it does not load models on request", "start it in explicit mode")

    monkeypatch.setattr(LiveServer, "check_control", refuse)
    monkeypatch.setattr(Candidate, "placed", lambda *_: pytest.fail("a candidate was placed"))
    access = ServerAccess(Address.parse("127.0.0.1:1"))
    with (
        pytest.raises(HostError, match="does not load models on request"),
        open_bench(publish(tmp_path / "models"), "scale", server=access),
    ):
        pass


def test_a_second_ctrl_c_does_not_leave_the_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = publish(tmp_path / "models")
    before = tree(repository.root)
    candidate, check = Candidate(make_goal(repository, "scale", None), OnDisk()), rehearsal._check_is_ours

    def pressed_again(*given: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        check(*given)

    def interrupt() -> None:
        with candidate.placed():
            monkeypatch.setattr(rehearsal, "_check_is_ours", pressed_again)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert tree(repository.root) == before


# ---- on the embedded server


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Repository, ServerBench]]:
    repository = publish(tmp_path_factory.mktemp("bench") / "models")
    with open_bench(repository, "scale", stage_time_s=0.5) as bench:
        yield repository, bench


@pytest.mark.slow
def test_two_configurations_are_measured_and_every_answer_is_checked(opened: tuple[Repository, ServerBench]) -> None:
    _, bench = opened
    assert bench.current == Configuration(1, None, 8, delay_us=DELAY_US)
    assert (bench.version, bench.proven_max_batch, bench.kind, bench.is_here, bench.server) == (1, 8, "cpu", True, "")
    assert bench.software["triton"].startswith("2.")
    for configuration in (bench.current, Configuration(2, 1, 4, (2,), 100)):
        made = bench.measure(configuration, replace(FEW, rows=((1, 1.0), (2, 0.5))))
        assert (made.error, made.wrong, made.failed, made.unchecked) == ("", 0, 0, 0)
        assert made.throughput is not None
        assert made.throughput.low <= made.throughput.value <= made.throughput.high
        assert made.requests >= 400
        assert made.p99_s is not None
        assert made.p99_s.low <= made.p99_s.value <= made.p99_s.high
        assert sum(times.count for times in made.batches.values()) > 0
        assert made.server_cpu_s is not None
        assert made.server_cpu_s > 0
    assert max(made.batches) <= 4


@pytest.mark.slow
def test_a_configuration_that_does_not_load_says_why_and_the_next_one_is_measured(
    opened: tuple[Repository, ServerBench],
) -> None:
    _, bench = opened
    failed = bench.measure(replace(bench.current, preferred=(64,)), FEW)
    assert failed.throughput is None
    assert "failed to load 'scale.candidate'" in failed.error
    assert bench.measure(bench.current, FEW).error == ""


@pytest.mark.slow
def test_a_rate_is_kept_in_an_open_loop(opened: tuple[Repository, ServerBench]) -> None:
    made = opened[1].measure(opened[1].current, Load(rate=200.0))
    assert made.error == ""
    assert made.throughput is not None
    assert made.throughput.value == pytest.approx(200, rel=0.4)


@pytest.mark.slow
def test_a_server_that_dies_is_started_again(opened: tuple[Repository, ServerBench]) -> None:
    _, bench = opened
    assert bench._embedded is not None
    os.kill(bench._embedded.pid, signal.SIGKILL)
    died = bench.measure(replace(bench.current, instances=2), FEW)
    assert died.error
    assert bench.measure(bench.current, FEW).error == ""
    wait = ServerBench.wait

    def killed_meanwhile(one: ServerBench) -> Ended:
        assert one.process is not None
        os.kill(one.process, signal.SIGKILL)
        return wait(one)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ServerBench, "wait", killed_meanwhile)
        died = bench.measure(bench.current, FEW)
    assert died.error or died.failed
    assert bench.measure(bench.current, FEW).error == ""


# ---- what is left


@pytest.mark.slow
def test_wrong_answers_are_counted_and_nothing_is_left_on_disk(tmp_path: Path) -> None:
    repository = publish(tmp_path / "models")
    arrays = repository.model("scale").read_reference(1)
    reference = repository.model("scale").version_dir(1) / "reference.npz"
    np.savez(reference, **{**arrays, "output:y": arrays["output:y"] + 1})
    before = tree(repository.root)
    with open_bench(repository, "scale", stage_time_s=0.5, protocol="grpc") as bench:
        assert names(repository.root) == ["scale", "scale.candidate"]
        made = bench.measure(bench.current, FEW)
    assert made.wrong >= made.requests > 0
    assert any("wrong" in note for note in made.notes)
    assert tree(repository.root) == before
    assert left(repository) == ["scale"]


TUNER = """
import sys
from pathlib import Path
from builder.repository import Repository
from builder.tuning.bench.opening import open_bench
from builder.tuning.measurement import Load
with open_bench(Repository(Path(sys.argv[1])), "scale", stage_time_s=60) as bench:
    bench.load(bench.current)
    print(bench._embedded.pid, flush=True)
    bench.measure(bench.current, Load(users=2))
"""


def tuner(repository: Repository) -> "tuple[subprocess.Popen[str], int]":
    """Start a program that measures for a minute; return it, and the process of its server."""
    process = subprocess.Popen([sys.executable, "-c", TUNER, str(repository.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        server = int(said.readline())
    assert eventually(lambda: "standby" in _commands(process.pid))
    return process, server


def _commands(parent: int) -> str:
    children = "".join(task.read_text() for task in Path(f"/proc/{parent}/task").glob("*/children")).split()
    return " ".join(Path(f"/proc/{child}/cmdline").read_text() for child in children)


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    repository = publish(tmp_path / "models")
    before = tree(repository.root)
    process, server = tuner(repository)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert tree(repository.root) == before
    assert left(repository) == ["scale"]
    assert not processes_of(server)


@pytest.mark.slow
def test_what_a_killed_tuning_has_left_is_replaced_by_the_next_one(tmp_path: Path) -> None:
    repository = publish(tmp_path / "models")
    before = tree(repository.root)
    process, server = tuner(repository)
    process.kill()
    process.wait()
    assert names(repository.root) == ["scale", "scale.candidate"]
    assert eventually(lambda: not processes_of(server))
    with open_bench(repository, "scale", stage_time_s=0.5) as bench:
        assert bench.measure(bench.current, FEW).error == ""
    assert tree(repository.root) == before


# ---- on a server of the user's


@pytest.mark.slow
def test_the_served_model_of_a_users_server_stays_as_it_is(tmp_path: Path) -> None:
    """The server is its own: a model of another test that could not be loaded would keep a shared one not ready."""
    repository = publish(tmp_path / "models")
    with Server.start(
        repository.root, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", load_models=["scale"]
    ) as triton:
        access = ServerAccess(Address.parse(triton.grpc_address), http=triton.http_address, cores=3)
        with open_bench(repository, "scale", server=access, stage_time_s=0.5) as bench:
            assert bench.cores == 3
            assert (bench.is_here, bench.server) == (True, f"grpc://{triton.grpc_address}")
            failed = bench.measure(replace(bench.current, preferred=(64,)), FEW)
            made = bench.measure(replace(bench.current, instances=2, threads=1), FEW)
            with client(triton) as connection:
                assert connection.is_server_ready()  # although a configuration did not load
                served = connection.get_model_config("scale", as_json=False).config
            notes = bench.notes
        with client(triton) as connection:
            assert not connection.is_model_ready("scale.candidate")
            assert connection.is_model_ready("scale")
    assert failed.error
    assert (made.error, made.wrong) == ("", 0)
    assert served.instance_group[0].count == 1
    assert notes == ()
    assert "scale.candidate" not in names(repository.root)


@pytest.mark.slow
def test_a_server_that_is_gone_ends_the_tuning_and_leaves_no_folder(tmp_path: Path) -> None:
    repository, said = publish(tmp_path / "models"), list[str]()
    with Server.start(
        repository.root, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", load_models=["scale"]
    ) as server:
        access = ServerAccess(Address.parse(server.grpc_address))
        with open_bench(repository, "scale", server=access, report=lambda _, what: said.append(what)) as bench:
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(HostError, match="no inference server"):
                bench.measure(replace(bench.current, instances=2), FEW)
    assert any(what.startswith("scale.candidate was not unloaded: ") for what in said)
    assert left(repository) == ["scale"]


@pytest.mark.slow
def test_a_server_that_reads_another_repository_is_refused(
    triton: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = publish(tmp_path / "models")
    access = ServerAccess(Address.parse(triton.grpc_address), http=triton.http_address)
    monkeypatch.setattr("builder.tuning.bench.measuring.SEE_S", 0.2)
    with (
        pytest.raises(HostError, match="so it reads another repository"),
        open_bench(repository, "scale", server=access),
    ):
        pass
    assert left(repository) == ["scale"]
