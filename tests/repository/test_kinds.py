"""What a repository says about models that others have put there."""

from pathlib import Path

import pytest
from support import foreign

from builder.errors import RepositoryError
from builder.publishing import roll_back
from builder.repository import ListedModel, Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    root = tmp_path / "models"
    foreign.write_onnx(root, "bare", None, foreign.scale(2), foreign.scale(3))
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale(2), foreign.scale(3))
    foreign.write_python(root, "script")
    foreign.write_ensemble(root, "both", "scale", "gone")
    (root / "empty").mkdir()
    return Repository(root)


def listed(repository: Repository, name: str) -> ListedModel:
    (found,) = (model for model in repository.list_models() if model.name == name)
    return found


def test_every_model_is_listed_with_its_backend(repository: Repository) -> None:
    found = {model.name: model.kind and str(model.kind) for model in repository.list_models()}
    assert found == {
        "bare": "an ONNX model",
        "both": "an ensemble of scale and gone",
        "empty": "a model of an unknown backend",
        "scale": "an ONNX model",
        "script": "a model of the backend 'python'",
    }


def test_a_model_without_a_config_serves_its_highest_version(repository: Repository) -> None:
    found = listed(repository, "bare")
    assert found.problem is None
    assert [(version.version, version.served, version.origin) for version in found.versions] == [
        (1, False, "foreign"),
        (2, True, "foreign"),
    ]


def test_members_that_are_missing_are_told(repository: Repository) -> None:
    assert listed(repository, "both").missing_members == ("gone",)
    assert listed(repository, "scale").missing_members == ()


def test_a_folder_with_nothing_to_load_is_a_problem(repository: Repository) -> None:
    assert listed(repository, "empty").problem == "it has no config.pbtxt and no version"


def test_a_config_that_cannot_be_read_leaves_the_versions_in_the_list(repository: Repository) -> None:
    (repository.root / "scale" / "config.pbtxt").write_text("backend {")
    found = listed(repository, "scale")
    assert found.problem is not None
    assert found.kind is None
    assert [version.version for version in found.versions] == [1, 2]


@pytest.mark.parametrize(
    ("config", "is_complete"),
    [(foreign.SCALE_CONFIG, True), ('backend: "onnxruntime" max_batch_size: 8', False), (None, False)],
)
def test_a_config_that_triton_completes_is_known(tmp_path: Path, config: str | None, is_complete: bool) -> None:
    foreign.write_onnx(tmp_path, "scale", config, foreign.scale())
    assert Repository(tmp_path).model("scale").kind().is_complete == is_complete


def test_other_configs_are_named(repository: Repository) -> None:
    (repository.root / "scale" / "configs").mkdir()
    (repository.root / "scale" / "configs" / "canary.pbtxt").write_text(foreign.SCALE_CONFIG)
    kind = repository.model("scale").kind()
    assert (kind.other_configs, kind.backend) == (("canary",), "onnxruntime")


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("both", "it is an ensemble of scale and gone, so no samples", "name one of its members: scale, gone"),
        ("script", "it is a model of the backend 'python'", "name an ONNX model"),
        ("scale", "neither published nor adopted", "`python -m builder adopt scale --version 1`"),
    ],
)
def test_a_version_without_stored_answers_is_refused_by_what_it_is(
    repository: Repository, name: str, what: str, fix: str
) -> None:
    with pytest.raises(RepositoryError) as refused:
        repository.model(name).read_manifest(1)
    assert what in refused.value.what
    assert fix in refused.value.fix


def test_an_ensemble_is_rolled_back_by_its_members(repository: Repository) -> None:
    with pytest.raises(RepositoryError, match="there is no version before 1") as refused:
        roll_back(repository, "both")
    assert "roll back one of these" in refused.value.fix


def test_a_missing_config_is_told_with_the_command_that_writes_it(repository: Repository) -> None:
    with pytest.raises(RepositoryError, match=r"it has no config.pbtxt") as refused:
        repository.model("bare").served_version()
    assert "adopt bare" in refused.value.fix
