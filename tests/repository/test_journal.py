"""A journal that cannot be read locks nothing, leads nowhere, and is kept for whoever wants to look at it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.artifacts import EMPTY, names, scale, tree

from builder.publishing import install, roll_back
from builder.repository import Repository

DAMAGED: dict[str, bytes | Callable[[Path], object]] = {
    "empty": b"",
    "cut off": b"{",
    "another type": b"[]",
    "null": b"null",
    "not UTF-8": b"\xff\xfe\x00",
    "nested deeply": b"[" * 4000,
    "too large": b" " * 10_000_000,
    "without a version": b'{"model": "scale"}',
    "of a later release": b'{"model": "scale", "version": 2, "format": 2}',
    "wrong types": b'{"model": 5, "version": "x"}',
    "outside": b'{"model": "../outside", "version": 1}',
    "absolute": b'{"model": "/etc", "version": 1}',
    "no name": b'{"model": "", "version": 1}',
    "NUL": b'{"model": "a\\u0000b", "version": 1}',
    "surrogate": b'{"model": "\\ud800", "version": 1}',
    "version 0": b'{"model": "scale", "version": 0}',
    "version -1": b'{"model": "scale", "version": -1}',
    "a flag": b'{"model": "scale", "version": true}',
    "a fraction": b'{"model": "scale", "version": 1.5}',
    "infinite": b'{"model": "scale", "version": 1e999}',
    "a huge number": b'{"model": "scale", "version": ' + b"9" * 3000 + b"}",
    "more digits than Python reads": b'{"model": "scale", "version": 1' + b"0" * 4000 + b"}",
    "a file that no change adds": b'{"model": "scale", "version": null, "added": ["1/model.onnx"]}',
    "a file outside": b'{"model": "scale", "version": null, "added": ["1/../../reference.npz"]}',
    "another list": b'{"model": "scale", "version": null, "added": "config.pbtxt"}',
    "a folder": lambda path: (path / "inside").mkdir(parents=True),
    "a pipe": lambda path: os.mkfifo(path),
    "a link": lambda path: path.symlink_to("/etc/passwd"),
}


def staging_of(repository: Repository) -> Path:
    return repository.root.parent / ".models.staging"


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def repository(tmp_path: Path, said: list[tuple[str, str]]) -> Repository:
    repository = Repository(tmp_path / "models", report=lambda *line: said.append(line))
    install(repository, "scale", scale())
    return repository


def damage(repository: Repository, journal: bytes | Callable[[Path], object]) -> None:
    path = staging_of(repository) / "journal.json"
    if isinstance(journal, bytes):
        path.write_bytes(journal)
    else:
        journal(path)


@pytest.mark.parametrize("journal", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_journal_is_kept_aside_with_a_note_and_the_change_goes_on(
    repository: Repository, said: list[tuple[str, str]], journal: bytes | Callable[[Path], object]
) -> None:
    (repository.root.parent / "outside/1").mkdir(parents=True)
    damage(repository, journal)

    assert install(repository, "scale", scale(3.0)).version == 2

    assert names(staging_of(repository)) == sorted([*EMPTY, "journal.bad-1"])
    (note,) = [what for step, what in said if step == "note"]
    assert str(staging_of(repository) / "journal.bad-1") in note
    assert (repository.root.parent / "outside/1").is_dir()
    assert install(repository, "scale", scale(4.0)).version == 3
    assert len(said) == 1


def test_only_the_last_damaged_journals_are_kept(repository: Repository) -> None:
    for number in range(5):
        damage(repository, DAMAGED["a folder"] if number == 0 else str(number).encode())
        assert install(repository, "scale", scale(3.0 + number)).created

    kept = tree(staging_of(repository))
    assert names(staging_of(repository)) == sorted([*EMPTY, "journal.bad-1", "journal.bad-2", "journal.bad-3"])
    assert [kept[f"journal.bad-{n}"] for n in (1, 2, 3)] == [b"4", b"3", b"2"]


def test_without_the_journal_a_version_that_was_being_added_stays_complete_and_is_not_served(
    repository: Repository,
) -> None:
    install(repository, "scale", scale(3.0))
    roll_back(repository, "scale")  # as it is when a publish is killed between the last two renames
    (staging_of(repository) / "config.pbtxt").write_text("staged")
    damage(repository, b"")
    before = tree(repository.root / "scale/2")

    assert install(repository, "scale", scale(4.0)).version == 3

    assert tree(repository.root / "scale/2") == before
    assert repository.model("scale").versions() == (1, 2, 3)


@pytest.mark.parametrize("config", ["{", None], ids=["damaged", "missing"])
def test_a_version_is_kept_while_nobody_can_tell_whether_the_config_serves_it(
    repository: Repository, config: str | None
) -> None:
    install(repository, "scale", scale(3.0))
    (staging_of(repository) / "config.pbtxt").write_text("staged")
    damage(repository, b'{"model": "scale", "version": 2}')
    path = repository.model("scale").config_path
    if config is None:
        path.unlink()
    else:
        path.write_text(config)

    assert install(repository, "another", scale()).version == 1

    assert repository.model("scale").versions() == (1, 2)
    assert names(staging_of(repository)) == EMPTY


@pytest.mark.parametrize("place", ["the model", "the version"])
def test_a_journal_leads_through_no_link(repository: Repository, tmp_path: Path, place: str) -> None:
    install(repository, "scale", scale(3.0))
    roll_back(repository, "scale")
    linked = repository.root / ("scale" if place == "the model" else "scale/2")
    linked.rename(tmp_path / "outside")
    linked.symlink_to(tmp_path / "outside")
    before = tree(tmp_path / "outside")
    (staging_of(repository) / "config.pbtxt").write_text("staged")
    damage(repository, b'{"model": "scale", "version": 2}')

    assert install(repository, "another", scale()).version == 1

    assert linked.is_symlink()
    assert tree(tmp_path / "outside") == before
