"""`serve` with a real Triton that dies: it says so, serves again, and leaves nothing behind."""

import json
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from support import load_server
from support.served import AGAIN, Served, served
from support.serving import (
    DOUBLE,
    DOUBLE_CONFIG,
    eventually,
    folder_of,
    infer,
    load,
    parse,
    processes_of,
    shared_memory_of,
    unload,
    write_model,
)
from tritonclient.utils import InferenceServerException

from builder.errors import HostError
from builder.server import Server, serving

pytestmark = pytest.mark.slow

STARTS_AGAIN = "Triton starts again in"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    write_model(directory, "double", DOUBLE_CONFIG, parse(DOUBLE))
    return directory


# ---- what can die


@pytest.mark.parametrize("mode", ["explicit", "poll", "none"])
def test_a_killed_stub_is_told_and_its_model_answers_again(repository: Path, tmp_path: Path, mode: str) -> None:
    with served(repository, tmp_path, "--model-control-mode", mode) as running:
        (stub,) = running.stubs()
        os.kill(stub, signal.SIGKILL)
        running.wait_for(AGAIN)
        assert "serve    the process of model 'double' (double_0_0) was killed by SIGKILL" in running.printed
        assert running.double(1, 2) == [2, 4]


def test_a_killed_triton_is_told_each_time_and_answers_again(repository: Path, tmp_path: Path) -> None:
    with served(repository, tmp_path) as running:
        for times, signum in enumerate((signal.SIGSEGV, signal.SIGKILL), 1):
            os.kill(running.triton(), signum)
            running.wait_for(AGAIN, times)
            assert f"serve    Triton was killed by {signum.name}" in running.printed
            assert running.double(1, 2) == [2, 4]
        running.triton()
        running.process.send_signal(signal.SIGINT)
        running.ends_with(0)


def write_python_model(repository: Path, name: str, method: str) -> None:
    """Write a model of Triton's Python backend that ends its process in one of its methods."""
    config = write_model(repository, name, DOUBLE_CONFIG, None).parent / "config.pbtxt"
    config.write_text(config.read_text().replace("onnxruntime", "python"))
    methods = ["initialize(self, args)", "execute(self, requests)"]
    bodies = [f"    def {one}:\n        {'os._exit(3)' if one == method else 'pass'}\n" for one in methods]
    code = "\n".join(["import os\n\n", "class TritonPythonModel:", *bodies])
    (config.parent / "1" / "model.py").write_text(code)


def test_a_model_that_ends_its_process_is_told_with_the_exit_code(repository: Path, tmp_path: Path) -> None:
    """Nothing starts it again but a restart, so it counts as a death."""
    write_python_model(repository, "exits", "execute(self, requests)")
    with served(repository, tmp_path) as running:
        with suppress(OSError):
            running.double(1, 2, model="exits")
        running.wait_for(AGAIN)
        assert "serve    the process of model 'exits' (exits_0_0) ended with exit code 3" in running.printed
        assert running.double(1, 2) == [2, 4]


# ---- requests that end Triton 2.51


def _post(running: Served, body: bytes, *headers: bytes) -> None:
    host, _, port = running.http_address.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(b"\r\n".join([b"POST /v2/models/double/infer HTTP/1.1", b"Host: x", *headers, b"", body]))
        connection.recv(1)


def huge_shape(running: Served) -> None:
    """A shape of 2^40 elements, which Triton allocates before it looks at the data: SIGABRT."""
    tensor = {"name": "X", "shape": [1 << 40], "datatype": "FP32", "data": [1.0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    _post(running, body, b"Content-Length: %d" % len(body))


def deep_json(running: Served) -> None:
    """Brackets that open and never close, read by a parser that recurses: SIGSEGV."""
    _post(running, b"[" * 200_000, b"Content-Length: 200000")


def small_chunks(running: Served) -> None:
    """600,000 chunks of one byte in 3.6 MB, for each of which Triton takes 16 bytes of its stack: SIGSEGV."""
    _post(running, b"1\r\na\r\n" * 600_000 + b"0\r\n\r\n", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize("request_", [huge_shape, deep_json, small_chunks])
def test_a_request_that_ends_triton_is_told_and_the_next_one_is_answered(
    repository: Path, tmp_path: Path, request_: Callable[[Served], None]
) -> None:
    with served(repository, tmp_path) as running:
        assert running.double(1, 2) == [2, 4]
        request_(running)
        running.wait_for(AGAIN)
        how = "SIGABRT: std::bad_alloc" if request_ is huge_shape else "SIGSEGV"
        assert f"serve    Triton was killed by {how}; Triton starts again in 0.5 s\n" in running.printed
        assert running.double(3, 4) == [6, 8]


def test_the_memory_of_a_stub_cannot_be_registered_without_the_key(repository: Path) -> None:
    """CVE-2025-23319 and its kin start by taking the region in which Triton and a stub exchange tensors."""
    with load_server.serving(repository) as server:
        (region,) = shared_memory_of(folder_of(server))
        with grpc.InferenceServerClient(server.grpc_address) as stranger:
            with pytest.raises(InferenceServerException, match="protocol is restricted"):
                stranger.register_system_shared_memory("taken", f"/{region.name}", 64)
            headers = server.admin.grpc_headers
            stranger.register_system_shared_memory(
                "taken", f"/{region.name}", 64, headers=headers
            )  # only the key helps
            stranger.unregister_system_shared_memory("taken", headers=headers)


# ---- how it ends meanwhile


def test_a_server_that_does_not_start_again_ends_serve_with_6_and_the_reason(repository: Path, tmp_path: Path) -> None:
    with served(repository, tmp_path, first_delay_s=0.01, most_failures=2) as running:
        (repository / "double" / "1" / "model.onnx").unlink()
        os.kill(running.triton(), signal.SIGKILL)
        running.ends_with(6)
        assert running.printed.count(STARTS_AGAIN) == 2
        assert f"error: {repository}: model 'double'" in running.printed
        assert "(after 2 other failures in a short time)" in running.printed
        assert running.printed.splitlines()[-1] == "fix: correct the model or its config.pbtxt"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", [STARTS_AGAIN, '"loading: double:1"', "Started Metrics Service"])
def test_a_signal_ends_serve_at_any_stage_of_a_restart(
    repository: Path, tmp_path: Path, stage: str, signum: signal.Signals
) -> None:
    with served(repository, tmp_path) as running:
        before = running.printed.count(stage)
        os.kill(running.triton(), signal.SIGKILL)
        running.wait_for(stage, before + 1)
        running.process.send_signal(signum)
        running.ends_with(0)


@pytest.mark.parametrize("stage", [STARTS_AGAIN, "ModelInstanceInitialize", AGAIN])
def test_nothing_is_left_when_serve_is_killed_at_any_stage_of_a_restart(
    repository: Path, tmp_path: Path, stage: str
) -> None:
    """A stub that is loading its model does not end by itself when Triton does."""
    with served(repository, tmp_path) as running:
        before = running.printed.count(stage)
        os.kill(running.triton(), signal.SIGKILL)
        running.wait_for(stage, before + 1)
        if stage != STARTS_AGAIN:
            running.triton()
        running.process.kill()
        assert eventually(lambda: running.left() == [])


# ---- what is no death


def test_models_that_are_loaded_and_unloaded_under_load_do_not_count(tmp_path: Path) -> None:
    many = DOUBLE_CONFIG + "instance_group { kind: KIND_CPU count: 2 }"
    write_model(tmp_path, "double", DOUBLE_CONFIG, parse(DOUBLE))
    write_model(tmp_path, "many", many, parse(DOUBLE))
    row = {"X": np.array([[1, 2]], np.float32)}
    with (
        Server.start(
            tmp_path, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", load_models=["*"]
        ) as server,
        ThreadPoolExecutor() as pool,
    ):
        death = pool.submit(server.wait)
        stop = tmp_path / "stop"
        asked = [pool.submit(_ask_until, server, stop) for _ in range(2)]
        for times in range(2):
            (tmp_path / "many" / "config.pbtxt").touch()
            load(server, "many")
            assert infer(server, "many", row)["Y"].tolist() == [[2, 4]]
            unload(server, "many")
            assert eventually(lambda: len(processes_of(server.pid)) == 2), times
        assert not death.done()
        server.ensure_running()
        stop.touch()
        assert all(answers.result() > 0 for answers in asked)
        stub = next(pid for pid in processes_of(server.pid) if pid != server.pid)
        os.kill(stub, signal.SIGKILL)
        with pytest.raises(HostError, match="the process of model 'double'"):
            death.result(timeout=120)


def test_a_process_that_dies_while_its_model_loads_is_left_to_triton(repository: Path) -> None:
    """Triton refuses the load and goes on serving the other models, so that a bad model disturbs nobody."""
    write_python_model(repository, "dies", "initialize(self, args)")
    with (
        Server.start(
            repository, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", load_models=["double"]
        ) as server,
        ThreadPoolExecutor() as pool,
    ):
        death = pool.submit(server.wait)
        with pytest.raises(InferenceServerException, match="'dies_0_0' is not healthy"):
            load(server, "dies")
        assert not death.done()
        assert infer(server, "double", {"X": np.array([[1, 2]], np.float32)})["Y"].tolist() == [[2, 4]]
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(HostError, match="Triton was killed by SIGKILL"):
            death.result(timeout=120)


@pytest.mark.parametrize("fresh_s", [0.0, 60.0])
def test_only_a_fresh_line_of_the_log_is_given_as_the_reason(
    repository: Path, monkeypatch: pytest.MonkeyPatch, fresh_s: float
) -> None:
    monkeypatch.setattr(serving, "_FRESH_S", fresh_s)
    with Server.start(
        repository, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", load_models=["double"]
    ) as server:
        with pytest.raises(InferenceServerException):
            load(server, "absent")
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(HostError) as caught:
            server.wait()
        assert ("model 'absent'" in caught.value.what) == (fresh_s > 0)


def _ask_until(server: Server, stop: Path) -> int:
    """Ask for right answers until a file appears, and return how many there were."""
    answers = 0
    while not stop.exists():
        assert infer(server, "double", {"X": np.array([[1, 2]], np.float32)})["Y"].tolist() == [[2, 4]]
        answers += 1
    return answers


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_running_server_with_a_dead_stub_is_not_said_to_run(repository: Path) -> None:
    with load_server.serving(repository) as server:
        server.ensure_running()
        stub = next(pid for pid in processes_of(server.pid) if pid != server.pid)
        os.kill(stub, signal.SIGKILL)
        assert eventually(lambda: is_zombie(stub))  # a kill takes a moment
        with pytest.raises(HostError, match=r"the process of model 'double' \(double_0_0\) was killed by SIGKILL"):
            server.ensure_running()
        server.restart()
        server.ensure_running()
        assert infer(server, "double", {"X": np.array([[1, 2]], np.float32)})["Y"].tolist() == [[2, 4]]
