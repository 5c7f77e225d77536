"""Read the records that tunings keep, which anybody may have written."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from builder.record.decoding import MisreadError, decode
from builder.tuning.keeping.conditions import Conditions
from builder.tuning.keeping.record import SCHEMA
from builder.tuning.measurement import Measurement

_TIMES = ("mean_batch", "queue_s", "latency_s", "client_cpu_s", "server_cpu_s", "seconds")
"""Attributes of a measurement that are never negative."""


class _Named(Protocol):
    @property
    def name(self) -> str:
        """The model."""
        ...


Kind = TypeVar("Kind", bound=_Named)


def decode_named(kind: type[Kind], document: Any, name: str) -> Kind:
    """Read what a record of this release says of a model.

    Raises:
        MisreadError: It is of another schema or another model, or is damaged.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MisreadError(f"it is not of schema {SCHEMA}, which this release writes")
    found = decode(kind, document, "the record")
    if found.name != name:
        raise MisreadError(f"it is of the model {found.name!r}")
    return found


@dataclass(frozen=True, slots=True)
class _Step:
    measurement: Measurement | None


@dataclass(frozen=True, slots=True)
class _Found:
    verdict: str


@dataclass(frozen=True, slots=True)
class _Record:
    name: str
    started: str
    steps: tuple[_Step, ...]
    found: _Found | None = None


@dataclass(frozen=True, slots=True)
class Earlier:
    """The part of a record that is read again.

    Attributes:
        started: When it began.
        done: What was measured, in order.
        is_better: Whether it was over, and had found something better.
        conditions: What it holds for.
    """

    started: str
    done: tuple[Measurement, ...]
    is_better: bool
    conditions: Conditions


def read_earlier(document: Any, name: str) -> Earlier:
    """Read what is used again of a record.

    Raises:
        MisreadError: It is no record of this model that this release can read.
    """
    record = decode_named(_Record, document, name)
    done = tuple(step.measurement for step in record.steps if step.measurement is not None)
    for measurement in done:
        if (problem := next(_problems(measurement), None)) is not None:
            raise MisreadError(problem)
    is_better = record.found is not None and record.found.verdict == "better"
    return Earlier(record.started, done, is_better, _conditions(document))


def _conditions(document: Any) -> Conditions:
    try:
        return decode(Conditions, document, "the record")
    except ValueError as error:  # a goal that no goal can be
        raise MisreadError(str(error)) from error


def _problems(measurement: Measurement) -> Iterator[str]:
    """Yield what no measurement says."""
    for name, figure in (("throughput", measurement.throughput), ("p99_s", measurement.p99_s)):
        if figure is not None and not 0 <= figure.low <= figure.value <= figure.high:
            yield f"{name} is {figure.value:g}, with the interval from {figure.low:g} to {figure.high:g}"
    if measurement.p99_s is not None and measurement.p99_s.value == 0:
        yield "p99_s is 0"
    yield from _strange_times(measurement)
    counts = (measurement.requests, measurement.waiting, measurement.wrong, measurement.failed, measurement.unchecked)
    if min(counts) < 0:
        yield f"a number of requests is {min(counts)}"
    if measurement.configuration.instances < 1 or measurement.configuration.max_batch_size < 0:
        yield "a configuration has no instance, or a negative max_batch_size"


def _strange_times(measurement: Measurement) -> Iterator[str]:
    if (least := min(getattr(measurement, name) or 0.0 for name in _TIMES)) < 0:
        yield f"a time or a mean is {least:g}"
    if not 0 <= (share := measurement.others or 0.0) <= 1:
        yield f"others is {share:g}, and it is a share"
    for rows, times in measurement.batches.items():
        if min(rows, times.count) < 1 or times.seconds <= 0:
            yield f"there are {times.count} batches of {rows} rows, and each took {times.seconds:g} s"
