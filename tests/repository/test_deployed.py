"""The record of which versions `deploy` has left on which servers."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import RepositoryError
from builder.progress import silent
from builder.repository import DeploymentRecord, Wait, deploying
from builder.repository.own_folder import MARK

FILE = "digits.deployed.json"


def change(root: Path, act: Callable[[DeploymentRecord], object]) -> dict[str, tuple[int, ...]]:
    """Change the record of `digits`, and return what it says afterwards."""
    with deploying(root, "digits", "deploy digits", Wait(silent, 0)) as record:
        act(record)
        return {entry.server: entry.versions for entry in record.servers()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    return root


def folder(root: Path) -> Path:
    return root.parent / ".models.deploy"


def test_a_server_keeps_what_was_last_recorded_and_the_newest_deployment_is_the_last(root: Path) -> None:
    assert change(root, lambda record: None) == {}
    change(root, lambda record: record.set("grpc://a:8001", {2, 1}))
    change(root, lambda record: record.set("grpc://b:8001", [1]))
    assert change(root, lambda record: None) == {"grpc://a:8001": (1, 2), "grpc://b:8001": (1,)}
    assert list(change(root, lambda record: record.set("grpc://a:8001", [2]))) == ["grpc://b:8001", "grpc://a:8001"]
    assert change(root, lambda record: record.forget(["grpc://b:8001", "grpc://c:8001"])) == {"grpc://a:8001": (2,)}


def test_the_record_is_replaced_at_once_and_one_that_was_half_written_is_no_obstacle(root: Path) -> None:
    change(root, lambda record: record.set("grpc://a:8001", [1]))
    (folder(root) / "digits.deployed.json.new").write_text("{half")
    first = (folder(root) / FILE).stat().st_ino
    assert change(root, lambda record: record.set("grpc://a:8001", [2])) == {"grpc://a:8001": (2,)}
    assert (folder(root) / FILE).stat().st_ino != first
    assert sorted(path.name for path in folder(root).iterdir()) == [MARK, FILE, "digits.lock"]


def test_models_have_records_of_their_own(root: Path) -> None:
    change(root, lambda record: record.set("grpc://a:8001", [1]))
    with deploying(root, "digits.lock", "deploy digits.lock", Wait(silent, 0)) as record:
        assert record.servers() == ()


GOOD = {"versions": [1], "at": "2026-11-27T15:00:00+00:00"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps({"format": 2, "model": "digits", "servers": {}}),
        json.dumps({"format": 1, "servers": []}),
        *(
            json.dumps({"format": 1, "servers": {"a": entry}})
            for entry in (
                {**GOOD, "versions": ["1"]},
                {**GOOD, "versions": [0]},
                {**GOOD, "versions": 1},
                {**GOOD, "at": "yesterday"},
                {**GOOD, "at": "2026-11-27T15:00:00"},
                {**GOOD, "at": 0},
                {"versions": [1]},
            )
        ),
    ],
    ids=lambda text: text[:80],
)
def test_a_damaged_record_is_an_error_that_names_the_file_and_is_not_overwritten(root: Path, text: str) -> None:
    change(root, lambda record: None)
    (folder(root) / FILE).write_text(text)
    for act in (lambda record: None, lambda record: record.set("grpc://a:8001", [1])):
        with pytest.raises(RepositoryError, match=re.escape(str(folder(root) / FILE))):
            change(root, act)
    assert (folder(root) / FILE).read_text() == text


def test_a_link_in_place_of_the_record_is_not_followed(root: Path, tmp_path: Path) -> None:
    change(root, lambda record: record.set("grpc://a:8001", [1]))
    (folder(root) / FILE).rename(tmp_path / "elsewhere.json")
    (folder(root) / FILE).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RepositoryError, match=re.escape(FILE)):
        change(root, lambda record: None)
