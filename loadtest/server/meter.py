"""Read what the server has counted, again and again during a run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from loadtest.errors import ServerError
from loadtest.server.control import Control, ControlError
from loadtest.server.metrics import read_counters, read_gauges
from loadtest.server.statistics import Counts, read_statistics
from loadtest.settings import Settings
from loadtest.wire import Address, model_path

_TIMEOUT_S = 1.0
"""How long an answer may delay the run that it is asked for."""

_LAST_PORT = (1 << 16) - 1

Key = tuple[str, str, str]
"""A server (empty: the one that gave its statistics), a model and a version."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a run.

    Attributes:
        asked: Those that requests are sent to.
        steps: By ensemble, the models that it calls; some of them may be ensembles too.
    """

    asked: tuple[str, ...] = ()
    steps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def all(self) -> tuple[str, ...]:
        """All of them, each once."""
        called = (model for steps in self.steps.values() for model in steps)
        return tuple(dict.fromkeys((*self.asked, *called)))

    @property
    def executed(self) -> tuple[str, ...]:
        """Those that compute something themselves, and not by calling others."""
        return tuple(model for model in self.all if model not in self.steps)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The servers at one moment.

    Attributes:
        counts: What each of them has counted.
        gauges: Summed or averaged over servers and devices.
        problem: Why there are no counts; empty if there are.
        lag_s: How long after the client's own figures they were read, at most.
        models: The models of the run.
    """

    counts: Mapping[Key, Counts]
    gauges: Mapping[str, float]
    problem: str = ""
    lag_s: float = 0.0
    models: Models = Models()


class Meter:
    """Takes snapshots, over connections that are kept: a balancer might send every new one to another server.

    At first, it asks the server which of the models are ensembles.
    """

    def __init__(self, settings: Settings) -> None:
        self._control = Control(settings.http, _TIMEOUT_S)
        self._metrics = {str(address): Control(address, _TIMEOUT_S) for address in _find_metrics(settings)}
        self._are_several = len(settings.metrics or ()) > 1
        asked = tuple(dict.fromkeys(choice.name for choice in settings.models))
        self._models = Models(asked, find_steps(self._control, asked))

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connections."""
        for control in (self._control, *self._metrics.values()):
            control.close()

    def take(self, since: float) -> Snapshot:
        """Ask the servers what they have counted; `since` is when the client began to read its own figures.

        That is a moment of `time.monotonic()`.
        """
        problem = ""
        texts: dict[str, str] = {}
        counts: dict[Key, Counts] = {}
        try:
            texts = self._read_metrics()
            counts = self._count_each(texts) if self._are_several else self._count_one()
        except ControlError as error:
            problem = str(error)
        gauges = read_gauges("\n".join(texts.values()))
        return Snapshot(counts, gauges, problem, time.monotonic() - since, self._models)

    def _read_metrics(self) -> dict[str, str]:
        texts = {}
        for address, control in self._metrics.items():
            try:
                texts[address] = control.fetch("").decode("utf-8", "replace")
            except ControlError as error:
                if self._are_several:
                    raise ControlError(f"{address} did not give its metrics: {error}") from error
        return texts

    def _count_each(self, texts: Mapping[str, str]) -> dict[Key, Counts]:
        models = self._models.all
        return {
            (address, model, version): counts
            for address, text in texts.items()
            for (model, version), counts in read_counters(text).items()
            if model in models
        }

    def _count_one(self) -> dict[Key, Counts]:
        counts: dict[Key, Counts] = {}
        try:
            for name in self._models.all:
                for model, version, one in read_statistics(self._control.fetch_json(f"{model_path(name)}/stats")):
                    counts["", model, version] = one
        except (KeyError, TypeError, ValueError) as error:
            raise ControlError("the server keeps no statistics that can be read") from error
        except ControlError as error:
            what = "did not answer" if error.status is None else "keeps no statistics"
            raise ControlError(f"the server {what}: {error}") from error
        return counts


def _find_metrics(settings: Settings) -> Sequence[Address]:
    """Return where the metrics are: where the settings say, or else two ports after HTTP, as Triton's defaults are."""
    if settings.metrics is None:
        return ()
    port = settings.http.port + 2
    default = () if port > _LAST_PORT else (replace(settings.http, port=port, tls=None, path="/metrics", headers=()),)
    return settings.metrics or default


def find_steps(control: Control, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return by ensemble the models that it calls, for these models and for those that they call."""
    steps: dict[str, tuple[str, ...]] = {}
    waiting, seen = [*names], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            config = control.fetch_json(f"{model_path(name)}/config")
            called = tuple(str(step["model_name"]) for step in config["ensemble_scheduling"]["step"])
        except (ControlError, KeyError, TypeError):
            continue
        steps[name] = called
        waiting += called
    return steps


def check_metrics(settings: Settings) -> None:
    """Check that every server named in the settings gives its metrics, and that several of them serve the models.

    Raises:
        ServerError: One does not.
    """
    fix = "set --server-metrics to HOST:PORT of the metrics of each server that shares the load, or to none"
    for address in settings.metrics or ():
        try:
            with Control(address) as control:
                counters = read_counters(control.fetch("").decode("utf-8", "replace"))
        except ControlError as error:
            raise ServerError(address, f"the metrics cannot be read: {error}", fix) from error
        served = {model for model, _ in counters}
        missing = [choice.name for choice in settings.models if choice.name not in served]
        if len(settings.metrics or ()) > 1 and missing:
            raise ServerError(address, f"there are no metrics of model {missing[0]} here", fix)
