"""The config.pbtxt of a deployment: switched to the version before servers load it, and put back if that fails."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import interrupts
from builder.config import pbtxt
from builder.deployment.goal import Goal
from builder.deployment.mirror import Mirror
from builder.errors import BuilderError, RepositoryError
from builder.progress import Report
from builder.publishing import carry_out, put_back
from builder.repository import KeptConfig, Repository

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


@dataclass(slots=True)
class SwitchedConfig:
    """The config.pbtxt of a model that is deployed.

    Attributes:
        repository: The repository.
        goal: What the config is to serve.
        mirror: What lets servers read changes.
        report: Called with each change.
        former: The content before the deployment.
        before: The version that it named then.
        written: What the deployment wrote; None until then.
        diff: What that changed, as a unified diff.
        kept: The file that the deployment kept the former config in, if it wrote one.
        is_stuck: Whether it could not be put back.
    """

    repository: Repository
    goal: Goal
    mirror: Mirror
    report: Report
    former: bytes
    before: int
    written: bytes | None = None
    diff: str = ""
    kept: KeptConfig | None = None
    is_stuck: bool = False

    @classmethod
    def now(cls, repository: Repository, goal: Goal, mirror: Mirror, report: Report) -> "SwitchedConfig":
        """Read the config as it is.

        Raises:
            RepositoryError: It cannot be read.
        """
        return cls(repository, goal, mirror, report, _content(goal), goal.model.served_version())

    def switch(self) -> None:
        """Make the config serve the version, if it does not yet; check that nobody else has changed it.

        Raises:
            RepositoryError: Somebody has changed it, or the repository cannot be written to.
        """
        with self.mirror.changing(), interrupts.apart():
            if _content(self.goal) != (self.former if self.written is None else self.written):
                what = f"somebody has changed it since the deployment of version {self.goal.version} began"
                raise RepositoryError(self.goal.model.config_path, what, "deploy again")
            if self.goal.change is None or self.written is not None:
                return
            done = carry_out(self.repository, self.goal.model.name, self.goal.change)
            self.written, self.diff = _content(self.goal), done.diff
            self.kept = done.kept if done.is_newly_kept else None
        if done.after == done.before:
            self.report("switch", f"the repository has the new config of version {done.after}")
        else:
            self.report("switch", f"the repository names version {done.after} instead of {done.before}")

    def put_back(self, instead: int | None = None) -> str:
        """Put the former config back, if this deployment has changed it, and say what the repository names.

        Args:
            instead: What servers go on serving in place of a version that failed; None if nothing failed yet.
        """
        try:
            with self.mirror.changing():
                return self._put_back() + self._warning(instead)
        except BuilderError as error:
            self.is_stuck = True
            return f"the repository could not be put back: {error.where}: {error.what}"
        except KeyboardInterrupt:
            self.is_stuck = True
            return "the repository was not put back: that was interrupted as well"

    def _put_back(self) -> str:
        now = _content(self.goal)
        if now not in (self.former, self.written):
            return f"the repository now names version {self.named()}, which somebody else has set, and is left as it is"
        if now == self.former:
            return f"the repository names version {self.before}, as before"
        with interrupts.apart():
            put_back(self.repository, self.goal.model.name, self.former, instead_of=now, forget=self.kept)
        return f"the repository names version {self.before} again"

    def _warning(self, instead: int | None) -> str:
        """Say what follows when the repository named the failed version already."""
        if instead is None or self.named() != self.goal.version or self.before != self.goal.version:
            return ""
        name = self.goal.model.name
        return f": a server that restarts loads it, until you run `python -m builder rollback {name} --to {instead}`"

    def named(self) -> int:
        """Return the version that it names now; 0 if that cannot be read."""
        try:
            return self.goal.model.served_version()
        except RepositoryError:
            return 0

    def config(self) -> "ModelConfig | None":
        """Return what it says now; None if it cannot be read."""
        try:
            return pbtxt.parse(self.goal.model.read_config(), where=self.goal.model.config_path)
        except RepositoryError:
            return None


def _content(goal: Goal) -> bytes:
    content = goal.model.find_config_bytes()
    if content is None:
        goal.model.read_config()  # raises the error for a model that does not exist
    return content or b""
