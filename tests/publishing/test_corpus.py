"""Every model of the corpus is published right, or refused, according to a judge that shares no code with us."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from builder.errors import BuilderError
from builder.publishing import PublishOptions, publish

ROOT = Path(__file__).parents[2]
CORPUS = ROOT.parent / "shared" / "corpus"
JUDGE = ROOT / "tests" / "support" / "judging.py"
LARGE = {"zoo_light_inception_v1", "zoo_light_resnet50", "zoo_light_vgg19"}
"""Networks of the same kinds as smaller ones of the corpus; they take longer than all others together."""

PARTS = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/corpus is not beside this checkout"),
]


def read_corpus() -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads((CORPUS / "manifest.json").read_text())["models"]
    return [{**model, "file": str(CORPUS / model["file"])} for model in models]


def judge(models: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the verdicts about the models that are published in `folder/models`."""
    (folder / "manifest.json").write_text(json.dumps({"models": models}))
    command = [sys.executable, JUDGE, CORPUS / "judge.py", folder / "manifest.json", folder / "models"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdicts: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(verdicts) == len(models)
    return verdicts


def publish_and_judge(models: list[dict[str, Any]], folder: Path) -> list[tuple[str, str, str]]:
    """Return the stem, status and detail of each model that is neither right nor rightly refused."""
    assert models
    for model in models:
        axes = {entry["name"]: entry["batch_axis"] for entry in model["inputs"] if entry["batch_axis"]}
        with suppress(BuilderError):
            options = PublishOptions(batch_axes=axes)
            publish(Path(model["file"]), folder / "models", name=model["stem"], options=options)
    return [(one["stem"], one["status"], one["detail"]) for one in judge(models, folder) if not one["ok"]]


def test_the_corpus_is_whole() -> None:
    stems = {model["stem"] for model in read_corpus()}
    assert len(stems) > 100
    assert stems > LARGE


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_models_are_right_according_to_an_independent_check(part: int, tmp_path: Path) -> None:
    models = [model for model in read_corpus() if model["stem"] not in LARGE]
    assert publish_and_judge(models[part::PARTS], tmp_path) == []


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_the_largest_models_are_right_according_to_an_independent_check(tmp_path: Path) -> None:
    assert publish_and_judge([model for model in read_corpus() if model["stem"] in LARGE], tmp_path) == []


def test_the_check_finds_a_wrong_model_and_one_that_is_not_batched(tmp_path: Path) -> None:
    """The first has another model's answers, and the second is not published at all."""
    must = [model for model in read_corpus() if model["stem"] in ("mlp_view1_ts11", "lstm_zeros_state_ts14")]
    assert [model["expect"] for model in must] == ["batch", "batch"]
    wrong = next(model for model in must if model["stem"].startswith("mlp"))
    assert publish_and_judge([wrong], tmp_path) == []
    path = tmp_path / "models" / wrong["stem"] / "1" / "model.onnx"
    flip_a_weight(path)
    assert {one["stem"]: one["status"] for one in judge(must, tmp_path)} == {
        "mlp_view1_ts11": "WRONG",
        "lstm_zeros_state_ts14": "REFUSED",
    }


def flip_a_weight(path: Path) -> None:
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1, weight.name))
    onnx.save(model, path)
