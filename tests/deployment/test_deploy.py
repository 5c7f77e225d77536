"""Deploy to a real Triton while clients keep sending requests."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support import bare_triton
from support.artifacts import names, scale, scale_model, tree
from support.clients import PER_PROTOCOL, PROTOCOLS, Clients, asking
from support.load_server import serving
from support.reserved import unused_address
from support.serving import client, eventually

from builder import cli
from builder.deployment import Address, Deployment, LiveServer, deploy, live_server, rehearsal, switched
from builder.errors import HostError, RepositoryError, VerificationError
from builder.publishing import install, roll_back
from builder.repository import Repository, lock
from builder.server import AdminAccess, Server
from builder.server.stubs import children_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("deployed") / "models"
    repository.mkdir()
    with serving(repository, model_control_mode="explicit") as server:
        yield server


@pytest.fixture
def live(server: Server) -> Iterator[LiveServer]:
    with LiveServer(Address.parse(server.grpc_address)) as live:
        yield live
    server.ensure_running()  # if it has died, this says how


@pytest.fixture
def repository(server: Server) -> Repository:
    return Repository(server.repository)


@pytest.fixture
def name() -> str:
    return f"scale_{next(_numbers)}"


def served_before(done: Deployment) -> tuple[int, ...] | None:
    """The versions that the only server served before."""
    (server,) = done.servers
    return server.before


def publish(repository: Repository, name: str, *factors: float) -> None:
    for factor in factors:
        install(repository, name, scale(factor))


def publish_the_next(repository: Repository, name: str, live: LiveServer) -> None:
    """Serve version 1, which doubles, and publish version 2, which triples."""
    publish(repository, name, 2.0)
    deploy(repository, name, live)
    publish(repository, name, 3.0)


def break_answers(repository: Repository, name: str, version: int) -> None:
    """Replace the model by a valid one whose answers do not match the stored reference."""
    path = repository.model(name).version_dir(version) / "model.onnx"
    before = path.stat().st_size
    path.write_bytes(scale_model(7.0).SerializeToString())
    assert path.stat().st_size == before


def break_model(repository: Repository, name: str, version: int) -> None:
    """Replace the model by bytes that no runtime can load."""
    path = repository.model(name).version_dir(version) / "model.onnx"
    path.write_bytes(b"?" * path.stat().st_size)


def is_ready(server: Server) -> bool:
    with client(server) as connection:
        return bool(connection.is_server_ready())


def wait_until_ready(server: Server) -> None:
    """Wait, because Triton reports itself as not ready while it unloads a version."""
    assert eventually(lambda: is_ready(server))


@contextmanager
def asking_during_loads(server: Server, name: str) -> Iterator[Clients]:
    """Ask without a pause, and hold up each load until answers have come that were asked for meanwhile."""
    load = LiveServer.load

    def held_up(*args: Any, **called: Any) -> float:
        before = {stub.pid for stub in children_of(server.pid)}
        loading = pool.submit(load, *args, **called)
        new: set[int] = set()
        while not new and not loading.done():
            new = {stub.pid for stub in children_of(server.pid) if stub.status is None} - before
        for pid in new:  # Triton goes on with the load once this process answers
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            clients.wait_for(2 * len(PROTOCOLS) * PER_PROTOCOL)  # the first ones may have been asked for before
        finally:
            for pid in new:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        return loading.result()

    with asking(server, name) as clients, ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patched:
        patched.setattr(LiveServer, "load", held_up)
        yield clients


def test_the_first_version_is_served_and_checked(live: LiveServer, repository: Repository, name: str) -> None:
    publish(repository, name, 2.0)

    done = deploy(repository, name, live)

    assert (done.version, served_before(done)) == (1, ())
    assert live.ready_versions(name) == (1,)
    assert done.rows > 4
    assert done.largest_difference == {"y": 0.0, "m": 0.0, "t": 0.0}


def test_no_request_fails_while_a_version_takes_over(
    server: Server, live: LiveServer, repository: Repository, name: str
) -> None:
    publish_the_next(repository, name, live)

    with asking_during_loads(server, name) as clients:
        done = deploy(repository, name, live)

    assert (done.version, served_before(done)) == (2, (1,))
    assert clients.errors == []
    assert clients.factors() == {"1": {2.0}, "2": {3.0}}


def test_no_client_gets_an_answer_of_a_version_that_answers_wrongly(
    server: Server, live: LiveServer, repository: Repository, name: str
) -> None:
    publish_the_next(repository, name, live)
    break_answers(repository, name, 2)
    before = tree(repository.root / name)

    with asking_during_loads(server, name) as clients, pytest.raises(VerificationError) as caught:
        deploy(repository, name, live)

    assert "row 0" in caught.value.what
    assert "the server still serves version 1" in caught.value.what
    assert f"until you run `python -m builder rollback {name} --to 1`" in caught.value.what
    assert clients.errors == []
    assert clients.factors() == {"1": {2.0}}
    assert tree(repository.root / name) == before
    wait_until_ready(server)


def test_without_a_rehearsal_a_wrong_version_is_taken_back_and_no_request_fails(
    server: Server, live: LiveServer, repository: Repository, name: str
) -> None:
    publish_the_next(repository, name, live)
    break_answers(repository, name, 2)

    with (
        asking_during_loads(server, name) as clients,
        pytest.raises(VerificationError, match="the server serves version 1 again"),
    ):
        deploy(repository, name, live, rehearse=False)

    assert clients.errors == []
    assert clients.factors()["1"] == {2.0}
    assert clients.answers[-1].version == "1"
    assert repository.model(name).served_version() == 2
    assert live.ready_versions(name) == (1,)


def test_a_version_that_does_not_load_leaves_the_server_ready_and_the_version_before_served(
    server: Server, live: LiveServer, repository: Repository, name: str
) -> None:
    publish_the_next(repository, name, live)
    break_model(repository, name, 2)

    with (
        asking(server, name) as clients,
        pytest.raises(HostError, match=r"INVALID_PROTOBUF.*still serves version 1"),
    ):
        deploy(repository, name, live)

    assert clients.errors == []
    assert clients.factors() == {"1": {2.0}}
    assert repository.model(name).served_version() == 2
    assert names(repository.root / name) == ["1", "2", "config.pbtxt", "warmup"]
    assert f"{name}.candidate" not in names(repository.root)
    wait_until_ready(server)


def test_an_older_version_takes_over_as_smoothly(
    server: Server, live: LiveServer, repository: Repository, name: str
) -> None:
    publish(repository, name, 2.0, 3.0)
    deploy(repository, name, live)

    with asking(server, name) as clients:
        done = deploy(repository, name, live, version=1, watch_s=1)

    assert (done.version, served_before(done)) == (1, (2,))
    assert repository.model(name).served_version() == 1
    assert clients.errors == []
    assert clients.factors() == {"1": {2.0}, "2": {3.0}}


def test_watching_notices_that_another_version_answers_and_keeps_what_somebody_else_did(
    live: LiveServer, repository: Repository, name: str
) -> None:
    publish(repository, name, 2.0, 3.0)

    def interfere(step: str, what: str) -> None:
        if step == "check":
            roll_back(repository, name, 1)
            live.load(name, [1])

    with pytest.raises(HostError, match=r"version 1 of .* answered instead of version 2.* is left as it is"):
        deploy(repository, name, live, watch_s=5, report=interfere)

    assert repository.model(name).served_version() == 1
    assert live.ready_versions(name) == (1,)


def test_a_version_that_is_published_at_the_start_of_a_deployment_stays_the_one_that_is_named(
    live: LiveServer, repository: Repository, name: str
) -> None:
    publish_the_next(repository, name, live)

    def publish_another(step: str, what: str) -> None:
        if step == "server":
            publish(repository, name, 4.0)

    with pytest.raises(
        RepositoryError,
        match=r"somebody has changed it.*now names version 3, which somebody else has set, and is left as it is",
    ):
        deploy(repository, name, live, report=publish_another)

    assert repository.model(name).served_version() == 3
    assert live.ready_versions(name) == (1,)
    assert deploy(repository, name, live).version == 3


def test_a_first_version_that_answers_wrongly_is_unloaded_again(
    server: Server, live: LiveServer, repository: Repository, name: str
) -> None:
    publish(repository, name, 2.0)
    break_answers(repository, name, 1)
    before = tree(repository.root / name)

    for rehearse in (True, False):
        with pytest.raises(VerificationError, match="the server serves no version, as before"):
            deploy(repository, name, live, rehearse=rehearse)

        assert live.ready_versions(name) == ()
        assert tree(repository.root / name) == before
    wait_until_ready(server)


def test_a_version_that_is_already_live_is_checked_and_stays_even_when_it_is_wrong(
    live: LiveServer, repository: Repository, name: str
) -> None:
    publish(repository, name, 2.0)
    deploy(repository, name, live)
    assert served_before(deploy(repository, name, live)) == (1,)
    reference = repository.model(name).version_dir(1) / "reference.npz"
    arrays = repository.model(name).read_reference(1)
    np.savez(reference, **{**arrays, "output:y": arrays["output:y"] + 1})

    with pytest.raises(VerificationError, match="serves version 1 again"):
        deploy(repository, name, live)

    assert live.ready_versions(name) == (1,)


def test_slack_lets_a_coarser_server_pass(live: LiveServer, repository: Repository, name: str) -> None:
    publish(repository, name, 2.0)
    reference = repository.model(name).version_dir(1) / "reference.npz"
    arrays = repository.model(name).read_reference(1)
    np.savez(reference, **{**arrays, "output:y": arrays["output:y"] * np.float32(1 + 5e-5)})

    with pytest.raises(VerificationError):
        deploy(repository, name, live)
    assert deploy(repository, name, live, slack=10).version == 1


def test_two_deployments_of_one_model_take_turns(
    live: LiveServer, repository: Repository, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository, name, 2.0, 3.0)
    said: list[tuple[str, str]] = []
    one_works, one_waits = threading.Event(), threading.Event()
    monkeypatch.setattr(lock, "PATIENCE_S", 0.0)

    def report(step: str, what: str) -> None:
        said.append((step, what))
        one_works.set()  # and has said so beside the lock
        if step == "wait":
            one_waits.set()
        assert one_waits.wait(120), "the first one goes on when the other one waits for it"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(deploy, repository, name, live, version=1, report=report)
        assert one_works.wait(120)
        second = pool.submit(deploy, repository, name, live, version=2, report=report)
        done = [one.result(timeout=200) for one in (first, second)]

    assert [one.version for one in done] == [1, 2]
    assert any(step == "wait" and f"`deploy {name}` (process {os.getpid()} on " in what for step, what in said)
    assert repository.model(name).served_version() in live.ready_versions(name)


def test_another_model_with_the_candidates_name_is_not_touched(
    live: LiveServer, repository: Repository, name: str
) -> None:
    publish(repository, name, 2.0)
    publish(repository, f"{name}.candidate", 4.0)
    before = tree(repository.root)

    with pytest.raises(RepositoryError, match="another model has it"):
        deploy(repository, name, live)

    assert tree(repository.root) == before
    assert deploy(repository, name, live, rehearse=False).version == 1


def test_a_candidate_that_a_killed_deployment_left_is_replaced(
    live: LiveServer, repository: Repository, name: str
) -> None:
    publish(repository, name, 2.0)

    def die(step: str, what: str) -> None:
        if step == "rehearse":
            raise KeyboardInterrupt

    publish(repository, f"{name}.candidate", 4.0)
    config = repository.model(f"{name}.candidate").config_path
    config.write_text(config.read_text() + 'parameters { key: "builder.candidate_of" value { string_value: "x" } }')

    with pytest.raises(KeyboardInterrupt):
        deploy(repository, name, live, report=die)

    assert f"{name}.candidate" not in names(repository.root)
    assert live.ready_versions(name) == ()


def test_an_interrupted_deployment_that_cannot_be_restored_is_an_error_that_says_so(
    live: LiveServer, repository: Repository, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_the_next(repository, name, live)
    roll_back(repository, name, 1)

    def interrupt_and_lock_the_repository(live: LiveServer, name: str, version: int, **called: Any) -> float:
        monkeypatch.setattr(switched, "put_back", refuse)
        raise KeyboardInterrupt

    def refuse(repository: Repository, name: str, content: bytes, **options: Any) -> None:
        raise RepositoryError(repository.root, "No space left on device", "free some space")

    monkeypatch.setattr(LiveServer, "load", interrupt_and_lock_the_repository)
    with pytest.raises(
        RepositoryError,
        match=r"was interrupted; the server was not put back: .*, and the repository could not be put back",
    ) as caught:
        deploy(repository, name, live, version=2, rehearse=False)

    assert "deploy" in caught.value.fix
    monkeypatch.undo()
    assert deploy(repository, name, live, version=1).version == 1


# ---- the server's state


def refused(repository: Repository, name: str, address: str, **options: Any) -> HostError:
    """Deploy to a server that has to refuse, check that the repository stays the same, and return the error."""
    before = tree(repository.root)
    with LiveServer(Address.parse(address), **options) as live, pytest.raises(HostError) as caught:
        deploy(repository, name, live)
    assert tree(repository.root) == before
    assert address in caught.value.where
    return caught.value


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with version 1 and 2 of `scale`. A server of another one is given up after a moment."""
    monkeypatch.setattr(rehearsal, "SEE_S", 0.2)
    repository = Repository(tmp_path / "models")
    publish(repository, "scale", 2.0, 3.0)
    return repository


def test_a_server_that_is_down_is_named(own: Repository) -> None:
    with unused_address() as address:
        error = refused(own, "scale", address)

    assert "Connection refused" in error.what


def test_a_server_that_accepts_connections_but_never_answers_is_given_up(
    own: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_server, "_FIRST_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = refused(own, "scale", f"127.0.0.1:{silent.getsockname()[1]}")

    assert "Deadline Exceeded" in error.what


def test_the_http_port_is_not_taken_for_the_grpc_port(own: Repository, server: Server) -> None:
    assert "gRPC port" in refused(own, "scale", server.http_address).fix


def test_a_grpc_server_that_is_not_an_inference_server_is_refused(own: Repository) -> None:
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        error = refused(own, "scale", f"127.0.0.1:{port}")
    finally:
        other.stop(None).wait()

    assert "KServe v2" in error.what


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_a_server_that_is_not_in_explicit_mode_is_refused(own: Repository, mode: Any) -> None:
    with serving(own.root, model_control_mode=mode) as server:
        error = refused(own, "scale", server.grpc_address)

    assert "--model-control-mode=explicit" in error.fix


def test_a_server_that_reads_another_repository_is_refused(own: Repository, server: Server) -> None:
    assert "has no model 'scale'" in refused(own, "scale", server.grpc_address).what


@pytest.mark.parametrize("rehearse", [True, False])
def test_a_server_that_reads_a_copy_of_the_repository_is_found_before_anything_changes(
    own: Repository, tmp_path: Path, rehearse: bool
) -> None:
    """As staging and production may: the same models, and production is to get another version."""
    shutil.copytree(own.root, tmp_path / "copy")
    before, config = tree(own.root), own.model("scale").config_path.stat()
    with (
        serving(tmp_path / "copy", model_control_mode="explicit", load_models=["scale"]) as server,
        LiveServer(Address.parse(server.grpc_address)) as live,
    ):
        with pytest.raises(HostError, match="does not see the files") as caught:
            deploy(own, "scale", live, version=1, rehearse=rehearse)
        assert live.ready_versions("scale") == (2,)
    assert "still serves version 2, and the repository names version 2, as before" in caught.value.what
    assert tree(own.root) == before
    after = own.model("scale").config_path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (config.st_mtime_ns, config.st_ino)
    assert names(own.root) == ["scale"]


def test_a_server_with_another_model_of_the_same_name_is_refused(own: Repository, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    publish(other, "scale", 5.0, 6.0)
    with serving(other.root, model_control_mode="explicit", load_models=["scale"]) as server:
        assert "does not see the files" in refused(own, "scale", server.grpc_address).what


def test_restricted_protocols_require_their_key(own: Repository) -> None:
    command = [
        "tritonserver",
        f"--model-repository={bare_triton.REPOSITORY}",
        "--model-control-mode=explicit",
        "--grpc-restricted-protocol=model-repository,model-config,statistics:x-admin=open sesame",
    ]
    right = AdminAccess("open sesame", "x-admin")
    with bare_triton.running(command, repository=own.root) as server:
        for wrong in (None, AdminAccess("wrong", "x-admin"), AdminAccess("open sesame")):
            fix = refused(own, "scale", server.grpc_address, admin=wrong).fix
            assert fix.startswith("set TRITON_ADMIN_KEY to the server's admin key, or")
            assert fix.endswith("--admin-header x-admin") is (wrong is None or wrong.header != "x-admin")
        with LiveServer(Address.parse(server.grpc_address), admin=right) as live:
            assert deploy(own, "scale", live, watch_s=1).version == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_key_of_a_server_on_this_machine_is_found_and_sent_past_any_proxy(
    own: Repository, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Through a proxy, the key would be sent to the loopback interface of another machine."""
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(own.root, model_control_mode="explicit") as server, socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with LiveServer(Address.parse(server.grpc_address.replace("127.0.0.1", host))) as live:
            assert deploy(own, "scale", live, version=1).version == 1
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_key_that_is_given_is_used_instead_of_the_one_that_would_be_found(own: Repository) -> None:
    with serving(own.root, model_control_mode="explicit") as server:
        fix = refused(own, "scale", server.grpc_address, admin=AdminAccess("another")).fix
    assert fix == "set TRITON_ADMIN_KEY to the server's admin key, or name a file that holds it with --admin-key-file"


def test_a_server_that_dies_during_a_deployment_leaves_the_repository_at_the_previous_version(own: Repository) -> None:
    with (
        serving(own.root, model_control_mode="explicit") as server,
        LiveServer(Address.parse(server.grpc_address)) as live,
    ):
        deploy(own, "scale", live, version=1)

        def kill(step: str, what: str) -> None:
            if step == "load":
                server.stop()

        with pytest.raises(HostError, match="the server was not put back"):
            deploy(own, "scale", live, version=2, report=kill)

    assert own.model("scale").served_version() == 1


def test_a_load_that_takes_too_long_is_given_up_and_undone(own: Repository) -> None:
    with serving(own.root, model_control_mode="explicit") as server:
        address = Address.parse(server.grpc_address)
        with LiveServer(address) as live:
            deploy(own, "scale", live, version=1)
        with LiveServer(address, timeout_s=0.05) as hasty, pytest.raises(HostError, match="Deadline Exceeded"):
            deploy(own, "scale", hasty, version=2, rehearse=False)

    assert own.model("scale").served_version() == 1


def test_a_version_that_was_not_published_here_is_refused(own: Repository, server: Server) -> None:
    with LiveServer(Address.parse(server.grpc_address)) as live:
        with pytest.raises(RepositoryError, match="there is no version 3"):
            deploy(own, "scale", live, version=3)
        (own.root / "scale" / "2" / "manifest.json").unlink()
        with pytest.raises(RepositoryError, match="neither published nor adopted"):
            deploy(own, "scale", live)
        with pytest.raises(RepositoryError, match="no such model"):
            deploy(own, "nothing", live)


# ---- under a load test


def test_a_load_test_over_a_good_and_a_bad_deployment_sees_no_failure(own: Repository, tmp_path: Path) -> None:
    publish(own, "scale", 4.0)
    break_answers(own, "scale", 3)
    roll_back(own, "scale", 1)
    with (
        serving(own.root, model_control_mode="explicit", load_models=["scale"]) as server,
        LiveServer(Address.parse(server.grpc_address)) as live,
        process(*locust(server, own.root, tmp_path)) as load_test,
    ):
        wait_for_requests(live, 1, load_test)
        deploy(own, "scale", live, version=2)
        with pytest.raises(VerificationError, match="the server still serves version 2"):
            deploy(own, "scale", live, version=3)
        wait_for_requests(live, 2, load_test)
        load_test.send_signal(signal.SIGTERM)
        said = load_test.communicate()

    assert (tmp_path / "result.json").exists(), said
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["totals"]["failures"] == {}
    assert result["totals"]["wrong"] == {}
    assert result["totals"]["unchecked"] == 0
    (stage,) = result["stages"]
    assert [version["version"] for version in stage["versions"]] == ["1", "2"]


def locust(server: Server, repository: Path, report: Path) -> list[str]:
    """Return the command of a constant load that lasts until it is stopped, with every answer checked."""
    options = {
        "--host": f"http://{server.http_address}",
        "--grpc-address": server.grpc_address,
        "--server-metrics": f"http://{server.metrics_address}/metrics",
        "--model": "scale",
        "--repository": str(repository),
        "--protocol": "grpc",
        "--scenario": "soak",
        "--stages": "1",
        "--concurrency": "4",
        "--stage-time": "3000",
        "--warm-up": "0.1",
        "--report-dir": str(report),
    }
    written = [word for option in options.items() for word in option]
    return ["locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", *written]


def wait_for_requests(live: LiveServer, version: int, load_test: "subprocess.Popen[str]") -> None:
    """Wait until a version has answered many more requests of a load test, which goes on."""
    before = live.traffic("scale", version).answered
    assert eventually(
        lambda: live.traffic("scale", version).answered >= before + 500 or load_test.poll() is not None, 300
    )
    assert load_test.poll() is None, load_test.communicate()


@contextmanager
def process(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a module in the project's folder; kill it at the end, if it is still there."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


# ---- the command line


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["builder", "deploy", *map(str, arguments)])
            cli.main()
            code: Any = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        signal.signal(signal.SIGTERM, before)
    return (code, *capsys.readouterr())


def test_the_command_prints_the_result_and_exits_by_kind_of_failure(
    server: Server, repository: Repository, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(repository, name, 2.0, 3.0)
    there = ("--server", f"grpc://{server.grpc_address}", "--repository", repository.root)

    code, out, err = run(capsys, name, *there, "--watch", "1s", "--json")
    assert code == 0, err
    assert json.loads(out)["version"] == 2
    assert "watch" in err

    publish(repository, name, 4.0)
    break_answers(repository, name, 3)
    code, out, err = run(capsys, name, *there)
    assert (code, out) == (4, "")
    assert "the server still serves version 2" in err
    assert run(capsys, name, *there, "--version", "9")[0] == 5
    with unused_address() as address:
        assert run(capsys, name, "--server", address, "--repository", repository.root)[0] == 6
    assert run(capsys, name, "--server", f"http://{server.http_address}", "--repository", repository.root)[0] == 2
    assert run(capsys, name, *there, "--watch", "soon")[0] == 2


def test_a_deployment_that_is_interrupted_is_undone(
    server: Server, live: LiveServer, repository: Repository, name: str
) -> None:
    publish_the_next(repository, name, live)
    there = ("--server", server.grpc_address, "--repository", str(repository.root))
    with process("builder", "deploy", name, *there, "--watch", "600s") as deployment:
        assert deployment.stderr is not None
        said = list(itertools.takewhile(lambda line: not line.startswith("watch"), deployment.stderr))
        assert live.ready_versions(name) == (2,), said
        deployment.terminate()
        deployment.communicate(timeout=120)

    assert deployment.returncode == 130
    assert live.ready_versions(name) == (1,)
    assert repository.model(name).served_version() == 2, "it named version 2 before the deployment, too"
