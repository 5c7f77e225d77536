"""Settings that cannot be are refused before a model is read and proven for them."""

from pathlib import Path
from typing import Any

import pytest
from support.artifacts import scale

from builder import ConfigOptions, ModelError, PublishOptions, RepositoryError, publish
from builder.errors import BuilderError
from builder.publishing import install
from builder.repository import Repository

MISSING = "missing.onnx"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"labels": {"y": Path("nowhere")}}, ModelError, "nowhere: these labels cannot be read"),
        ({"default_priority": 1}, RepositoryError, "it has no priority levels"),
        ({"set_fields": (("optimisation.graph.level", "1"),)}, RepositoryError, "has no field 'optimisation'"),
        ({"set_fields": (("instance_group[1].count", "1"),)}, RepositoryError, "the list has 1 entry"),
        ({"metric_labels": {"a-b": "c"}}, RepositoryError, "'a-b' is no name of a metric's label"),
    ],
)
def test_of_a_new_model(root: Path, settings: dict[str, Any], error: type[BuilderError], message: str) -> None:
    with pytest.raises(error, match=message):
        publish(MISSING, root, name="scale", options=PublishOptions(config=ConfigOptions(**settings)))
    assert not root.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": {"z": None}}, "--labels names 'z', but there is no such output"),
        ({"unset_fields": ("response_cache",)}, "response_cache is not set"),
        ({"unset_fields": ("output[7]",)}, "output\\[7\\] is not there"),
        ({"response_cache": True, "unset_fields": ("response_cache",)}, "contradicts another option"),
    ],
)
def test_of_a_model_that_is_there(root: Path, settings: dict[str, Any], message: str) -> None:
    install(Repository(root), "scale", scale())
    with pytest.raises(RepositoryError, match=message):
        publish(MISSING, root, name="scale", options=PublishOptions(config=ConfigOptions(**settings)))


def test_settings_of_tensors_wait_until_these_are_known(root: Path) -> None:
    settings = ConfigOptions(unset_fields=("output[1]",), set_fields=(("input[0].reshape.shape", "[1]"),))
    with pytest.raises(ModelError, match=MISSING):
        publish(MISSING, root, name="scale", options=PublishOptions(config=settings))
