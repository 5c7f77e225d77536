"""Deploy a version to a running Triton: try it, switch the repository, load, check live, or put the old one back."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from builder.config import PROVENANCE_PREFIX, pbtxt
from builder.deployment import rehearsal
from builder.deployment.live_check import Checked, LiveCheck
from builder.deployment.live_server import LiveServer
from builder.errors import BuilderError, HostError
from builder.progress import Report
from builder.publishing import roll_back
from builder.record import Manifest
from builder.repository import ModelDirectory, Repository
from builder.repository.staging import reported
from builder.tensors import Array

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


WATCH_EVERY_S = 1.0
"""Between two rounds of checks while watching: enough to see a fault, little beside the traffic."""

_MODEL_SHA256 = f"{PROVENANCE_PREFIX}model_sha256"
_ANOTHER_REPOSITORY = "give --repository the one that the server reads"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version that is live, and what was seen of it.

    Attributes:
        name: The model.
        version: The version that answers now.
        before: The version that answered before; None when the server did not serve the model.
        server: Its address.
        load_s: Seconds until the server had loaded it; the version before served until then.
        requests: How many requests were checked.
        rows: How many rows were in them.
        largest_difference: Between any answer and the reference, by output.
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
    report: Report = lambda *_: None,
) -> Deployment:
    """Serve a version of the repository from the server that reads it, once it is seen to answer as it was proven to.

    On any failure the version that the server served before is put back: in the repository, and on the server.
    Requests that name no version are answered all the while.

    Args:
        repository: That the server reads.
        name: The model.
        server: In explicit mode.
        version: Default: the one that the repository names.
        rehearse: Try the version under another name first, so that no client meets a bad one.
        watch_s: How long to go on checking, seconds.
        slack: Multiplies the tolerances of the version's manifest.
        report: Told of every step.

    Raises:
        RepositoryError: There is no such version, or it has no reference. Nothing changed.
        HostError: The server is down, reads another repository, refuses the load or is not ready in time.
        VerificationError: The server answers otherwise than was proven.
    """
    with _alone(repository, name, report):
        attempt = _prepare(repository, name, server, version, slack, report)
        try:
            attempt.switch()
            if rehearse and attempt.version != attempt.served:
                attempt.rehearse()
            attempt.load()
            attempt.check()
            attempt.watch(watch_s)
        except BaseException as error:
            outcome = attempt.put_back()
            report("back", outcome)
            if isinstance(error, BuilderError):
                raise type(error)(error.where, f"{error.what}; {outcome}", error.fix) from error
            raise
        return attempt.result()


@contextmanager
def _alone(repository: Repository, name: str, report: Report) -> Iterator[None]:
    """Hold off other deployments of this model from this repository."""
    folder = repository.root.parent / f".{repository.root.name}.deploy"
    path = repository.model(name).path
    with reported(path):
        if not path.is_dir():
            repository.model(name).read_config()  # says that there is no such model
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            report("wait", f"for another deployment of {name}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prepare(
    repository: Repository, name: str, server: LiveServer, version: int | None, slack: float, report: Report
) -> "_Attempt":
    """Read all that is needed and ask the server all that can be asked before anything changes."""
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
    """The version that the server serves now, None when it has not loaded the model.

    Raises:
        HostError: The server reads another repository.
    """
    if not server.knows(model.name):
        what = f"its repository holds no model {model.name!r}: it reads another one"
        raise HostError(server.address, what, _ANOTHER_REPOSITORY)
    ready = server.ready_versions(model.name)
    if not ready:
        return None
    served = ready[-1]
    theirs = server.config(model.name).parameters
    if model.is_published(served) and _MODEL_SHA256 in theirs:
        ours = model.read_manifest(served).model.sha256
        if theirs[_MODEL_SHA256].string_value != ours:
            what = f"its version {served} of {model.name!r} is another model than the one in {model.path}"
            raise HostError(server.address, what, _ANOTHER_REPOSITORY)
    return served


@dataclass(slots=True)
class _Attempt:
    """One deployment under way.

    Attributes:
        version: To deploy.
        named: The version that the repository named before.
        served: The version that the server served before.
        load_s: Set once it is loaded.
        was_touched: Whether the server was asked to load it under its own name.
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

    def switch(self) -> None:
        """Have the repository name the version."""
        switch = roll_back(self.repository, self.model.name, self.version)
        if switch.before != switch.after:
            self.report("switch", f"the repository names version {switch.after} in place of {switch.before}")

    def rehearse(self) -> None:
        """Try the version under another name."""
        with rehearsal.rehearsed(self.model, self.version, self.server) as candidate:
            check = self._make_check(candidate, rehearsal.VERSION)
            check.one_at_a_time()
            check.together()
        self.report("rehearse", f"as {candidate}, {self.checked.rows} rows equal the reference")

    def load(self) -> None:
        """Load the version under its own name, in place of the one before."""
        self.was_touched = True
        self.load_s = self.server.load(self.model.name, self.version)
        self._check_config()
        self.report("load", f"version {self.version} is ready after {self.load_s:.1f} s")

    def check(self) -> None:
        """Compare its answers, as clients get them."""
        check = self._make_check(self.model.name, self.version)
        check.one_at_a_time()
        check.together()
        self.report("check", f"{self.checked.rows} rows in {self.checked.requests} requests equal the reference")

    def watch(self, seconds: float) -> None:
        """Go on checking, beside whatever else the server has to do."""
        check = self._make_check(self.model.name, self.version)
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            time.sleep(min(WATCH_EVERY_S, seconds - elapsed))
            check.together()
            traffic = self.server.traffic(self.model.name, self.version)
            self.report(
                "watch",
                f"{time.monotonic() - started:.0f} of {seconds:g} s: {self.checked.rows} rows checked; "
                f"{traffic.answered} requests answered in all, {traffic.failed} failed",
            )

    def put_back(self) -> str:
        """Undo it; say what came of that."""
        target = self.named if self.served is None else self.served
        try:
            if (named := self.model.served_version()) != self.version:
                return f"the repository names version {named}, and is left as it is"
            if self.version == self.served:
                return f"version {self.version} was served before as well, and stays: there is nothing to put back"
            roll_back(self.repository, self.model.name, target)
        except BuilderError as error:
            return f"version {target} could not be put back: {error.where}: {error.what}"
        try:
            return self._put_server_back(target)
        except BuilderError as error:
            return f"the repository names version {target} again, but the server could not be told: {error.what}"

    def result(self) -> Deployment:
        """What came of it."""
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

    def _put_server_back(self, target: int) -> str:
        if self.served is None:
            if self.was_touched:
                self.server.unload(self.model.name)
            return f"the server serves no version, as before, and the repository names version {target}"
        if self.was_touched:
            self.server.load(self.model.name, target)
        return (
            f"version {target} is {'served again' if self.was_touched else 'still served'}, and the repository names it"
        )

    def _make_check(self, name: str, version: int) -> LiveCheck:
        return LiveCheck(
            self.server,
            name,
            version,
            self.manifest,
            self.reference,
            called=f"{self.model.name} version {self.version}",
            max_batch_size=self.model.max_batch_size() or 0,
            slack=self.slack,
            checked=self.checked,
        )

    def _check_config(self) -> None:
        """Check that what was loaded is the config that is here.

        Raises:
            HostError: It is not: the server reads another repository, or changes configs on its way.
        """
        ours = pbtxt.parse(self.model.read_config(), where=self.model.config_path)
        theirs = self.server.config(self.model.name)
        for what, here, there in zip(_SETTINGS, _settings(ours), _settings(theirs), strict=True):
            if here != there:
                problem = f"{self.model.config_path} is not what it loaded: there {what} is {here}, on it {there}"
                raise HostError(self.server.address, problem, _ANOTHER_REPOSITORY)


_SETTINGS = ("max_batch_size", "the served version", "the model", "the inputs", "the outputs")


def _settings(config: "ModelConfig") -> Iterator[Any]:
    """What a server takes over from a config as it is."""
    yield config.max_batch_size
    yield list(config.version_policy.specific.versions)
    yield config.parameters[_MODEL_SHA256].string_value if _MODEL_SHA256 in config.parameters else None
    for side in (config.input, config.output):
        yield sorted((tensor.name, tensor.data_type, list(tensor.dims)) for tensor in side)
