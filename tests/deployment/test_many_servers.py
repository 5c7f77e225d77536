"""Deploy to several real Tritons that read one repository."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import names, scale, scale_model, tree
from support.falsifying import falsifying, flip_a_bit_of
from support.gateways import balancer
from support.load_server import serving
from support.serving import eventually

from builder.deployment import Address, Deployment, LiveServer, deploy, parse_waves, rehearsal, server_run
from builder.errors import BuilderError, HostError, VerificationError
from builder.publishing import install, put_back, roll_back
from builder.repository import Repository
from builder.server import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three servers on one repository."""
    root = tmp_path_factory.mktemp("fleet") / "models"
    root.mkdir()
    with ExitStack() as stack:
        yield [stack.enter_context(serving(root, model_control_mode="explicit")) for _ in range(3)]


@pytest.fixture
def name() -> str:
    return f"scale_{next(_numbers)}"


@pytest.fixture
def repository(fleet: Sequence[Server], name: str) -> Repository:
    """The repository with versions 1 and 2 of a model, of which the config names version 1."""
    repository = Repository(fleet[0].repository)
    for factor in (2.0, 3.0):
        install(repository, name, scale(factor))
    roll_back(repository, name, 1)
    return repository


@contextmanager
def live(server: Server | str, **options: Any) -> Iterator[LiveServer]:
    address = server if isinstance(server, str) else server.grpc_address
    admin = None if isinstance(server, str) else server.admin
    with LiveServer(Address.parse(address), **{"admin": admin, **options}) as connection:
        yield connection


@contextmanager
def connected(servers: Sequence[Server | str], **options: Any) -> Iterator[list[LiveServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(live(server, **options)) for server in servers]


def served(fleet: Sequence[Server], name: str) -> list[tuple[int, ...]]:
    """The versions that each server serves."""
    with connected(fleet) as servers:
        return [server.ready_versions(name) for server in servers]


def failed(error: type[BuilderError], *arguments: Any, **options: Any) -> tuple[Deployment, str]:
    """Deploy, which has to fail; return what was done and the message."""
    done: list[Deployment] = []
    with pytest.raises(error) as caught:
        deploy(*arguments, **options, finished=done.append)
    (only,) = done
    assert not only.is_complete
    return only, str(caught.value)


def states(done: Deployment) -> list[str]:
    return [server.state for server in done.servers]


def test_servers_are_taken_in_waves_each_tried_before_its_clients_get_the_version(
    fleet: list[Server], repository: Repository, name: str
) -> None:
    said: list[tuple[str, str]] = []
    with connected(fleet) as servers:
        deploy(repository, name, servers)
        done = deploy(repository, name, servers, version=2, report=lambda *line: said.append(line))

    assert states(done) == ["deployed"] * 3
    assert [(one.before, one.after) for one in done.servers] == [((1,), (2,))] * 3
    assert all(one.rows > 8 and one.load_s > 0 for one in done.servers)
    assert (done.is_complete, done.named_before, done.named_after) == (True, 1, 2)
    assert served(fleet, name) == [(2,)] * 3
    first = str(fleet[0].grpc_address)
    steps = [(step, first in what) for step, what in said if step not in ("server", "wave", "note")]
    alone = [("rehearse", True), ("switch", False), ("load", True), ("check", True)]
    assert steps[:4] == alone
    assert sorted(steps[4:]) == sorted([(step, False) for step in ("rehearse", "load", "check")] * 2)
    assert not [found for found in names(repository.root) if "." in found]


def test_one_server_that_answers_wrongly_has_everything_put_back(
    fleet: list[Server], repository: Repository, name: str
) -> None:
    with connected(fleet) as servers:
        deploy(repository, name, servers)
    before = tree(repository.root / name)
    wrong = flip_a_bit_of(name, 2)  # and not its candidate, so the rehearsal finds nothing
    with (
        falsifying(fleet[2].grpc_address, wrong) as gateway,
        connected([fleet[0], fleet[1]]) as good,
        live(gateway, admin=fleet[2].admin) as bad,
    ):
        done, said = failed(VerificationError, repository, name, [*good, bad], version=2, watch_s=0.1)

    assert f"grpc://{gateway} {name} version 2: for a request of 1 row sent alone, output 'y' differs" in said
    assert "of 3 servers, 3 are put back; the repository names version 1 again" in said
    assert states(done) == ["put back"] * 3
    assert [one.after for one in done.servers] == [(1,)] * 3
    assert [bool(one.reason) for one in done.servers] == [False, False, True]
    assert served(fleet, name) == [(1,)] * 3
    assert tree(repository.root / name) == before


def test_a_version_that_one_server_cannot_load_never_reaches_the_others(
    fleet: list[Server], repository: Repository, name: str
) -> None:
    with connected(fleet) as servers:
        deploy(repository, name, servers)
        before = tree(repository.root / name)
        path = repository.root / name / "2" / "model.onnx"
        content = path.read_bytes()
        path.write_bytes(b"?" * len(content))
        done, said = failed(HostError, repository, name, servers, version=2, steps=parse_waves("100%"))
        path.write_bytes(content)

    assert "INVALID_PROTOBUF" in said
    assert states(done) == ["unchanged"] * 3
    assert served(fleet, name) == [(1,)] * 3
    assert tree(repository.root / name) == before
    with connected(fleet) as servers:
        assert states(deploy(repository, name, servers, version=2)) == ["deployed"] * 3


def test_each_server_gets_back_what_it_served_with_its_own_settings(
    fleet: list[Server], repository: Repository, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first serves version 1 with a former config, the second nothing, and the third two versions."""
    config = repository.model(name).config_path
    now = re.sub(rb"model_warmup.*", b"", config.read_bytes(), flags=re.DOTALL)
    put_back(repository, name, now)
    for server, policy in ((fleet[0], b"latest { num_versions: 1 }"), (fleet[2], b"all { }")):
        edited = re.sub(rb"specific {[^}]*}", policy, now).replace(b"max_batch_size: 8", b"max_batch_size: 5")
        put_back(repository, name, edited)
        with live(server) as one:
            one.load(name, [2] if server is fleet[0] else [1, 2])
    put_back(repository, name, now)
    install(repository, name, scale(4.0))  # the former policies would serve it, too
    before = tree(repository.root / name)
    check = server_run.ServerRun.check

    def fail_on_the_last(run: Any) -> None:
        check(run)
        if run.server.address.target == fleet[2].grpc_address:
            raise VerificationError("here", "its answers are wrong", "nothing")

    monkeypatch.setattr(server_run.ServerRun, "check", fail_on_the_last)
    with connected(fleet, timeout_s=30) as servers:
        done, said = failed(VerificationError, repository, name, servers, version=1, steps=parse_waves("100%"))
        configs = [server.config(name) for server in (servers[0], servers[2])]

    assert states(done) == ["put back"] * 3
    assert served(fleet, name) == [(2,), (), (1, 2)]
    assert [one.max_batch_size for one in configs] == [5, 5]
    assert "the repository names version 3 again" in said
    assert tree(repository.root / name) == before


def test_a_server_that_dies_is_named_and_the_others_are_put_back(
    fleet: list[Server], repository: Repository, name: str
) -> None:
    with (
        serving(repository.root, model_control_mode="explicit") as mortal,
        connected([*fleet[:2], mortal]) as servers,
    ):
        deploy(repository, name, servers)

        def kill(step: str, what: str) -> None:
            if step == "load" and mortal.grpc_address in what:
                os.killpg(mortal.pid, signal.SIGKILL)

        done, said = failed(HostError, repository, name, servers, version=2, report=kill)

    assert states(done) == ["put back", "put back", "not put back"]
    assert (done.servers[2].after, done.servers[2].before) == (None, (1,))
    assert f"1 is NOT put back (grpc://{mortal.grpc_address})" in said
    assert repository.model(name).served_version() == 1
    assert served(fleet[:2], name) == [(1,)] * 2


def test_no_server_is_touched_unless_all_can_be(
    fleet: list[Server], repository: Repository, name: str, tmp_path: Path
) -> None:
    shutil.copytree(repository.root, tmp_path / "copy")
    before = tree(repository.root / name)
    with (
        pytest.MonkeyPatch.context() as patched,
        serving(tmp_path / "copy", model_control_mode="explicit") as copy,
        serving(repository.root, model_control_mode="none") as other_mode,
    ):
        patched.setattr(rehearsal, "SEE_S", 0.2)
        with connected([*fleet, copy]) as servers:
            done, said = failed(HostError, repository, name, servers, version=2)
            assert f"{copy.grpc_address}: it does not see the files in" in said
            assert states(done) == ["unchanged"] * 4
        with connected([fleet[0], other_mode]) as servers, live("127.0.0.1:1") as down:
            _, said = failed(HostError, repository, name, [*servers, down], version=2)

    assert "2 servers: they cannot be deployed to" in said
    assert "--model-control-mode=explicit" in said
    assert "127.0.0.1:1: no inference server" in said
    assert tree(repository.root / name) == before
    assert served(fleet, name) == [()] * 3


def test_a_deployment_that_is_interrupted_between_its_waves_is_undone_everywhere(
    fleet: list[Server], repository: Repository, name: str
) -> None:
    with connected(fleet) as servers:
        deploy(repository, name, servers)
    before = tree(repository.root / name)
    options = [word for server in fleet for word in ("--server", server.grpc_address)]
    command = [sys.executable, "-m", "builder", "deploy", name, *options, "--version", "2", "--json"]
    command += ["--repository", str(repository.root), "--watch", "600s", "--wave", "2,100%"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        assert any(line.startswith("watch") for line in started.stderr)
        assert served(fleet, name) == [(2,), (2,), (1,)]
        started.terminate()
        reader = threading.Thread(target=started.stderr.read)
        reader.start()
        assert started.stdout is not None
        printed = json.loads(started.stdout.read())
        reader.join(timeout=120)

    assert started.returncode == 130
    assert (printed["complete"], printed["error"]["exit_code"]) == (False, 130)
    assert [server["state"] for server in printed["servers"]] == ["put back", "put back", "unchanged"]
    assert served(fleet, name) == [(1,)] * 3
    assert tree(repository.root / name) == before


def test_the_command_says_how_each_server_was_left(
    fleet: list[Server], repository: Repository, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "servers.txt"
    file.write_text("".join(f"grpc://{server.grpc_address}\n" for server in fleet[1:]))
    common = [name, "--server", fleet[0].grpc_address, "--servers-file", file, "--repository", repository.root]

    code, out, err = run(*common, "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert (printed["complete"], printed["version"], printed["error"]) == (True, 1, None)
    assert [(one["state"], one["before"], one["after"]) for one in printed["servers"]] == [("deployed", [], [1])] * 3

    model = repository.root / name / "2" / "model.onnx"
    model.write_bytes(scale_model(7.0).SerializeToString())
    code, out, err = run(*common, "--version", "2", "--json")
    printed = json.loads(out)
    assert (code, printed["error"]["exit_code"]) == (4, 4)
    assert printed["error"]["where"] in err
    assert [one["state"] for one in printed["servers"]] == ["unchanged"] * 3
    assert printed["repository"] == {"before": 1, "after": 1}

    code, out, err = run(*common, "--version", "2")
    assert code == 4
    assert all(f"grpc://{server.grpc_address}" in out for server in fleet)
    assert "of 3 servers, 3 are unchanged" in err


@contextmanager
def load_test(fleet: Sequence[Server], repository: Repository, name: str, report: Path) -> Iterator[Any]:
    """Run a constant load on all servers behind a balancer, with every answer checked; yield a function that ends it.

    The function waits until many more requests were answered, and returns the result. The rate leaves the machine time
    for the deployment: as many requests as it can answer took ten times as much for each change.
    """
    options = {
        "--model": name,
        "--repository": str(repository.root),
        "--protocol": "grpc",
        "--scenario": "rate",
        "--rate": "150",
        "--arrivals": "poisson",
        "--stage-time": "3000",
        "--warm-up": "0.1",
        "--report-dir": str(report),
    }
    with (
        balancer(*(server.http_address for server in fleet)) as http,
        balancer(*(server.grpc_address for server in fleet)) as grpc,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"),
                *("--host", f"http://{http}", "--grpc-address", grpc),
                *(word for option in options.items() for word in option),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as started,
    ):

        def answered() -> int:
            with connected(fleet) as servers:
                versions = {server: server.ready_versions(name) for server in servers}
                return sum(server.traffic(name, found[-1]).answered for server, found in versions.items() if found)

        def more(count: int = 200) -> None:
            before = answered()
            assert eventually(lambda: answered() >= before + count or started.poll() is not None, 300)
            assert started.poll() is None, started.communicate()[0]

        def end() -> dict[str, Any]:
            more()
            started.send_signal(signal.SIGTERM)
            said = started.communicate()[0]
            assert (report / "result.json").exists(), said
            result: dict[str, Any] = json.loads((report / "result.json").read_text())
            return result

        try:
            more()
            yield end
        finally:
            started.kill()


def test_clients_of_three_servers_see_no_failure_while_a_version_rolls_out_and_a_bad_one_is_put_back(
    fleet: list[Server], repository: Repository, name: str, tmp_path: Path
) -> None:
    install(repository, name, scale(4.0))
    model = repository.root / name / "3" / "model.onnx"
    model.write_bytes(scale_model(7.0).SerializeToString())
    roll_back(repository, name, 1)
    with connected(fleet) as servers:
        deploy(repository, name, servers)
        with load_test(fleet, repository, name, tmp_path) as end:
            assert states(deploy(repository, name, servers, version=2)) == ["deployed"] * 3
            with falsifying(fleet[2].grpc_address, flip_a_bit_of(name, 1)) as gateway:
                with live(gateway, admin=fleet[2].admin) as bad:
                    done, _ = failed(VerificationError, repository, name, [*servers[:2], bad], version=1)
                assert states(done) == ["put back"] * 3
            done, _ = failed(VerificationError, repository, name, servers, version=3)
            assert states(done) == ["unchanged"] * 3
            result = end()

    assert served(fleet, name) == [(2,)] * 3
    assert (result["totals"]["failures"], result["totals"]["wrong"], result["totals"]["unchecked"]) == ({}, {}, 0)
    (stage,) = result["stages"]
    assert {version["version"] for version in stage["versions"]} == {"1", "2"}


def run(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "builder", "deploy", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr
