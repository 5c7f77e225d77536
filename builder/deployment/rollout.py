"""Deploy a version to a running Triton: switch to it, try it, load it and check it, or restore the previous one."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder import interrupts
from builder.config import PROVENANCE_PREFIX, pbtxt
from builder.deployment import rehearsal
from builder.deployment.live_check import Checked, LiveCheck
from builder.deployment.live_server import LiveServer
from builder.deployment.rehearsal import ANOTHER_REPOSITORY
from builder.errors import BuilderError, HostError, RepositoryError
from builder.progress import Report, silent
from builder.publishing import roll_back
from builder.record import Manifest
from builder.repository import DeploymentRecord, ModelDirectory, Repository, Wait, deploying, reported
from builder.tensors import Array

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


WATCH_EVERY_S = 1.0
"""The time between two rounds of checks while watching: often enough to notice a fault, with little extra traffic."""

_MODEL_SHA256 = f"{PROVENANCE_PREFIX}model_sha256"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version that is live, and how it was checked.

    Attributes:
        name: The model.
        version: The version that answers now.
        before: The version that answered before; None if the server did not serve the model.
        server: The server's address.
        load_s: The seconds until the version was loaded. The previous version served until then.
        requests: The number of requests that were checked.
        rows: The number of rows in them.
        largest_difference: The largest difference between an answer and the reference, by output.
    """

    name: str
    version: int
    before: int | None
    server: str
    load_s: float
    requests: int
    rows: int
    largest_difference: Mapping[str, float]


def deploy(
    repository: Repository,
    name: str,
    server: LiveServer,
    *,
    version: int | None = None,
    rehearse: bool = True,
    watch_s: float = 0.0,
    slack: float = 1.0,
    report: Report = silent,
) -> Deployment:
    """Make the server that reads the repository serve a version, after checking that its answers are the proven ones.

    If anything fails, the version that was served before is restored, in the repository and on the server. Requests
    that do not name a version are answered all the time.

    Args:
        repository: The repository that the server reads.
        name: The model.
        server: A server in explicit mode.
        version: The version to deploy. By default the one that the repository names.
        rehearse: Try the version under another name first, so that clients never get the answers of a bad one.
        watch_s: How long to continue checking, seconds.
        slack: A factor for the tolerances in the version's manifest.
        report: Called with each step.

    Raises:
        RepositoryError: There is no such version, or it has no reference. Nothing has changed then.
        HostError: The server is down, reads another repository, refuses the load or is not ready in time.
        VerificationError: The server's answers are not the proven ones.
    """
    with _alone(repository, name, report) as record:
        attempt = _prepare(repository, name, server, version, slack, report)
        before = () if attempt.served is None else (attempt.served,)
        record.set(server.address, {*before, attempt.version})
        try:
            attempt.switch()
            if rehearse and attempt.version != attempt.served:
                attempt.rehearse()
            attempt.load()
            attempt.check()
            attempt.watch(watch_s)
            interrupts.hold()
        except BaseException as error:
            outcome = attempt.restore()
            report("restore", outcome)
            if attempt.is_restored:
                with suppress(RepositoryError):  # what is recorded is more than what is served
                    record.set(server.address, before)
            if isinstance(error, BuilderError):
                raise type(error)(error.where, f"{error.what}; {outcome}", error.fix) from error
            if not attempt.is_restored:
                fix = f"run `python -m builder deploy {name}` again when the cause is removed"
                raise RepositoryError(attempt.model.path, f"the deployment was interrupted; {outcome}", fix) from error
            raise
        with suppress(RepositoryError):  # what is recorded is more than what is served
            record.set(server.address, [attempt.version])
        return attempt.result()


@contextmanager
def _alone(repository: Repository, name: str, report: Report) -> Iterator[DeploymentRecord]:
    """Make other deployments of this model from this repository wait, and yield the record of where it is deployed."""
    path = repository.model(name).path
    with ExitStack() as stack:
        with reported(path):
            if not path.is_dir():
                repository.model(name).read_config()  # raises the error for a model that does not exist
            wait = Wait(report, repository.lock_timeout_s)
            record = stack.enter_context(deploying(repository.root, name, f"deploy {name}", wait))
        yield record


def _prepare(
    repository: Repository, name: str, server: LiveServer, version: int | None, slack: float, report: Report
) -> "_Attempt":
    """Read everything that is needed, and check the server as far as possible, before anything changes."""
    model = repository.model(name)
    named = model.served_version()
    version = named if version is None else version
    manifest, reference = model.read_manifest(version), model.read_reference(version)
    model.check_complete(version)
    server.check_control()
    served = _served(server, model)
    report("server", f"{server.address} serves {'no version' if served is None else f'version {served}'} of {name}")
    return _Attempt(repository, model, server, version, named, served, manifest, reference, slack, report)


def _served(server: LiveServer, model: ModelDirectory) -> int | None:
    """Return the version that the server serves now, or None if it has not loaded the model.

    Raises:
        HostError: The server reads another repository.
    """
    if not server.knows(model.name):
        what = f"its repository has no model {model.name!r}, so it reads another repository"
        raise HostError(server.address, what, ANOTHER_REPOSITORY)
    ready = server.ready_versions(model.name)
    if not ready:
        return None
    served = ready[-1]
    theirs = server.config(model.name).parameters
    if model.is_published(served) and _MODEL_SHA256 in theirs:
        ours = model.read_manifest(served).model.sha256
        if theirs[_MODEL_SHA256].string_value != ours:
            what = f"its version {served} of {model.name!r} is not the one in {model.path}"
            raise HostError(server.address, what, ANOTHER_REPOSITORY)
    return served


@dataclass(slots=True)
class _Attempt:
    """One deployment in progress.

    Attributes:
        version: The version to deploy.
        named: The version that the repository named before.
        served: The version that the server served before; None if it did not serve the model.
        load_s: How long the load took, seconds; 0 until then.
        was_touched: Whether the server was asked to load the version under the model's own name.
        is_restored: Whether everything is as it was before, once `restore` was called.
    """

    repository: Repository
    model: ModelDirectory
    server: LiveServer
    version: int
    named: int
    served: int | None
    manifest: Manifest
    reference: Mapping[str, Array]
    slack: float
    report: Report
    checked: Checked = field(default_factory=Checked)
    load_s: float = 0.0
    was_touched: bool = False
    is_restored: bool = True

    def switch(self) -> None:
        """Make the version the one that the repository's config names.

        Raises:
            RepositoryError: It was to be the one that is named, but somebody has published another since.
        """
        if self.version == self.named and self.model.served_version() != self.named:
            what = f"it no longer names version {self.named}, which was to be deployed"
            raise RepositoryError(self.model.config_path, what, "deploy again")
        with interrupts.apart():
            switch = roll_back(self.repository, self.model.name, self.version)
        self.named = switch.before
        if switch.before != switch.after:
            self.report("switch", f"the repository names version {switch.after} instead of {switch.before}")

    def rehearse(self) -> None:
        """Try the version under another name."""
        with rehearsal.rehearsed(self.model, self.version, self.server) as candidate:
            check = self._make_check(candidate, rehearsal.VERSION)
            check.one_at_a_time()
            check.together()
        self.report("rehearse", f"{self.checked.rows} rows match the reference, served as {candidate}")

    def load(self) -> None:
        """Load the version under the model's own name, in place of the previous one."""
        self.was_touched = True
        self.load_s = self.server.load(self.model.name, self.version)
        self._check_config()
        self.report("load", f"version {self.version} is ready after {self.load_s:.1f} s")

    def check(self) -> None:
        """Compare the answers that clients get."""
        check = self._make_check(self.model.name, self.version)
        check.one_at_a_time()
        check.together()
        self.report("check", f"{self.checked.rows} rows in {self.checked.requests} requests match the reference")

    def watch(self, seconds: float) -> None:
        """Continue checking while the server answers its clients."""
        check = self._make_check(self.model.name, self.version)
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            time.sleep(min(WATCH_EVERY_S, seconds - elapsed))
            check.together()
            traffic = self.server.traffic(self.model.name, self.version)
            self.report(
                "watch",
                f"{time.monotonic() - started:.0f} of {seconds:g} s: {self.checked.rows} rows checked; "
                f"{traffic.answered} requests answered in total, {traffic.failed} failed",
            )

    def restore(self) -> str:
        """Return to the state before the deployment, and say what was done.

        The repository comes first, because a server that restarts loads the version that the repository names. When
        version 2 was to replace version 1, one of these happens:

        - Version 2 failed under its candidate name: the repository names version 1 again. The server never loaded
          version 2 in its place, so it still serves version 1.
        - Version 2 was loaded and answered wrongly: the repository names version 1 again, and the server loads it. It
          answers with version 2 until version 1 is ready.
        - The server did not serve the model before: the repository names the version that it named before, and the
          server unloads the model.
        - Somebody has switched the repository to version 3 since: everything stays as it is.
        - The server already served version 2: everything stays as it is.
        """
        target = self.named if self.served is None else self.served
        try:
            return self._restore(target)
        except KeyboardInterrupt:
            self.is_restored = False
            return f"restoring version {target} was interrupted as well"

    def _restore(self, target: int) -> str:
        try:
            if (named := self.model.served_version()) != self.version:
                return f"the repository now names version {named}, and is left as it is"
            if self.version == self.served:
                return f"version {self.version} was already served before, so there is nothing to restore"
            with interrupts.apart():
                roll_back(Repository(self.repository.root, report=self.report), self.model.name, target)
        except BuilderError as error:
            self.is_restored = False
            return f"version {target} could not be restored: {error.where}: {error.what}"
        try:
            return self._restore_server(target)
        except BuilderError as error:
            self.is_restored = False
            return f"the repository names version {target} again, but the server was not switched back: {error.what}"

    def result(self) -> Deployment:
        """Summarize the deployment."""
        checked = self.checked
        return Deployment(
            name=self.model.name,
            version=self.version,
            before=self.served,
            server=str(self.server.address),
            load_s=self.load_s,
            requests=checked.requests,
            rows=checked.rows,
            largest_difference=checked.largest,
        )

    def _restore_server(self, target: int) -> str:
        if self.served is None:
            if self.was_touched:
                self.server.unload(self.model.name)
            return f"the server serves no version, as before, and the repository names version {target}"
        if self.was_touched:
            self.server.load(self.model.name, target)
        how = "served again" if self.was_touched else "still served"
        return f"version {target} is {how}, and the repository names it"

    def _make_check(self, name: str, version: int) -> LiveCheck:
        return LiveCheck(
            self.server,
            name,
            version,
            self.manifest,
            self.reference,
            label=f"{self.model.name} version {self.version}",
            max_batch_size=self.model.max_batch_size() or 0,
            slack=self.slack,
            checked=self.checked,
        )

    def _check_config(self) -> None:
        """Check that the server loaded the config of this repository.

        Raises:
            HostError: It loaded another one: it reads another repository, or something changes its configs.
        """
        ours = pbtxt.parse(self.model.read_config(), where=self.model.config_path)
        theirs = self.server.config(self.model.name)
        for setting, here, there in zip(_SETTINGS, _settings(ours), _settings(theirs), strict=True):
            if here != there:
                what = f"it did not load {self.model.config_path}: {setting} is {there}, but {here} in the file"
                raise HostError(self.server.address, what, ANOTHER_REPOSITORY)


_SETTINGS = ("max_batch_size", "the served version", "the model's digest", "the list of inputs", "the list of outputs")


def _settings(config: "ModelConfig") -> Iterator[Any]:
    """Yield the settings that a server uses unchanged, in the order of `_SETTINGS`."""
    yield config.max_batch_size
    yield str(config.version_policy).split()
    yield config.parameters[_MODEL_SHA256].string_value if _MODEL_SHA256 in config.parameters else None
    for side in (config.input, config.output):
        yield sorted((tensor.name, tensor.data_type, list(tensor.dims)) for tensor in side)
