"""The embedded Triton as a process: finding, starting, stopping and killing it, and the messages that users get."""

import http.client
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.reserved import reserved_ports
from support.serving import (
    DOUBLE,
    DOUBLE_CONFIG,
    eventually,
    folder_of,
    infer,
    parse,
    processes_of,
    shared_memory_of,
    triton_of,
    write_model,
)

from builder.errors import HostError, RepositoryError
from builder.server import Server, free_port, installation, log, serve

ROOT = Path(__file__).parents[2]


def start(repository: Path, *, ready_timeout_s: float = 120) -> Server:
    return Server.start(repository, http_port=0, grpc_port=0, metrics_port=0, ready_timeout_s=ready_timeout_s)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one model, `double`, in a directory whose name breaks unquoted shell commands."""
    directory = tmp_path / "models; $(exit) 'of mine'"
    write_model(directory, "double", DOUBLE_CONFIG, parse(DOUBLE))
    return directory


def status_of(address: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


# ---- starting and stopping


@pytest.mark.slow
def test_a_started_server_is_ready_on_all_addresses_and_stops_without_a_trace(repository: Path) -> None:
    with start(repository) as server:
        answer = infer(server, "double", {"X": np.array([[1, 2]], np.float32)})
        assert answer["Y"].tolist() == [[2, 4]]
        assert status_of(server.http_address, "/v2/models/double/ready") == http.client.OK
        assert status_of(server.metrics_address, "/metrics") == http.client.OK
        assert len(processes_of(server.pid)) == 2
        folder = folder_of(server)
        assert folder.exists()
        assert len(shared_memory_of(folder)) == 1
        server.ensure_running()
    assert eventually(lambda: processes_of(server.pid) == {})
    assert shared_memory_of(folder) == []
    assert not folder.exists()
    server.stop()


@pytest.mark.slow
def test_a_server_listens_on_this_machine_only_by_default(triton: Server) -> None:
    ports = {int(address.rpartition(":")[2]) for address in (triton.http_address, triton.grpc_address)}
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    hosts = {host for host, port in (address.split(":") for address in listening) if int(port, 16) in ports}
    assert hosts == {"0100007F"}


@pytest.mark.slow
def test_a_killed_server_is_reported_and_leaves_nothing_behind(repository: Path) -> None:
    with start(repository) as server:
        folder = folder_of(server)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(HostError, match=r"Triton was killed by SIGKILL.*\n.*start the server again"):
            server.wait()
        with pytest.raises(HostError, match="SIGKILL"):
            server.ensure_running()
    assert eventually(lambda: processes_of(server.pid) == {})
    assert shared_memory_of(folder) == []
    assert not folder.exists()


@contextmanager
def python(code: str, repository: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run `code` in a separate interpreter, and kill it at the end.

    Its temporary files are put beside the repository, so that they are deleted with it.
    """
    command = [sys.executable, "-c", code, str(repository), *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(repository.parent)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


START = """
import sys, threading, time
from pathlib import Path
from builder.server import Server
server = Server.start(Path(sys.argv[1]), http_port=0, grpc_port=0, metrics_port=0)
print(server.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_server_ends_when_the_process_that_started_it_is_killed(repository: Path) -> None:
    with python(START, repository) as owner:
        assert owner.stdout is not None
        triton_pid = int(owner.stdout.readline())
        assert len(processes_of(triton_pid)) == 2
        owner.kill()
        assert eventually(lambda: processes_of(triton_pid) == {})


# The second of sleep is for nothing to happen: at the end of the thread Triton would get a signal, and end soon after.
START_IN_THREAD = START.replace("server = Server", "def start():\n    global server\n    server = Server").replace(
    "print", "thread = threading.Thread(target=start)\nthread.start()\nthread.join()\ntime.sleep(1)\nprint"
)


@pytest.mark.slow
def test_a_server_outlives_the_thread_that_started_it(repository: Path) -> None:
    with python(START_IN_THREAD, repository) as owner:
        assert owner.stdout is not None
        triton_pid = int(owner.stdout.readline())
        assert len(processes_of(triton_pid)) == 2
        owner.kill()
        assert eventually(lambda: processes_of(triton_pid) == {})


# ---- serving in the foreground

SERVE = """
import sys
from pathlib import Path
from builder.errors import HostError
from builder.server import serve
ports = dict(zip(("http_port", "grpc_port", "metrics_port"), map(int, sys.argv[2:])))
try:
    serve(Path(sys.argv[1]), **ports)
except HostError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@contextmanager
def serving(repository: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a process that runs `serve`; once it is ready, yield it and the pid of its Triton."""
    with reserved_ports(3) as ports, python(SERVE, repository, *ports) as process:
        assert process.stderr is not None
        log: list[str] = []
        while not "".join(log[-1:]).startswith("serve "):
            assert process.poll() is None, [*log[-20:], process.stdout and process.stdout.read()]
            log.append(process.stderr.readline())
        yield process, triton_of(process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_serve_stops_triton_gracefully(repository: Path, signum: signal.Signals) -> None:
    with serving(repository) as (process, triton_pid):
        process.send_signal(signum)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "successfully unloaded 'double' version 1" in stderr
        assert eventually(lambda: processes_of(triton_pid) == {})


# ---- what prevents a start


def test_a_repository_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="missing: it does not exist"):
        start(tmp_path / "missing")


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="file: it is a file"):
        start(tmp_path / "file")


@pytest.mark.parametrize("front", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_in_use_is_refused_before_triton_starts(tmp_path: Path, front: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, front: port}
        with pytest.raises(HostError, match=rf"127\.0\.0\.1:{port}: .*Address already in use\n.*another port"):
            Server.start(tmp_path, **ports)


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"192\.0\.2\.1:0: .*Cannot assign requested address\n.*such as 127\.0\.0\.1"):
        Server.start(tmp_path, host="192.0.2.1", http_port=0, grpc_port=0, metrics_port=0)


def test_a_host_without_an_ipv4_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="::1: it has no IPv4 address"):
        Server.start(tmp_path, host="::1")


@pytest.mark.slow
def test_a_model_to_load_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="model 'absent': model not found in any model repository"):
        Server.start(
            tmp_path, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", load_models=["absent"]
        )


@pytest.mark.slow
def test_a_host_may_be_a_name(repository: Path) -> None:
    with Server.start(repository, host="localhost", http_port=0, grpc_port=0, metrics_port=0) as server:
        assert status_of(server.http_address, "/v2/health/ready") == http.client.OK


@pytest.mark.slow
def test_serve_continues_when_nobody_reads_its_log(repository: Path) -> None:
    with serving(repository) as (process, triton_pid):
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
        assert eventually(lambda: processes_of(triton_pid) == {})


def test_free_ports_differ_and_can_be_listened_on() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert free_port() != port


@pytest.mark.slow
def test_models_that_do_not_load_are_named_with_their_reasons(tmp_path: Path) -> None:
    write_model(tmp_path, "good", DOUBLE_CONFIG, parse(DOUBLE))
    write_model(tmp_path, "wide", DOUBLE_CONFIG.replace("dims: 2", "dims: 3"), parse(DOUBLE))
    write_model(tmp_path, "typo", DOUBLE_CONFIG + "max_bath_size: 8", parse(DOUBLE))
    write_model(tmp_path, "empty", DOUBLE_CONFIG, None).rmdir()
    (tmp_path / "bare").mkdir()
    with pytest.raises(HostError) as caught:
        start(tmp_path)
    wide = "model 'wide' version 1: model 'wide', tensor 'X': the model expects 2 dimensions (shape [-1,2])"
    assert wide in caught.value.what
    assert "model 'empty': at least one version must be available" in caught.value.what
    assert "model 'bare': failed to open text file for read bare/config.pbtxt" in caught.value.what
    assert "model 'typo': Error parsing text-format" in caught.value.what
    assert 'has no field named "max_bath_size"' in caught.value.what
    assert "'good'" not in caught.value.what
    assert "At:" not in caught.value.what
    assert caught.value.where == str(tmp_path)


@pytest.mark.slow
def test_a_server_that_is_not_ready_in_time_is_stopped(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(HostError, match=r"Triton was not ready after 0\.01 s"):
        start(repository, ready_timeout_s=0.01)
    (keys,) = set(tmp_path.iterdir()) - {repository}
    assert list(keys.iterdir()) == []


def test_a_port_taken_while_triton_starts_is_the_reason_given() -> None:
    lines = [
        'E1121 00:52:54.781068 7400 server.cc:241] "CudaDriverHelper has not been initialized."\n',
        "E1121 00:58:07.148349 8044 main.cc:245] \"failed to start GRPC service: Unavailable - Socket '127.0.0.1:8001'"
        ' already in use "\n',
        'I1121 00:58:08.148349 8044 server.cc:305] "Waiting for in-flight requests to complete."\n',
    ]
    reason = "failed to start GRPC service: Unavailable - Socket '127.0.0.1:8001' already in use"
    assert log.last_error(lines) == reason
    assert log.last_error(lines[:1]) == ""


def test_what_the_cpp_runtime_prints_before_it_aborts_is_the_reason_given() -> None:
    lines = ["terminate called after throwing an instance of 'std::bad_alloc'\n", "  what():  std::bad_alloc\n"]
    assert log.last_error([*lines, "Signal (6) received.\n", " 0# 0x0000563B in tritonserver\n"]) == "std::bad_alloc"


@pytest.mark.parametrize(("signal_s", "found"), [(100.0, True), (106.0, False), (None, False)])
def test_only_what_was_logged_shortly_before_a_signal_is_its_reason(signal_s: float | None, found: bool) -> None:
    """However long it takes to print the stack, and to notice the end."""
    lines = [(100.0, "  what():  std::bad_alloc\n")]
    if signal_s is not None:
        lines += [(signal_s, "Signal (6) received.\n"), (signal_s + 60, " 0# 0x0000563B in tritonserver\n")]
    assert (log.last_error(log.before_the_end(lines, now=200.0, newest_s=5.0)) == "std::bad_alloc") is found


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_serving_others_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, warns: bool
) -> None:
    with pytest.raises(RepositoryError):
        serve(tmp_path / "missing", host=host)
    assert (f"warning: others may reach Triton on {host}" in capsys.readouterr().err) == warns


# ---- what is missing on the machine


def test_another_platform_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(HostError, match="only on Linux x86-64, and this machine is linux aarch64"):
        installation.find_installation()


def test_a_missing_wheel_is_named() -> None:
    """Without site-packages there is no wheel."""
    code = "from builder.server.installation import find_installation; find_installation()"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "the package nvidia-pytriton is not installed\nfix: run " in done.stderr
    assert "pip install" in done.stderr
    assert "'nvidia-pytriton>=0.7'" in done.stderr


def test_a_python_version_without_a_stub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_PYTHON", "3.99")
    with pytest.raises(HostError, match=r"no Python backend for Python 3\.99\n.*use Python 3\.10, 3\.11 or 3\.12"):
        installation.find_installation()


def test_a_stub_without_its_libpython_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the stub of a Python that is not installed, in place of a Python that was built without a shared library."""
    monkeypatch.setattr(installation, "_PYTHON", "3.8")
    with pytest.raises(HostError, match=r"libpython3\.8\.so.*cannot open.*\n.*install libpython3\.8"):
        installation.find_installation()


def test_the_wheel_is_found_without_importing_it() -> None:
    code = "import sys, builder.server.installation as i; i.find_installation(); print('pytriton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
