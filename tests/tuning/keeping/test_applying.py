"""The best configuration is written to config.pbtxt once it was proven, and taken back."""

import socket
import threading
from pathlib import Path

import pytest
from support.artifacts import scale, tree
from support.tuned import apply_to, entries, facts, found, undo_in

from builder.config import ConfigOptions, pbtxt
from builder.errors import RepositoryError, VerificationError
from builder.progress import silent
from builder.publishing import ConfigChange, install, reconfigure, roll_back
from builder.repository import Repository, Wait, deploying
from builder.tuning.keeping.store import tuning
from builder.tuning.measurement import Configuration
from builder.tuning.search.found import Verdict


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    for factor in (2.0, 3.0):
        install(repository, "scale", scale(factor))
    return repository


def config_of(repository: Repository) -> bytes:
    return repository.model("scale").config_path.read_bytes()


def test_the_best_configuration_is_in_the_config_and_undo_brings_back_every_byte(repository: Repository) -> None:
    path = repository.model("scale").config_path
    path.write_bytes(b"# by hand\r\n" + path.read_bytes())
    before = config_of(repository)

    done = apply_to(repository)

    config = pbtxt.parse(path.read_text(), where=path)
    assert config.instance_group[0].count == 2
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert path.read_text().startswith("# by hand\n")
    assert done.is_changed
    assert done.kept == "2/config.1.pbtxt"
    assert "+  count: 2" in done.diff
    assert done.after_sha256 != done.before_sha256

    back = undo_in(repository)

    assert config_of(repository) == before
    assert (back.is_changed, back.after_sha256) == (True, done.before_sha256)
    assert entries(repository) == ()


def test_rollback_takes_it_back_too_and_then_there_is_nothing_to_undo(repository: Repository) -> None:
    before = config_of(repository)
    apply_to(repository)

    roll_back(repository, "scale")

    assert config_of(repository) == before
    said = undo_in(repository)
    assert (said.is_changed, said.diff) == (False, "")
    assert "as it was before the tuning" in said.why
    assert config_of(repository) == before


def test_servers_that_have_the_other_config_are_named(repository: Repository) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = f"grpc://127.0.0.1:{listening.getsockname()[1]}"
        with deploying(repository.root, "scale", "deploy scale", Wait(silent, None)) as record:
            record.set(server, [2])
            record.set("grpc://127.0.0.1:1", [2])  # nothing listens there any more

        again = f"{server} may have the config that was replaced until you run "
        command = f"`python -m builder deploy scale --server {server}`"
        assert apply_to(repository).notes[0] == again + command
        roll_back(repository, "scale")
        assert undo_in(repository).notes == (again + command,)


def test_undo_takes_back_one_tuning_after_the_other_and_then_says_that_there_is_none(repository: Repository) -> None:
    first = config_of(repository)
    apply_to(repository)
    second = config_of(repository)
    apply_to(repository, what=found(Configuration(instances=4, threads=1, max_batch_size=4)))

    assert undo_in(repository).is_changed
    assert config_of(repository) == second
    assert undo_in(repository).is_changed
    assert config_of(repository) == first
    assert undo_in(repository).why == "nothing to undo: no tuning of scale was applied here"
    assert config_of(repository) == first


@pytest.mark.parametrize("verdict", ["not distinguishable", "as it is", "no configuration keeps the limit"])
def test_nothing_is_applied_that_is_not_better(repository: Repository, verdict: Verdict) -> None:
    before = tree(repository.root)

    said = apply_to(repository, what=found(verdict=verdict, why="they differ by less than the noise"))

    assert (said.is_changed, said.why) == (False, "nothing is applied: they differ by less than the noise")
    assert tree(repository.root) == before


def test_a_configuration_that_fails_its_check_is_not_applied(repository: Repository) -> None:
    before = tree(repository.root)

    def fails(change: ConfigChange) -> None:
        raise VerificationError("scale", "wrong", "look")

    with pytest.raises(VerificationError):
        apply_to(repository, prove=fails)

    assert tree(repository.root) == before
    assert entries(repository) == ()


def test_only_the_config_that_was_tried_is_written(repository: Repository) -> None:
    path = repository.model("scale").config_path

    def edits(change: ConfigChange) -> None:
        path.write_text(path.read_text() + "response_cache { enable: true }\n")

    with pytest.raises(RepositoryError, match="while the new settings were tried"):
        apply_to(repository, prove=edits)

    assert path.read_text().endswith("response_cache { enable: true }\n")
    assert "count: 1" in path.read_text()
    assert entries(repository) == ()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("count: 1", "count: 3", "instance_group"),
        ("dynamic_batching {", "dynamic_batching { preserve_ordering: true", "dynamic_batching"),
        (
            "parameters {",
            "parameters { key: 'intra_op_thread_count' value { string_value: '7' } }\nparameters {",
            "intra",
        ),
    ],
)
def test_settings_that_changed_since_they_were_measured_are_not_overwritten(
    repository: Repository, old: str, new: str, what: str
) -> None:
    measured = facts(repository)
    path = repository.model("scale").config_path
    text = path.read_text()
    path.write_text(text.replace(old, new, 1) if old in text else f"{text}\n{new} }}\n")
    before = config_of(repository)

    with pytest.raises(RepositoryError, match=what):
        apply_to(repository, measured)
    assert config_of(repository) == before


def test_an_edit_elsewhere_stays_and_is_said(repository: Repository) -> None:
    measured = facts(repository)
    path = repository.model("scale").config_path
    path.write_text(path.read_text() + 'metric_tags { key: "team" value: "vision" }  # new\n')

    done = apply_to(repository, measured)

    assert "# new" in path.read_text()
    assert done.notes[0] == "metric_tags in config.pbtxt was changed since it was measured, and stays so"


def test_another_version_than_was_measured_is_refused(repository: Repository) -> None:
    measured = facts(repository)
    install(repository, "scale", scale(4.0))

    with pytest.raises(RepositoryError, match="serves version 3 now, and version 2 was measured"):
        apply_to(repository, measured)


def test_undo_keeps_what_was_changed_elsewhere_since(repository: Repository) -> None:
    apply_to(repository)
    path = repository.model("scale").config_path
    path.write_text(path.read_text() + 'metric_tags { key: "team" value: "vision" }  # since\n')

    undo_in(repository)

    config = pbtxt.parse(path.read_text(), where=path)
    assert config.instance_group[0].count == 1
    assert "intra_op_thread_count" not in config.parameters
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert config.metric_tags["team"] == "vision"
    assert "# since" in path.read_text()


def test_undo_after_another_version_was_published_takes_back_the_settings_alone(repository: Repository) -> None:
    apply_to(repository)
    install(repository, "scale", scale(4.0, max_batch_size=16))

    undo_in(repository)

    model = repository.model("scale")
    config = pbtxt.parse(model.read_config(), where="")
    assert (model.served_version(), config.max_batch_size) == (3, 16)
    assert config.instance_group[0].count == 1


def test_undo_refuses_what_was_changed_again_and_says_how_to_go_back(repository: Repository) -> None:
    before = config_of(repository)
    apply_to(repository)
    reconfigure(repository, "scale", ConfigOptions(instances=5))
    there = config_of(repository)

    with pytest.raises(RepositoryError, match="instance_group") as caught:
        undo_in(repository)

    assert config_of(repository) == there
    assert "rollback scale --to 2 --config 1" in caught.value.fix
    roll_back(repository, "scale", 2, number=1)
    assert config_of(repository) == before


def test_undo_works_when_the_kept_config_is_gone(repository: Repository) -> None:
    apply_to(repository)
    (repository.root / "scale/2/config.1.pbtxt").unlink()

    undo_in(repository)

    assert pbtxt.parse(repository.model("scale").read_config(), where="").instance_group[0].count == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1, "name": "other", "applied": []}', '{"schema": 9}'])
def test_a_damaged_record_of_what_was_applied_is_named_with_a_way_out(repository: Repository, content: str) -> None:
    apply_to(repository)
    record = repository.root.parent / ".models.tune/scale.applied.json"
    record.write_text(content)
    before = config_of(repository)

    with pytest.raises(RepositoryError, match="cannot be read") as caught:
        undo_in(repository)

    assert caught.value.where == str(record)
    assert config_of(repository) == before
    record.unlink()
    assert not undo_in(repository).is_changed


def test_a_second_tuning_waits_and_says_for_whom(repository: Repository) -> None:
    waiting = Repository(repository.root, lock_timeout_s=0.0)
    caught: list[str] = []

    def second() -> None:
        with pytest.raises(RepositoryError) as error, tuning(waiting, "scale", "tune scale --apply"):
            pass
        caught.append(str(error.value.what))

    with tuning(repository, "scale", "tune scale"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "in use by `tune scale` (process" in caught[0]
