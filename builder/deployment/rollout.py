"""Deploy a version to running Tritons, in waves: try it, load it and check it, or put everything back as it was.

The order of what happens keeps two promises. Nothing changes before every server was looked at. And no server loads the
version under the model's own name, where clients get its answers, before it gave the right ones under another name:

    look       every server: can it be controlled, what does it serve, does it read this very repository
    for each wave of servers
      rehearse   the version is loaded as NAME.candidate, and checked
      switch     in the first wave only: config.pbtxt names the version
      load       the version is loaded as NAME
      check      its answers are checked, as clients get them
      watch      and again, for as long as was asked for

The repository is switched before a server loads the version, because a server loads what config.pbtxt names. If
anything fails, the repository is put back first, because a server that restarts loads what it names, and then every
server that was told to load the version.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from builder import interrupts
from builder.deployment import rehearsal, waves
from builder.deployment.goal import Goal, make_goal
from builder.deployment.live_server import LiveServer
from builder.deployment.mirror import Mirror, OnDisk
from builder.deployment.outcome import Deployment
from builder.deployment.rehearsal import ANOTHER_REPOSITORY, Candidate
from builder.deployment.server_run import ServerRun
from builder.deployment.switched import SwitchedConfig
from builder.deployment.together import in_turn, naming, on_each, raise_all, raise_first
from builder.deployment.waves import Reach
from builder.errors import BuilderError, HostError, Listing, RepositoryError
from builder.progress import Report, silent
from builder.publishing import ConfigChange
from builder.repository import DeploymentRecord, Repository, Wait, deploying, reported

WATCH_EVERY_S = 1.0
"""The time between two rounds of checks while watching: often enough to notice a fault, with little extra traffic."""

Finished = Callable[[Deployment], None]
"""Called with what a deployment did, also when it failed."""


def deploy(
    repository: Repository,
    name: str,
    servers: Sequence[LiveServer] | LiveServer,
    *,
    version: int | None = None,
    change: ConfigChange | None = None,
    rehearse: bool = True,
    watch_s: float = 0.0,
    slack: float = 1.0,
    steps: Sequence[Reach] = waves.DEFAULT,
    mirror: Mirror | None = None,
    report: Report = silent,
    finished: Finished = lambda done: None,
) -> Deployment:
    """Make servers that read the repository serve a version, after checking that its answers are the proven ones.

    If anything fails on one server, the repository and all servers are put back as they were. Requests that do not name
    a version are answered all the time.

    Args:
        repository: The repository that the servers read.
        name: The model.
        servers: Servers in explicit mode.
        version: The version to deploy. By default the one that the repository names.
        change: A change of its config to deploy instead, such as one of its settings.
        rehearse: Try the version under another name first, so that clients never get the answers of a bad one.
        watch_s: How long to continue checking after each wave, seconds.
        slack: A factor for the tolerances in the version's manifest.
        steps: How many servers have the version when each wave is done.
        mirror: What lets the servers read changes, if they do not read the folder itself.
        report: Called with each step, by one thread at a time.
        finished: Called with what was done, also when it failed, before the error is raised.

    Raises:
        RepositoryError: There is no such version, or it has no reference. Nothing has changed then.
        HostError: A server is down, reads another repository, refuses the load or is not ready in time.
        VerificationError: A server's answers are not the proven ones.
        ValueError: There are no servers.
    """
    every = [servers] if isinstance(servers, LiveServer) else list(servers)
    if not every:
        raise ValueError("there is no server to deploy to")
    with alone(repository, name, report) as record:
        make = partial(make_goal, repository, name, version, change)
        rollout = _begin(repository, make, every, rehearse, slack, mirror or OnDisk(), report, record)
        with rollout.finishing(finished):
            rollout.look()
            for wave in waves.split(rollout.runs, steps):
                rollout.deploy(wave, rehearse=rehearse, watch_s=watch_s)
            interrupts.hold()
            rollout.succeed()
        return rollout.result()


@contextmanager
def alone(repository: Repository, name: str, report: Report) -> Iterator[DeploymentRecord]:
    """Make other deployments of this model from this repository wait, and yield the record of where it is deployed."""
    path = repository.model(name).path
    with ExitStack() as stack:
        with reported(path):
            if not path.is_dir():
                repository.model(name).read_config()  # raises the error for a model that does not exist
            wait = Wait(report, repository.lock_timeout_s)
            record = stack.enter_context(deploying(repository.root, name, f"deploy {name}", wait))
        yield record


def _begin(
    repository: Repository,
    make: Callable[[], Goal],
    servers: Sequence[LiveServer],
    rehearse: bool,
    slack: float,
    mirror: Mirror,
    report: Report,
    record: DeploymentRecord,
) -> "_Rollout":
    """Read everything that is needed from the repository."""
    with mirror.changing():
        goal = make()
        switched = SwitchedConfig.now(repository, goal, mirror, report)
    largest = goal.proven[0].interface.max_batch_size
    if goal.has_cache and largest < 2 and not rehearse:
        what = "the server may answer from its response cache, so only a rehearsal can check the version"
        raise RepositoryError(goal.model.config_path, what, "deploy without --no-rehearsal, or remove response_cache")
    said = in_turn(report)
    runs = [
        ServerRun(server, goal, slack, said if len(servers) == 1 else naming(server.address, said))
        for server in servers
    ]
    return _Rollout(goal, switched, runs, mirror, said, record)


@dataclass(slots=True)
class _Rollout:
    """One deployment in progress.

    Attributes:
        goal: What every server is to serve.
        switched: The config.pbtxt, as it was and as it is.
        runs: The servers.
        mirror: What lets the servers read changes.
        report: Called with each step.
        record: Where it is written down what each server may serve.
        recorded: The servers that it was written down for.
        is_complete: Whether every server serves the version.
    """

    goal: Goal
    switched: SwitchedConfig
    runs: list[ServerRun]
    mirror: Mirror
    report: Report
    record: DeploymentRecord
    recorded: list[ServerRun] = field(default_factory=list)
    is_complete: bool = False

    def look(self) -> None:
        """Look at every server, before anything changes.

        Raises:
            HostError: One of them cannot be controlled, or reads another repository.
        """
        faults = on_each(self.runs, ServerRun.look)
        if not faults:
            strangers = rehearsal.find_strangers([run.server for run in self.runs], self.goal, self.mirror)
            for run in self.runs:
                if run.server in strangers:
                    what = f"it does not see the files in {self.goal.model.path.parent}, so it reads another repository"
                    faults.append((run, HostError(run.server.address, what, ANOTHER_REPOSITORY)))
        raise_all(faults)
        for number in self.goal.unproven:
            what = f"version {number}, which is served beside it, has no stored answers, and is not checked"
            self.report("note", what)

    def deploy(self, wave: Sequence[ServerRun], *, rehearse: bool, watch_s: float) -> None:
        """Deploy to the servers of one wave at once.

        Raises:
            BuilderError: It failed on one of them, or the repository cannot be switched.
        """
        if len(wave) < len(self.runs):
            names = ", ".join(str(run.server.address) for run in wave)
            self.report("wave", f"{len(wave)} of {len(self.runs)} servers: {names}")
        rehearsing = [run for run in wave if rehearse and run.needs_rehearsal]
        if rehearsing:
            self._rehearse(rehearsing)
        for run in wave:
            self.record.set(run.server.address, {*run.served_before, *self.goal.versions})
            self.recorded.append(run)
        self.switched.switch()
        raise_first(on_each(wave, ServerRun.load))
        raise_first(on_each(wave, ServerRun.check))
        self._watch(wave, watch_s)
        for run in wave:
            run.state, run.after = "deployed", self.goal.versions

    def _rehearse(self, runs: Sequence[ServerRun]) -> None:
        candidate = Candidate(self.goal, self.mirror)
        with candidate.placed():
            try:
                faults = on_each(runs, lambda run: run.rehearse(candidate))
                not_ready = [run for run, _ in faults if not run.has_candidate]
                if not_ready:
                    candidate.replace()
                    on_each(not_ready, lambda run: candidate.reload(run.server))
            finally:
                unloading = on_each(runs, lambda run: candidate.unload(run.server))
        raise_first([*faults, *unloading])

    def _watch(self, wave: Sequence[ServerRun], seconds: float) -> None:
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            time.sleep(min(WATCH_EVERY_S, seconds - elapsed))
            raise_first(on_each(wave, lambda run: run.watch(time.monotonic() - started, seconds)))

    @contextmanager
    def finishing(self, finished: Finished) -> Iterator[None]:
        """Run the deployment; if it fails, put everything back, and say so in the error.

        Raises:
            BuilderError: It failed, or was interrupted and could not be put back.
        """
        try:
            yield
        except BaseException as error:
            said = self._put_back()
            finished(self.result())
            if isinstance(error, BuilderError):
                raise type(error)(error.where, _with(error.what, said), error.fix) from error
            if any(run.state == "not put back" for run in self.runs) or self.switched.is_stuck:
                fix = f"run `python -m builder deploy {self.goal.model.name}` again when the cause is removed"
                what = f"the deployment was interrupted; {said}"
                raise RepositoryError(self.goal.model.path, what, fix) from error
            raise
        finished(self.result())

    def succeed(self) -> None:
        """Write down that every server serves the version."""
        self.is_complete = True
        with suppress(RepositoryError):  # what is recorded is more than what is served
            for run in self.runs:
                self.record.set(run.server.address, self.goal.versions)

    def result(self) -> Deployment:
        """Return what was done so far."""
        return Deployment(
            name=self.goal.model.name,
            version=self.goal.version,
            versions=self.goal.versions,
            named_before=self.switched.before,
            named_after=self.switched.named(),
            servers=tuple(run.outcome() for run in self.runs),
            is_complete=self.is_complete,
            config_diff=self.switched.diff if self.is_complete else "",
        )

    def _put_back(self) -> str:
        """Put the repository and every server back, and say how that ended."""
        repository = self.switched.put_back(self._instead())
        looked_at = [run for run in self.runs if run.before is not None]
        named, present = self.switched.config(), self.goal.model.versions()
        said: dict[str, str] = {}

        def put_back(run: ServerRun) -> None:
            sentence = run.put_back(named, present)
            said[str(run.server.address)] = sentence
            run.report("restore", f"{run.server.address} {sentence}")

        try:
            on_each(looked_at, put_back)
        except KeyboardInterrupt:
            for run in looked_at:
                if run.was_told and str(run.server.address) not in said:
                    run.state, run.after = "not put back", None
                    said[str(run.server.address)] = "was not put back: that was interrupted as well"
        with suppress(RepositoryError):  # what is recorded is more than what is served
            for run in self.recorded:
                if run.state != "not put back":
                    self.record.set(run.server.address, run.served_before)
        return _summary(self.runs, said, repository)

    def _instead(self) -> int | None:
        """Return the highest version that servers keep in place of the one that failed; None if it was not tried."""
        if not any(run.was_tried for run in self.runs):
            return None
        kept = {run.served_before[-1] for run in self.runs if run.served_before}
        return max(kept - {self.goal.version}, default=None)


def _with(what: str, said: str) -> str:
    if isinstance(what, Listing):
        clause, *items = what.lines
        return Listing(f"{clause}; {said}", items)
    return f"{what}; {said}"


def _summary(runs: Sequence[ServerRun], said: dict[str, str], repository: str) -> str:
    """Say in one clause how everything was left."""
    if len(runs) == 1:
        sentence = said.get(str(runs[0].server.address))
        return f"the server {sentence}, and {repository}" if sentence else f"nothing was changed: {repository}"
    counts = []
    for state, words in (("unchanged", "unchanged"), ("put back", "put back"), ("not put back", "NOT put back")):
        those = [run for run in runs if run.state == state]
        if those:
            names = f" ({', '.join(str(run.server.address) for run in those)})" if state == "not put back" else ""
            counts.append(f"{len(those)} {'is' if len(those) == 1 else 'are'} {words}{names}")
    return f"of {len(runs)} servers, {', '.join(counts)}; {repository}"
