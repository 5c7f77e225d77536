"""Which versions `prune` keeps because they are in use."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.artifacts import scale, tree

from builder.config import pbtxt
from builder.errors import HostError, RepositoryError
from builder.progress import silent
from builder.publishing import install, roll_back
from builder.repository import Asked, Pruning, Repository, Wait, deploying


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Five versions of the model `scale`, of which the newest is served."""
    repository = Repository(tmp_path / "models")
    for factor in range(1, 6):
        install(repository, "scale", scale(float(factor)))
    return repository


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def deployed(repository: Repository, **servers: list[int]) -> None:
    for server, versions in servers.items():
        with deploying(repository.root, "scale", "deploy scale", Wait(silent, 0)) as record:
            record.set(f"grpc://{server}:8001", versions)


def forget_what_was_served_before(repository: Repository) -> None:
    """Write the config as if it had never replaced another one."""
    path = repository.model("scale").config_path
    config = pbtxt.parse(path.read_text(), where=path)
    config.parameters.pop("builder.previous", None)
    path.write_text(pbtxt.edit(path.read_text(), config, where=path))


def why(done: Pruning, version: int) -> str:
    (kept,) = [kept for kept in done.kept if kept.version == version]
    return "; ".join(kept.reasons)


def prune(repository: Repository, keep: int = 1, **given: object) -> Pruning:
    forget_what_was_served_before(repository)
    return repository.prune("scale", keep=keep, **given)  # type: ignore[arg-type]


def test_the_newest_and_the_served_versions_stay(repository: Repository) -> None:
    roll_back(repository, "scale", 2)
    done = prune(repository, 2)
    assert done.removed == (1, 3)
    assert why(done, 2) == "config.pbtxt serves it"
    assert why(done, 5) == "it is among the newest 2"
    assert repository.model("scale").versions() == (2, 4, 5)


@pytest.mark.parametrize(
    ("policy", "removed"),
    [
        ("specific { versions: [2] }", (1, 3, 4)),
        ("latest { num_versions: 3 }", (1, 2)),
        ("all { }", ()),
        ("latest { num_versions: 1 }", (1, 2, 3, 4)),
    ],
)
def test_what_another_config_serves_stays(repository: Repository, policy: str, removed: tuple[int, ...]) -> None:
    write(repository.root / "scale/configs/h100.pbtxt", f"version_policy {{ {policy} }}")
    done = prune(repository)
    assert done.removed == removed
    if 2 not in removed:
        assert "configs/h100.pbtxt serves it" in why(done, 2)


@pytest.mark.parametrize("place", ["config.pbtxt", "configs/small.pbtxt"])
def test_what_an_ensemble_names_by_its_number_stays(repository: Repository, place: str) -> None:
    members = [("scale", 2), ("scale", -1), ("other", 3)]
    steps = "".join(f'step {{ model_name: "{name}" model_version: {number} }} ' for name, number in members)
    write(repository.root / "chain" / place, f"ensemble_scheduling {{ {steps} }}")
    done = prune(repository)
    assert done.removed == (1, 3, 4)
    assert why(done, 2) == "the ensemble chain names it"


def test_what_a_server_answers_with_stays(repository: Repository) -> None:
    done = prune(repository, ask=lambda: [Asked("grpc://a:8001", (2, 3)), Asked("grpc://b:8001", ())])
    assert done.removed == (1, 4)
    assert why(done, 3) == "grpc://a:8001 answers with it"


def test_where_it_was_deployed_counts_until_the_server_is_asked_or_is_gone(repository: Repository) -> None:
    deployed(repository, a=[2], b=[4])
    kept = prune(repository, dry_run=True)
    assert kept.removed == (1, 3)
    assert why(kept, 2).startswith("it was deployed to grpc://a:8001 on 20")
    asked = prune(repository, dry_run=True, ask=lambda: [Asked("grpc://a:8001", (5,))], are_all_known=True)
    assert asked.removed == (1, 2, 3)
    stopped = prune(repository, dry_run=True, is_stopped=lambda server: server == "grpc://a:8001")
    assert stopped.removed == (1, 2, 3)
    gone = prune(repository, dry_run=True, gone=["grpc://a:8001"])
    assert gone.removed == (1, 2, 3)
    assert prune(repository, dry_run=True).removed == (1, 3)  # a dry run forgets nothing
    assert prune(repository, gone=["grpc://a:8001"]).removed == (1, 2, 3)
    with deploying(repository.root, "scale", "deploy scale", Wait(silent, 0)) as record:
        assert [entry.server for entry in record.servers()] == ["grpc://b:8001"]


def test_what_is_newer_than_the_last_deployment_stays(repository: Repository) -> None:
    deployed(repository, a=[4], b=[3])
    done = prune(repository)
    assert done.removed == (1, 2)
    assert "it is newer than version 3, which was deployed last" in why(done, 4)


def test_what_waits_to_be_served_stays(repository: Repository) -> None:
    """`publish --no-serve` leaves the config that was prepared for the version there."""
    (repository.root / "scale/3/config.1.pbtxt").unlink()  # it has not served yet
    prepared = (repository.root / "scale/config.pbtxt").read_text().replace("versions: 5", "versions: 3")
    write(repository.root / "scale/3/config.0.pbtxt", prepared)
    done = prune(repository)
    assert done.removed == (1, 2, 4)
    assert why(done, 3) == "it waits to be served"


def test_what_was_served_before_stays_until_the_servers_are_known(repository: Repository) -> None:
    path = repository.model("scale").config_path
    config = pbtxt.parse(path.read_text(), where=path)
    config.parameters["builder.previous"].string_value = "4/1"
    path.write_text(pbtxt.edit(path.read_text(), config, where=path))

    unknown = repository.prune("scale", keep=1, dry_run=True, are_all_known=False)
    assert unknown.removed == (1, 2, 3)
    assert "a server may still answer with it" in why(unknown, 4)
    known = repository.prune("scale", keep=1, dry_run=True)
    assert known.removed == (1, 2, 3, 4)
    deployed(repository, a=[5])
    assert repository.prune("scale", keep=1, are_all_known=False).removed == (1, 2, 3, 4)


def link_out(root: Path) -> None:
    write(root.parent / "outside.pbtxt", "")
    (root / "scale/configs").mkdir()
    (root / "scale/configs/h100.pbtxt").symlink_to(root.parent / "outside.pbtxt")


def write_no_text(root: Path) -> None:
    (root / "chain").mkdir()
    (root / "chain/config.pbtxt").write_bytes(b"\xff\xfe")


def damage_the_record(root: Path) -> None:
    deployed(Repository(root), a=[1])
    (root.parent / ".models.deploy/scale.deployed.json").write_text("{")


BROKEN: dict[str, Callable[[Path], None]] = {
    "another config": lambda root: write(root / "scale/configs/h100.pbtxt", "version_policy {"),
    "another config that is a link out": link_out,
    "an ensemble": lambda root: write(root / "chain/config.pbtxt", 'ensemble_scheduling { step { model_name: "scale"'),
    "an ensemble that is no text": write_no_text,
    "the record": damage_the_record,
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_nothing_is_removed_while_something_cannot_be_read_that_may_name_a_version(
    repository: Repository, damage: Callable[[Path], None]
) -> None:
    forget_what_was_served_before(repository)
    damage(repository.root)
    before = tree(repository.root)
    with pytest.raises(RepositoryError):
        repository.prune("scale", keep=1)
    assert tree(repository.root) == before


def test_configs_that_cannot_name_the_model_may_be_broken(repository: Repository) -> None:
    write(repository.root / "other/config.pbtxt", "max_batch_size: {")
    write(repository.root / "chain/config.pbtxt", 'ensemble_scheduling { step { model_name: "different"')
    assert prune(repository).removed == (1, 2, 3, 4)


def test_nothing_is_removed_if_a_server_cannot_be_asked(repository: Repository) -> None:
    def ask() -> list[Asked]:
        raise HostError("grpc://a:8001", "it does not answer", "start it")

    before = tree(repository.root)
    with pytest.raises(HostError):
        repository.prune("scale", keep=1, ask=ask)
    assert tree(repository.root) == before


def test_a_dry_run_says_what_the_real_run_does_and_changes_nothing(repository: Repository) -> None:
    deployed(repository, a=[2])
    forget_what_was_served_before(repository)
    before = tree(repository.root.parent)
    planned = repository.prune("scale", keep=1, dry_run=True)
    assert tree(repository.root.parent) == before
    assert repository.prune("scale", keep=1) == planned
    assert repository.model("scale").versions() == (2, 3, 4, 5)


def test_a_dry_run_creates_no_folder(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(RepositoryError):
        repository.prune("absent", keep=1, dry_run=True)
    repository.prune("scale", keep=1, dry_run=True)
    assert not (tmp_path / ".models.deploy").exists()


def test_a_deployment_that_goes_on_is_waited_for(repository: Repository) -> None:
    waiting = Repository(repository.root, lock_timeout_s=0)
    with deploying(repository.root, "scale", "deploy scale", Wait(silent, 0)):
        with pytest.raises(RepositoryError, match="it is in use by `deploy scale`"):
            waiting.prune("scale", keep=1)
        assert waiting.prune("scale", keep=1, dry_run=True).name == "scale"
    assert json.dumps(waiting.prune("scale", keep=1).removed)


def test_what_builder_did_not_make_stays(repository: Repository) -> None:
    (repository.root / "scale/1/manifest.json").unlink()
    path = repository.root / "scale/2/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "adopted": True}))
    done = prune(repository)
    assert done.removed == (3, 4)
    assert why(done, 1) == "it was not published by builder"
    assert why(done, 2) == "it was adopted, so builder did not make it"
