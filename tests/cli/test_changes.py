"""What `publish`, `switch` and `rollback` say about the config that they change."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.artifacts import scale, scale_model, tree

from builder.cli import cli
from builder.cli.faults import BadValue, WrongUsage
from builder.config import ConfigOptions
from builder.publishing import install
from builder.repository import Repository


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with two versions, of which the second has a queue delay."""
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale())
    install(repository, "scale", scale(3.0), ConfigOptions(max_queue_delay_us=500))
    return repository.root


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--repository", str(root)], catch_exceptions=False)


def result(root: Path, *arguments: str) -> Any:
    return json.loads(run(root, *arguments, "--json").stdout)


def test_rollback_shows_the_diff_and_how_to_take_it_back_on_stderr(root: Path) -> None:
    done = run(root, "rollback", "scale")

    assert done.stdout == "scale: version 2 → 1\n"
    lines = done.stderr.splitlines()
    assert lines[:2] == ["--- scale/config.pbtxt", "+++ scale/config.pbtxt"]
    assert "-  max_queue_delay_microseconds: 500" in lines
    back = "`rollback scale --to 2 --config 1` brings it back"
    assert lines[-1] == f"kept     the config before is in scale/2/config.1.pbtxt; {back}"
    assert run(root, "rollback", "scale", "--to", "2", "--config", "1").stdout == "scale: version 1 → 2\n"


def test_a_change_of_the_config_alone_is_told(root: Path) -> None:
    install(Repository(root), "scale", scale(3.0), ConfigOptions(max_queue_delay_us=100))

    expected = "scale: version 2 is served with its config from before, 2/config.1.pbtxt\n"
    assert run(root, "rollback", "scale").stdout == expected
    assert run(root, "switch", "scale", "--to", "2").stdout == "scale: version 2 is already served\n"


def test_the_json_has_the_diff_and_the_files(root: Path) -> None:
    done = result(root, "switch", "scale", "--to", "1", "--serve-also", "none")

    assert (done["before"], done["after"], done["dry_run"]) == (2, 1, False)
    assert (done["kept"], done["restored"]) == ("2/config.1.pbtxt", "1/config.1.pbtxt")
    assert "+    versions: [1]" in done["config_diff"].splitlines()


@pytest.mark.parametrize("command", [("rollback", "scale"), ("switch", "scale", "--to", "1", "--keep-settings")])
def test_a_dry_run_prints_the_same_diff_and_changes_nothing(root: Path, command: tuple[str, ...]) -> None:
    before = tree(root.parent)
    said = result(root, *command, "--dry-run")
    text = run(root, *command, "--dry-run")
    assert tree(root.parent) == before
    assert text.stdout == "scale: version 2 → 1; this was a dry run, and nothing was changed\n"

    done = result(root, *command)
    assert said | {"dry_run": False} == done
    assert done["config_diff"] in text.stderr


def test_publish_shows_what_it_changes_in_a_config_that_is_there(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "scale.onnx"
    file.write_bytes(scale_model(4.0).SerializeToString())
    publish = ("publish", str(file), "--max-batch-size", "4", "--instances", "2")
    before = tree(root.parent)
    said = result(root, *publish, "--dry-run")
    assert tree(root.parent) == before

    done = run(root, *publish)
    assert "+  count: 2" in done.stderr.splitlines()
    assert said["config_diff"] in done.stderr
    assert set(said["files"]) == {file for file in tree(root) if f"models/{file}" not in before}
    assert (said["version"], said["served"], said["dry_run"]) == (3, True, True)

    first = run(root, *publish, "--name", "new")
    assert "config.pbtxt" not in first.stderr


def test_publish_without_serving_says_how_to_serve(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "scale.onnx"
    file.write_bytes(scale_model(4.0).SerializeToString())

    done = run(root, "publish", str(file), "--max-batch-size", "4", "--no-serve")

    assert "which is not served yet: `python -m builder switch scale --to 3` serves it" in done.stderr
    listed = {version["version"]: version for version in result(root, "list")[0]["versions"]}
    assert [listed[version]["is_prepared"] for version in (1, 2, 3)] == [False, False, True]
    assert "scale: version 3 is not served yet" in run(root, "list").stdout
    assert run(root, "switch", "scale", "--to", "3", "--serve-also", "1").stdout == "scale: version 2 → 3\n"
    listed = {version["version"]: version for version in result(root, "list")[0]["versions"]}
    assert [listed[version]["served"] for version in (1, 2, 3)] == [True, False, True]
    assert [listed[version]["is_default"] for version in (1, 2, 3)] == [False, False, True]


def test_list_shows_the_batch_in_force_and_what_is_kept(root: Path) -> None:
    install(Repository(root), "scale", scale(3.0), ConfigOptions(max_batch_size=4))

    (model,) = result(root, "list")
    assert model["max_batch_size"] == 4
    assert model["config_changed"] is not None
    assert [version["kept_configs"] for version in model["versions"]] == [[1], [1]]
    text = " ".join(run(root, "list").stdout.split())
    assert "→ 2" in text
    assert "with 2 earlier configs kept" in text


def test_none_and_a_version_beside_contradict_each_other(root: Path) -> None:
    with pytest.raises(BadValue, match="none and a version contradict each other"):
        cli.commands["switch"].make_context("switch", ["m", "--to", "2", "--serve-also", "none", "--serve-also", "1"])
    with pytest.raises(BadValue, match="'old' is not a whole number"):
        cli.commands["switch"].make_context("switch", ["m", "--to", "2", "--serve-also", "old"])


def test_configure_changes_settings_and_says_how_to_take_them_back(root: Path) -> None:
    done = run(root, "configure", "scale", "--instances", "2", "--intra-op-thread-count", "1")

    assert done.stdout == "scale: version 2 is served with another config\n"
    assert "+  count: 2" in done.stderr.splitlines()
    back = "`rollback scale --to 2 --config 1` brings it back"
    assert done.stderr.splitlines()[-1] == f"kept     the config before is in scale/2/config.1.pbtxt; {back}"
    assert run(root, "configure", "scale", "--instances", "2").stdout == "scale: it has these settings already\n"


def test_a_dry_run_of_configure_changes_nothing(root: Path) -> None:
    before = tree(root)

    done = result(root, "configure", "scale", "--max-batch-size", "4", "--dry-run")

    assert (done["before"], done["after"], done["dry_run"]) == (2, 2, True)
    assert "+max_batch_size: 4" in done["config_diff"].splitlines()
    assert tree(root) == before


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "no setting is named"),
        (("--instances", "2", "--instance-group", "2xcpu"), "--instances and --instance-group cannot be used together"),
        (("--max-batch-size", "4", "--preferred-batch-size", "8"), "is larger than --max-batch-size 4"),
    ],
)
def test_configure_refuses_settings_that_contradict_each_other(
    root: Path, arguments: tuple[str, ...], what: str
) -> None:
    with pytest.raises(WrongUsage, match=what):
        cli.main(["configure", "scale", *arguments, "--repository", str(root)], standalone_mode=False)
