"""Deploy a version with a plan and an ONNX file: each server runs what it can.

No server here has a GPU. One of them has a backend `tensorrt` that runs an ONNX file in place of the plan.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.artifacts import scale
from support.load_server import serving
from support.plan_versions import backend_for_plans, plans_on_cpus, with_plan
from support.serving import client, eventually

from builder.deployment import Address, Deployment, LiveServer, deploy
from builder.errors import VerificationError
from builder.publishing import install
from builder.repository import Repository
from builder.server import Server

pytestmark = pytest.mark.slow

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """One server that can run plans, and one that cannot."""
    root = tmp_path_factory.mktemp("mixed") / "models"
    root.mkdir()
    with ExitStack() as stack:
        with backend_for_plans():
            first = stack.enter_context(serving(root, model_control_mode="explicit"))
        yield [first, stack.enter_context(serving(root, model_control_mode="explicit"))]


@pytest.fixture
def servers(fleet: list[Server]) -> Iterator[list[LiveServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(LiveServer(Address.parse(server.grpc_address))) for server in fleet]
    for server in fleet:
        server.ensure_running()


@pytest.fixture
def repository(fleet: list[Server]) -> Repository:
    return Repository(fleet[0].repository)


@pytest.fixture
def name() -> str:
    return f"scale_{next(_numbers)}"


def backends(servers: list[LiveServer], name: str) -> list[str]:
    return [server.config(name).backend for server in servers]


def is_ready(server: Server) -> bool:
    with client(server) as connection:
        return bool(connection.is_server_ready())


def runs(done: Deployment) -> list[str | None]:
    return [server.runs for server in done.servers]


def test_a_server_that_cannot_run_the_plan_runs_the_onnx_file(
    fleet: list[Server], servers: list[LiveServer], repository: Repository, name: str
) -> None:
    install(repository, name, with_plan())
    said: list[tuple[str, str]] = []

    done = deploy(repository, name, servers, report=lambda *line: said.append(line))  # with instances on GPUs, as it is

    assert done.is_complete
    assert runs(done) == ["onnx", "onnx"]
    assert backends(servers, name) == ["onnxruntime", "onnxruntime"]
    with_backend, without = [server.no_plan or "" for server in done.servers]
    assert with_backend.endswith("has kind KIND_GPU but no GPUs are available")
    assert "tensorrt" in without
    assert [step for step, _ in said].count("plan") == 2
    assert eventually(lambda: all(map(is_ready, fleet)), timeout_s=20)


def test_each_server_of_a_mixed_fleet_runs_what_it_can(
    servers: list[LiveServer], repository: Repository, name: str
) -> None:
    install(repository, name, scale(3.0))
    deploy(repository, name, servers)
    install(repository, name, with_plan())

    with plans_on_cpus():
        done = deploy(repository, name, servers)
        assert (done.is_complete, runs(done)) == (True, ["plan", "onnx"])
        assert backends(servers, name) == ["tensorrt", "onnxruntime"]
        assert [server.after for server in done.servers] == [(2,), (2,)]
        assert done.servers[1].no_plan is not None
        assert "tensorrt" in done.servers[1].no_plan

    back = deploy(repository, name, servers, version=1)
    assert (back.is_complete, runs(back)) == (True, [None, None])
    assert backends(servers, name) == ["onnxruntime", "onnxruntime"]


def test_without_a_rehearsal_it_is_decided_when_the_version_is_loaded(
    fleet: list[Server], servers: list[LiveServer], repository: Repository, name: str
) -> None:
    install(repository, name, with_plan())
    with plans_on_cpus():
        done = deploy(repository, name, servers, rehearse=False)
    assert (done.is_complete, runs(done)) == (True, ["plan", "onnx"])
    assert eventually(lambda: all(map(is_ready, fleet)), timeout_s=20)


def test_a_plan_that_answers_wrongly_is_no_reason_to_fall_back_and_a_server_gets_its_plan_back(
    servers: list[LiveServer], repository: Repository, name: str
) -> None:
    def serve_version_1_as_before() -> bool:
        now = [(server.config(name).backend, server.ready_versions(name)) for server in servers]
        return now == [("tensorrt", (1,)), ("onnxruntime", (1,))]

    install(repository, name, with_plan())
    with plans_on_cpus():
        deploy(repository, name, servers)
        install(repository, name, with_plan(factor=3.0, plan_factor=7.0))
        with pytest.raises(VerificationError, match="output 'y' differs from the reference"):
            deploy(repository, name, servers)
        assert serve_version_1_as_before()

        install(repository, name, with_plan(factor=4.0))
        onnx = repository.model(name).version_dir(3) / "model.onnx"
        onnx.write_bytes(repository.model(name).version_dir(1).joinpath("model.onnx").read_bytes())
        done: list[Deployment] = []
        with pytest.raises(VerificationError, match="output 'y' differs from the reference"):
            deploy(repository, name, servers, finished=done.append)  # the plan is right, and the ONNX file is wrong
        assert [server.state for server in done[0].servers] == ["put back", "unchanged"]
        assert serve_version_1_as_before()
