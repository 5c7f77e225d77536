"""Write the best configuration to config.pbtxt once a server has given the right answers with it, and take it back."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from builder.deployment import LiveServer
from builder.progress import Report, silent
from builder.publishing import ConfigChange
from builder.repository import Repository
from builder.tuning.conditions import ModelFacts
from builder.tuning.found import Found
from builder.tuning.record import TuningStore

Prove = Callable[[ConfigChange], None]
"""Raises an error unless a server gives the right answers with a change of the config."""

Connect = Callable[[Sequence[str]], AbstractContextManager[Sequence[LiveServer]]]
"""Connects to servers by their addresses."""

_TUNED = ("max_batch_size", "dynamic_batching", "instance_group", "optimization", "sequence_batching")
"""The fields at the top of a config that a tuning sets, or that decide what its settings mean."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was written back, or taken back.

    Attributes:
        name: The model.
        is_changed: Whether config.pbtxt was changed.
        why: What was done, or why nothing was, as a clause.
        diff: What changed in config.pbtxt, as a unified diff; empty when nothing did.
        kept: The file in the model's folder in which the config before is kept; None if there is none.
        before_sha256: The digest of config.pbtxt before.
        after_sha256: Its digest now.
        servers: The servers that it was deployed to.
        at: When, in UTC.
        notes: What the operator should know; one sentence each.
    """

    name: str
    is_changed: bool
    why: str
    diff: str = ""
    kept: str | None = None
    before_sha256: str = ""
    after_sha256: str = ""
    servers: tuple[str, ...] = ()
    at: str = ""
    notes: tuple[str, ...] = ()


def apply(
    repository: Repository,
    name: str,
    store: TuningStore,
    *,
    measured: ModelFacts,
    found: Found,
    servers: Sequence[LiveServer] = (),
    prove: Prove | None = None,
    slack: float = 1.0,
    report: Report = silent,
) -> Applied:
    """Write the best configuration to config.pbtxt, if it is better than the one that is there.

    It is tried first, as `NAME.candidate`: on the servers, which then load it, or on an embedded one. If it fails
    anywhere, config.pbtxt and every server are as they were. `undo` takes it back, and so does `roll_back`.

    Args:
        repository: The repository.
        name: The model.
        store: The model's records.
        measured: The model and the config that were measured.
        found: What the tuning found.
        servers: The servers to deploy it to.
        prove: What to do instead of trying it on an embedded server.
        slack: A factor for the tolerances in the version's manifest.
        report: Called with each step.

    Raises:
        RepositoryError: The settings that were tuned have been changed since they were measured, another version is
            served, or the repository cannot be written to.
        HostError: A server does not load it, or does not answer.
        VerificationError: An answer is not the proven one.
    """
    raise NotImplementedError


def undo(
    repository: Repository, name: str, store: TuningStore, *, connect: Connect, report: Report = silent
) -> Applied:
    """Bring back the config from before the last tuning that was applied, also on the servers that have it.

    What was changed elsewhere in the config since stays. Each further call takes back the tuning before.

    Args:
        repository: The repository.
        name: The model.
        store: The model's records.
        connect: Connects to the servers.
        report: Called with each step.

    Raises:
        RepositoryError: The settings that were tuned have been changed since, or the repository cannot be written to.
        HostError: A server does not load it, or does not answer.
        VerificationError: An answer is not the proven one.
    """
    raise NotImplementedError
