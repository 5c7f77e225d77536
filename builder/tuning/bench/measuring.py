"""Measure configurations of a model on a real server: `NAME.candidate` beside the model that clients use.

The folder of the candidate is put into the repository once. Each configuration is loaded from memory, with the config
that the model would have. So nothing of the served model changes, on disk or on the server.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Literal

from builder.cores import usable_cores
from builder.deployment import (
    ANOTHER_REPOSITORY,
    SEE_S,
    Candidate,
    Goal,
    LiveServer,
)
from builder.errors import HostError
from builder.progress import Report
from builder.server import Server, is_loopback
from builder.tuning.bench.access import ServerAccess
from builder.tuning.bench.configuring import configured, read_configuration
from builder.tuning.bench.driving import Ended, LoadTest, load_options
from builder.tuning.bench.machine import Busy, Stopwatch
from builder.tuning.bench.reading import read_measurement
from builder.tuning.measurement import Configuration, Load, Measurement
from builder.tuning.plan_choices import PlanChoices, PlanUse
from builder.tuning.wording import count, say_configuration

Protocol = Literal["http", "grpc"]

_LONGEST = 10
"""How many times its usual time a stage may take until it has enough requests, see the load test's --min-requests."""

_BEFORE_AND_AFTER_S = 60.0
"""How long a load test may take besides what it measures, in seconds."""

_CONNECT_S = 30.0
"""How long a client may take to reach a server that was started again, in seconds."""

_POLL_S = 0.1

CANDIDATE = ".candidate"
"""How the names of models end that are tried."""


class ServerBench:
    """Measures configurations of a model on a real server; `opening.open_bench` makes one.

    Attributes:
        current: The configuration that config.pbtxt says now.
        version: The version that is measured.
        config_text: What config.pbtxt says; None if it is another version's, and would be changed for this one.
        proven_max_batch: Up to which batch size it was proven; 0 for a model without a batch.
        kind: Where the instances run: `cpu` or `gpu`.
        plan: The ways to run a TensorRT plan; empty for other models.
        cores: How many cores the server may use, as far as that is known; else as many as this machine has.
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
        self.config_text = goal.plan.text if goal.change is None else None
        self.proven_max_batch = manifest.max_batch_size
        self.plan: tuple[PlanUse, ...] = choices.uses(self.current) if choices else ()
        self.kind: Literal["cpu", "gpu"] = "cpu"
        self.cores = access.cores or usable_cores()
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
            if self._access.cores is None:
                cores = count(self.cores, "core")
                notes.append(f"the server is assumed to have {cores}, like this machine: --cores gives another number")
        before = self._answered_before
        grown = {name: now - before.get(name, 0) for name, now in self._answered().items()}
        if others := [f"{more:,} of {name}" for name, more in sorted(grown.items()) if more > 0]:
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
        self._runs += 1
        root = self._goal.model.path.parent
        where = [*self._access.options(), "--model", self._candidate.name, "--repository", str(root)]
        how = ["--protocol", self._protocol, "--seed", str(self._runs)]
        self.prepare().start([*where, *how, *load_options(load, stage_time_s=self.stage_time_s)])

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
            what = f"it loaded {say_configuration(served)} instead of {say_configuration(configuration)}"
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
                self._connect_again()
                return True
        self._live.check_access()
        return False

    def _connect_again(self) -> None:
        """Wait until the client has reached a server that was started again: gRPC tries only from time to time.

        Raises:
            HostError: It did not in time.
        """
        deadline = time.monotonic() + _CONNECT_S
        while True:
            try:
                self._live.check_access()
                return
            except HostError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def _answered(self) -> Mapping[str, int]:
        """Return how many requests a server of the user's has answered, by model; none is known if it does not say."""
        if self._embedded is not None:
            return {}
        with suppress(HostError):
            counts = self._live.answered()
            return {name: count for name, count in counts.items() if not name.endswith(CANDIDATE)}
        return {}


def _runtime_version() -> str:
    """Return the version of ONNX Runtime that the embedded server runs models with: that of this Python."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("onnxruntime")
    return ""
