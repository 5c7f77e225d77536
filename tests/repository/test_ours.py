"""Only what this package made is deleted, and nothing is written or deleted through a link."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from support.artifacts import EMPTY, names, scale, tree

from builder.deployment import LiveServer, deploy
from builder.errors import RepositoryError
from builder.publishing import install
from builder.repository import Repository
from builder.repository.own_folder import MARK, OwnFolder


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "here/models")
    install(repository, "scale", scale())
    return repository


@pytest.fixture
def somebodys(tmp_path: Path) -> Path:
    """A folder of somebody else, outside."""
    folder = tmp_path / "somebodys"
    (folder / "version").mkdir(parents=True)
    for file in ("thesis.txt", "config.pbtxt", "journal.json", f"{'a' * 64}.raw", "version/model.onnx"):
        (folder / file).write_text("years of work")
    return folder


def staging_of(repository: Repository) -> Path:
    return repository.root.parent / ".models.staging"


def emptied(repository: Repository) -> Path:
    """Return the path of the staging folder, which is gone."""
    folder = staging_of(repository)
    for entry in folder.iterdir():
        entry.unlink()
    folder.rmdir()
    return folder


def fill(folder: Path, *entries: str) -> None:
    """Write files, and folders with a file where the name ends with a slash."""
    for entry in entries:
        path = folder / entry / "file" if entry.endswith("/") else folder / entry
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")


def mark_with_a_link(folder: Path) -> None:
    fill(folder, "thesis.txt")
    (folder / MARK).symlink_to("thesis.txt")


# The folder itself


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, other: path.symlink_to(other),
    "a link that leads nowhere": lambda path, other: path.symlink_to(other / "missing"),
    "a file": lambda path, other: path.write_text("years of work"),
    "a pipe": lambda path, other: os.mkfifo(path),
    "a folder with other things": lambda path, other: fill(path, "thesis.txt"),
    "other things beside a lock": lambda path, other: fill(path, "lock", "version/", "thesis.txt"),
    "our names without a lock": lambda path, other: fill(path, "version/", "config.pbtxt"),
    "a link as the mark": lambda path, other: mark_with_a_link(path),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED.keys())
def test_what_is_not_our_staging_folder_is_refused_and_kept_and_the_fix_works(
    repository: Repository, somebodys: Path, plant: Callable[[Path, Path], object]
) -> None:
    path = emptied(repository)
    plant(path, somebodys)
    before = tree(repository.root.parent.parent)

    for attempt in (
        lambda: repository.check_writable("scale"),
        lambda: install(repository, "scale", scale(3.0)),
        lambda: repository.prune("scale", keep=1),
    ):
        with pytest.raises(RepositoryError) as caught:
            attempt()
        assert caught.value.where == str(path)
        assert caught.value.fix.startswith("move it away")
    assert tree(repository.root.parent.parent) == before

    path.rename(path.with_name("moved away"))
    assert install(repository, "scale", scale(3.0)).version == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_another_user_is_refused_but_not_one_of_the_repositorys_owner(repository: Repository) -> None:
    os.chown(staging_of(repository), 12345, 12345)

    with pytest.raises(RepositoryError, match="belongs to user 12345, who is neither you nor the owner"):
        install(repository, "scale", scale(3.0))

    os.chown(repository.root, 12345, 12345)
    assert install(repository, "scale", scale(3.0)).version == 2


def test_the_folder_of_an_earlier_release_is_adopted_and_emptied(repository: Repository) -> None:
    path = emptied(repository)
    left = ("lock", "version/1/", "model/1/", "config.pbtxt", "journal.tmp", "pruned-3/", "candidate/", "removed/")
    fill(path, *left, f"{'a' * 64}.raw")

    assert install(repository, "scale", scale(3.0)).version == 2
    assert names(path) == EMPTY


def test_an_empty_folder_is_used(repository: Repository) -> None:
    emptied(repository).mkdir()

    assert install(repository, "scale", scale(3.0)).version == 2
    assert names(staging_of(repository)) == EMPTY


def test_other_things_in_our_folder_are_left_alone(repository: Repository) -> None:
    fill(staging_of(repository), "thesis.txt", "folder/", "version/", "pruned-2/", "pruned-2.bak")

    assert install(repository, "scale", scale(3.0)).version == 2
    assert names(staging_of(repository)) == sorted([*EMPTY, "folder", "pruned-2.bak", "thesis.txt"])


@pytest.mark.parametrize("plant", list(PLANTED.values())[:4], ids=list(PLANTED)[:4])
def test_the_folder_of_the_deployments_locks_is_checked_too(
    repository: Repository, somebodys: Path, plant: Callable[[Path, Path], object]
) -> None:
    path = repository.root.parent / ".models.deploy"
    plant(path, somebodys)
    before = tree(repository.root.parent.parent)

    with pytest.raises(RepositoryError, match=re.escape(str(path))):
        deploy(repository, "scale", [cast(LiveServer, None)])
    assert tree(repository.root.parent.parent) == before


# What is in the folder


@pytest.mark.parametrize("name", ["version", "model", "pruned-1", "config.pbtxt", "journal.tmp", "journal.json"])
def test_a_link_in_the_folder_is_deleted_and_not_followed(repository: Repository, somebodys: Path, name: str) -> None:
    before = tree(somebodys)
    for number, target in enumerate((somebodys, somebodys / "thesis.txt", somebodys / "missing")):
        (staging_of(repository) / name).symlink_to(target)
        assert install(repository, "scale", scale(3.0 + number)).version == 2 + number
    assert tree(somebodys) == before


def test_links_below_the_folder_are_not_followed_however_deep_it_is(repository: Repository, somebodys: Path) -> None:
    before = tree(somebodys)
    deep = staging_of(repository) / "version"
    for _ in range(100):
        deep /= "deeper"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to(somebodys)
    for _ in range(20):  # longer than the path of a file may be
        (staging_of(repository) / "version").rename(staging_of(repository) / "model")
        (staging_of(repository) / "version").mkdir()
        deep = staging_of(repository) / "version" / ("x" * 250)
        (staging_of(repository) / "model").rename(deep)

    assert install(repository, "scale", scale(3.0)).version == 2
    assert names(staging_of(repository)) == EMPTY
    assert tree(somebodys) == before


def test_a_folder_that_somebody_exchanges_for_a_link_while_it_is_open_is_not_followed(
    tmp_path: Path, somebodys: Path
) -> None:
    ours = OwnFolder(tmp_path / "ours", tmp_path, re.compile("lock"), re.compile("version"))
    before = tree(somebodys)
    with ours.opened() as folder:
        fill(ours.path, "version/")
        ours.path.rename(tmp_path / "exchanged")
        ours.path.symlink_to(somebodys)
        folder.remove("version")

    assert tree(somebodys) == before
    assert names(tmp_path / "exchanged") == [MARK]


@pytest.mark.parametrize(
    "plant",
    [
        lambda path, other: path.symlink_to(other / "thesis.txt"),
        lambda path, other: path.symlink_to(other / "new"),
        lambda path, other: path.mkdir(),
        lambda path, other: os.mkfifo(path),
    ],
    ids=["a link", "a link that leads nowhere", "a folder", "a pipe"],
)
def test_a_lock_that_is_no_file_is_refused_and_the_fix_works(
    repository: Repository, somebodys: Path, plant: Callable[[Path, Path], object]
) -> None:
    lock, before = staging_of(repository) / "lock", tree(somebodys)
    lock.unlink()
    plant(lock, somebodys)

    with pytest.raises(RepositoryError, match="this lock is not a file") as caught:
        install(repository, "scale", scale(3.0))
    assert (caught.value.where, tree(somebodys)) == (str(lock), before)

    lock.rmdir() if lock.is_dir() and not lock.is_symlink() else lock.unlink()
    assert install(repository, "scale", scale(3.0)).version == 2


# The repository


def test_a_model_behind_a_link_is_read_but_not_changed(repository: Repository, tmp_path: Path) -> None:
    install(repository, "scale", scale(3.0))
    outside = tmp_path / "outside"
    (repository.root / "scale").rename(outside)
    (repository.root / "scale").symlink_to(outside)
    before = tree(outside)

    assert repository.model("scale").served_version() == 2
    for attempt in (
        lambda: repository.check_writable("scale"),
        lambda: install(repository, "scale", scale(4.0)),
        lambda: repository.prune("scale", keep=1),
    ):
        with pytest.raises(RepositoryError, match="it is a link, and what it leads to is not changed") as caught:
            attempt()
        assert str(outside) in caught.value.fix
    assert tree(outside) == before


def test_nothing_is_written_or_deleted_through_a_link_to_warmup_files(repository: Repository, somebodys: Path) -> None:
    warmup = repository.root / "scale/warmup"
    for file in warmup.iterdir():
        file.unlink()
    warmup.rmdir()
    warmup.symlink_to(somebodys)
    before = tree(somebodys)

    with pytest.raises(RepositoryError, match="nothing is written through it"):
        install(repository, "scale", scale(3.0))
    assert tree(somebodys) == before
    assert repository.model("scale").versions() == (1,)

    warmup.unlink()
    assert install(repository, "scale", scale(3.0)).version == 2


def test_prune_removes_a_version_that_is_a_link_and_not_what_it_leads_to(
    repository: Repository, tmp_path: Path
) -> None:
    for factor in (3.0, 4.0):
        install(repository, "scale", scale(factor))
    outside = tmp_path / "outside"
    (repository.root / "scale/1").rename(outside)
    (repository.root / "scale/1").symlink_to(outside)
    before = tree(outside)

    assert repository.prune("scale", keep=1).removed == (1, 2)
    assert tree(outside) == before
    assert names(staging_of(repository)) == EMPTY
