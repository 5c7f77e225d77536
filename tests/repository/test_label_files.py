"""Files of labels in a model's folder: they are there before the config that names them, and go when none does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.artifacts import scale

from builder import RepositoryError, verify
from builder.config import ConfigOptions, pbtxt
from builder.publishing import install
from builder.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def labels(repository: Repository, *lines: str) -> ConfigOptions:
    file = repository.root.parent / "labels.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return ConfigOptions(labels={"y": file})


def named(repository: Repository) -> Path:
    """Return the label file that the config names."""
    config = pbtxt.parse(repository.model("scale").read_config(), where="config.pbtxt")
    return repository.root / "scale" / str(config.output[0].label_filename)


def label_files(repository: Repository) -> set[Path]:
    return set((repository.root / "scale").glob("labels-*"))


@pytest.mark.parametrize("is_first", [True, False])
def test_labels_are_installed_with_the_config_that_names_them(repository: Repository, is_first: bool) -> None:
    if not is_first:
        install(repository, "scale", scale())

    done = install(repository, "scale", scale(), labels(repository, "a", "b", "c"))

    assert named(repository).read_text() == "a\nb\nc\n"
    assert done.created is is_first


def test_labels_stay_when_a_version_is_added_without_the_option(repository: Repository) -> None:
    install(repository, "scale", scale(), labels(repository, "a", "b", "c"))

    install(repository, "scale", scale(3.0))
    install(repository, "scale", scale(4.0))

    assert named(repository).read_text() == "a\nb\nc\n"


def test_labels_that_no_config_names_are_deleted_by_the_change_after_next(repository: Repository) -> None:
    install(repository, "scale", scale(), labels(repository, "a", "b", "c"))
    old = named(repository)
    by_hand = old.with_name("labels-of-mine.txt")
    by_hand.write_text("kept")

    install(repository, "scale", scale(), labels(repository, "d", "e", "f"))
    assert label_files(repository) == {old, named(repository), by_hand}  # a server may be reading the old one
    for kept in (repository.root / "scale/1").glob("config.*.pbtxt"):
        kept.unlink()
    install(repository, "scale", scale(3.0))

    assert label_files(repository) == {named(repository), by_hand}


@pytest.mark.parametrize("place", ["1/config.7.pbtxt", "configs/other.pbtxt"])
def test_labels_that_another_config_names_stay(repository: Repository, place: str) -> None:
    install(repository, "scale", scale(), labels(repository, "a", "b", "c"))
    old = named(repository)
    other = repository.root / "scale" / place
    other.parent.mkdir(exist_ok=True)
    other.write_text((repository.root / "scale/config.pbtxt").read_text())

    install(repository, "scale", scale(), labels(repository, "d", "e", "f"))
    install(repository, "scale", scale(3.0))

    assert old.exists()


@pytest.mark.parametrize("pattern", ["labels-*", "warmup/*"])
def test_verify_finds_a_file_that_the_config_names_and_that_is_missing(repository: Repository, pattern: str) -> None:
    install(repository, "scale", scale(), labels(repository, "a", "b", "c"))
    verify("scale", repository.root)

    next((repository.root / "scale").glob(pattern)).unlink()

    with pytest.raises(RepositoryError, match="which is not in the model's folder"):
        verify("scale", repository.root)


def test_a_label_file_of_ours_that_somebody_damaged_is_written_again(repository: Repository) -> None:
    install(repository, "scale", scale(), labels(repository, "a", "b", "c"))
    named(repository).write_text("x\n")

    install(repository, "scale", scale(3.0), labels(repository, "a", "b", "c"))

    assert named(repository).read_text() == "a\nb\nc\n"


@pytest.mark.slow
def test_a_change_of_labels_killed_at_any_call_leaves_the_labels_that_the_config_names(tmp_path: Path) -> None:
    before = Repository(tmp_path / "before/models")
    install(before, "scale", scale(), labels(before, "a", "b", "c"))
    labels(before, "d", "e", "f")  # what the killed change installs
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    script = [sys.executable, "-W", "ignore", str(tests / "support/crashes.py")]
    subprocess.run([*script, str(before.root.parent), str(tmp_path / "after"), "labels"], check=True, env=environment)

    seen = set()
    for folder in (tmp_path / "after").iterdir():
        repository = Repository(folder / "models")
        seen.add((repository.model("scale").served_version(), named(repository).read_text()))
        install(repository, "scale", scale(4.0))
        assert named(repository) in label_files(repository)
        assert len(label_files(repository)) <= 2
    assert seen == {(1, "a\nb\nc\n"), (2, "d\ne\nf\n")}
