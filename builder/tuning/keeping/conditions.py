"""What the measurements of a tuning hold for, and in what two tunings differ."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from builder.config import THREADS, lineage, pbtxt
from builder.errors import RepositoryError
from builder.repository import ModelDirectory
from builder.tuning.bench import MachineFacts
from builder.tuning.measurement import Load
from builder.tuning.search import Goal
from builder.tuning.wording import count, say_load

_TUNED = ("max_batch_size", "dynamic_batching", "sequence_batching", "instance_group", "optimization")
"""Fields at the top of a config."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that is measured.

    Attributes:
        version: Its version.
        sha256: The digest of the version's files.
        config_sha256: The digest of config.pbtxt.
        config: The text of config.pbtxt.
    """

    version: int
    sha256: str
    config_sha256: str
    config: str

    @classmethod
    def of(cls, model: ModelDirectory, version: int) -> "ModelFacts":
        """Read the facts about a model.

        Raises:
            RepositoryError: There is no such version, or its config or its manifest cannot be read.
        """
        content, text = model.find_config_bytes() or b"", model.read_config()
        digest = model.read_manifest(version).model.sha256
        return cls(version, digest, hashlib.sha256(content).hexdigest(), text)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What measurements hold for.

    Attributes:
        model: The model and its config.
        goal: The limit and the load.
        stage_time_s: How long each run measured, in seconds.
        protocol: How the requests were sent.
        server: The address of the server; None for the embedded one.
        machine: The machine that sent the requests, and ran the server if that is embedded.
        software: The versions of what was measured, such as `{"triton": "2.51.0"}`.
        fixed: What was held as it is meanwhile, such as other models on the server; one sentence each.
    """

    model: ModelFacts
    goal: Goal
    stage_time_s: float
    protocol: str
    server: str | None
    machine: MachineFacts
    software: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()


def differences(before: Conditions, now: Conditions) -> tuple[str, ...]:
    """Say in what the conditions of a tuning differ from those before, one clause each; none if they are the same."""
    return tuple(_differences(before, now))


def _differences(before: Conditions, now: Conditions) -> Iterator[str]:
    yield from _of_models(before.model, now.model)
    yield from _of_goals(before.goal, now.goal)
    if before.stage_time_s != now.stage_time_s:
        yield f"a run took {before.stage_time_s:g} s, and takes {now.stage_time_s:g} s now"
    if before.protocol != now.protocol:
        yield f"the requests were sent over {before.protocol}, and are sent over {now.protocol} now"
    if before.server != now.server:
        yield f"{_server(before)} was measured, and {_server(now)} is measured now"
    yield from _of_machines(before.machine, now.machine)
    for name in sorted({*before.software, *now.software}):
        was, is_now = before.software.get(name, "not there"), now.software.get(name, "not there")
        if was != is_now:
            yield f"{name} was {was}, and is {is_now} now"
    if before.fixed != now.fixed:
        was, is_now = "; ".join(before.fixed) or "nothing", "; ".join(now.fixed) or "nothing"
        yield f"what was held fixed was: {was}; now it is: {is_now}"


def _server(conditions: Conditions) -> str:
    return conditions.server or "the embedded server"


def _of_models(before: ModelFacts, now: ModelFacts) -> Iterator[str]:
    if before.version != now.version:
        yield f"version {before.version} was measured, and it is version {now.version} now"
    elif before.sha256 != now.sha256:
        yield f"the files of version {now.version} have changed"
    if changed := changed_fields(before.config, now.config):
        yield f"config.pbtxt has another {', '.join(changed)} now"


def changed_fields(before: str, now: str) -> tuple[str, ...]:
    """Return the fields at the top of a config in which two texts differ; which config came before does not count.

    Comments and layout do not count either. A text that is no config has everything changed.
    """
    try:
        old, new = (pbtxt.parse(lineage.with_previous(text, None, where=""), where="") for text in (before, now))
    except RepositoryError:
        return () if before == now else (pbtxt.FILE,)
    return tuple(each.name for each in old.DESCRIPTOR.fields if _differs(each.name, old, new))


def tuned_changes(before: str, now: str) -> tuple[str, ...]:
    """Return in which of the settings two configs differ that a tuning sets, or that decide what these mean."""
    old, new = (pbtxt.parse(text, where=pbtxt.FILE) for text in (before, now))
    fields = tuple(name for name in _TUNED if _differs(name, old, new))
    threads = tuple(str(config.parameters.get(THREADS)) for config in (old, new))
    return fields if threads[0] == threads[1] else (*fields, THREADS)


def _differs(name: str, old: object, new: object) -> bool:
    return bool(getattr(old, name) != getattr(new, name))


def _of_goals(before: Goal, now: Goal) -> Iterator[str]:
    if before.max_p99_s != now.max_p99_s:
        yield f"the limit was {before.max_p99_s * 1000:g} ms, and is {now.max_p99_s * 1000:g} ms now"
    if (before.users, before.rate) != (now.users, now.rate):
        yield f"the load was {_load(before)}, and is {_load(now)} now"
    if before.rows != now.rows:
        yield f"the requests had {_rows(before)}, and have {_rows(now)} now"


def _load(goal: Goal) -> str:
    if goal.users is None and goal.rate is None:
        return "part of the answer"
    return say_load(Load(goal.users, goal.rate))


def _rows(goal: Goal) -> str:
    """Return how many rows requests have, as `--rows` takes it if they are mixed: `4 rows`, `rows of 1=8,16=1`."""
    if len(goal.rows) == 1:
        return count(goal.rows[0][0], "row")
    return f"rows of {','.join(f'{rows}={weight:g}' for rows, weight in goal.rows)}"


def _of_machines(before: MachineFacts, now: MachineFacts) -> Iterator[str]:
    if (before.cpu, before.cores, before.virtual) != (now.cpu, now.cores, now.virtual):
        yield f"the machine had {before.cores} cores of {before.cpu}, and it has {now.cores} of {now.cpu} now"
    if round(before.memory / 1e9) != round(now.memory / 1e9):
        yield f"the machine had {before.memory / 1e9:.0f} GB of memory, and it has {now.memory / 1e9:.0f} GB now"
    if before.kernel != now.kernel:
        yield f"the kernel was {before.kernel}, and is {now.kernel} now"
