"""Serve a model repository with an embedded Triton for the duration of a `with` block."""

import contextlib
import http.client
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO
from urllib.parse import quote

from builder import files
from builder.errors import HostError, Listing, RepositoryError
from builder.printable import counted
from builder.progress import Report, silent
from builder.server import loading, log, ports, runtime
from builder.server.admin import AdminAccess
from builder.server.flags import FlagError, models_to_load, read_flags
from builder.server.index import read_index
from builder.server.key_files import KeyFile
from builder.server.loading import Progress, Unserved
from builder.server.process import TritonProcess
from builder.server.stubs import Stub, children_of
from builder.server.watching import Watch, how_it_ended

ModelControlMode = Literal["none", "explicit", "poll"]

_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""The signals that end a Triton because of an error in it, and not because somebody wants it to end."""
_MOST_LEFT_OUT = 8
_ONE_BY_ONE = "--model-load-thread-count=1"
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
        unserved: What did not load at the last start, with the reasons; always empty if the server is strict.
    """

    def __init__(
        self,
        repository: Path,
        launch: Callable[..., TritonProcess],
        addresses: Sequence[str],
        admin: AdminAccess,
        key_file: Path,
        load: Sequence[str] | None,
        is_strict: bool,
        ready_timeout_s: float | None,
        report: Report,
    ) -> None:
        self.repository = repository
        self.admin = admin
        self.http_address, self.grpc_address, self.metrics_address = addresses
        self.key_file = key_file
        self._undo = contextlib.ExitStack()  # what to undo when Triton has ended
        self._load = load  # what is loaded in explicit mode; None in other modes
        self._is_strict = is_strict
        self._ready_timeout_s = ready_timeout_s
        self._report = report
        self.unserved: tuple[Unserved, ...] = ()
        self._launch = launch
        self._left_out: dict[str, str] = {}
        self._start_process()

    @property
    def pid(self) -> int:
        """The process id of `tritonserver`."""
        return self._process.pid

    def _start_process(self, *options: str) -> None:
        load = self._load or ()
        if self._left_out:
            load = [model for model in self._models() if model not in self._left_out]
        self._process = self._launch(load, *options)
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
        strict: bool = True,
        auto_complete: bool = False,
        flags: Sequence[str] = (),
        ready_timeout_s: float | None = None,
        log_to: TextIO | None = None,
        report: Report = silent,
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
            strict: Whether a model that does not load is an error. If not, the others are served, and `unserved` says
                which are not. It is an error in any case if no model at all loads.
            auto_complete: Whether Triton adds what the config of an ONNX model leaves out, or makes one up. Every model
                then takes about 0.4 s longer to load.
            flags: More flags for `tritonserver`, such as `--log-verbose=1`. With `--load-model=NAME`, only the models
                that are named are loaded in explicit mode.
            ready_timeout_s: How long the models may take to load, seconds. Default: as long as Triton goes on, with
                at most 120 s from one model to the next.
            log_to: The stream to copy Triton's log to.
            report: Called with `load` and how many models are ready, every few seconds.

        Raises:
            RepositoryError: There is no such directory.
            FlagError: A flag does not exist, or would change what this class sets itself.
            HostError: Triton is not installed, a port is taken, a model does not load, loading takes too long, or
                the key cannot be left for other commands.
        """
        if not repository.is_dir():
            what = "it is a file" if repository.exists() else "it does not exist"
            raise RepositoryError(repository, what, "publish a model there first, or choose another directory")
        host = ports.resolve(host)
        reachable = "127.0.0.1" if host == "0.0.0.0" else host
        admin = admin or AdminAccess()
        more = read_flags(flags, header=admin.header)
        load = models_to_load(more) or load_models
        if models_to_load(more) and model_control_mode != "explicit":
            raise FlagError("--load-model has an effect in explicit mode only", "add --model-control-mode explicit")
        with contextlib.ExitStack() as undo:
            chosen = undo.enter_context(ports.held(host, [http_port, grpc_port, metrics_port]))
            addresses = [f"{reachable}:{port}" for port in chosen]
            own = [
                *_options(model_control_mode, strict=strict, auto_complete=auto_complete),
                *ports.flags(host, chosen),
            ]
            fixed = [*own, *(flag for flag in more if not flag.startswith("--load-model="))]

            def launch(models: Sequence[str], *options: str) -> TritonProcess:
                loads = [f"--load-model={model}" for model in models]
                return TritonProcess(repository, [*fixed, *loads, *options], log_to, hidden=admin.options())

            key_file = KeyFile(addresses[0], addresses[1], admin, repository)
            undo.callback(key_file.remove)
            mine = load if model_control_mode == "explicit" else None
            server = cls(repository, launch, addresses, admin, key_file.path, mine, strict, ready_timeout_s, report)
            server._undo = undo.pop_all()
        try:
            server._serve_what_loads()
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
        self._left_out = {}
        self._start_process()
        try:
            self._serve_what_loads()
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

    def _serve_what_loads(self) -> None:
        """Wait until Triton is ready. Unless it is strict, start it again without a model that ends it as it loads.

        In Triton 2.51, a warm-up that fails in the Python backend ends the whole server **[seen]**.
        """
        options: Sequence[str] | None = ()
        while options is not None:
            try:
                self._wait_until_ready()
                return
            except HostError:
                options = self._leave_out(is_slow=bool(options))
                if options is None:
                    raise
            self._process.kill()
            self._start_process(*options)

    def _leave_out(self, *, is_slow: bool) -> Sequence[str] | None:
        """Find out which model ended Triton, and return with which options to start it again; None not to do so.

        Args:
            is_slow: Whether Triton loaded one model after the other, so that only one can have ended it.
        """
        status = self._process.poll() or 0
        suspects = self._process.loads.under_way()
        is_free = self._load is not None and not self._is_strict and len(self._left_out) < _MOST_LEFT_OUT
        if not (is_free and -status in _CRASHES and suspects):
            return None
        how = f"Triton {how_it_ended(status)} while it loaded"
        if len(suspects) > 1 and not is_slow:
            self._report("load", f"{how} models; it starts again and loads one after the other, to find out which")
            return [_ONE_BY_ONE]
        for model in suspects:
            self._report("load", f"{how} '{model}'; it starts again without that model")
            self._left_out[model] = f"{how} this model"
        return []

    def _wait_until_ready(self) -> None:
        """Wait until Triton has loaded what it can, and find out what it could not.

        Its endpoints do not answer before.
        """
        process = self._process
        progress = Progress(
            process.loads,
            lambda: [stub.pid for stub in children_of(process.pid)],
            expected=len(self._models()),
            timeout_s=self._ready_timeout_s,
            report=self._report,
        )
        while not (_is_ok(self.http_address, "/v2/health/ready") and ports.accepts(self.metrics_address)):
            if (status := process.poll()) is not None:
                raise self._start_fault(status)
            if (fault := progress.fault()) is not None:
                raise HostError(self.repository, fault, "serve fewer models, or allow more time with --ready-timeout")
            time.sleep(_POLL_S)
        self._watch.learn_stubs()
        self._find_unserved()

    def _models(self) -> Sequence[str]:
        """Return the names of the models that are to be loaded."""
        if self._load is not None and "*" not in self._load:
            return self._load
        try:
            return [entry.name for entry in self.repository.iterdir() if entry.is_dir()]
        except OSError as error:
            fix = "let this user read the repository"
            raise RepositoryError(self.repository, f"it cannot be read: {files.reason(error)}", fix) from error

    def _find_unserved(self) -> None:
        """Ask Triton what it serves, and keep what it does not.

        Raises:
            HostError: It serves nothing of what is there.
        """
        index = read_index(self.http_address, self.admin)
        is_all = self._load is None or "*" in self._load
        found = loading.find_unserved(self._process.loads, index, all_wanted=is_all)
        ended = [Unserved(model, None, why) for model, why in self._left_out.items()]
        self.unserved = (*ended, *(entry for entry in found if entry.model not in self._left_out))
        if self.unserved and not any(entry.state == "READY" for entry in index):
            what = _listed("none of its models loads", self.unserved)
            other = "" if is_all else ", or name others with --load-model"
            raise HostError(self.repository, what, f"correct the model or its config.pbtxt{other}")

    def _start_fault(self, status: int) -> HostError:
        """Return the error for a Triton that ended while it started: because a model did not load, if it is strict."""
        unserved = loading.from_log(self._process.loads)
        if self._is_strict and unserved and status >= 0:
            models = len({entry.model for entry in unserved})
            summary = f"{models} of {counted(len(self._models()), 'model')} did not load"
            fix = "correct the model or its config.pbtxt, or serve the others without --strict"
            return HostError(self.repository, _listed(summary, unserved), fix)
        what = _end_of_triton(status, self._process.log_lines())
        if status < 0 and (suspects := self._process.loads.under_way()):
            what = f"{what}; it was loading {', '.join(map(repr, suspects))}"
            return HostError(self.repository, what, "correct that model, whose warm-up may fail, or move it away")
        return HostError(self.repository, what, "correct what Triton reports, then start it again")

    def _is_model_ready(self, stub: Stub) -> bool:
        return _is_ok(self.http_address, f"/v2/models/{quote(stub.model)}/versions/{quote(stub.version)}/ready")


def _options(model_control_mode: ModelControlMode, *, strict: bool, auto_complete: bool) -> list[str]:
    """Return the options of `tritonserver`, except for its addresses and the models to load.

    A server that is not strict counts as ready although a model did not load. Otherwise whoever asks for its health
    before sending requests, such as a load balancer, would never send any.
    """
    return [
        f"--model-repository={runtime.REPOSITORY}",
        f"--backend-directory={runtime.BACKENDS}",
        *([] if auto_complete else ["--disable-auto-complete-config"]),
        f"--model-control-mode={model_control_mode}",
        *([] if strict else ["--exit-on-error=false", "--strict-readiness=false"]),
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
    ]


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


def _listed(summary: str, unserved: Sequence[Unserved]) -> str:
    """Return one line for one model; for several a summary, and then a line for each."""
    lines = [str(entry) for entry in unserved]
    return lines[0] if len(lines) == 1 else Listing(f"{summary}:", lines)


def _end_of_triton(status: int, lines: Sequence[str]) -> str:
    return _with_reason(f"Triton {how_it_ended(status)}", lines)


def _end_of_stub(stub: Stub, lines: Sequence[str]) -> str:
    what = f"model '{stub.model}'" if stub.model else "a model"
    which = f" ({stub.instance})" if stub.instance else ""
    return _with_reason(f"the process of {what}{which} {how_it_ended(stub.status or 0)}", lines)


def _with_reason(what: str, lines: Sequence[str]) -> str:
    why = log.last_error(lines)
    return what + (f": {why}" if why else "")
