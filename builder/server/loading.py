"""Follow a Triton that loads its models: how far it is, whether it still goes on, and what it does not serve."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from builder.printable import counted
from builder.progress import Report
from builder.server import runtime
from builder.server.index import IndexEntry
from builder.server.log import Loads, reason

PATIENCE_S = 120.0
"""How long Triton may go on without progress, if nobody says how long the whole start may take."""

REPORT_EVERY_S = 5.0
_LOOK_EVERY_S = 1.0
_MOST_NAMED = 10
_UNKNOWN = "it did not load, and Triton's log says why"


@dataclass(frozen=True, slots=True)
class Unserved:
    """A model, or one version of it, that Triton did not load.

    Attributes:
        model: The model's name.
        version: The version; None if the model has none that could be loaded.
        why: The reason.
    """

    model: str
    version: int | None
    why: str

    def __str__(self) -> str:
        which = "" if self.version is None else f" version {self.version}"
        return f"model '{self.model}'{which}: {self.why}"


class Progress:
    """Watches a Triton load its models, reports how far it is, and says when to give up."""

    def __init__(
        self,
        loads: Loads,
        processes: Callable[[], Collection[int]],
        *,
        expected: int,
        timeout_s: float | None,
        report: Report,
    ) -> None:
        """Begin to watch.

        Args:
            loads: What Triton logs.
            processes: Returns the ids of the processes that run models. A new one is progress, too, because Triton's
                log may be switched off.
            expected: How many models are to be loaded.
            timeout_s: How long the whole start may take; None allows `PATIENCE_S` from one sign of progress to the
                next.
            report: Called with `load` and how many models are ready, every `REPORT_EVERY_S` at most.
        """
        self._loads = loads
        self._processes = processes
        self._expected = expected
        self._timeout_s = timeout_s
        self._report = report
        self._started = self._moved = self._looked = self._reported = time.monotonic()
        self._seen: tuple[int, frozenset[int]] = (0, frozenset())
        self._told = ""

    def fault(self) -> str | None:
        """Return why not to wait any longer; None as long as Triton may go on."""
        now = time.monotonic()
        if self._timeout_s is not None and now - self._started > self._timeout_s:
            return f"Triton was not ready after {self._timeout_s:g} s; {self._state()}"
        if now - self._looked < _LOOK_EVERY_S:
            return None
        self._looked = now
        seen = self._loads.steps, frozenset(self._processes())
        if seen != self._seen:
            self._seen, self._moved = seen, now
        if now - self._reported >= REPORT_EVERY_S:
            self._tell(now)
        if self._timeout_s is None and now - self._moved > PATIENCE_S:
            return f"Triton has not gone on with loading for {PATIENCE_S:g} s; {self._state()}"
        return None

    def _tell(self, now: float) -> None:
        self._reported = now
        told = self._count()
        if told != self._told:
            self._told = told
            self._report("load", told)

    def _count(self) -> str:
        failed = {model for model, _ in self._loads.faults} - set(self._loads.ready)
        some = f"{len(self._loads.ready)} of {counted(self._expected, 'model')} ready"
        return f"{some}, {len(failed)} failed" if failed else some

    def _state(self) -> str:
        done = {*self._loads.ready, *(model for model, _ in self._loads.faults)}
        waiting = [model for model in self._loads.begun if model not in done]
        named = ", ".join(f"'{model}'" for model in waiting[:_MOST_NAMED])
        more = f" and {len(waiting) - _MOST_NAMED} more" if len(waiting) > _MOST_NAMED else ""
        return self._count() + (f"; it is still loading {named}{more}" if waiting else "")


def find_unserved(loads: Loads, index: Sequence[IndexEntry], *, all_wanted: bool) -> tuple[Unserved, ...]:
    """Return the models and versions that a started Triton did not load, sorted.

    Args:
        loads: What it logged.
        index: Its repository index.
        all_wanted: Whether it was to load every model of the repository.
    """
    found = {
        (entry.model, entry.version): reason(entry.reason)
        for entry in index
        if entry.state == "UNAVAILABLE" and entry.reason not in ("", "unloaded")
    }
    served = {entry.model for entry in index if entry.state == "READY"}
    ready: set[tuple[str, int | None]] = {(name, None) for name in served}
    ready |= {(entry.model, entry.version) for entry in index if entry.state == "READY"}
    found |= {which: why for which, why in dict(loads.faults).items() if which not in ready}
    if all_wanted:
        named = {model for model, _ in found} | served
        found |= {(entry.model, None): _UNKNOWN for entry in index if entry.model not in named}
    return _sorted(found)


def _sorted(faults: Mapping[tuple[str, int | None], str]) -> tuple[Unserved, ...]:
    entries = [Unserved(model, version, _shown(why)) for (model, version), why in faults.items()]
    return tuple(sorted(entries, key=lambda entry: (entry.model, entry.version or 0)))


def from_log(loads: Loads) -> tuple[Unserved, ...]:
    """Return what did not load, of a Triton that has ended because of it."""
    return find_unserved(loads, (), all_wanted=False)


def _shown(why: str) -> str:
    """Leave out the folder that Triton runs in."""
    return why.replace(f"{runtime.REPOSITORY}/", "")
