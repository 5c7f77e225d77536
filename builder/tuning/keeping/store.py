"""Keep what a tuning measured in a file that is written after every run, so that an interrupted tuning goes on.

The files lie in the folder `.ROOT.tune` beside the repository: `NAME.lock`, `NAME.tune.json`, and up to nine earlier
ones of other goals, configs or machines, `NAME.tune-1.json` being the newest of those. `applied` keeps there what was
written back.

A measurement holds for the model, the config, the load, the machine and the server that it was made with. So a record
is used again only if all of these are the same.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from builder.errors import RepositoryError
from builder.files import reason
from builder.record.decoding import MisreadError, parse
from builder.repository import OpenFolder, OwnFolder, Repository, Wait, locked, reported
from builder.tuning.keeping.conditions import Conditions, differences
from builder.tuning.keeping.reading import Earlier, read_earlier
from builder.tuning.keeping.record import Record
from builder.tuning.measurement import Measurement
from builder.tuning.search import is_disturbed

T = TypeVar("T")

_LOCK = re.compile(r"[^/]+\.lock")
_NAMES = re.compile(r"[^/]+(\.lock\.holder|\.(tune|tune-[0-9]|applied)\.json(\.new)?)")
_LIMIT = 32 * 2**20
"""The most bytes of a record. A run takes a few kilobytes."""

_MOST_EARLIER = 9


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
        why = () if newest is None else differences(newest.conditions, conditions)
        if newest is not None and not why:
            return _used(newest)
        for number in range(_MOST_EARLIER + 1):
            earlier = self._find(self._file(number))
            if earlier is not None and not differences(earlier.conditions, conditions):
                self._bring_back(number)
                return _used(earlier)
        if newest is None or not newest.done:
            return Resumed()
        self._set_aside()
        return Resumed(notes=(f"the measurements of {newest.started} are kept, but not used: {'; '.join(why)}",))

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

    def read_document(self, file: str, reading: Callable[[Any], T], fix: str) -> T | None:
        """Return what one of the files says; None if there is none.

        Args:
            file: Its name.
            reading: Turns its JSON into what it says, or raises a MisreadError.
            fix: What to do about a damaged file.

        Raises:
            RepositoryError: It is damaged, or cannot be read.
        """
        try:
            return reading(parse(self.folder.read(file, limit=_LIMIT).decode()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, MisreadError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise RepositoryError(self.folder.path / file, f"this record cannot be read: {why}", fix) from error

    def _file(self, earlier: int | None = None) -> str:
        return f"{self.name}.tune.json" if earlier is None else f"{self.name}.tune-{earlier}.json"

    def _read(self, file: str) -> Earlier | None:
        fix = "delete the file, or tune with --fresh, which keeps it aside"
        return self.read_document(file, lambda document: read_earlier(document, self.name), fix)

    def _find(self, file: str) -> Earlier | None:
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


def _used(earlier: Earlier) -> Resumed:
    """Return what is used again of an earlier tuning.

    A tuning that found something better is used as it is, because its result can be applied. Of any other one, a run is
    measured again if it was disturbed, or if not every answer came and was right: the cause may be gone by now.
    """
    if earlier.is_better:
        return Resumed(earlier.done, earlier.started)
    why = [_why_again(run) for run in earlier.done]
    done = tuple(run for run, reason in zip(earlier.done, why, strict=True) if not reason)
    again = [f"{why.count(reason)} {reason}" for reason in dict.fromkeys(why) if reason]
    notes = (f"earlier runs that are measured again: {', '.join(again)}",) if again else ()
    return Resumed(done, earlier.started, notes)


def _why_again(run: Measurement) -> str:
    """Return why a run is measured again, as in `2 with wrong answers`; empty if it is not."""
    if run.error:
        return "that gave no figures"
    if run.wrong:
        return "with wrong answers"
    if run.failed or run.unchecked:
        return "without all answers"
    return "that other programs disturbed" if is_disturbed(run) else ""


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
