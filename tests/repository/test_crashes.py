"""What an install that is killed before any of its calls leaves on disk, and what the next change does about it."""

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.artifacts import EMPTY, names, scale, tree
from support.crashing import crash
from support.serving import client, infer, load, unload

from builder.config import pbtxt
from builder.publishing import install
from builder.record import read_manifest
from builder.repository import Artifact, Repository
from builder.server import Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Installs of version 2, which has other warmup files than version 1, each killed at another call."""
    folder = tmp_path_factory.mktemp("crashed")
    first = replace(scale(), reference={k: v[::-1] for k, v in scale().reference.items()})
    install(Repository(folder / "before/models"), "scale", first)
    return crash(folder / "before", folder / "after")


@pytest.fixture
def crashes(crashed: list[Path], tmp_path: Path) -> list[Path]:
    """A copy that the test may change."""
    return [Path(shutil.copytree(folder, tmp_path / "crashes" / folder.name)) for folder in crashed]


def write_versions(model: Path, *artifacts: Artifact) -> None:
    """Write only the model files of versions, as others do."""
    for version, artifact in enumerate(artifacts, 1):
        content = artifact.files["model.onnx"]
        assert isinstance(content, bytes)
        (model / str(version)).mkdir(parents=True)
        (model / str(version) / "model.onnx").write_bytes(content)


def is_orphaned(folder: Path) -> bool:
    """Return whether version 2 is in place and not served."""
    repository = Repository(folder / "models")
    return repository.model("scale").versions() == (1, 2) and repository.model("scale").served_version() == 1


def check_whole(model: Path, expected: dict[int, Artifact]) -> int:
    """Assert that Triton would find a complete model and nothing else; return the served version."""
    text = (model / "config.pbtxt").read_text()
    (version,) = pbtxt.parse(text, where="").version_policy.specific.versions
    for number in (entry.name for entry in model.iterdir() if entry.name not in ("config.pbtxt", "warmup")):
        assert expected[int(number)].manifest.model.at(model / number) == expected[int(number)].manifest.model
        assert read_manifest(model / number) == expected[int(number)].manifest
        for file in (model / number).glob("config.[1-9].pbtxt"):
            kept = pbtxt.parse(file.read_text(), where="").version_policy.specific.versions
            assert list(kept) == [int(number)]
    assert set(re.findall(r"[0-9a-f]{64}\.raw", text)) <= tree(model / "warmup").keys()
    return int(version)


def test_a_later_install_killed_at_any_call_leaves_the_old_or_the_new_version(
    crashes: list[Path],
) -> None:
    config = Repository(crashes[0] / "models").model("scale").read_config()
    seen = set()

    for folder in crashes:
        assert [entry.name for entry in (folder / "models").iterdir()] == ["scale"]
        version = check_whole(folder / "models/scale", {1: scale(), 2: scale(3.0)})
        if version == 1:
            assert (folder / "models/scale/config.pbtxt").read_text() == config
        repository = Repository(folder / "models")
        seen.add((version, repository.model("scale").versions()))

        published = install(repository, "scale", scale(4.0))

        assert published.version == version + 1
        assert repository.model("scale").versions() == tuple(range(1, version + 2))
        assert names(folder / ".models.staging") == EMPTY
        named = set(re.findall(r"[0-9a-f]{64}\.raw", config + repository.model("scale").read_config()))
        assert tree(folder / "models/scale/warmup").keys() <= named
    assert seen == {(1, (1,)), (1, (1, 2)), (2, (1, 2))}


def test_a_first_install_killed_at_any_call_leaves_no_model_or_a_complete_one(tmp_path: Path) -> None:
    seen = set()

    for folder in crash(tmp_path / "nothing", tmp_path / "crashes"):
        root = folder / "models"
        models = [entry.name for entry in root.iterdir()] if root.exists() else []
        seen.add(tuple(models))
        if models:
            assert check_whole(root / "scale", {1: scale(3.0)}) == 1

        assert install(Repository(root), "scale", scale(3.0)).created == (not models)
        assert names(folder / ".models.staging") == EMPTY
    assert seen == {(), ("scale",)}


@pytest.mark.parametrize(
    ("change", "served"),
    [("options", {3}), ("rollback", {1, 3}), ("unserved", {3}), ("prune", {3})],
)
def test_a_change_of_another_kind_killed_at_any_call_leaves_complete_versions(
    tmp_path: Path, change: str, served: set[int]
) -> None:
    artifacts = {1: scale(), 2: scale(5.0), 3: scale(3.0), 4: scale(4.0)}
    for version in (1, 2, 3):
        install(Repository(tmp_path / "before/models"), "scale", artifacts[version])
    before = Repository(tmp_path / "before/models").model("scale").read_config()
    seen, configs = set(), set()

    for folder in crash(tmp_path / "before", tmp_path / "crashes", change):
        repository = Repository(folder / "models")
        seen.add(check_whole(folder / "models/scale", artifacts))
        configs.add(repository.model("scale").read_config())

        assert install(repository, "scale", scale(4.0)).version == 4
        assert check_whole(folder / "models/scale", artifacts) == 4
        assert names(folder / ".models.staging") == EMPTY
    assert seen == served
    assert before in configs
    assert len(configs) == (1 if change in ("prune", "unserved") else 2)


def test_the_config_that_a_killed_change_kept_is_the_one_in_force_and_is_not_kept_twice(crashes: list[Path]) -> None:
    early = [folder for folder in crashes if (folder / "models/scale/1/config.1.pbtxt").exists()]
    config = Repository(crashes[0] / "models").model("scale").config_path.read_bytes()
    assert len(early) > 1

    for folder in early:
        assert (folder / "models/scale/1/config.1.pbtxt").read_bytes() == config
        install(Repository(folder / "models"), "scale", scale(4.0))
        assert not (folder / "models/scale/1/config.2.pbtxt").exists()


def test_an_install_into_a_model_without_a_config_leaves_no_version_that_no_config_names(tmp_path: Path) -> None:
    """Without a config, Triton serves the highest version: also one that was not meant to be served yet."""
    write_versions(tmp_path / "before/models/scale", scale(), scale(3.0))
    seen = set()

    for folder in crash(tmp_path / "before", tmp_path / "crashes", "first config"):
        install(Repository(folder / "models"), "other", scale(4.0))

        model = Repository(folder / "models").model("scale")
        seen.add((model.versions(), model.find_config() is not None))
    assert seen == {((1, 2), False), ((1, 2, 3), True)}


def test_an_adoption_killed_at_any_call_adds_all_its_files_or_leaves_none_after_the_next_change(tmp_path: Path) -> None:
    write_versions(tmp_path / "before/models/scale", scale(), scale(3.0))
    seen = set()

    for folder in crash(tmp_path / "before", tmp_path / "crashes", "adopt"):
        left = tree(folder / "models").keys()

        install(Repository(folder / "models"), "other", scale(4.0))

        added = {path for path in tree(folder / "models/scale") if not path.endswith("model.onnx")}
        seen.add((len(left), len(added)))
        assert names(folder / ".models.staging") == EMPTY
    assert {added for _, added in seen} == {0, 5}
    assert {left for left, added in seen if added == 0} == {2, 3, 4, 5, 6}
    assert {left for left, added in seen if added == 5} == {7}


def test_after_a_cleanup_killed_at_any_call_the_next_change_cleans_up(crashes: list[Path], tmp_path: Path) -> None:
    orphaned = next(folder for folder in crashes if is_orphaned(folder))

    for folder in crash(orphaned, tmp_path / "again"):
        repository = Repository(folder / "models")
        version = check_whole(folder / "models/scale", {1: scale(), 2: scale(3.0)})
        assert install(repository, "scale", scale(4.0)).version == version + 1


def test_a_version_that_somebody_switched_to_by_hand_after_a_kill_is_kept(crashes: list[Path]) -> None:
    orphaned = [Repository(folder / "models") for folder in crashes if is_orphaned(folder)]
    assert orphaned
    for repository in orphaned:
        switch_by_hand(repository, 1, 2)
        assert install(repository, "scale", scale(4.0)).version == 3
        assert repository.model("scale").versions() == (1, 2, 3)


def test_a_complete_version_that_somebody_rolled_back_by_hand_after_a_kill_is_kept(
    crashes: list[Path],
) -> None:
    late = [
        r for r in (Repository(folder / "models") for folder in crashes[:-1]) if r.model("scale").served_version() == 2
    ]
    assert late
    for repository in late:
        switch_by_hand(repository, 2, 1)
        assert install(repository, "scale", scale(4.0)).version == 3
        assert repository.model("scale").versions() == (1, 2, 3)


def switch_by_hand(repository: Repository, before: int, after: int) -> None:
    path = repository.model("scale").config_path
    text = path.read_text()
    assert f"versions: [{before}]" in text
    path.write_text(text.replace(f"versions: [{before}]", f"versions: [{after}]"))


def test_triton_loads_every_state_that_a_kill_leaves(triton: Server, crashes: list[Path]) -> None:
    states = {}
    for folder in crashes:
        content = sorted(tree(folder / "models").items())
        states[hashlib.sha256(repr(content).encode()).digest()] = folder / "models/scale"
    assert len(states) > 3
    factors = {1: 2.0, 2: 3.0}

    for state in states.values():
        shutil.copytree(state, triton.repository / "scale")
        load(triton, "scale")
        version = Repository(triton.repository).model("scale").served_version()
        rows = scale().reference
        request = {"x": rows["input:x"], "n": rows["input:n"][:, None], "s": rows["input:s"].astype(object)}
        assert (infer(triton, "scale", request)["y"] == factors[version] * rows["input:x"]).all()
        with client(triton) as connection:
            assert connection.get_model_metadata("scale").versions == [str(version)]
        unload(triton, "scale")
        shutil.rmtree(triton.repository / "scale")
