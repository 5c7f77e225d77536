"""What config.pbtxt says about plans, and about TensorRT as an accelerator."""

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import scale
from support.plans import MODELS

from builder.config import (
    Config,
    ConfigOptions,
    ExistingConfig,
    Profile,
    Shapes,
    check_config,
    check_options,
    for_plan,
    make_config,
    pbtxt,
)
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


SEVERAL = replace(
    scale().manifest,
    model=ModelFile("model.plan", "0" * 64, 1, others=("model-8.0.plan",)),
    plan=replace(PLAN, compute_capability="9.0"),
    other_plans=(replace(PLAN, gpu="NVIDIA A100", compute_capability="8.0", file="model-8.0.plan"),),
)
ONE = replace(scale().manifest, model=ModelFile("model.plan", "0" * 64, 1), plan=PLAN)
BESIDE = replace(scale().manifest, model=ModelFile("model.onnx", "0" * 64, 1, others=("model.plan",)), plan=PLAN)


def again(text: str, served: Manifest, manifest: Manifest, options: ConfigOptions | None = None) -> Config:
    """Make the config of the next version from the one that is there."""
    existing = ExistingConfig(text, served, Path("m/config.pbtxt"))
    sample = first_row(scale().reference)
    return make_config(manifest, name="m", version=2, sample=sample, options=options, existing=existing)


def parsed(text: str) -> Any:
    return pbtxt.parse(text, where="test")


def test_each_kind_of_gpu_has_its_plan() -> None:
    text = config(SEVERAL, ConfigOptions(profiles=PROFILES)).text
    assert dict(parsed(text).cc_model_filenames) == {"9.0": "model.plan", "8.0": "model-8.0.plan"}
    assert "cc_model_filenames" not in again(text, SEVERAL, ONE).text
    assert "cc_model_filenames" not in again(text, SEVERAL, scale().manifest).text
    check_config(text, SEVERAL, name="m", where="test")
    with pytest.raises(RepositoryError, match=r"names 'model-8\.0\.plan' for 8\.0, which is not among the files"):
        check_config(text, ONE, name="m", where="test")


def test_plans_that_others_have_named_are_refused_if_they_were_not_proven_and_else_stay() -> None:
    text = config(ONE, ConfigOptions(profiles=PROFILES)).text
    theirs = text + 'cc_model_filenames { key: "7.5" value: "t4.plan" }\n'
    with pytest.raises(RepositoryError, match=r"names 't4\.plan' for 7\.5"):
        again(theirs, ONE, SEVERAL)
    never_read = again(text + 'cc_model_filenames { key: "75" value: "t4.plan" }\n', ONE, ONE)
    assert 'key: "75"' in never_read.text
    assert any("an entry for '75', which no GPU looks for" in note for note in never_read.notes)


def test_files_for_gpus_that_a_new_version_would_not_have_are_refused_before_it_is_proven() -> None:
    text = config(scale().manifest, ConfigOptions()).text
    for kind, file, is_fine in (("8.0", "a.onnx", False), ("8.0", "model.onnx", True), ("80", "a.onnx", True)):
        existing = f'{text}cc_model_filenames {{ key: "{kind}" value: "{file}" }}\n'
        with nullcontext() if is_fine else pytest.raises(RepositoryError, match=r"'a\.onnx' for 8\.0"):
            check_options(ConfigOptions(), existing, backend="onnxruntime", has_batch=True, where="m")


def test_an_adopted_model_may_name_other_files_for_gpus() -> None:
    adopted = replace(scale().manifest, adopted=True)
    text = config(scale().manifest, ConfigOptions()).text + 'cc_model_filenames { key: "8.0" value: "a.onnx" }\n'
    check_config(text, adopted, name="m", where="test")


def test_the_onnx_file_beside_a_plan_runs_everywhere() -> None:
    options = ConfigOptions(profiles=PROFILES, fallback="onnx", cuda_graphs=True)
    text = config(BESIDE, options).text
    assert 'backend: "onnxruntime"' in text
    assert parsed(text).instance_group[0].kind == parsed(text).instance_group[0].KIND_AUTO

    before = config(ONE, ConfigOptions(profiles=PROFILES)).text
    after = parsed(again(before, ONE, BESIDE, options).text).instance_group[0]
    assert (after.kind, list(after.profile)) == (after.KIND_AUTO, [])
    with pytest.raises(RepositoryError, match="TensorRT runs only on GPUs, but --kind is cpu"):
        config(BESIDE, replace(options, kind="cpu"))


def test_the_plan_beside_an_onnx_file_is_loaded_with_what_clients_see_of_the_onnx_file() -> None:
    own = parsed(config(BESIDE, ConfigOptions(fallback="onnx", max_queue_delay_us=500)).text)
    own.optimization.graph.level = 1
    plan = for_plan(own, replace(BESIDE, other_plans=SEVERAL.other_plans, plan=SEVERAL.plan))
    assert (plan.backend, plan.default_model_filename) == ("tensorrt", "model.plan")
    assert dict(plan.cc_model_filenames) == {"9.0": "model.plan", "8.0": "model-8.0.plan"}
    (group,) = plan.instance_group
    assert (group.kind, list(group.profile)) == (group.KIND_GPU, ["0"])
    assert not plan.optimization.HasField("graph")
    for field in ("input", "output", "max_batch_size", "dynamic_batching", "version_policy", "model_warmup", "name"):
        assert getattr(plan, field) == getattr(own, field)


def test_the_manifest_of_a_plan_is_read_back_unchanged() -> None:
    manifest = replace(scale().manifest, model=ModelFile("model.plan", "0" * 64, 1), plan=PLAN)
    assert Manifest.from_json(manifest.to_json(), where="test") == manifest
