"""What config.pbtxt says about plans, and about TensorRT as an accelerator."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.artifacts import scale
from support.plans import MODELS

from builder.config import Config, ConfigOptions, Profile, Shapes, make_config
from builder.errors import RepositoryError
from builder.publishing import PublishOptions, publish
from builder.record import Manifest, ModelFile, Plan, first_row


def config(manifest: Manifest, options: ConfigOptions) -> Config:
    return make_config(manifest, name="m", version=1, sample=first_row(scale().reference), options=options)


PROFILES: tuple[Profile, ...] = (
    {"x": Shapes((1, 3), (4, 3), (8, 3)), "n": Shapes((1,), (4,), (8,))},
    {"x": Shapes((2, 3), (4, 3), (8, 3)), "n": Shapes((2,), (4,), (8,))},
)
PLAN = Plan("11.1.0", "13.3", "NVIDIA H200", "580.1", "0" * 64, {"Half": 3}, ({"x": "1x3:4x3:8x3"},))


def test_the_accelerator_gets_explicit_shapes_and_a_gpu() -> None:
    text = config(scale().manifest, ConfigOptions(accelerator="tensorrt", profiles=PROFILES[:1])).text
    assert 'name: "tensorrt"' in text
    assert 'value: "x:1x3,n:1"' in text
    assert 'value: "x:8x3,n:8"' in text
    assert "kind: KIND_GPU" in text


def test_publishing_with_the_accelerator_again_changes_nothing(tmp_path: Path) -> None:
    options = PublishOptions(config=ConfigOptions(accelerator="tensorrt", max_batch_size=4))
    first = publish(MODELS / "encoder_layer_ts17.onnx", tmp_path / "models", options=options)
    again = publish(MODELS / "encoder_layer_ts17.onnx", tmp_path / "models", options=options)
    assert (first.version.created, again.version.created, again.version.config_changed) == (True, False, False)


@pytest.mark.parametrize(
    "options", [ConfigOptions(accelerator="tensorrt", kind="cpu"), ConfigOptions(cuda_graphs=True)]
)
def test_tensorrt_is_refused_where_it_cannot_run(options: ConfigOptions) -> None:
    with pytest.raises(RepositoryError, match="TensorRT"):
        config(scale().manifest, options)


def test_a_plan_gets_its_backend_profiles_and_cuda_graphs() -> None:
    served = replace(scale().manifest, model=ModelFile("model.plan", "0" * 64, 1), plan=PLAN)
    text = config(served, ConfigOptions(profiles=PROFILES, cuda_graphs=True)).text
    assert 'backend: "tensorrt"' in text
    assert re.search(r'profile: \[?"0"(, |]?\s+profile: )"1"', text)
    assert "kind: KIND_GPU" in text
    assert "graphs: true" in text


def test_the_manifest_of_a_plan_is_read_back_unchanged() -> None:
    manifest = replace(scale().manifest, model=ModelFile("model.plan", "0" * 64, 1), plan=PLAN)
    assert Manifest.from_json(manifest.to_json(), where="test") == manifest
