"""What a tuning measured, in the file `tune.json`: written after every run, so that an interrupted tuning goes on.

The files lie in the folder `.ROOT.tune` beside the repository: `NAME.lock`, `NAME.tune.json`, and up to nine earlier
ones of other goals, configs or machines, `NAME.tune-1.json` being the newest of those. `applied` keeps there what was
written back.

A measurement holds for the model, the config, the load, the machine and the server that it was made with. So a record
is used again only if all of these are the same.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import Any

from builder.errors import RepositoryError
from builder.files import reason
from builder.record.decoding import MisreadError, decode, parse
from builder.repository import OpenFolder, OwnFolder, Repository, Wait, locked, reported
from builder.tuning.keeping.conditions import Conditions, differences
from builder.tuning.measurement import Configuration, Measurement
from builder.tuning.search import Found, Step
from builder.version import __version__

SCHEMA = 1

_LOCK = re.compile(r"[^/]+\.lock")
_NAMES = re.compile(r"[^/]+(\.lock\.holder|\.(tune|tune-[0-9]|applied)\.json(\.new)?)")
_LIMIT = 32 * 2**20
"""The most bytes of a record. A run takes a few kilobytes."""

_MOST_EARLIER = 9

_TIMES = ("mean_batch", "queue_s", "latency_s", "client_cpu_s", "server_cpu_s", "seconds")
"""Attributes of a measurement that are never negative."""


@dataclass(frozen=True, slots=True)
class Record:
    """One tuning, as `tune.json` has it.

    Attributes:
        name: The model.
        conditions: What the measurements hold for.
        current: The configuration in config.pbtxt.
        runs: The most runs that it may make.
        started: When it began, in UTC, as in `2026-11-27T15:00:00+00:00`.
        finished: When it was over; None while it goes on, or if it was interrupted.
        steps: The runs so far, in order.
        found: What came out; None before the end.
        config_diff: What the best configuration changes in config.pbtxt, as a unified diff; empty if nothing.
        applied: What was written back, as JSON; None if nothing was.
        notes: What a reader must know about the server and about earlier records; one sentence each.
    """

    name: str
    conditions: Conditions
    current: Configuration
    runs: int
    started: str
    finished: str | None = None
    steps: tuple[Step, ...] = ()
    found: Found | None = None
    config_diff: str = ""
    applied: Any = None
    notes: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the record as JSON: the fields of all dataclasses by their names, the conditions at the top."""
        found: Any = as_document(self.found)
        if found is not None:
            del found["steps"]  # they are there already
        return {
            "schema": SCHEMA,
            "builder": __version__,
            "name": self.name,
            "started": self.started,
            "finished": self.finished,
            **as_document(self.conditions),
            "current": as_document(self.current),
            "runs": self.runs,
            "steps": as_document(self.steps),
            "found": found,
            "config_diff": self.config_diff,
            "applied": as_document(self.applied),
            "notes": as_document(self.notes),
        }


def as_document(value: Any) -> Any:
    """Return a value as JSON has it; a number that JSON does not have becomes null."""
    if is_dataclass(value):
        return {each.name: as_document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_document(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_document(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Resumed:
    """What of an earlier tuning is used again.

    Attributes:
        done: Its measurements, in order.
        started: When it began; None if nothing is used again.
        notes: What became of an earlier record; one sentence each.
    """

    done: tuple[Measurement, ...] = ()
    started: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _EarlierStep:
    measurement: Measurement | None


@dataclass(frozen=True, slots=True)
class _Earlier:
    """The part of a record that is read again."""

    name: str
    started: str
    steps: tuple[_EarlierStep, ...]

    @property
    def done(self) -> tuple[Measurement, ...]:
        """What was measured, in order."""
        return tuple(step.measurement for step in self.steps if step.measurement is not None)


class TuningStore:
    """The records of one model, to read and to change while its lock is held.

    Args:
        folder: The folder with the records.
        name: The model.
    """

    def __init__(self, folder: OpenFolder, name: str) -> None:
        self.folder = folder
        self.name = name

    @property
    def path(self) -> Path:
        """The file of the newest record."""
        return self.folder.path / self._file()

    def resume(self, conditions: Conditions, *, is_fresh: bool = False) -> Resumed:
        """Return the measurements that were made under just these conditions, and keep those of others aside.

        Args:
            conditions: What is to be measured now.
            is_fresh: Whether to measure everything anew. An earlier record is kept aside then too.

        Raises:
            RepositoryError: A record is damaged, or the folder cannot be written to.
        """
        if is_fresh:
            had = self._set_aside()
            return Resumed(notes=("the earlier measurements are kept, but not used: --fresh",) if had else ())
        newest = self._read(self._file())
        why = () if newest is None else differences(newest[1], conditions)
        if newest is not None and not why:
            return _used(newest[0])
        for number in range(_MOST_EARLIER + 1):
            earlier = self._find(self._file(number))
            if earlier is not None and not differences(earlier[1], conditions):
                self._bring_back(number)
                return _used(earlier[0])
        if newest is None or not newest[0].done:
            return Resumed()
        self._set_aside()
        return Resumed(notes=(f"the measurements of {newest[0].started} are kept, but not used: {'; '.join(why)}",))

    def write(self, record: Record) -> None:
        """Replace the newest record; it is on disk when this returns.

        Raises:
            RepositoryError: The file cannot be written.
        """
        self.write_document(self._file(), record.to_document())

    def write_document(self, file: str, document: Mapping[str, Any]) -> None:
        """Replace one of the files.

        Raises:
            RepositoryError: It cannot be written.
        """
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        with reported(self.folder.path):
            self.folder.replace(file, f"{text}\n".encode())

    def read_document(self, file: str, fix: str) -> Any:
        """Return the JSON of one of the files; None if there is none.

        Raises:
            RepositoryError: It cannot be read.
        """
        path = self.folder.path / file
        try:
            return parse(self.folder.read(file, limit=_LIMIT).decode())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, MisreadError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise RepositoryError(path, f"this record cannot be read: {why}", fix) from error

    def _file(self, earlier: int | None = None) -> str:
        return f"{self.name}.tune.json" if earlier is None else f"{self.name}.tune-{earlier}.json"

    def _read(self, file: str) -> tuple[_Earlier, Conditions] | None:
        fix = "delete the file, or tune with --fresh, which keeps it aside"
        document = self.read_document(file, fix)
        if document is None:
            return None
        try:
            return _earlier(document, self.name), _conditions(document)
        except MisreadError as error:
            raise RepositoryError(self.folder.path / file, f"this record cannot be read: {error}", fix) from error

    def _find(self, file: str) -> tuple[_Earlier, Conditions] | None:
        """Do the same, and return None for one that is damaged."""
        with suppress(RepositoryError):
            return self._read(file)
        return None

    def _set_aside(self) -> bool:
        """Make the newest record the first of the earlier ones; return whether there was one."""
        there = set(self.folder.names())
        if self._file() not in there:
            return False
        free = next((n for n in range(1, _MOST_EARLIER + 1) if self._file(n) not in there), _MOST_EARLIER)
        for number in range(free, 1, -1):
            self._rename(self._file(number - 1), self._file(number))
        self._rename(self._file(), self._file(1))
        return True

    def _bring_back(self, number: int) -> None:
        """Make an earlier record the newest one. A process that is killed in between leaves all of them."""
        if number:
            self._rename(self._file(number), self._file(0))
        self._set_aside()
        self._rename(self._file(0), self._file())

    def _rename(self, source: str, target: str) -> None:
        with reported(self.folder.path):
            self.folder.rename(source, target)


def _earlier(document: Any, name: str) -> _Earlier:
    """Read what is used again of a record.

    Raises:
        MisreadError: It is no record of this model that this release can read.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MisreadError(f"it is not of schema {SCHEMA}, which this release writes")
    earlier = decode(_Earlier, document, "tune.json")
    if earlier.name != name:
        raise MisreadError(f"it is of the model {earlier.name!r}")
    for measurement in earlier.done:
        if (problem := next(_problems(measurement), None)) is not None:
            raise MisreadError(problem)
    return earlier


def _conditions(document: Any) -> Conditions:
    try:
        return decode(Conditions, document, "tune.json")
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
    counts = (measurement.requests, measurement.wrong, measurement.failed, measurement.unchecked)
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


def _used(earlier: _Earlier) -> Resumed:
    return Resumed(earlier.done, earlier.started)


@contextmanager
def tuning(repository: Repository, name: str, command: str) -> Iterator[TuningStore]:
    """Make other tunings of a model wait for the block, and yield the model's records.

    Args:
        repository: The repository.
        name: The model.
        command: What needs the records, such as `tune digits`, to tell whoever waits.

    Raises:
        RepositoryError: There is no such model, the folder of the records is not ours or cannot be written to, or
            another tuning was not over in time.
    """
    repository.model(name).read_config()  # refuses an unknown model before anything is created
    root = repository.root
    wait = Wait(repository.report, repository.lock_timeout_s)
    own = OwnFolder(root.parent / f".{root.name}.tune", root, _LOCK, _NAMES)
    with ExitStack() as stack:
        with reported(own.path):
            folder = stack.enter_context(own.opened())
            stack.enter_context(locked(folder, f"{name}.lock", command, wait))
        yield TuningStore(folder, name)
