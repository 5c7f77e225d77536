"""Settings of the config that serves a model are changed without a new version."""

from pathlib import Path

import pytest
from support.artifacts import scale, tree

from builder.config import ConfigOptions, pbtxt
from builder.errors import RepositoryError
from builder.publishing import install, reconfigure, roll_back
from builder.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    for factor in (2.0, 3.0):
        install(repository, "scale", scale(factor))
    return repository


def changed_lines(diff: str) -> set[str]:
    return {line for line in diff.splitlines()[2:] if line[0] in "+-"}


def test_only_the_settings_change_and_comments_stay(repository: Repository) -> None:
    path = repository.model("scale").config_path
    path.write_text(f"# ours\n{path.read_text()}\nmetric_tags {{ key: 'team' value: 'vision' }}  # theirs\n")
    versions = tree(repository.root / "scale")

    done = reconfigure(repository, "scale", ConfigOptions(instances=3, intra_op_thread_count=2))

    assert (done.before, done.after, done.restored) == (2, 2, None)
    text = path.read_text()
    assert text.startswith("# ours\n")
    assert "# theirs" in text
    config = pbtxt.parse(text, where=path)
    assert config.instance_group[0].count == 3
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.metric_tags["team"] == "vision"
    assert {line for line in changed_lines(done.diff) if "count" in line} >= {"-  count: 1", "+  count: 3"}
    after = tree(repository.root / "scale")
    assert {file for file in after if after[file] != versions.get(file)} == {"config.pbtxt", "2/config.1.pbtxt"}


def test_the_config_before_is_kept_and_rollback_brings_it_back_byte_for_byte(repository: Repository) -> None:
    model = repository.model("scale")
    before = model.config_path.read_bytes()

    done = reconfigure(repository, "scale", ConfigOptions(max_queue_delay_us=100))

    assert done.kept is not None
    assert (model.path / done.kept.file).read_bytes() == before
    assert pbtxt.parse(model.read_config(), where="").parameters["builder.previous"].string_value == "2/1"
    roll_back(repository, "scale")
    assert model.config_path.read_bytes() == before


def test_warm_up_follows_the_largest_batch(repository: Repository) -> None:
    reconfigure(repository, "scale", ConfigOptions(max_batch_size=4))

    config = pbtxt.parse(repository.model("scale").read_config(), where="")
    assert config.max_batch_size == 4
    assert [entry.batch_size for entry in config.model_warmup] == [1, 4]


def test_a_dry_run_writes_nothing(repository: Repository) -> None:
    before = tree(repository.root.parent)

    done = reconfigure(repository, "scale", ConfigOptions(instances=2), dry_run=True)

    assert done.diff
    assert tree(repository.root.parent) == before


def test_the_same_settings_change_nothing(repository: Repository) -> None:
    before = tree(repository.root)

    assert reconfigure(repository, "scale", ConfigOptions(instances=1)).diff == ""
    assert tree(repository.root) == before


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (ConfigOptions(max_batch_size=16), "proven only up to 8"),
        (ConfigOptions(preferred_batch_sizes=(16,)), "16"),
        (ConfigOptions(parameters={"builder.version": "9"}), "builder."),
        (ConfigOptions(cuda_graphs=True), "CUDA graphs need a TensorRT plan"),
    ],
)
def test_what_publish_refuses_is_refused(repository: Repository, options: ConfigOptions, what: str) -> None:
    before = tree(repository.root)

    with pytest.raises(RepositoryError, match=what):
        reconfigure(repository, "scale", options)
    assert tree(repository.root) == before


def test_a_version_served_beside_it_is_not_given_more_than_it_was_proven_for(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale(2.0, max_batch_size=4))
    install(repository, "scale", scale(3.0, max_batch_size=8), ConfigOptions(max_batch_size=4), beside=[1])

    with pytest.raises(RepositoryError, match="proven only up to 4"):
        reconfigure(repository, "scale", ConfigOptions(max_batch_size=8))
    reconfigure(repository, "scale", ConfigOptions(max_batch_size=2))
    assert repository.model("scale").served_versions() == (1, 2)


def test_a_model_that_was_not_published_here_is_named_with_what_to_do(repository: Repository) -> None:
    (repository.root / "theirs/1").mkdir(parents=True)
    (repository.root / "theirs/1/model.onnx").write_bytes(b"")
    (repository.root / "theirs/config.pbtxt").write_text('backend: "onnxruntime"\nmax_batch_size: 8\n')

    with pytest.raises(RepositoryError, match="adopt theirs"):
        reconfigure(repository, "theirs", ConfigOptions(instances=2))
    with pytest.raises(RepositoryError, match="no such model"):
        reconfigure(repository, "missing", ConfigOptions(instances=2))
    assert not (repository.root / "missing").exists()
