"""One server in a deployment: what it served before, each step on it, and how it is put back."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.config import policy
from builder.deployment import loaded, rehearsal
from builder.deployment.goal import Goal, Proven
from builder.deployment.live_check import Checked, LiveCheck
from builder.deployment.live_server import LiveServer
from builder.deployment.outcome import Runs, ServerOutcome, State, numbered
from builder.deployment.rehearsal import ANOTHER_REPOSITORY, Candidate
from builder.errors import BuilderError, HostError
from builder.progress import Report

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


@dataclass(frozen=True, slots=True)
class Before:
    """What a server served before.

    Attributes:
        versions: The versions, ascending; none if it had not loaded the model.
        config: The config that it had loaded; None if it had not loaded the model.
    """

    versions: tuple[int, ...]
    config: "ModelConfig | None"


@dataclass(slots=True)
class ServerRun:
    """One server in a deployment.

    Attributes:
        server: The server.
        goal: What it is to serve.
        slack: A factor for the tolerances.
        report: Called with each step.
        before: What it served before, once that is known.
        checked: What was compared.
        load_s: How long the load took, in seconds; 0 until then.
        was_tried: Whether it was told to load the version under any name.
        has_candidate: Whether it loaded the version under the other name.
        was_told: Whether it was told to load the version under the model's own name.
        is_loaded: Whether it has done so.
        state: How it is left.
        after: The versions that it serves at the end; None if that is not known.
        reason: Why the deployment failed here, or why it could not be put back.
        runs: Which of its two files it runs of a version that has a plan and an ONNX file; None until that is decided.
        no_plan: Why it does not run the plan.
    """

    server: LiveServer
    goal: Goal
    slack: float
    report: Report
    before: Before | None = None
    checked: Checked = field(default_factory=Checked)
    load_s: float = 0.0
    was_tried: bool = False
    has_candidate: bool = False
    was_told: bool = False
    is_loaded: bool = False
    state: State = "unchanged"
    after: tuple[int, ...] | None = None
    reason: str | None = None
    runs: Runs | None = None
    no_plan: str | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.goal.model.name

    def look(self) -> None:
        """Find out whether it can be controlled and what it serves. Changes nothing.

        Raises:
            HostError: It cannot be controlled, or reads another repository.
        """
        self.server.check_control()
        if not self.server.knows(self.name):
            what = f"its repository has no model {self.name!r}, so it reads another repository"
            raise HostError(self.server.address, what, ANOTHER_REPOSITORY)
        versions = self.server.ready_versions(self.name)
        self.before = Before(versions, self.server.config(self.name) if versions else None)
        self.after = versions
        self.report("server", f"{self.server.address} serves {numbered(versions)} of {self.name}")

    @property
    def served_before(self) -> tuple[int, ...]:
        """The versions that it served before, ascending; none before it was looked at."""
        return self.before.versions if self.before else ()

    @property
    def needs_rehearsal(self) -> bool:
        """Whether loading the version may change its answers, or its cache may hide what they are."""
        before = self.before
        is_same = (
            before is not None
            and before.config is not None
            and before.versions == self.goal.versions
            and loaded.is_made_from(before.config, self.goal.plan_config or self.goal.config)
        )
        return not is_same or self.goal.has_cache

    def rehearse(self, candidate: Candidate) -> None:
        """Load the version under another name, and check its answers there.

        Raises:
            HostError: The server does not load it, or does not answer.
            VerificationError: An answer is wrong.
        """
        self.was_tried = True
        self._choose(lambda: candidate.load(self.server, plan=True))
        if self.runs != "plan":
            candidate.load(self.server)
        self.has_candidate = True
        largest = self.server.config(candidate.name).max_batch_size
        check = self._check(
            candidate.name, self.goal.proven[0], rehearsal.VERSION, largest, by_number=False, has_cache=False
        )
        check.one_at_a_time()
        check.together()
        self.report("rehearse", f"{self.checked.rows} rows match the reference, served as {candidate.name}")

    def _choose(self, load_plan: Callable[[], object]) -> None:
        """Decide between the plan and the ONNX file beside it by loading the plan, where there is one.

        Whether a server can run it depends on its GPU, its TensorRT and its backends, and no request tells all of that.
        A server that cannot is left with nothing loaded under that name, and loads the ONNX file there next.
        """
        if self.goal.plan_config is None:
            return
        try:
            load_plan()
            self.runs = "plan"
            self.report("plan", "it runs the TensorRT plan")
        except HostError as error:
            self.runs, self.no_plan = "onnx", str(error.what).rstrip("; ")
            self.report("plan", f"it runs the ONNX file, because it does not load the plan: {self.no_plan}")

    def load(self) -> None:
        """Load what the repository names, in place of what was served before.

        Raises:
            HostError: The server refuses, is not ready in time, or loaded another config.
        """
        self.was_tried = self.was_told = True
        goal, started = self.goal, time.monotonic()
        if self.runs is None:  # it was not rehearsed
            self._choose(self._load_plan)
        elif self.runs == "plan":
            self._load_plan()
        if self.runs != "plan":
            self.server.load(self.name, goal.versions)
        self.load_s = time.monotonic() - started
        self.is_loaded = True
        config, wanted = self.server.config(self.name), self._wanted
        for setting, there, here in loaded.differences(config, wanted, goal.model.versions()):
            what = f"it did not load {goal.model.config_path}: {setting} is {there}, but {here} in the file"
            raise HostError(self.server.address, what, ANOTHER_REPOSITORY)
        self.report("load", f"{numbered(goal.versions)} ready after {self.load_s:.1f} s")

    @property
    def _wanted(self) -> "ModelConfig":
        """The config that the server is to have loaded."""
        plan = self.goal.plan_config
        return self.goal.config if plan is None or self.runs != "plan" else plan

    def _load_plan(self) -> None:
        self.server.load(self.name, self.goal.versions, config=self.goal.plan_config)

    def check(self) -> None:
        """Compare the answers that clients get, from each version.

        Raises:
            HostError: The server does not answer, or another version does.
            VerificationError: An answer is wrong.
        """
        for check in self._checks():
            check.one_at_a_time()
            check.together()
        busy = f"; it was busy {self.checked.refused} times" if self.checked.refused else ""
        checked = f"{self.checked.rows} rows in {self.checked.requests} requests match the reference{busy}"
        self.report("check", checked)

    def watch(self, elapsed_s: float, of_s: float) -> None:
        """Check once more, while the server answers its clients.

        Raises:
            HostError: The server does not answer, or another version does.
            VerificationError: An answer is wrong.
        """
        started = time.monotonic()
        for check in self._checks():
            check.together()
        traffic = self.server.traffic(self.name, self.goal.version)
        self.report(
            "watch",
            f"{elapsed_s + time.monotonic() - started:.0f} of {of_s:g} s: {self.checked.rows} rows checked; "
            f"{traffic.answered} requests answered in total, {traffic.failed} failed",
        )

    def put_back(self, named: "ModelConfig | None", present: Iterable[int]) -> str:
        """Let the server serve what it served before, and say what it serves now.

        Args:
            named: The config in the repository; None if it cannot be read.
            present: The versions in the model's directory.
        """
        try:
            said = self._put_back(self.before or Before((), None), named, tuple(present))
            self.after = self.server.ready_versions(self.name)
        except BuilderError as error:
            self.after = None
            self.state = "not put back" if self.was_told else "unchanged"
            self.reason = "; ".join(filter(None, (self.reason, f"not put back: {error.what}" if self.was_told else "")))
            return f"was not put back: {error.what}" if self.was_told else f"does not answer any more: {error.what}"
        return said

    def _put_back(self, before: Before, named: "ModelConfig | None", present: tuple[int, ...]) -> str:
        now = self.server.ready_versions(self.name)
        if not self.was_told:
            return f"still serves {numbered(now)}" if now else "serves no version, as before"
        if self.is_loaded and now not in (self.goal.versions, ()):
            self.state = "put back" if now == before.versions else "not put back"
            return f"serves {numbered(now)}, which somebody else has loaded, and is left as it is"
        if before.config is None:
            self.server.unload(self.name)
            self.state = "put back"
            return "serves no version, as before"
        is_named = (
            named is not None
            and policy.named_versions(named, present) == before.versions
            and loaded.is_made_from(before.config, named)
        )
        own = loaded.serving(before.config, before.versions)
        self.server.load(self.name, before.versions, config=None if is_named else own)
        self.state = "put back"
        return f"serves {numbered(before.versions)} again"

    def outcome(self) -> ServerOutcome:
        """Return how the server was left."""
        return ServerOutcome(
            address=str(self.server.address),
            before=self.before.versions if self.before else None,
            after=self.after,
            state=self.state,
            load_s=round(self.load_s, 3),
            requests=self.checked.requests,
            rows=self.checked.rows,
            largest_difference=dict(self.checked.largest),
            reason=self.reason,
            runs=self.runs,
            no_plan=self.no_plan,
        )

    def _checks(self) -> list[LiveCheck]:
        largest = self.server.config(self.name).max_batch_size
        return [
            self._check(
                self.name,
                proven,
                proven.version,
                largest,
                by_number=proven.version != self.goal.version,
                has_cache=self.goal.has_cache,
            )
            for proven in self.goal.proven
        ]

    def _check(
        self, name: str, proven: Proven, number: int, largest: int, *, by_number: bool, has_cache: bool
    ) -> LiveCheck:
        return LiveCheck(
            self.server,
            name,
            proven,
            label=f"{self.name} version {proven.version}",
            number=number,
            by_number=by_number,
            max_batch_size=min(largest, proven.interface.max_batch_size),
            has_cache=has_cache,
            slack=self.slack,
            checked=self.checked,
        )
