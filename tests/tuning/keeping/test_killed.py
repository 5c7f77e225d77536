"""An apply or an undo that is killed before any of its calls leaves a whole config, and an undo that works."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.artifacts import scale
from support.crashing import crash
from support.tuned import BEST, apply_to, entries, found, undo_in

from builder.publishing import install
from builder.repository import Repository

pytestmark = pytest.mark.slow


def config_of(folder: Path) -> bytes:
    return (folder / "models/scale/config.pbtxt").read_bytes()


@pytest.fixture
def before(tmp_path: Path) -> Path:
    install(Repository(tmp_path / "before/models"), "scale", scale())
    return tmp_path / "before"


def test_an_apply_killed_at_any_call_is_made_or_not_and_can_be_undone(before: Path, tmp_path: Path) -> None:
    first = config_of(before)
    done = shutil.copytree(before, tmp_path / "done")
    apply_to(Repository(done / "models"))
    second = config_of(done)
    seen = set()

    for folder in crash(before, tmp_path / "crashes", "tune"):
        there = config_of(folder)
        assert there in (first, second)
        repository = Repository(folder / "models")
        again = Repository(shutil.copytree(folder, tmp_path / "again" / folder.name) / "models")

        back = undo_in(repository)

        seen.add((there == second, back.is_changed))
        assert config_of(folder) == first
        assert not undo_in(repository).is_changed
        assert apply_to(again).is_changed == (there == first)
        assert again.model("scale").config_path.read_bytes() == second
    assert seen == {(False, False), (True, True)}


def test_an_undo_killed_at_any_call_is_completed_by_the_next_one_and_takes_back_no_more(
    before: Path, tmp_path: Path
) -> None:
    apply_to(Repository(before / "models"))
    first = config_of(before)
    apply_to(Repository(before / "models"), what=found(replace(BEST, instances=4)))
    second = config_of(before)
    seen = set()

    for folder in crash(before, tmp_path / "crashes", "undo tuning")[:-1]:
        there = config_of(folder)
        assert there in (first, second)
        repository = Repository(folder / "models")
        if len(entries(repository)) == 1:  # it was complete, but for its lock
            assert there == first
            continue

        back = undo_in(repository)

        assert back.is_changed
        assert len(entries(repository)) == 1
        seen.add((there == first, "had been interrupted" in back.why))
        assert config_of(folder) == first
    assert seen == {(False, False), (True, True)}
