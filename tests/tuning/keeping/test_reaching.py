"""Undoing a tuning sends no key to a server that only its record names."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import scale
from support.tuned import apply_to, entries, undo_in

from builder.deployment import Address, Certificates
from builder.errors import HostError, RepositoryError
from builder.publishing import install
from builder.repository import Repository
from builder.server import AdminAccess
from builder.tuning.keeping import reaching
from builder.tuning.keeping.reaching import UndoAccess

HERE, OTHER = "grpc://127.0.0.1:8001", "grpc://10.0.0.1:8001"
ADMIN = AdminAccess("secret")
SECRETS: list[dict[str, Any]] = [
    {"admin": ADMIN},
    {"headers": {"authorization": "Bearer secret"}},
    {"certificates": Certificates(None, b"certificate", b"key")},
]


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The servers that are connected to."""
    asked: list[str] = []

    class Live:
        def __init__(self, address: Address, **_: object) -> None:
            asked.append(str(address))

        def __enter__(self) -> "Live":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(reaching, "LiveServer", Live)
    return asked


def connect(access: UndoAccess, addresses: Sequence[str]) -> None:
    with access.connect(addresses):
        pass


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: next(iter(secret)))
def test_what_is_secret_goes_to_this_machine_and_to_servers_that_the_user_names(
    secret: dict[str, Any], reached: list[str]
) -> None:
    with pytest.raises(HostError, match="only the record of the tuning names this server") as found:
        connect(UndoAccess(**secret), [HERE, OTHER])
    assert (found.value.where, reached) == (OTHER, [])
    assert found.value.fix == f"if you deployed to it, run the same command with --server {OTHER}"
    connect(UndoAccess(**secret), [HERE])
    connect(UndoAccess((Address.parse(OTHER),), **secret), [HERE, OTHER])
    assert reached == [HERE, HERE, OTHER]


def test_without_a_secret_all_servers_are_reached(reached: list[str]) -> None:
    connect(UndoAccess(certificates=Certificates(b"authority")), [HERE, OTHER])
    assert reached == [HERE, OTHER]


@pytest.mark.parametrize(("written", "where"), [([HERE], f"deployed to {HERE}"), ([], "not deployed to any server")])
def test_a_server_that_was_not_deployed_to_is_refused(written: list[str], where: str, reached: list[str]) -> None:
    with pytest.raises(HostError, match=where) as found:
        connect(UndoAccess((Address.parse(OTHER),)), written)
    assert (found.value.where, found.value.fix, reached) == (OTHER, f"leave out --server {OTHER}", [])


def written(folder: Path, server: str) -> Repository:
    """Return a repository with a tuning whose record somebody has changed."""
    repository = Repository(folder / "models")
    install(repository, "scale", scale())
    apply_to(repository)
    file = folder / ".models.tune" / "scale.applied.json"
    document = json.loads(file.read_text())
    document["applied"][0]["servers"] = [server]
    file.write_text(json.dumps(document))
    return repository


def test_a_refusal_changes_nothing(tmp_path: Path, reached: list[str]) -> None:
    repository = written(tmp_path, OTHER)
    config = repository.model("scale").read_config()
    with pytest.raises(HostError, match="only the record"):
        undo_in(repository, UndoAccess(admin=ADMIN).connect)
    assert (repository.model("scale").read_config(), reached) == (config, [])
    assert [entry.state for entry in entries(repository)] == ["applied"]


@pytest.mark.parametrize("server", ["http://10.0.0.1:8000", "grpc://", "\\x00"])
def test_a_record_that_names_no_server_is_damaged(tmp_path: Path, server: str, reached: list[str]) -> None:
    with pytest.raises(RepositoryError, match="this record cannot be read"):
        undo_in(written(tmp_path, server), UndoAccess().connect)
    assert reached == []
