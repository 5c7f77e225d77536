"""Apply a made-up result of a tuning to a repository, and undo it, without a server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from builder.deployment import LiveServer
from builder.publishing import ConfigChange
from builder.repository import Repository
from builder.tuning.keeping.applied import AppliedTunings, Entry
from builder.tuning.keeping.applying import Applied, Prove, apply
from builder.tuning.keeping.conditions import ModelFacts
from builder.tuning.keeping.store import tuning
from builder.tuning.keeping.undoing import Connect, undo
from builder.tuning.measurement import Configuration, Interval, Load
from builder.tuning.search.found import Found, Result, Verdict

BEST = Configuration(instances=2, threads=1, max_batch_size=8, preferred=(4,), delay_us=500)


def found(best: Configuration = BEST, verdict: Verdict = "better", why: str = "it gives 30 % more") -> Found:
    """Return what a tuning found."""
    result = Result(best, Load(users=8), Interval(100.0, 90.0, 110.0), Interval(0.01, 0.009, 0.011), 2, keeps=True)
    return Found(verdict, why, result, None)


def facts(repository: Repository, name: str = "scale") -> ModelFacts:
    """Return what is measured of a model as it is now."""
    model = repository.model(name)
    return ModelFacts.of(model, model.served_version())


def trusted(change: ConfigChange) -> None:
    """Stand for a server that gives the right answers."""


def apply_to(
    repository: Repository,
    measured: ModelFacts | None = None,
    what: Found | None = None,
    *,
    servers: Sequence[LiveServer] = (),
    prove: Prove | None = trusted,
    name: str = "scale",
) -> Applied:
    """Apply what a tuning found to a model."""
    with tuning(repository, name, f"tune {name}") as store:
        return apply(
            repository,
            name,
            store,
            measured=facts(repository, name) if measured is None else measured,
            found=found() if what is None else what,
            servers=servers,
            prove=prove,
        )


@contextmanager
def no_servers(addresses: Sequence[str]) -> Iterator[Sequence[LiveServer]]:
    """Connect to nothing, because nothing was deployed."""
    assert not addresses
    yield ()


def undo_in(repository: Repository, connect: Connect = no_servers, name: str = "scale") -> Applied:
    """Undo the last tuning that was applied to a model."""
    with tuning(repository, name, f"tune {name} --undo") as store:
        return undo(repository, name, store, connect=connect)


def entries(repository: Repository, name: str = "scale") -> tuple[Entry, ...]:
    """Return what is recorded about the tunings of a model that were applied."""
    with tuning(repository, name, "look") as store:
        return AppliedTunings(store, repository.model(name)).entries()
