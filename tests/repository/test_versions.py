import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.artifacts import EMPTY, names, scale, tree

from builder.config import ConfigOptions, pbtxt
from builder.errors import RepositoryError
from builder.model import file_state
from builder.model.file_state import read_state
from builder.publishing import install, roll_back
from builder.record import Manifest, read_manifest
from builder.repository import Artifact, ModelDirectory, OpenFolder, Repository, disk

TESTS = Path(__file__).parents[1]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def staging_of(repository: Repository) -> Path:
    return repository.root.parent / ".models.staging"


def served(repository: Repository, name: str = "scale") -> int:
    return repository.model(name).served_version()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# Installing


def test_a_first_install_writes_config_warmup_model_reference_and_manifest(repository: Repository) -> None:
    published = install(repository, "scale", scale())

    assert (published.version, published.created, published.config_changed) == (1, True, True)
    assert published.path == repository.root / "scale" / "1"
    files = sorted(re.sub(r"[0-9a-f]{64}", "HASH", file) for file in tree(repository.root))
    assert files == [
        *("scale/1/manifest.json", "scale/1/model.onnx", "scale/1/reference.npz", "scale/config.pbtxt"),
        *["scale/warmup/HASH.raw"] * 3,
    ]
    assert read_manifest(published.path) == scale().manifest
    assert names(staging_of(repository)) == EMPTY


def test_each_install_adds_a_version_and_serves_it(repository: Repository) -> None:
    for factor in (2.0, 3.0, 4.0):
        install(repository, "scale", scale(factor))

    assert repository.model("scale").versions() == (1, 2, 3)
    assert served(repository) == 3
    assert (repository.root / "scale/2/model.onnx").read_bytes() == scale(3.0).files["model.onnx"]


def test_installing_what_is_already_served_adds_nothing(repository: Repository) -> None:
    install(repository, "scale", scale())
    before = tree(repository.root)

    again = install(repository, "scale", scale())

    assert (again.version, again.created, again.config_changed) == (1, False, False)
    assert tree(repository.root) == before


@pytest.mark.parametrize(
    "different",
    [
        scale(3.0),
        scale(max_batch_size=16),
        replace(scale(), manifest=replace(scale().manifest, options={"rename": ["a=b"]})),
        replace(scale(), manifest=replace(scale().manifest, source=replace(scale().manifest.source, sha256="f" * 64))),
    ],
    ids=["bytes", "larger batch", "options", "source"],
)
def test_what_differs_from_the_served_version_is_a_new_one(repository: Repository, different: Artifact) -> None:
    install(repository, "scale", scale())

    assert install(repository, "scale", different).version == 2


def test_a_smaller_batch_of_the_same_bytes_changes_only_the_config(repository: Repository) -> None:
    install(repository, "scale", scale(max_batch_size=8))

    published = install(repository, "scale", scale(max_batch_size=4))

    assert (published.version, published.created, published.config_changed) == (1, False, True)
    assert repository.model("scale").max_batch_size() == 4


def test_another_option_of_the_config_changes_only_the_config(repository: Repository) -> None:
    install(repository, "scale", scale())
    version = tree(repository.root / "scale/1")
    before = repository.model("scale").read_config()

    published = install(repository, "scale", scale(), ConfigOptions(max_queue_delay_us=100))

    assert (published.version, published.created, published.config_changed) == (1, False, True)
    assert "max_queue_delay_microseconds: 100" in repository.model("scale").read_config()
    after = tree(repository.root / "scale/1")
    assert after.pop("config.1.pbtxt") == before.encode()
    assert after == version


@pytest.mark.parametrize("file", ["model.onnx", "reference.npz", "manifest.json"])
def test_a_damaged_served_version_is_published_again(repository: Repository, file: str) -> None:
    install(repository, "scale", scale())
    damaged = repository.root / "scale/1" / file
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert install(repository, "scale", scale()).version == 2

    (repository.root / "scale/2" / file).unlink()
    assert install(repository, "scale", scale()).version == 3


def test_the_same_artifact_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        install(Repository(tmp_path / name), "scale", scale())

    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_number_that_triton_reads_from_another_entrys_name_is_not_used(repository: Repository) -> None:
    install(repository, "scale", scale())
    (repository.root / "scale/5-old").mkdir()

    assert install(repository, "scale", scale(3.0)).version == 6
    assert repository.model("scale").versions() == (1, 6)


def test_a_version_that_would_not_fit_in_64_bits_is_refused(repository: Repository) -> None:
    install(repository, "scale", scale())
    (repository.root / "scale" / str(2**63 - 1)).mkdir()

    with pytest.raises(RepositoryError, match="does not fit in 64 bits"):
        install(repository, "scale", scale(3.0))


def test_external_weights_are_copied_next_to_the_model(repository: Repository, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    artifact = scale(files={"model.onnx": b"graph", "weights.bin": weights})

    published = install(repository, "scale", artifact)

    weights.write_bytes(b"changed")
    assert (published.path / "weights.bin").read_bytes() == b"weights"
    assert artifact.manifest.model.at(published.path) == artifact.manifest.model


def test_weights_that_change_after_the_proof_are_not_published(repository: Repository, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    artifact = scale(files={"model.onnx": b"graph", "weights.bin": weights})
    weights.write_bytes(b"changed")

    with pytest.raises(RepositoryError, match="changed while it was being published"):
        install(repository, "scale", artifact)
    assert tree(repository.root) == {}


def test_weights_are_hashed_again_only_when_their_state_no_longer_holds(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_state, "SETTLED_NS", 0)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(file_state, "RELIABLE_FILESYSTEMS", {file_state._filesystem(weights)})
    artifact = scale(files={"model.onnx": b"graph", "weights.bin": weights})
    weights.write_bytes(b"changed")  # before the state is read, so that only hashing again can tell
    time.sleep(0.05)
    artifact = replace(artifact, states={weights: read_state(weights)})

    install(repository, "not_hashed_again", artifact)

    weights.write_bytes(b"another")
    with pytest.raises(RepositoryError, match="changed while it was being published"):
        install(repository, "hashed_again", artifact)


def test_every_file_is_on_disk_before_it_is_renamed_into_the_repository(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[str] = set()
    unflushed: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        flushed.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> Path:
        inside = [source, *source.rglob("*")] if source.is_dir() else [source]
        if repository.root in Path(target).parents:
            unflushed.extend(str(path) for path in inside if str(path) not in flushed)
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    install(repository, "scale", scale(), ConfigOptions(warmup=False))
    install(repository, "scale", scale(3.0), ConfigOptions(warmup=True))

    assert unflushed == []
    model = repository.root / "scale"
    assert {str(folder) for folder in (repository.root.parent, repository.root, model, model / "warmup")} <= flushed


def test_the_config_keeps_its_permissions(repository: Repository) -> None:
    install(repository, "scale", scale())
    path = repository.model("scale").config_path
    path.chmod(0o640)

    install(repository, "scale", scale(3.0))

    assert path.stat().st_mode & 0o777 == 0o640


def test_warmup_files_that_neither_the_config_nor_a_kept_one_names_are_deleted(
    repository: Repository,
) -> None:
    install(repository, "scale", scale())
    old = tree(repository.root / "scale/warmup").keys()
    other = replace(scale(3.0), reference={k: v[::-1] for k, v in scale(3.0).reference.items()})

    install(repository, "scale", other)
    assert old < tree(repository.root / "scale/warmup").keys()
    (repository.root / "scale/warmup/by-hand").write_bytes(b"kept")
    install(repository, "scale", scale(4.0), ConfigOptions(warmup=False))
    install(repository, "scale", scale(5.0))
    assert old < tree(repository.root / "scale/warmup").keys()

    for version in (1, 2):
        (repository.root / f"scale/{version}/config.1.pbtxt").unlink()
    install(repository, "scale", scale(6.0))
    assert tree(repository.root / "scale/warmup").keys() == {"by-hand"}


# Hand edits


def test_hand_edits_and_comments_survive_the_next_install(repository: Repository) -> None:
    install(repository, "scale", scale())
    path = repository.model("scale").config_path
    edit(
        path,
        "dynamic_batching {\n}",
        "# agreed with the web team\ndynamic_batching { max_queue_delay_microseconds: 250 }\n"
        "response_cache { enable: true }",
    )
    edit(path, "count: 1", "count: 3 # one per core")

    install(repository, "scale", scale(3.0))

    text = path.read_text()
    for edited in (
        "# agreed with the web team",
        "max_queue_delay_microseconds: 250",
        "enable: true",
        "3 # one per core",
    ):
        assert edited in text
    assert served(repository) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data_type: TYPE_FP32", "data_type: TYPE_FP16", "'x' is TYPE_FP16, but the version's is TYPE_FP32"),
        ("dims: [3]", "dims: [4]", r"'x' has dims \[4\], but the version's are \[3\]"),
        ("dynamic_batching {", "dynamic_batching { preferred_batch_size: 16", "preferred_batch_size 16"),
        ("versions: [1]", "versions: []", "it serves no version"),
        ('name: "scale"', 'name: "other"', "its name is 'other'"),
        ('backend: "onnxruntime"', 'backend: "python"', "its backend is 'python'"),
        ("max_batch_size: 8", "max_batch_size: eight", "not a valid model configuration"),
    ],
)
def test_an_edit_that_contradicts_the_new_version_is_refused_and_kept(
    repository: Repository, old: str, new: str, message: str
) -> None:
    install(repository, "scale", scale())
    edit(repository.model("scale").config_path, old, new)
    before = tree(repository.root)

    with pytest.raises(RepositoryError, match=message):
        install(repository, "scale", scale(3.0))

    assert tree(repository.root) == before


def test_an_edit_while_the_weights_are_copied_is_kept_and_nothing_is_published(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(repository, "scale", scale())
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    copy = disk.copy

    def edit_and_copy(source: Path, target: Path) -> None:
        edit(repository.model("scale").config_path, "count: 1", "count: 3")
        copy(source, target)

    monkeypatch.setattr(disk, "copy", edit_and_copy)
    with pytest.raises(RepositoryError, match="somebody edited this file while the model was being changed"):
        install(repository, "scale", scale(files={"model.onnx": b"graph", "weights.bin": weights}))

    assert "count: 3" in repository.model("scale").read_config()
    assert repository.model("scale").versions() == (1,)
    assert names(staging_of(repository)) == EMPTY


def test_a_model_that_somebody_puts_there_during_its_first_publish_is_kept_and_named(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")

    def put_another_there(source: Path, target: Path) -> None:
        (repository.root / "scale").mkdir()
        (repository.root / "scale/config.pbtxt").write_text("by hand")
        shutil.copyfile(source, target)

    monkeypatch.setattr(disk, "copy", put_another_there)
    with pytest.raises(RepositoryError) as caught:
        install(repository, "scale", scale(files={"model.onnx": b"graph", "weights.bin": weights}))

    assert caught.value.where == str(repository.root / "scale")
    assert tree(repository.root) == {"scale/config.pbtxt": b"by hand"}


# A model that this package did not publish


def foreign(repository: Repository, policy: str = "version_policy { specific { versions: [4] } }") -> Path:
    install(repository, "scale", scale())
    folder = repository.root / "scale"
    (folder / "1").rename(folder / "4")
    for file in ("manifest.json", "reference.npz"):
        (folder / "4" / file).unlink()
    text = (folder / "config.pbtxt").read_text().split("parameters {")[0]
    (folder / "config.pbtxt").write_text(re.sub(r"version_policy \{.*?\n\}", policy, text, flags=re.DOTALL))
    shutil.rmtree(folder / "warmup")
    return folder


def test_a_version_is_added_to_a_model_from_elsewhere_if_its_config_agrees(repository: Repository) -> None:
    folder = foreign(repository)

    assert install(repository, "scale", scale(3.0)).version == 5
    assert not (folder / "warmup").exists()
    model = next(repository.list_models())
    assert [(v.version, v.served, v.published is not None) for v in model.versions] == [
        (4, False, False),
        (5, True, True),
    ]


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [5]),
        ("version_policy { latest { num_versions: 2 } }", [4, 5]),
        ("version_policy { all { } }", [4, 5]),
        ("version_policy { specific { versions: [4] } }", [5]),
    ],
)
def test_a_model_from_elsewhere_keeps_its_version_policy(
    repository: Repository, policy: str, served: list[int]
) -> None:
    folder = foreign(repository, policy=policy)

    assert install(repository, "scale", scale(3.0)).version == 5
    model = next(repository.list_models())
    assert [version.version for version in model.versions if version.served] == served
    text = " ".join((folder / "config.pbtxt").read_text().split())
    assert policy.replace("[4]", "[5]") in text


def test_rollback_serves_a_version_from_elsewhere_and_prune_keeps_it(repository: Repository) -> None:
    folder = foreign(repository)
    before = (folder / "config.pbtxt").read_text()
    for factor in (3.0, 4.0):
        install(repository, "scale", scale(factor))

    assert repository.prune("scale", keep=1).removed == (5,)
    switch = roll_back(repository, "scale")
    assert (switch.before, switch.after) == (6, 4)
    assert pbtxt.parse((folder / "config.pbtxt").read_text(), where="") == pbtxt.parse(before, where="")
    assert repository.model("scale").versions() == (4, 6)


def test_a_directory_with_files_but_no_config_is_not_published_into(repository: Repository) -> None:
    (repository.root / "scale/1").mkdir(parents=True)

    with pytest.raises(RepositoryError, match="not empty, but has no config"):
        install(repository, "scale", scale())


def test_an_empty_directory_is_published_into(repository: Repository) -> None:
    (repository.root / "scale").mkdir(parents=True)

    assert install(repository, "scale", scale()).version == 1


# Rollback and prune


def test_rollback_serves_the_version_below_and_its_reference_warms_up(repository: Repository) -> None:
    install(repository, "scale", scale())
    config = repository.model("scale").read_config()
    other = replace(scale(3.0), reference={k: v[::-1] for k, v in scale(3.0).reference.items()})
    install(repository, "scale", other)

    switch = roll_back(repository, "scale")

    assert (switch.before, switch.after) == (2, 1)
    assert pbtxt.parse(repository.model("scale").read_config(), where="") == pbtxt.parse(config, where="")
    assert set(re.findall(r"[0-9a-f]{64}\.raw", config)) <= tree(repository.root / "scale/warmup").keys()


def test_rollback_can_go_forward_again_to_a_version_that_is_named(repository: Repository) -> None:
    install(repository, "scale", scale())
    install(repository, "scale", scale(3.0))
    before = tree(repository.root)
    roll_back(repository, "scale")

    assert roll_back(repository, "scale", 2).after == 2
    after = tree(repository.root)
    assert after.pop("scale/2/config.1.pbtxt") == before["scale/config.pbtxt"]
    assert after == before
    assert roll_back(repository, "scale", 2).before == 2


def test_rollback_sets_the_batch_size_that_the_version_was_served_with(repository: Repository) -> None:
    install(repository, "scale", scale(max_batch_size=4))
    install(repository, "scale", scale(3.0, max_batch_size=16))

    roll_back(repository, "scale")
    assert repository.model("scale").max_batch_size() == 4
    roll_back(repository, "scale", 2)
    assert repository.model("scale").max_batch_size() == 16
    edit(repository.model("scale").config_path, "max_batch_size: 16", "max_batch_size: 2")
    edit(repository.model("scale").config_path, "batch_size: 16", "batch_size: 2")
    roll_back(repository, "scale", keep_settings=True)
    assert repository.model("scale").max_batch_size() == 2


def test_rollback_away_from_a_version_with_a_damaged_manifest_works(repository: Repository) -> None:
    install(repository, "scale", scale())
    published = install(repository, "scale", scale(3.0))
    (published.path / "manifest.json").write_text("{")

    assert roll_back(repository, "scale").after == 1


@pytest.mark.parametrize(
    ("to", "message"),
    [(None, "no version before 1"), (7, "there is no version 7"), (2, "model.onnx has 0 bytes")],
)
def test_rollback_to_a_missing_or_incomplete_version_is_refused(
    repository: Repository, to: int | None, message: str
) -> None:
    install(repository, "scale", scale())
    install(repository, "scale", scale(3.0))
    (repository.root / "scale/2/model.onnx").write_bytes(b"")
    roll_back(repository, "scale")
    before = tree(repository.root)

    with pytest.raises(RepositoryError, match=message):
        roll_back(repository, "scale", to)
    assert tree(repository.root) == before


@pytest.mark.parametrize("change", ["rollback", "prune"])
def test_changing_a_missing_model_is_refused_and_creates_nothing(repository: Repository, change: str) -> None:
    with pytest.raises(RepositoryError, match="no such model"):
        roll_back(repository, "scale") if change == "rollback" else repository.prune("scale", keep=1)
    assert not repository.root.exists()


def test_prune_keeps_the_newest_and_the_served_version(repository: Repository) -> None:
    for factor in (2.0, 3.0, 4.0, 5.0):
        install(repository, "scale", scale(factor))
    roll_back(repository, "scale", 2)
    (repository.root / "scale/1-backup").mkdir()

    assert repository.prune("scale", keep=1).removed == (1, 3)
    assert repository.model("scale").versions() == (2, 4)
    assert repository.prune("scale", keep=1).removed == ()
    assert (repository.root / "scale/1-backup").exists()
    assert names(staging_of(repository)) == EMPTY


def test_prune_keeps_at_least_one_version(repository: Repository) -> None:
    install(repository, "scale", scale())

    with pytest.raises(RepositoryError, match="keep at least 1"):
        repository.prune("scale", keep=0)


# Listing and reading


def test_list_shows_versions_sizes_sources_and_which_one_is_served(repository: Repository) -> None:
    install(repository, "scale", scale())
    install(repository, "scale", scale(3.0))
    install(repository, "other", scale())

    other, model = repository.list_models()

    assert (other.name, model.name, model.problem) == ("other", "scale", None)
    assert [version.served for version in model.versions] == [False, True]
    assert model.versions[0].bytes == sum(map(len, tree(repository.root / "scale/1").values()))
    assert model.versions[0].manifest == scale().manifest
    published = model.versions[0].published
    assert published is not None
    assert published.timestamp() == pytest.approx((repository.root / "scale/1/manifest.json").stat().st_mtime, abs=1e-3)


def test_list_shows_broken_and_working_models(repository: Repository) -> None:
    for name in ("a", "b", "c", "d"):
        install(repository, name, scale())
    repository.model("a").config_path.write_text("{")
    repository.model("b").config_path.unlink()
    (repository.root / "c/1/manifest.json").write_text('{"format": 2}')
    shutil.rmtree(repository.root / "d/1")

    a, b, c, d = repository.list_models()

    assert a.problem is not None
    assert "not a valid model configuration" in a.problem
    assert b.problem is not None
    assert "no config.pbtxt" in b.problem
    assert c.problem is None
    assert c.versions[0].problem is not None
    assert "its format is 2" in c.versions[0].problem
    assert d.problem == "its config serves version 1, which is missing"


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_version_that_is_pruned_while_it_is_listed_is_left_out(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    for factor in (2.0, 3.0):
        install(repository, "scale", scale(factor))
    is_published = ModelDirectory.is_published

    def prune_first(model: ModelDirectory, version: int) -> bool:
        was_published = is_published(model, version)
        if version == 1 and was_published:
            shutil.rmtree(model.version_dir(1))
        return was_published if when == "while" else is_published(model, version)

    monkeypatch.setattr(ModelDirectory, "is_published", prune_first)
    (model,) = repository.list_models()

    assert [(version.version, version.served) for version in model.versions] == [(2, True)]
    assert model.problem is None


def test_listing_a_missing_repository_is_refused(repository: Repository) -> None:
    with pytest.raises(RepositoryError, match="No such file"):
        list(repository.list_models())


def test_the_reference_is_read_as_it_was_written(repository: Repository) -> None:
    install(repository, "scale", scale())

    reference = repository.model("scale").read_reference(1)

    assert reference.keys() == scale().reference.keys()
    for name, rows in scale().reference.items():
        np.testing.assert_array_equal(reference[name], rows, strict=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be read"),
        (lambda path: np.savez(path, x=np.zeros(3)), "its arrays are not the ones"),
        (lambda path: np.savez(path, **{k: v[1:] for k, v in scale().reference.items()}), "arrays are not the ones"),
        (lambda path: np.savez(path, x=np.array([{}], dtype=object)), "cannot be read"),
        (lambda path: np.savez_compressed(path, x=np.zeros(1000)), "the file can hold only"),
    ],
    ids=["missing", "empty", "truncated", "other arrays", "fewer rows", "pickled", "compressed"],
)
def test_a_damaged_reference_is_refused(repository: Repository, damage: object, message: str) -> None:
    install(repository, "scale", scale())
    assert callable(damage)
    damage(repository.root / "scale/1/reference.npz")

    with pytest.raises(RepositoryError, match=message):
        repository.model("scale").read_reference(1)


def test_a_reference_contains_no_time(repository: Repository) -> None:
    published = install(repository, "scale", scale())

    with zipfile.ZipFile(published.path / "reference.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "it has no `format`"),
        ('{"format": 2}', "its format is 2, but this release reads format 1"),
        (
            scale().manifest.to_json().replace('"rows": 4', '"rows": "4"'),
            "proof.rows is '4' instead of a value of type int",
        ),
        (scale().manifest.to_json().replace('"name": "x"', '"nam": "x"'), r"manifest.inputs\[0\].name is missing"),
        (scale().manifest.to_json().replace("3\n", '"a"\n'), r"manifest.inputs\[0\].dims\[0\] is 'a'"),
    ],
)
def test_a_wrong_manifest_is_refused_and_the_error_names_the_place(text: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        Manifest.from_json(text, where="manifest.json")


def test_a_manifest_with_fields_of_a_later_release_is_read() -> None:
    text = scale().manifest.to_json().replace('"builder"', '"later": 1, "builder"')

    assert Manifest.from_json(text, where="manifest.json") == scale().manifest


# Bad input


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/x", ".x", "-x", "a b", "a\nb", "a\0b", "ä", "x" * 201, "a\\b", "a?b", "a%2e"],
)
def test_a_name_that_would_leave_the_repository_or_not_load_is_refused(repository: Repository, name: str) -> None:
    for change in (
        lambda: install(repository, name, scale()),
        lambda: roll_back(repository, name),
        lambda: repository.prune(name, keep=1),
    ):
        with pytest.raises(RepositoryError, match="not usable"):
            change()
    assert list(repository.root.parent.iterdir()) == []


def test_a_repository_that_is_a_file_is_refused(repository: Repository) -> None:
    repository.root.write_text("not a directory")

    with pytest.raises(RepositoryError, match=f"{repository.root}: File exists"):
        install(repository, "scale", scale())
    with pytest.raises(RepositoryError, match="Not a directory"):
        list(repository.list_models())


def test_a_repository_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(RepositoryError, match="Not a directory"):
        install(Repository(tmp_path / "file/models"), "scale", scale())


def test_the_filesystems_root_is_refused_as_a_repository() -> None:
    with pytest.raises(RepositoryError, match="cannot be created next to the root"):
        install(Repository(Path("/")), "scale", scale())


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of this user's; from then on the test has only the permissions of `nobody`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    if os.geteuid() != os.getuid():
        os.seteuid(os.getuid())
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def drop_rights(folder: Path) -> None:
    if os.getuid() == 0:
        os.seteuid(65534)
    else:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555)


@pytest.mark.parametrize("published_before", [False, True])
def test_a_repository_without_write_permission_is_refused(unprivileged: Path, published_before: bool) -> None:
    repository = Repository(unprivileged / "models")
    if published_before:
        install(repository, "scale", scale())
    before = tree(unprivileged)
    drop_rights(unprivileged)

    with pytest.raises(RepositoryError, match=r"Permission denied\nfix: let this user read and change"):
        install(repository, "scale", scale(3.0))
    assert tree(unprivileged) == before


def run_limited(root: Path, prelude: str) -> str:
    """Install version 2 in another process; return the error it ends with."""
    script = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
from pathlib import Path
from support.artifacts import scale
from builder.errors import RepositoryError
from builder.publishing import install
from builder.repository import Repository
artifact = scale(3.0, files={{"model.onnx": bytes(2_000_000)}})
{prelude}
try:
    install(Repository(Path({str(root)!r})), "scale", artifact)
except RepositoryError as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_a_file_that_cannot_be_written_completely_changes_nothing(repository: Repository) -> None:
    install(repository, "scale", scale())
    before = tree(repository.root)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"

    assert os.strerror(errno.EFBIG) in run_limited(repository.root, limit)

    assert tree(repository.root) == before
    assert names(staging_of(repository)) == EMPTY
    assert install(repository, "scale", scale(3.0)).version == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"this user may not mount: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_changes_nothing(small_disk: Path) -> None:
    repository = Repository(small_disk / "models")
    install(repository, "scale", scale())
    before = tree(repository.root)

    with pytest.raises(RepositoryError, match=r"No space left on device\nfix: free some space"):
        install(repository, "scale", scale(3.0, files={"model.onnx": bytes(2_000_000)}))

    assert tree(repository.root) == before
    assert names(staging_of(repository)) == EMPTY
    assert install(repository, "scale", scale(3.0)).version == 2


def test_a_mount_point_is_refused_but_a_folder_below_it_works(small_disk: Path) -> None:
    with pytest.raises(RepositoryError, match=rf"mount point(.|\n)*such as {small_disk}/models"):
        install(Repository(small_disk), "scale", scale())
    assert list(small_disk.iterdir()) == []

    assert install(Repository(small_disk / "models"), "scale", scale()).version == 1


def test_a_mount_point_of_the_same_filesystem_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "models").mkdir()
    bind = ["mount", "--bind", str(tmp_path / "source"), str(tmp_path / "models")]
    if subprocess.run(bind, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount")
    try:
        with pytest.raises(RepositoryError, match="mount point"):
            install(Repository(tmp_path / "models"), "scale", scale())
        assert list((tmp_path / "models").iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path / "models")], check=True)


def test_a_repository_behind_a_link_is_staged_next_to_the_real_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/models").symlink_to(tmp_path / "real")

    install(Repository(tmp_path / "elsewhere/models"), "scale", scale())

    assert (tmp_path / ".real.staging").is_dir()
    assert names(tmp_path / "elsewhere") == ["models"]


# Interrupts, and two installs at once


def test_an_interrupt_in_the_middle_changes_nothing(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    install(repository, "scale", scale())
    before = tree(repository.root)
    rename = Path.rename

    def interrupted(source: Path, target: Path) -> Path:
        if Path(target) == repository.model("scale").config_path:
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        install(repository, "scale", scale(3.0))

    assert tree(repository.root) == before
    assert names(staging_of(repository)) == EMPTY


def test_a_complete_change_is_not_reported_as_failed_because_of_what_it_left_behind(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(repository, "scale", scale())

    with monkeypatch.context() as patch:
        remove = OpenFolder.remove

        def fail_at_the_end(folder: OpenFolder, name: str) -> None:
            if (repository.root / "scale/2").exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.path / name))
            remove(folder, name)

        patch.setattr(OpenFolder, "remove", fail_at_the_end)
        published = install(repository, "scale", scale(3.0))
        assert published.version == 2
        assert "could not be deleted: No space left on device" in published.notes[-1]

    assert (staging_of(repository) / "journal.json").exists()
    assert install(repository, "scale", scale(4.0)).version == 3
    assert names(staging_of(repository)) == EMPTY


def test_two_installs_at_once_both_succeed_with_a_version_each(repository: Repository) -> None:
    script = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
from pathlib import Path
from support.artifacts import scale
from builder.publishing import install
from builder.repository import Repository
artifacts = [scale(float(sys.argv[1]) + i / 100) for i in range(5)]
print("ready", flush=True)
input()
for artifact in artifacts:
    print(install(Repository(Path({str(repository.root)!r})), "scale", artifact).version)
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, factor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for factor in ("2", "3")
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("\n")[0].split() for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert sorted(int(version) for output in outputs for version in output) == list(range(1, 11))
    assert repository.model("scale").versions() == tuple(range(1, 11))
    assert served(repository) == 10
