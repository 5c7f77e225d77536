"""Which versions of a model `deploy` has left on which servers, and a lock so that one deployment goes on at a time.

Both are in the folder `.ROOT.deploy` beside the repository: `NAME.lock`, and `NAME.deployed.json`, which looks so:

    {"format": 1, "model": "digits",
     "servers": {"grpc://127.0.0.1:8001": {"versions": [2], "at": "2026-11-27T15:00:00+00:00"}}}

`prune` keeps what servers may still answer with, also while it cannot ask them. The file says what a server served
after the last deployment to it; whoever changes that server in another way is not in it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from builder.errors import RepositoryError
from builder.files import reason
from builder.repository.disk import reported
from builder.repository.lock import Wait, locked
from builder.repository.own_folder import OpenFolder, OwnFolder

FORMAT = 1

_LOCK = re.compile(r"[^/]+\.lock")
_NAMES = re.compile(r"[^/]+(\.lock\.holder|\.deployed\.json(\.new)?|\.deployed\.new)")
_LIMIT = 4 * 2**20
"""The most bytes of a record: some ten thousand servers."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What one server serves of a model since the last deployment to it.

    Attributes:
        server: Its address, as `deploy` was told it.
        versions: The versions that it may answer with, ascending.
        at: When the deployment was recorded, in UTC.
    """

    server: str
    versions: tuple[int, ...]
    at: datetime


class DeploymentRecord:
    """The record of one model, to read and to change while its lock is held.

    Args:
        folder: The folder with the records; None if there is none, and the record is empty.
        name: The model.
    """

    def __init__(self, folder: OpenFolder | None, name: str) -> None:
        self._folder = folder
        self._name = name

    def servers(self) -> tuple[Deployed, ...]:
        """Return what is recorded, the oldest deployment first.

        Raises:
            RepositoryError: The file is damaged.
        """
        return tuple(sorted(self._read().values(), key=lambda entry: (entry.at, entry.server)))

    def set(self, server: object, versions: Iterable[int]) -> None:
        """Record what a server may answer with from now on; the new record is on disk when this returns.

        Call it with the versions before and after a deployment before the server is touched, and with those that it
        serves when the deployment is over. Then the record is right whenever the process is killed.

        Raises:
            RepositoryError: The file is damaged, or cannot be written.
        """
        entry = Deployed(str(server), tuple(sorted(set(versions))), datetime.now(timezone.utc))
        self._write({**self._read(), entry.server: entry})

    def forget(self, servers: Iterable[object]) -> None:
        """Delete the entries of servers that are gone, or serve the model no more.

        Raises:
            RepositoryError: The file is damaged, or cannot be written.
        """
        found = self._read()
        left = {server: entry for server, entry in found.items() if server not in set(map(str, servers))}
        if left != found:
            self._write(left)

    def _read(self) -> dict[str, Deployed]:
        return {} if self._folder is None else _read(self._folder, self._name)

    def _write(self, entries: Mapping[str, Deployed]) -> None:
        if self._folder is None:
            raise ValueError("the record of a model that was never deployed cannot be written here")
        servers = {entry.server: {"versions": entry.versions, "at": entry.at.isoformat()} for entry in entries.values()}
        text = json.dumps({"format": FORMAT, "model": self._name, "servers": servers}, indent=2)
        with reported(self._folder.path):
            self._folder.replace(_file(self._name), f"{text}\n".encode())


@contextmanager
def deploying(root: Path, name: str, command: str, wait: Wait) -> Iterator[DeploymentRecord]:
    """Make other deployments of a model from this repository wait for the block, and yield the model's record.

    Args:
        root: The repository.
        name: The model.
        command: What needs the lock, to tell whoever waits for it.
        wait: How to wait.

    Raises:
        RepositoryError: The folder is not ours, or the lock was not free in time.
    """
    with folder_of(root).opened() as folder, locked(folder, f"{name}.lock", command, wait):
        yield DeploymentRecord(folder, name)


@contextmanager
def recorded(root: Path, name: str, command: str, wait: Wait, *, to_change: bool) -> Iterator[DeploymentRecord]:
    """Yield a model's record, and make deployments of the model wait for the block if something is to be changed.

    Where nothing was ever deployed, nothing is created, and the record is empty.

    Args:
        root: The repository.
        name: The model.
        command: What needs the lock, to tell whoever waits for it.
        wait: How to wait.
        to_change: Whether something is to be changed. Otherwise nothing is written, and nobody waits.

    Raises:
        RepositoryError: The folder is not ours, or the lock was not free in time.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of(root).opened_if_there())
        if folder is not None and to_change:
            stack.enter_context(locked(folder, f"{name}.lock", command, wait))
        yield DeploymentRecord(folder, name)


def folder_of(root: Path) -> OwnFolder:
    """Return the folder of a repository's locks and records, which need not exist yet."""
    return OwnFolder(root.parent / f".{root.name}.deploy", root, _LOCK, _NAMES)


def _file(name: str) -> str:
    return f"{name}.deployed.json"


def _read(folder: OpenFolder, name: str) -> dict[str, Deployed]:
    """Read the entries by server; there are none without a file."""
    path = folder.path / _file(name)
    try:
        return dict(_entries(json.loads(folder.read(path.name, limit=_LIMIT))))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is not as `deploy` writes it"
        what = f"the record of where this model was deployed cannot be read: {why}"
        fix = "delete the file; then the model counts as never deployed, so name its servers to `prune` with --server"
        raise RepositoryError(path, what, fix) from error


def _entries(record: Any) -> Iterator[tuple[str, Deployed]]:
    """Yield the entries of a record.

    Raises:
        ValueError, TypeError, KeyError or AttributeError: It is no record of this format.
    """
    if record["format"] != FORMAT:
        raise ValueError("it has another format")
    for server, entry in record["servers"].items():
        at = datetime.fromisoformat(entry["at"])
        versions = entry["versions"]
        if at.tzinfo is None or not all(type(version) is int and version > 0 for version in versions):
            raise ValueError("an entry is not as it is written")
        yield server, Deployed(server, tuple(versions), at)
