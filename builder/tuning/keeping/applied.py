"""What tunings have written to config.pbtxt, in `NAME.applied.json`, so that it can be undone.

An entry is written before the config is, and has both texts. So after a process was killed, at whatever moment, the
config that is there says whether the change was made:

    entry       config.pbtxt is   meaning
    applying    before            it was not made, and the entry is dropped
    applying    after             it was made, and maybe not on every server; undoing it puts all of them back
    applied     after             it is in force
    applied     before            somebody has rolled it back
    undoing     back              it was undone, and maybe not on every server; undoing it again completes that
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from builder.deployment import Address
from builder.record.decoding import MisreadError
from builder.repository import ModelDirectory
from builder.tuning.keeping.reading import decode_named
from builder.tuning.keeping.record import SCHEMA, as_document
from builder.tuning.keeping.store import TuningStore

_MOST = 20
"""How many are kept. Each undo takes back one."""

_STATES = ("applying", "applied", "undoing")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tuning that was written to config.pbtxt.

    Attributes:
        at: When, in UTC.
        state: `applying`, `applied` or `undoing`.
        version: The version that was tuned.
        before: The content of config.pbtxt before it.
        after: Its content afterwards.
        kept: The kept config that has the content before, as `VERSION/N`; None if it could not be kept.
        servers: The addresses of the servers that it was deployed to.
        back: The content that undoing it writes; None until then.
    """

    at: str
    state: str
    version: int
    before: str
    after: str
    kept: str | None = None
    servers: tuple[str, ...] = ()
    back: str | None = None


@dataclass(frozen=True, slots=True)
class _Document:
    name: str
    applied: tuple[Entry, ...]


class AppliedTunings:
    """The tunings of one model that were written back, to read and to change while the lock of its records is held.

    Args:
        store: The records of the model.
        model: The model.
    """

    def __init__(self, store: TuningStore, model: ModelDirectory) -> None:
        self._store = store
        self._model = model

    @property
    def _file(self) -> str:
        return f"{self._store.name}.applied.json"

    def entries(self) -> tuple[Entry, ...]:
        """Return all of them, the oldest first.

        Raises:
            RepositoryError: The file is damaged.
        """
        rollback = f"python -m builder rollback {self._store.name}"
        fix = f"delete the file; `{rollback}` then brings back the config before the last change"
        found = self._store.read_document(self._file, lambda document: _entries(document, self._store.name), fix)
        return found or ()

    def last(self) -> Entry | None:
        """Return the newest one, or None."""
        found = self.entries()
        return found[-1] if found else None

    def add(self, entry: Entry) -> None:
        """Add one, before config.pbtxt is changed."""
        self._write((*self.entries(), entry)[-_MOST:])

    def change_last(self, **changes: Any) -> None:
        """Change attributes of the newest one."""
        *others, last = self.entries()
        self._write((*others, replace(last, **changes)))

    def drop_last(self) -> None:
        """Forget the newest one."""
        self._write(self.entries()[:-1])

    def settle(self) -> None:
        """Find out whether a change that was interrupted was made, from the config that is there.

        Raises:
            RepositoryError: The file, or config.pbtxt, cannot be read.
        """
        last = self.last()
        if last is None or last.state != "applying":
            return
        if content_of(self._model) == last.before:
            self.drop_last()
        else:
            self.change_last(state="applied")

    def _write(self, entries: Sequence[Entry]) -> None:
        document = {"schema": SCHEMA, "name": self._store.name, "applied": as_document(tuple(entries))}
        self._store.write_document(self._file, document)


def content_of(model: ModelDirectory) -> str:
    """Return the content of config.pbtxt with its own line ends; empty if there is none."""
    content = model.find_config_bytes()
    model.find_config()  # refuses what is no text
    return "" if content is None else content.decode()


def _entries(document: Any, name: str) -> tuple[Entry, ...]:
    """Read the entries of a document.

    Raises:
        MisreadError: It is none that this release writes.
    """
    found = decode_named(_Document, document, name)
    for entry in found.applied:
        if entry.state not in _STATES:
            raise MisreadError(f"a state is {entry.state!r}, which is none of {', '.join(_STATES)}")
        try:
            [Address.parse(server) for server in entry.servers]
        except ValueError as error:
            raise MisreadError(str(error)) from error
    return found.applied
