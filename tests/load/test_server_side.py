"""What a load test says about the server: several servers behind one address, and the models of an ensemble."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.gateways import Gateway, balancer
from support.load_run import Finished, answered, run
from support.load_server import BATCHING, serving, write_version
from support.reserved import unused_address
from support.serving import DOUBLE, DOUBLE_CONFIG, parse, write_model

from builder.server import Server

pytestmark = pytest.mark.slow

ENSEMBLE = """name: "{name}" platform: "ensemble" max_batch_size: 8
input {{ name: "X" data_type: TYPE_FP32 dims: 2 }}
output {{ name: "Y" data_type: TYPE_FP32 dims: 2 }}
ensemble_scheduling {{ step [ {{
  model_name: "{first}" model_version: -1
  input_map {{ key: "X" value: "X" }} output_map {{ key: "Y" value: "between" }}
}}, {{
  model_name: "{second}" model_version: -1
  input_map {{ key: "X" value: "between" }} output_map {{ key: "Y" value: "Y" }}
}} ] }}
"""


def write_ensemble(repository: Path, name: str, first: str, second: str) -> None:
    """Write a model that gives its input to one model, and the answer to another."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(ENSEMBLE.format(name=name, first=first, second=second))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("repository")
    write_version(path)
    for name in ("twice", "again"):
        write_model(path, name, DOUBLE_CONFIG + BATCHING, parse(DOUBLE))
    write_ensemble(path, "four", "twice", "again")
    write_ensemble(path, "eight", "twice", "four")
    return path


@dataclass(frozen=True)
class Balanced(Gateway):
    """An address behind which there are two servers."""

    servers: tuple[Server, Server]


@pytest.fixture(scope="module")
def balanced(repository: Path, server: Server) -> Iterator[Balanced]:
    with (
        serving(repository) as second,
        balancer(server.http_address, second.http_address) as http,
        balancer(server.grpc_address, second.grpc_address) as grpc,
    ):
        yield Balanced(http, grpc, server.metrics_address, (server, second))


def run_evenly(balanced: Balanced, repository: Path, out: Path, *more: str) -> Finished:
    """Run with four users, whose connections are spread over the servers."""
    options = ("--repository", str(repository), "--scenario", "constant", "--concurrency", "4", "--stage-time", "3")
    return run(balanced, out, *options, "--min-requests", "50", *more)


def test_servers_behind_a_balancer_have_no_figures_unless_the_metrics_of_all_are_named(
    balanced: Balanced, repository: Path, tmp_path: Path
) -> None:
    before = sum(map(answered, balanced.servers))
    plain = run_evenly(balanced, repository, tmp_path)
    assert plain.code == 0, plain.stdout
    assert plain.result["totals"]["requests"] == sum(map(answered, balanced.servers)) - before
    (stage,) = plain.result["stages"]
    assert (stage["server"], stage["server_restarted"]) == (None, False)
    assert "other servers share the load" in stage["server_missing"]
    assert sum("--server-metrics" in note for note in plain.result["notes"]) == 1

    addresses = ",".join(one.metrics_address for one in balanced.servers)
    named = run_evenly(balanced, repository, tmp_path / "named", "--protocol", "grpc", "--server-metrics", addresses)
    assert named.code == 0, named.stdout
    (stage,) = named.result["stages"]
    assert stage["server"]["requests"] == pytest.approx(stage["requests"], rel=0.4, abs=20)
    assert stage["server"]["compute_infer_us"] > 0
    assert stage["server"]["mean_batch"] >= 1
    assert stage["server"]["batch_sizes"] == {}


def test_metrics_that_cannot_be_read_or_are_of_other_models_are_refused(
    balanced: Balanced, repository: Path, tmp_path: Path
) -> None:
    first = balanced.metrics_address
    with unused_address() as nobody:
        finished = run_evenly(balanced, repository, tmp_path, "--server-metrics", f"{first},{nobody}")
    assert finished.code == 6
    assert f"error: {nobody}: the metrics cannot be read: Connection refused" in finished.stderr
    other = run_evenly(balanced, repository, tmp_path, "--server-metrics", f"{first},{balanced.http_address}/v2")
    assert f"error: {balanced.http_address}: there are no metrics of model classifier here" in other.stderr


def test_the_figures_of_an_ensemble_are_split_by_the_models_that_it_calls(server: Server, tmp_path: Path) -> None:
    options = ("--scenario", "constant", "--concurrency", "4", "--rows", "2", "--stage-time", "2", "--warm-up", "0.5")
    finished = run(server, tmp_path, *options, "--min-requests", "50", model="eight")
    assert finished.code == 0, finished.stdout
    (stage,) = finished.result["stages"]
    figures = stage["server"]
    models = {model["name"]: model for model in figures["models"]}
    assert models.keys() == {"twice", "again"}
    # eight calls twice and four, which calls twice and again; the server is asked for the counts of one after the other
    assert models["twice"]["requests"] == pytest.approx(2 * figures["requests"], rel=0.3, abs=20)
    assert models["again"]["requests"] == pytest.approx(figures["requests"], rel=0.3, abs=20)
    assert figures["requests"] == pytest.approx(stage["requests"], rel=0.3, abs=20)
    total_us = sum(model["queue_us"] * model["requests"] for model in models.values())
    assert figures["queue_us"] == pytest.approx(total_us / figures["requests"], rel=0.01, abs=0.2)
    assert figures["executions"] == sum(model["executions"] for model in models.values())
    for model in models.values():  # Triton may count one more between the two
        assert sum(model["batch_sizes"].values()) == pytest.approx(model["executions"], abs=8)
    assert any("twice version 1: queue" in line for line in finished.last_lines)
