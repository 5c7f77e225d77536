"""Measure configurations of a model on a real server: `NAME.candidate` beside the model that clients use.

The folder of the candidate is put into the repository once. Each configuration is loaded from memory, with the config
that the model would have. So nothing of the served model changes, on disk or on the server.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.config import pbtxt
from builder.deployment import (
    ANOTHER_REPOSITORY,
    SEE_S,
    Address,
    Candidate,
    Certificates,
    Goal,
    LiveServer,
    OnDisk,
    make_goal,
    read_headers,
)
from builder.errors import HostError, RepositoryError
from builder.progress import Report, silent
from builder.repository import Repository, Wait, deploying
from builder.server import AdminAccess, Server, find_server, is_loopback, servers_of
from builder.tuning.configuring import configured, read_configuration
from builder.tuning.driving import Ended, LoadTest
from builder.tuning.machine import Busy, Stopwatch, find_below, usable_cores
from builder.tuning.measurement import Configuration, Load, Measurement
from builder.tuning.plan_choices import PlanChoices, PlanUse
from builder.tuning.reading import read_measurement

if TYPE_CHECKING:
    pass

Protocol = Literal["http", "grpc"]

_LONGEST = 10
"""How many times its usual time a stage may take until it has enough requests, see the load test's --min-requests."""

_ENOUGH = 400
"""So many requests bound p99 from above; it takes 368."""

_BEFORE_AND_AFTER_S = 60.0
"""How long a load test may take besides what it measures, in seconds."""

_WARM_UP_S = 1.0

CANDIDATE = ".candidate"
"""How the names of models end that are tried."""

_IN_FLIGHT_S = 0.5
"""How long requests of an open loop may take on average before more of them wait here. Each of those that may be in
flight is a user of the load test, and 100 of them start in a second.
"""


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """A server of the user's, and what a client needs to reach it.

    Attributes:
        address: Its gRPC endpoint.
        http: `host:port` or the URL of its HTTP endpoint. Default: that of this user's server there, or else the port
            before that of gRPC, with TLS if gRPC has it.
        admin: The key to its restricted APIs, if they are restricted. Default: that of this user's server there.
        header_file: A file with headers to send with every request.
        ca_file: The certificates of the authorities that sign the server's certificate, in PEM.
        client_cert: The certificate that says who the client is, in PEM.
        client_key: The key of that certificate, in PEM.
        timeout_s: How long it may take to load a configuration, in seconds.
    """

    address: Address
    http: str | None = None
    admin: AdminAccess | None = None
    header_file: Path | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    timeout_s: float = 300.0

    def connect(self) -> LiveServer:
        """Return a client that controls the server.

        Raises:
            HostError: A file cannot be read, or the address stands for several servers.
        """
        servers = self.address.resolved()
        if len(servers) > 1:
            what = f"this name stands for {len(servers)} servers, and a tuning measures one"
            raise HostError(self.address, what, f"name one of them, such as {servers[0]}")
        return LiveServer(
            self.address,
            admin=self.admin,
            headers=read_headers(self.header_file) if self.header_file else None,
            certificates=Certificates.read(self.ca_file, self.client_cert, self.client_key),
            timeout_s=self.timeout_s,
        )

    def options(self) -> list[str]:
        """Return the options of a load test that reach it."""
        address = self.address
        files: Mapping[str, Path | None] = {
            "--header-file": self.header_file,
            "--ca-file": self.ca_file,
            "--client-cert": self.client_cert,
            "--client-key": self.client_key,
        }
        given = [part for name, file in files.items() if file is not None for part in (name, str(file.absolute()))]
        grpc = f"{'grpcs' if address.tls else 'grpc'}://{address.name or address.target}"
        return ["--host", self._http_url(), "--grpc-address", grpc, "--server-metrics", "none", *given]

    def _http_url(self) -> str:
        scheme = "https" if self.address.tls else "http"
        if self.http is not None:
            return self.http if "://" in self.http else f"{scheme}://{self.http}"
        if not self.address.tls and (found := find_server(self.address.target)):
            return f"{scheme}://{found.http_address}"
        host, _, port = (self.address.name or self.address.target).rpartition(":")
        return f"{scheme}://{host}:{int(port) - 1}"


class ServerBench:
    """Measures configurations of a model on a real server; `open_bench` makes one.

    Attributes:
        current: The configuration that config.pbtxt says now.
        version: The version that is measured.
        proven_max_batch: Up to which batch size it was proven; 0 for a model without a batch.
        kind: Where the instances run: `cpu` or `gpu`.
        plan: The ways to run a TensorRT plan; empty for other models.
        cores: How many cores the server has, if it is on this machine; else this machine's.
        is_here: Whether the server is on this machine.
        process: The server's process, if it is on this machine and one of ours.
        stage_time_s: How long each run measures, in seconds.
        server: The address of the server; empty for the embedded one.
        software: The versions of what is measured, by name.
    """

    def __init__(
        self,
        goal: Goal,
        candidate: Candidate,
        live: LiveServer,
        access: ServerAccess,
        *,
        embedded: Server | None,
        process: int | None,
        stage_time_s: float,
        protocol: Protocol,
        report: Report,
    ) -> None:
        self._goal, self._candidate, self._live, self._access = goal, candidate, live, access
        self._embedded, self.process, self._report = embedded, process, report
        self.stage_time_s, self._protocol = stage_time_s, protocol
        self._where = goal.model.config_path
        self._config = candidate.config()
        self._loaded: Configuration | None = None
        self._test: LoadTest | None = None
        self._runs = 0
        manifest = next(proven.manifest for proven in goal.proven if proven.version == goal.version)
        choices = PlanChoices.of(goal.config, manifest, where=self._where)
        self.current = read_configuration(goal.config, where=self._where)
        self.version = goal.version
        self.proven_max_batch = manifest.max_batch_size
        self.plan: tuple[PlanUse, ...] = choices.uses(self.current) if choices else ()
        self.kind: Literal["cpu", "gpu"] = "cpu"
        self.cores = usable_cores()
        self.is_here = embedded is not None or process is not None or is_loopback(access.address.target)
        self.server = "" if embedded is not None else str(access.address)
        self.software: Mapping[str, str] = {
            "triton": live.version(),
            "onnxruntime": _runtime_version() if embedded is not None else "",
        }
        self._answered_before = self._answered()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result must know about the server and the model."""
        notes = []
        if self._goal.has_cache:
            notes.append("the candidate has no response cache, so that every request runs the model")
        if self._goal.plan_config is not None:
            notes.append(
                "the ONNX file was measured, and not the TensorRT plan beside it, which servers with a GPU run"
            )
        if self._embedded is None and not self.is_here:
            notes.append("the server is elsewhere: latencies include the network from here, and its load is not known")
        before = self._answered_before
        grown = {name: now - before.get(name, 0) for name, now in self._answered().items()}
        if others := [f"{count:,} of {name}" for name, count in sorted(grown.items()) if count > 0]:
            notes.append(f"meanwhile, other clients got answers from this server: {', '.join(others)}")
        return tuple(notes)

    def measure(self, configuration: Configuration, load: Load) -> Measurement:
        """Load the configuration as `NAME.candidate`, and measure it under this load.

        A configuration that does not load, or that gives no answer, is a measurement with an `error`.

        Raises:
            HostError: The server is gone, or the load test does not run.
            RepositoryError: The configuration contradicts the config.
        """
        self.prepare()
        if (problem := self.load(configuration)) is not None:
            return Measurement(configuration, load, None, None, error=problem)
        stopwatch = Stopwatch(self.process)
        try:
            self.start(load)
            ended = self.wait()
        except HostError as error:
            if not self._check_alive():
                raise
            return Measurement(configuration, load, None, None, error=f"the server ended: {error.what}")
        finally:
            self.stop()
        made = self.read(ended, configuration, load, stopwatch.stop(children_s=ended.cpu_s))
        self.prepare()
        return made

    def prepare(self) -> LoadTest:
        """Return the next load test. Its process takes a while to start, and then waits for what it is to measure."""
        self._test = self._test or LoadTest()
        return self._test

    def start(self, load: Load) -> None:
        """Begin a load test of what is loaded.

        Raises:
            HostError: It does not start.
        """
        self.prepare().start(self.options(load))

    def wait(self) -> Ended:
        """Wait for the end of the load test that was begun.

        Raises:
            HostError: It measured nothing, or takes too long.
        """
        return self.prepare().result(timeout_s=_LONGEST * self.stage_time_s + _BEFORE_AND_AFTER_S)

    def stop(self) -> None:
        """End the load test, if it has not ended. A second call does nothing."""
        if self._test is not None:
            self._test.stop()
            self._test = None

    def read(self, ended: Ended, configuration: Configuration, load: Load, busy: Busy) -> Measurement:
        """Return what a load test measured.

        Args:
            ended: The load test.
            configuration: What was loaded.
            load: The load that was asked for.
            busy: What this machine did meanwhile.

        Raises:
            HostError: The server is gone.
        """
        made = read_measurement(ended.result, configuration, load, busy, is_here=self.is_here)
        if made.error or made.failed:
            self._check_alive()
        return made

    def options(self, load: Load) -> list[str]:
        """Return the options of a load test of what is loaded."""
        self._runs += 1
        rows = ",".join(f"{rows}={weight:g}" for rows, weight in load.rows)
        kind = ["--scenario", "constant", "--concurrency", str(load.users)]
        if load.rate is not None:
            at_once = round(min(max(load.rate * _IN_FLIGHT_S, 16), 256))
            kind = ["--scenario", "rate", "--rate", f"{load.rate:g}", "--arrivals", "poisson"]
            kind += ["--max-in-flight", str(at_once)]
        is_mixed_for_times = load.users == 1 and len(load.rows) > 1
        return [
            *self._access.options(),
            *("--model", self._candidate.name, "--repository", str(self._goal.model.path.parent)),
            *kind,
            *("--rows", rows, "--protocol", self._protocol, "--seed", str(self._runs)),
            *("--stage-time", f"{self.stage_time_s:g}", "--warm-up", f"{_WARM_UP_S:g}"),
            *("--min-requests", "0" if is_mixed_for_times else str(_ENOUGH)),
        ]

    def load(self, configuration: Configuration) -> str | None:
        """Load a configuration, and return why the server does not; None if it did.

        Raises:
            HostError: The server is gone.
            RepositoryError: The configuration contradicts the config.
        """
        if configuration == self._loaded:
            return None
        config = configured(self._config, configuration, where=self._where)
        self._loaded = None
        try:
            self._candidate.load(self._live, config=config)
        except HostError as error:
            self._check_alive()
            self._recover()
            return error.what
        served = read_configuration(self._live.config(self._candidate.name), where=self._access.address)
        if configuration != self.current and served != configuration:
            what = f"it loaded {served} instead of {configuration}"
            raise HostError(self._access.address, what, "check that this is NVIDIA's Triton, and report it if it is")
        self._loaded = configuration
        return None

    def close(self) -> None:
        """End what runs, and unload the candidate from a server of the user's."""
        self.stop()
        if self._embedded is None:
            try:
                self._candidate.unload(self._live)
            except HostError as error:  # what was measured, or why that failed, matters more
                self._report("note", f"{self._candidate.name} was not unloaded: {error.what}")

    def begin(self) -> None:
        """Load the model as it is, which has to work before anything else is tried.

        Raises:
            HostError: It does not load, or the server does not see the candidate in its repository.
        """
        self.prepare()
        if not self._live.sees(self._candidate.name, wait_s=SEE_S):
            what = f"it does not see the files in {self._goal.model.path.parent}, so it reads another repository"
            raise HostError(self._access.address, what, ANOTHER_REPOSITORY)
        if (problem := self.load(self.current)) is not None:
            fix = "correct what the server reports, or tune a version that it loads with --version"
            raise HostError(self._access.address, problem, fix)
        groups = self._live.config(self._candidate.name).instance_group
        self.kind = "gpu" if any(group.kind == group.KIND_GPU for group in groups) else "cpu"
        self._report("bench", f"{self._candidate.name} is loaded as {self._goal.model.name} is configured now")

    def _recover(self) -> None:
        """Load something after a failure: a server that could not load a version stays "not ready" until it can."""
        if self._embedded is None:
            try:
                self._candidate.load(self._live, config=self._config)
                self._loaded = self.current
            except HostError:
                self._candidate.replace()
                self._candidate.reload(self._live)

    def _check_alive(self) -> bool:
        """Check that the server is there; start an embedded one again that the last configuration has ended.

        Returns:
            Whether it was started again.

        Raises:
            HostError: It is gone.
        """
        if self._embedded is not None:
            try:
                self._embedded.ensure_running()
            except HostError:
                self._embedded.restart()
                self.process, self._loaded = self._embedded.pid, None
                return True
        self._live.check_access()
        return False

    def _answered(self) -> Mapping[str, int]:
        """Return how many requests a server of the user's has answered, by model; none is known if it does not say."""
        if self._embedded is not None:
            return {}
        with suppress(HostError):
            counts = self._live.answered()
            return {name: count for name, count in counts.items() if not name.endswith(CANDIDATE)}
        return {}


@contextmanager
def open_bench(
    repository: Repository,
    name: str,
    *,
    version: int | None = None,
    server: ServerAccess | None = None,
    stage_time_s: float = 5.0,
    protocol: Protocol = "http",
    report: Report = silent,
) -> Iterator[ServerBench]:
    """Prepare a server to measure a model's configurations, and leave nothing of it behind.

    Args:
        repository: The repository that has the model.
        name: The model.
        version: The version to measure. Default: the one that config.pbtxt names.
        server: A server of the user's that reads the repository. Default: an embedded one on this machine, for the
            duration of the block.
        stage_time_s: How long each run measures, in seconds.
        protocol: What the requests are sent over.
        report: Called with each step.

    Raises:
        RepositoryError: There is no such version, its answers cannot be compared, or the repository cannot be written.
        HostError: There is no server that can be controlled, or it does not load the model as it is.
    """
    with ExitStack() as stack:
        goal = _goal(repository, name, version)
        wait = Wait(report, repository.lock_timeout_s)
        stack.enter_context(deploying(repository.root, name, f"tune {name}", wait))
        embedded = None
        if server is None:
            embedded = stack.enter_context(start_server(repository, report))
            server = ServerAccess(
                Address.parse(embedded.grpc_address), http=embedded.http_address, admin=embedded.admin
            )
        live = stack.enter_context(server.connect())
        live.check_control()
        candidate = Candidate(goal, OnDisk())
        stack.enter_context(candidate.placed())
        bench = ServerBench(
            goal,
            candidate,
            live,
            server,
            embedded=embedded,
            process=embedded.pid if embedded is not None else _process_of(server.address, repository.root),
            stage_time_s=stage_time_s,
            protocol=protocol,
            report=report,
        )
        stack.callback(bench.close)
        bench.begin()
        yield bench


def _runtime_version() -> str:
    """Return the version of ONNX Runtime that the embedded server runs models with: that of this Python."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("onnxruntime")
    return ""


def start_server(repository: Repository, report: Report) -> Server:
    """Start a Triton for a tuning, which loads nothing yet."""
    report("bench", "starting a Triton for the tuning")
    return Server.start(
        repository.root, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", report=report
    )


def _goal(repository: Repository, name: str, version: int | None) -> Goal:
    """Read what is measured, and refuse what a load test cannot check request by request.

    Raises:
        RepositoryError: It is an ensemble, there is no such version, its answers cannot be compared, or it has several
            groups of instances.
    """
    model = repository.model(name)
    if pbtxt.parse(model.read_config(), where=model.config_path).HasField("ensemble_scheduling"):
        what = "it is an ensemble, which has no instances and no batches of its own"
        raise RepositoryError(model.config_path, what, "tune the models that it calls, one after the other")
    goal = make_goal(repository, name, version)
    read_configuration(goal.config, where=model.config_path)  # now, because a server starts next
    return goal


def _process_of(address: Address, root: Path) -> int | None:
    """Return the process of a Triton that this user runs on this machine at an address; None if it is none of ours."""
    if not is_loopback(address.target):
        return None
    port = address.target.rpartition(":")[2]
    mine = (each for each in servers_of(root) if each.grpc_address.rpartition(":")[2] == port)
    return next((pid for each in mine for pid in find_below(each.pid, "tritonserver")), None)
