"""Try a change of a config out on a server that has no clients, and deploy nothing."""

from contextlib import suppress

from builder.deployment.goal import make_goal
from builder.deployment.live_server import LiveServer
from builder.deployment.mirror import OnDisk
from builder.deployment.rehearsal import Candidate
from builder.deployment.rollout import alone
from builder.deployment.server_run import ServerRun
from builder.errors import HostError
from builder.progress import Report, silent
from builder.publishing import ConfigChange
from builder.repository import Repository


def try_out(
    repository: Repository,
    name: str,
    server: LiveServer,
    change: ConfigChange,
    *,
    slack: float = 1.0,
    report: Report = silent,
) -> None:
    """Load a model under another name, with the config that a change would make, and check its answers.

    Neither config.pbtxt nor what the server has under the model's own name changes.

    Args:
        repository: The repository that the server reads.
        name: The model.
        server: A server in explicit mode.
        change: The change of the config.
        slack: A factor for the tolerances in the version's manifest.
        report: Called with each step.

    Raises:
        RepositoryError: The change cannot be made, or its answers cannot be checked.
        HostError: The server does not load it, or does not answer.
        VerificationError: An answer is not the proven one.
    """
    with alone(repository, name, report):
        goal = make_goal(repository, name, change=change)
        candidate = Candidate(goal, OnDisk())
        run = ServerRun(server, goal, slack, report)
        server.check_control()
        with candidate.placed():
            try:
                run.rehearse(candidate)
            finally:
                with suppress(HostError):  # a server that died has no candidate
                    candidate.unload(server)
