"""The configs that a model had before are kept, and each of them can be brought back as it was."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.artifacts import EMPTY, names, scale, tree

from builder.config import ConfigOptions, lineage, pbtxt
from builder.errors import RepositoryError
from builder.publishing import install, plan_switch, put_back, roll_back, switch
from builder.repository import KeptConfig, Repository, kept

REVERSED = replace(scale(3.0), reference={key: rows[::-1] for key, rows in scale(3.0).reference.items()})
"""A version with other warm-up files than `scale()`."""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A model whose first version is served with settings of its own, and then replaced."""
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale())
    edit(repository, "count: 1", "count: 3  # one for each core")
    install(repository, "scale", REVERSED, ConfigOptions(instances=1, max_queue_delay_us=500_000))
    return repository


def config_of(repository: Repository) -> bytes:
    return repository.model("scale").config_path.read_bytes()


def edit(repository: Repository, old: str, new: str) -> bytes:
    """Edit the config by hand, and return what it holds then."""
    path = repository.model("scale").config_path
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path.read_bytes()


def without_warmup(repository: Repository) -> dict[str, bytes]:
    """Return what is in the repository, without the files that are swept as soon as no config names them."""
    return {file: content for file, content in tree(repository.root).items() if "/warmup/" not in file}


def previous(repository: Repository) -> str | None:
    return lineage.previous(config_of(repository).decode(), where="")


# What is kept


def test_a_config_is_kept_byte_for_byte_with_the_version_that_it_served(repository: Repository) -> None:
    text = (repository.root / "scale/1/config.1.pbtxt").read_text()

    assert "count: 3  # one for each core" in text
    assert previous(repository) == "1/1"
    before = config_of(repository)
    done = switch(repository, "scale", 1)
    assert done.kept == KeptConfig(2, 1)
    assert (repository.root / "scale/2/config.1.pbtxt").read_bytes() == before


def test_the_line_ends_and_the_mode_of_a_config_are_kept_too(repository: Repository) -> None:
    path = repository.model("scale").config_path
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    path.chmod(0o640)
    before = config_of(repository)

    switch(repository, "scale", 1)
    assert (repository.root / "scale/2/config.1.pbtxt").stat().st_mode & 0o777 == 0o640
    roll_back(repository, "scale", 2)
    assert config_of(repository) == before
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_same_text_is_not_kept_twice(repository: Repository) -> None:
    for _ in range(3):
        switch(repository, "scale", 1)
        roll_back(repository, "scale", 2)

    model = repository.model("scale")
    assert kept.numbers(model, 2) == (1,)
    assert len(kept.numbers(model, 1)) == 2  # as edited by hand, and as it was served again with `previous`


def test_nothing_is_kept_where_nothing_changes(repository: Repository) -> None:
    before = tree(repository.root)
    modified = repository.model("scale").config_path.stat().st_mtime_ns

    assert switch(repository, "scale", 2).diff == ""
    assert not install(repository, "scale", REVERSED).config_changed
    assert tree(repository.root) == before
    assert repository.model("scale").config_path.stat().st_mtime_ns == modified


def test_a_config_whose_version_is_missing_is_not_kept_and_that_is_told(repository: Repository) -> None:
    shutil.rmtree(repository.root / "scale/2")

    done = switch(repository, "scale", 1)

    assert done.kept is None
    assert "could not be kept, because version 2 has no folder here" in done.notes[-1]


# Going back


def test_rollback_brings_back_the_config_as_it_was_with_its_warm_up_files(repository: Repository) -> None:
    former = (repository.root / "scale/1/config.1.pbtxt").read_bytes()
    warmup = repository.root / "scale/warmup"
    install(repository, "scale", scale(5.0))  # sweeps what nothing names
    shutil.rmtree(warmup)

    first, second = roll_back(repository, "scale"), roll_back(repository, "scale")

    assert [(each.before, each.after) for each in (first, second)] == [(3, 2), (2, 1)]
    assert second.restored == KeptConfig(1, 1)
    assert config_of(repository) == former
    assert {file for file in former.decode().split('"') if file.endswith(".raw")} <= tree(warmup).keys()
    assert "-  max_queue_delay_microseconds: 500000" in second.diff.splitlines()


def test_rollback_undoes_a_change_of_the_config_alone_again_and_again(repository: Repository) -> None:
    texts = [config_of(repository)]
    for delay in (100, 200, 300):
        published = install(repository, "scale", REVERSED, ConfigOptions(max_queue_delay_us=delay))
        assert (published.created, published.config_changed) == (False, True)
        texts.append(config_of(repository))

    for expected in reversed(texts[:-1]):
        done = roll_back(repository, "scale")
        assert (done.before, done.after) == (2, 2)
        assert config_of(repository) == expected
    assert roll_back(repository, "scale").after == 1
    with pytest.raises(RepositoryError, match="there is no version before 1"):
        roll_back(repository, "scale")


def test_what_was_edited_by_hand_comes_back_when_the_version_does(repository: Repository) -> None:
    edited = edit(repository, "500000", "250  # agreed with the web team")

    done = roll_back(repository, "scale")
    assert done.kept == KeptConfig(2, 1)
    roll_back(repository, "scale", 2)
    assert config_of(repository) == edited


def test_an_earlier_config_of_a_version_is_brought_back_by_its_number(repository: Repository) -> None:
    first = config_of(repository)
    install(repository, "scale", REVERSED, ConfigOptions(max_queue_delay_us=100))
    second = config_of(repository)
    install(repository, "scale", REVERSED, ConfigOptions(max_queue_delay_us=200))

    roll_back(repository, "scale", number=1)
    assert config_of(repository) == first
    roll_back(repository, "scale", 2, number=2)
    assert config_of(repository) == second
    with pytest.raises(RepositoryError, match="the config that was kept there is missing: it was deleted"):
        roll_back(repository, "scale", number=9)


def test_rollback_goes_back_from_where_it_went_and_never_forward(repository: Repository) -> None:
    install(repository, "scale", scale(4.0))

    roll_back(repository, "scale", 2)
    assert roll_back(repository, "scale").after == 1


def test_rollback_undoes_a_switch(repository: Repository) -> None:
    before = config_of(repository)

    switch(repository, "scale", 1)
    assert previous(repository) == "2/1"
    assert roll_back(repository, "scale").after == 2
    assert config_of(repository) == before


@pytest.mark.parametrize("change", [switch, roll_back])
def test_the_settings_of_today_are_kept_if_they_are_wanted(
    repository: Repository, change: Callable[..., object]
) -> None:
    edit(repository, "500000", "250")

    change(repository, "scale", 1, keep_settings=True)

    config = pbtxt.parse(config_of(repository).decode(), where="")
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert [group.count for group in config.instance_group] == [1]
    assert repository.model("scale").served_version() == 1
    assert previous(repository) == ("2/1" if change is switch else None)


def test_rollback_with_the_settings_of_today_looks_for_another_version(repository: Repository) -> None:
    install(repository, "scale", REVERSED, ConfigOptions(max_queue_delay_us=100))

    assert roll_back(repository, "scale", keep_settings=True).after == 1
    config = pbtxt.parse(config_of(repository).decode(), where="")
    assert config.dynamic_batching.max_queue_delay_microseconds == 100


def test_where_nothing_was_kept_rollback_serves_the_version_below_and_says_so(repository: Repository) -> None:
    (repository.root / "scale/1/config.1.pbtxt").unlink()
    path = repository.model("scale").config_path
    path.write_text(lineage.with_previous(path.read_text(), None, where=path))

    done = roll_back(repository, "scale")

    assert (done.after, done.restored) == (1, None)
    assert done.notes == ("no config was kept with version 1, so it is served with the settings of today",)
    assert b"500000" in config_of(repository)


def test_after_its_version_was_removed_the_one_below_is_served_and_that_is_told(repository: Repository) -> None:
    install(repository, "scale", scale(4.0))
    shutil.rmtree(repository.root / "scale/2")

    done = roll_back(repository, "scale")

    assert done.after == 1
    assert done.restored == KeptConfig(1, 1)
    assert done.notes[0].startswith("the config before served version 2, which was removed")


def replace_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replace_by_a_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/hostname")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (Path.unlink, "kept there is missing: it was deleted"),
    "a folder": (replace_by_a_folder, "the kept config cannot be read: it is a folder"),
    "a link that leads out": (replace_by_a_link, "the kept config cannot be read"),
    "not text": (lambda file: file.write_bytes(b"\xff"), "the kept config cannot be read"),
    "no config": (lambda file: file.write_text("name: ["), "not a valid model configuration"),
    "what Triton refuses": (
        lambda file: file.write_text(file.read_text().replace("count: 3", "count: 3 profile: 'p'")),
        "instance_group.profile is only for TensorRT",
    ),
    "of another model": (
        lambda file: file.write_text(file.read_text().replace('name: "x"', 'name: "z"')),
        "lists input 'z'",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_kept_config_that_is_missing_or_damaged_is_refused_and_the_settings_of_today_work(
    repository: Repository, damage: Callable[[Path], object], message: str
) -> None:
    damage(repository.root / "scale/1/config.1.pbtxt")
    before = without_warmup(repository)

    for attempt in (
        lambda: roll_back(repository, "scale"),
        lambda: switch(repository, "scale", 1, number=1),
        lambda: plan_switch(repository.model("scale"), 1, number=1),
    ):
        with pytest.raises(RepositoryError, match=message):
            attempt()
    assert without_warmup(repository) == before
    assert names(repository.root.parent / ".models.staging") == EMPTY

    assert roll_back(repository, "scale", 1, keep_settings=True).after == 1


def test_a_file_that_a_kept_config_names_and_that_cannot_be_made_again_is_told(repository: Repository) -> None:
    file = repository.root / "scale/1/config.1.pbtxt"
    file.write_text(file.read_text().replace('name: "y"', 'name: "y" label_filename: "labels.txt"'))

    with pytest.raises(RepositoryError, match=r"names the file labels\.txt, which is missing"):
        roll_back(repository, "scale")
    (repository.root / "scale/labels.txt").write_text("a\nb\nc\n")
    assert roll_back(repository, "scale").after == 1


@pytest.mark.parametrize("named", ["nonsense", "../1", "1/0", "1", "99999999999999999999/1"])
def test_a_name_of_the_config_before_that_is_none_is_told(repository: Repository, named: str) -> None:
    path = repository.model("scale").config_path
    path.write_text(lineage.with_previous(path.read_text(), named, where=path))

    with pytest.raises(RepositoryError, match="names no config from before"):
        roll_back(repository, "scale")
    assert roll_back(repository, "scale", 1).after == 1


# Policies


@pytest.mark.parametrize(
    ("policy", "after"),
    [
        ("", "versions: [2]"),
        ("version_policy { all { } }", "versions: [1, 2]"),
        ("version_policy { latest { num_versions: 2 } }", "versions: [1, 2]"),
        ("version_policy { latest { num_versions: 3 } }", "versions: [1, 2]"),
        ("version_policy { specific { versions: [1, 2] } }", "versions: [1, 2]"),
    ],
    ids=["none", "all", "latest 2", "latest 3", "specific"],
)
def test_a_kept_config_that_would_serve_a_newer_version_names_those_that_it_served(
    repository: Repository, policy: str, after: str
) -> None:
    text = config_of(repository).decode()
    start, end = text.index("version_policy"), text.index("max_batch_size")
    repository.model("scale").config_path.write_text(f"{text[:start]}{policy}\n{text[end:]}")
    install(repository, "scale", scale(4.0))
    assert repository.model("scale").served_version() == 3

    roll_back(repository, "scale")

    assert repository.model("scale").served_version() == 2
    assert f"specific {{ {after} }}" in " ".join(config_of(repository).decode().split())


def test_a_version_that_is_gone_and_that_a_kept_config_served_beside_is_left_out(repository: Repository) -> None:
    install(repository, "scale", scale(4.0), beside=(1, 2))
    install(repository, "scale", scale(5.0), beside=())
    shutil.rmtree(repository.root / "scale/1")

    done = roll_back(repository, "scale")

    assert repository.model("scale").served_versions() == (2, 3)
    assert done.notes == ("version 1, which it served too, is no longer there",)


# Versions beside


def test_versions_are_served_beside_another_one(repository: Repository) -> None:
    model = repository.model("scale")
    install(repository, "scale", scale(4.0), beside=(1,))
    assert model.served_versions() == (1, 3)

    switch(repository, "scale", 3, beside=(2, 1))
    assert model.served_versions() == (1, 2, 3)
    switch(repository, "scale", 2, beside=(1,))
    assert model.served_versions() == (1, 2)
    roll_back(repository, "scale", 2, beside=())
    assert model.served_versions() == (2,)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ((3,), "version 3 cannot be served beside version 2: requests that name no version are answered by the"),
        ((2,), "it is the same"),
        ((7,), "there is no version 7"),
        ((1,), "model.onnx has 0 bytes"),
    ],
)
def test_a_version_that_cannot_be_served_beside_is_refused(
    repository: Repository, beside: tuple[int, ...], message: str
) -> None:
    install(repository, "scale", scale(4.0))
    (repository.root / "scale/1/model.onnx").write_bytes(b"")
    before = tree(repository.root)

    with pytest.raises(RepositoryError, match=message):
        switch(repository, "scale", 2, beside=beside)
    assert tree(repository.root) == before


def test_a_version_that_was_proven_for_smaller_batches_is_not_served_beside(repository: Repository) -> None:
    with pytest.raises(RepositoryError, match="max_batch_size is 16, but this version was proven only up to 8"):
        install(repository, "scale", scale(4.0, max_batch_size=16), ConfigOptions(max_batch_size=16), beside=(1,))
    assert repository.model("scale").versions() == (1, 2)


# Put back


def test_a_failed_change_that_is_put_back_leaves_nothing(repository: Repository) -> None:
    before = tree(repository.root)
    done = switch(repository, "scale", 1)

    put_back(
        repository,
        "scale",
        done.replaced,
        instead_of=config_of(repository),
        forget=done.kept if done.is_newly_kept else None,
    )

    assert tree(repository.root) == before


def test_what_is_put_back_over_anything_keeps_that(repository: Repository) -> None:
    done = switch(repository, "scale", 1)
    edited = edit(repository, "count: 3", "count: 4")

    back = put_back(repository, "scale", done.replaced)

    assert back.kept is not None
    assert kept.read(repository.model("scale"), back.kept) == edited
