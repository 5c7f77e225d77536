"""Serve a model repository with an embedded Triton: for a `with` block, or in the foreground."""

import contextlib
import http.client
import ipaddress
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal, TextIO
from urllib.parse import quote

from builder.errors import HostError, RepositoryError
from builder.printable import printable
from builder.server import log, ports, runtime
from builder.server.admin import AdminAccess
from builder.server.key_files import KeyFile
from builder.server.process import TritonProcess
from builder.server.stubs import Stub
from builder.server.supervision import supervise
from builder.server.watching import Watch, how_it_ended

ModelControlMode = Literal["none", "explicit", "poll"]

_REACHABLE = (
    "warning: others may reach Triton on {host}, and it has known vulnerabilities: a request can end it or run code "
    "(docs/embedded-server.md). Serve others with NVIDIA's current image"
)
_POLL_S = 0.02
_ANSWER_S = 10.0
"""How long Triton may take to say whether it, or a model, is ready: on a busy machine it is slow, but ready."""
_FRESH_S = 5.0
"""How old a line of the log may be and still say why Triton died, seconds."""


class Server:
    """One running Triton, as a context manager that stops it.

    Attributes:
        repository: The model repository that it serves.
        http_address: `host:port` of the HTTP endpoint, in the form that tritonclient expects.
        grpc_address: `host:port` of the gRPC endpoint.
        metrics_address: `host:port` of the Prometheus metrics.
        admin: The key to its administrative APIs.
        key_file: Where the key is until the server is stopped, so that other commands of this user find it.
    """

    def __init__(
        self,
        repository: Path,
        launch: Callable[[], TritonProcess],
        addresses: Sequence[str],
        admin: AdminAccess,
        key_file: Path,
        ready_timeout_s: float,
    ) -> None:
        self.repository = repository
        self.admin = admin
        self.http_address, self.grpc_address, self.metrics_address = addresses
        self.key_file = key_file
        self._undo = contextlib.ExitStack()  # what to undo when Triton has ended
        self._ready_timeout_s = ready_timeout_s
        self._launch = launch
        self._start_process()

    @property
    def pid(self) -> int:
        """The process id of `tritonserver`."""
        return self._process.pid

    def _start_process(self) -> None:
        self._process = self._launch()
        self._watch = Watch(self._process, self._is_model_ready)
        self._death: str | None = None

    @classmethod
    def start(
        cls,
        repository: Path,
        *,
        host: str = "127.0.0.1",
        http_port: int = 8000,
        grpc_port: int = 8001,
        metrics_port: int = 8002,
        model_control_mode: ModelControlMode = "none",
        load_models: Sequence[str] = (),
        admin: AdminAccess | None = None,
        ready_timeout_s: float = 120.0,
        log_to: TextIO | None = None,
    ) -> "Server":
        """Serve `repository` and return once every model is ready.

        In every mode, the APIs that change what the server does are closed to clients without the admin key.

        Args:
            repository: A model repository. Every directory in it is a model.
            host: The address to listen on.
            http_port: The HTTP port. 0 chooses a free one, as for the two other ports.
            grpc_port: The gRPC port.
            metrics_port: The port of the metrics.
            model_control_mode: Triton's option. `explicit` also enables the API that loads and unloads models.
            load_models: The models to load at the start in explicit mode; `["*"]` loads all.
            admin: The key to these APIs, and the header that clients send it in. Default: a random key.
            ready_timeout_s: How long the models may take to load, seconds.
            log_to: The stream to copy Triton's log to.

        Raises:
            RepositoryError: There is no such directory.
            HostError: Triton is not installed, a port is taken, a model does not load, loading takes too long, or
                the key cannot be left for other commands.
        """
        if not repository.is_dir():
            what = "it is a file" if repository.exists() else "it does not exist"
            raise RepositoryError(repository, what, "publish a model there first, or choose another directory")
        host = ports.resolve(host)
        reachable = "127.0.0.1" if host == "0.0.0.0" else host
        admin = admin or AdminAccess()
        with contextlib.ExitStack() as undo:
            chosen = undo.enter_context(ports.held(host, [http_port, grpc_port, metrics_port]))
            addresses = [f"{reachable}:{port}" for port in chosen]
            options = [*_options(model_control_mode, load_models), *ports.flags(host, chosen)]
            launch = partial(TritonProcess, repository, options, log_to, hidden=admin.options())
            key_file = KeyFile(addresses[0], addresses[1], admin)
            undo.callback(key_file.remove)
            server = cls(repository, launch, addresses, admin, key_file.path, ready_timeout_s)
            server._undo = undo.pop_all()
        try:
            server._wait_until_ready()
        except BaseException as error:
            # A request that a signal interrupted still holds its connection, which Triton would wait 5 s for.
            traceback.clear_frames(error.__traceback__)
            server.stop()
            raise
        return server

    def restart(self) -> None:
        """Kill what is left of Triton and its stubs, start it again on the same ports, and wait until it is ready.

        Raises:
            HostError: It does not start, a model does not load, or another program took the port of the metrics.
                Nothing is left running then.
        """
        self._process.kill()
        host, _, port = self.metrics_address.rpartition(":")
        ports.claim_ports(
            host, [int(port)]
        )  # the other two are held; without this one, Triton would start all the same
        self._start_process()
        try:
            self._wait_until_ready()
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let current requests finish, then end the server and its child processes. A second call does nothing.

        This takes 2 seconds, or up to 5 if clients stay connected over HTTP, so close them first.
        """
        try:
            self._process.stop()
        finally:
            self._undo.close()

    def ensure_running(self) -> None:
        """Check that Triton and the processes that run its models are running.

        Raises:
            HostError: One of them ended by itself, or was killed.
        """
        if self._death is None and (status := self._process.poll()) is not None:
            self._death = _end_of_triton(status, self._process.log_lines(newest_s=_FRESH_S))
        if self._death is None and (stub := self._watch.dead_stub()) is not None:
            self._death = _end_of_stub(stub, self._process.log_lines(newest_s=_FRESH_S))
        if self._death is not None:
            raise HostError(self.repository, self._death, "start the server again")

    def wait(self) -> None:
        """Wait until Triton or a process that runs a model ends, and then end what is left of them.

        Raises:
            HostError: Always, with the reason.
        """
        stub = self._watch.wait()
        self._process.kill()
        lines = self._process.log_lines(newest_s=_FRESH_S)
        self._death = _end_of_stub(stub, lines) if stub else _end_of_triton(self._process.poll() or 0, lines)
        self.ensure_running()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while not (_is_ok(self.http_address, "/v2/health/ready") and ports.accepts(self.metrics_address)):
            if (status := self._process.poll()) is not None:
                raise _start_fault(self.repository, status, self._process.log_lines())
            if time.monotonic() > deadline:
                what = f"Triton was not ready after {self._ready_timeout_s:g} s"
                raise HostError(self.repository, what, "serve fewer models, or allow more time (ready_timeout_s)")
            time.sleep(_POLL_S)
        self._watch.learn_stubs()

    def _is_model_ready(self, stub: Stub) -> bool:
        return _is_ok(self.http_address, f"/v2/models/{quote(stub.model)}/versions/{quote(stub.version)}/ready")


def serve(
    repository: Path,
    *,
    host: str = "127.0.0.1",
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    model_control_mode: ModelControlMode = "explicit",
    admin: AdminAccess | None = None,
) -> None:
    """Serve `repository` until SIGINT or SIGTERM, with Triton's log on stderr. Call it from the main thread.

    In explicit mode, every model is loaded at the start. Once all are ready, two lines on stderr say where the admin
    key is, and give the addresses. If Triton or a process that runs a model dies, a line says so, and Triton starts
    again on the same ports, with the same key. A second signal ends the server at once.

    Raises:
        RepositoryError: There is no such directory.
        HostError: Triton did not start, or died too often.
    """
    if not ipaddress.ip_address(ports.resolve(host)).is_loopback:
        _say(_REACHABLE.format(host=host))
    with (
        _stopped_by_signals(),
        Server.start(
            repository,
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            model_control_mode=model_control_mode,
            load_models=["*"] if model_control_mode == "explicit" else [],
            admin=admin,
            log_to=sys.stderr,
        ) as server,
    ):
        _say(f"header {server.admin.header}, key in {server.key_file}", step="admin")
        _say(f"HTTP {server.http_address}, gRPC {server.grpc_address}, metrics {server.metrics_address}")
        supervise(server.wait, server.restart, _say)


def _say(what: str, *, step: str = "serve") -> None:
    with contextlib.suppress(OSError):  # stderr may be closed
        sys.stderr.write(f"{step:<8} {printable(what)}\n")  # in one piece: a thread copies Triton's log to it, too
        sys.stderr.flush()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """End the block at SIGINT or SIGTERM, wherever it is, and restore the previous handlers.

    A second signal cuts short what the first one started. More signals do nothing, so that it can clean up.
    """
    signals = iter([_Stopped(), _Stopped()])

    def stop(signum: int, frame: FrameType | None) -> None:
        for stopped in signals:
            raise stopped

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Stopped:
        return
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _options(model_control_mode: ModelControlMode, load_models: Sequence[str]) -> list[str]:
    """Return the options of `tritonserver`, except for its addresses."""
    return [
        f"--model-repository={runtime.REPOSITORY}",
        f"--backend-directory={runtime.BACKENDS}",
        "--disable-auto-complete-config",
        f"--model-control-mode={model_control_mode}",
        *(f"--load-model={model}" for model in load_models),
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
    ]


class _Stopped(BaseException):
    """A signal asked the server to stop."""


def _is_ok(address: str, path: str) -> bool:
    """Return whether a GET request is answered with 200."""
    connection = http.client.HTTPConnection(address, timeout=_ANSWER_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _start_fault(repository: Path, status: int, lines: Sequence[str]) -> HostError:
    if faults := log.model_faults(lines):
        what = "; ".join(faults).replace(f"{runtime.REPOSITORY}/", "")
        return HostError(repository, what, "correct the model or its config.pbtxt")
    return HostError(repository, _end_of_triton(status, lines), "correct what Triton reports, then start it again")


def _end_of_triton(status: int, lines: Sequence[str]) -> str:
    return _with_reason(f"Triton {how_it_ended(status)}", lines)


def _end_of_stub(stub: Stub, lines: Sequence[str]) -> str:
    what = f"model '{stub.model}'" if stub.model else "a model"
    which = f" ({stub.instance})" if stub.instance else ""
    return _with_reason(f"the process of {what}{which} {how_it_ended(stub.status or 0)}", lines)


def _with_reason(what: str, lines: Sequence[str]) -> str:
    why = log.last_error(lines)
    return what + (f": {why}" if why else "")
