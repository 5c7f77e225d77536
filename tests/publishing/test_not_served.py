"""A version that is published without being served, and a dry run that only says what would be done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.artifacts import EMPTY, names, scale, tree
from support.serving import client, infer, load, unload

from builder.config import ConfigOptions, lineage, pbtxt
from builder.errors import RepositoryError
from builder.publishing import Switch, install, roll_back, switch
from builder.repository import PublishedVersion, Repository
from builder.server import Server


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale())
    return repository


def text_of(repository: Repository) -> str:
    return repository.model("scale").read_config()


def config_of(repository: Repository) -> Any:
    return pbtxt.parse(text_of(repository), where="")


def edit(repository: Repository, old: str, new: str) -> None:
    path = repository.model("scale").config_path
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# Without serving


def test_a_version_that_is_not_served_is_installed_and_changes_nothing_else(repository: Repository) -> None:
    before = tree(repository.root)

    done = install(repository, "scale", scale(3.0), ConfigOptions(instances=2), serve=False)

    assert (done.version, done.created, done.is_served, done.config_changed) == (2, True, False, False)
    after = tree(repository.root)
    assert {file: after[file] for file in before} == before
    assert set(done.files) == after.keys() - before.keys()
    assert "count: 2" in after["scale/2/config.0.pbtxt"].decode()
    assert "+  count: 2" in done.config_diff.splitlines()
    assert names(repository.root.parent / ".models.staging") == EMPTY


def test_a_switch_serves_it_with_the_config_that_was_prepared_and_rollback_undoes_that(repository: Repository) -> None:
    before = text_of(repository)
    install(repository, "scale", scale(3.0), ConfigOptions(instances=2), serve=False)
    prepared = (repository.root / "scale/2/config.0.pbtxt").read_text()

    done = switch(repository, "scale", 2)

    assert (done.before, done.after) == (1, 2)
    assert text_of(repository) == prepared
    assert roll_back(repository, "scale").after == 1
    assert text_of(repository) == before
    assert switch(repository, "scale", 2).restored is not None  # as it was served, no longer as it was prepared


def test_what_people_edit_in_between_is_kept(repository: Repository) -> None:
    install(repository, "scale", scale(3.0), ConfigOptions(instances=2), serve=False)
    edit(repository, "dynamic_batching {\n}", "dynamic_batching { max_queue_delay_microseconds: 250 }  # agreed")
    edit(repository, "parameters {", 'parameters { key: "team" value { string_value: "web" } }\nparameters {')

    switch(repository, "scale", 2)

    config = config_of(repository)
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert "# agreed" in text_of(repository)
    assert config.parameters["team"].string_value == "web"
    assert [group.count for group in config.instance_group] == [2]
    assert config.parameters["builder.model_sha256"].string_value == scale(3.0).manifest.model.sha256
    assert repository.model("scale").served_versions() == (2,)


def test_what_both_changed_is_refused_by_name_and_the_settings_of_today_work(repository: Repository) -> None:
    install(repository, "scale", scale(3.0), ConfigOptions(instances=2), serve=False)
    edit(repository, "count: 1", "count: 4")
    before = tree(repository.root)

    with pytest.raises(RepositoryError, match="was published with another instance_group, and") as caught:
        switch(repository, "scale", 2)
    assert tree(repository.root) == before
    assert "--keep-settings" in caught.value.fix

    switch(repository, "scale", 2, keep_settings=True)
    assert [group.count for group in config_of(repository).instance_group] == [4]


def test_another_version_that_is_published_in_between_does_no_harm(repository: Repository) -> None:
    install(repository, "scale", scale(3.0), ConfigOptions(instances=2), serve=False)
    assert install(repository, "scale", scale(4.0)).version == 3

    switch(repository, "scale", 2)

    config = config_of(repository)
    assert [group.count for group in config.instance_group] == [2]
    assert config.parameters["builder.model_sha256"].string_value == scale(3.0).manifest.model.sha256
    assert lineage.previous(text_of(repository), where="") == "3/1"


@pytest.mark.parametrize("policy", ["", "version_policy { all { } }", "version_policy { latest { num_versions: 2 } }"])
def test_a_policy_that_would_serve_it_names_the_versions_instead(repository: Repository, policy: str) -> None:
    text = text_of(repository)
    start, end = text.index("version_policy"), text.index("max_batch_size")
    repository.model("scale").config_path.write_text(f"{text[:start]}{policy}\n{text[end:]}")

    done = install(repository, "scale", scale(3.0), serve=False)

    assert done.config_changed
    assert repository.model("scale").versions() == (1, 2)
    assert repository.model("scale").served_versions() == (1,)
    switch(repository, "scale", 2)
    assert repository.model("scale").served_version() == 2


def test_publishing_it_again_adds_nothing_and_can_prepare_another_config(repository: Repository) -> None:
    install(repository, "scale", scale(3.0), serve=False)

    again = install(repository, "scale", scale(3.0), ConfigOptions(instances=3), serve=False)
    assert (again.version, again.created) == (2, False)
    assert "count: 3" in (repository.root / "scale/2/config.0.pbtxt").read_text()

    served = install(repository, "scale", scale(3.0))
    assert (served.version, served.created, served.is_served) == (2, False, True)
    assert [group.count for group in config_of(repository).instance_group] == [3]


def test_what_is_served_already_is_not_prepared(repository: Repository) -> None:
    before = tree(repository.root)
    assert install(repository, "scale", scale(), serve=False).is_served
    with pytest.raises(RepositoryError, match="is this model and is served, and these options would change its config"):
        install(repository, "scale", scale(), ConfigOptions(instances=2), serve=False)
    assert tree(repository.root) == before


def test_the_first_version_of_a_model_is_served_or_refused(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    with pytest.raises(RepositoryError, match="there is none that could go on being served"):
        install(repository, "scale", scale(), serve=False)
    assert list(repository.root.iterdir()) == []


def test_a_base_that_is_gone_is_told(repository: Repository) -> None:
    install(repository, "scale", scale(3.0), serve=False)
    (repository.root / "scale/1/config.1.pbtxt").unlink()

    with pytest.raises(RepositoryError, match="kept there is missing"):
        switch(repository, "scale", 2)
    assert switch(repository, "scale", 2, keep_settings=True).after == 2


@pytest.mark.slow
def test_a_server_that_starts_in_between_loads_the_old_version_and_two_versions_answer_by_number(
    triton: Server,
) -> None:
    repository = Repository(triton.repository)
    rows = scale().reference
    request = {"x": rows["input:x"], "n": rows["input:n"][:, None], "s": rows["input:s"].astype(object)}

    def factor(version: str = "") -> float:
        return float(np.max(infer(triton, "later", request, version=version)["y"]) / np.max(rows["input:x"]))

    install(repository, "later", scale())
    install(repository, "later", scale(3.0), serve=False)
    load(triton, "later")
    with client(triton) as connection:
        assert connection.get_model_metadata("later").versions == ["1"]
    assert factor() == 2.0

    switch(repository, "later", 2, beside=(1,))
    load(triton, "later")
    assert [factor(), factor("1"), factor("2")] == [3.0, 2.0, 3.0]

    roll_back(repository, "later")
    load(triton, "later")
    assert factor() == 2.0
    unload(triton, "later")


# Dry runs


def prepared(repository: Repository) -> None:
    install(repository, "scale", scale(3.0), ConfigOptions(instances=2))


CHANGES: dict[str, Callable[[Repository, bool], PublishedVersion | Switch]] = {
    "another version": lambda repository, dry: install(repository, "scale", scale(4.0), dry_run=dry),
    "a new model": lambda repository, dry: install(repository, "new", scale(4.0), dry_run=dry),
    "the config alone": lambda repository, dry: install(
        repository, "scale", scale(3.0), ConfigOptions(instances=4), dry_run=dry
    ),
    "nothing": lambda repository, dry: install(repository, "scale", scale(3.0), dry_run=dry),
    "not served": lambda repository, dry: install(repository, "scale", scale(4.0), serve=False, dry_run=dry),
    "beside": lambda repository, dry: install(repository, "scale", scale(4.0), beside=(1,), dry_run=dry),
    "rollback": lambda repository, dry: roll_back(repository, "scale", dry_run=dry),
    "switch": lambda repository, dry: switch(repository, "scale", 1, beside=(), dry_run=dry),
    "today's settings": lambda repository, dry: switch(repository, "scale", 1, keep_settings=True, dry_run=dry),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_dry_run_changes_nothing_and_the_real_run_then_does_what_it_said(
    repository: Repository, change: Callable[[Repository, bool], PublishedVersion | Switch]
) -> None:
    prepared(repository)
    staging = repository.root.parent / ".models.staging"
    for file in staging.iterdir():
        file.unlink()
    staging.rmdir()
    before = tree(repository.root.parent)

    said = change(repository, True)
    assert tree(repository.root.parent) == before
    assert not staging.exists()
    done = change(repository, False)

    if isinstance(said, PublishedVersion) and isinstance(done, PublishedVersion):
        assert (said.config_diff, said.files, said.version) == (done.config_diff, done.files, done.version)
        assert set(said.files) == {file for file in tree(repository.root) if f"models/{file}" not in before}
        assert (said.is_dry_run, done.is_dry_run) == (True, False)
    else:
        assert said == done


def test_a_dry_run_of_a_new_repository_does_not_create_it(tmp_path: Path) -> None:
    done = install(Repository(tmp_path / "models"), "scale", scale(), dry_run=True)

    assert done.config_diff.startswith("--- /dev/null\n+++ scale/config.pbtxt\n")
    assert list(tmp_path.iterdir()) == []
