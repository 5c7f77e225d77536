"""Plans that are built and run, on a machine with a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.plans import HAS_HOST, MODELS

from builder import api
from builder.batching import add_batch_axis
from builder.config import ConfigOptions
from builder.model import load
from builder.naming import rename
from builder.publishing import PublishOptions, publish


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOST, reason="requires an NVIDIA GPU, TensorRT 10 or 11, and Polygraphy")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["conv_view_ts11", "encoder_layer_ts17", "text_encoder_ts13"])
def test_a_plan_is_built_and_answers_as_the_original(name: str, precision: Any, tmp_path: Path) -> None:
    options = PublishOptions(format="tensorrt", precision=precision, config=ConfigOptions(max_batch_size=8))
    done = publish(MODELS / f"{name}.onnx", tmp_path / "models", options=options)
    assert done.manifest.plan is not None
    sizes = [(done.version.path / file).stat().st_size for file in done.manifest.plan.files]
    assert (len(sizes), sum(sizes)) == (2, done.manifest.model.bytes)  # with its timing cache
    assert done.manifest.plan.tensorrt
    if precision == "fp16":
        assert done.manifest.plan.layers.keys() & {"Half", "FP16"}


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOST, reason="requires an NVIDIA GPU, TensorRT 10 or 11, and Polygraphy")
def test_the_timing_cache_is_kept(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    batched = rename(add_batch_axis(load(MODELS / "conv_view_ts11.onnx")))
    options = PublishOptions(format="tensorrt", config=ConfigOptions(max_batch_size=4))
    publish(
        batched.original.path,
        tmp_path / "m",
        options=replace(options, build=replace(options.build, timing_cache=cache)),
    )
    assert cache.stat().st_size > 0


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOST, reason="requires an NVIDIA GPU, TensorRT 10 or 11, and Polygraphy")
def test_a_plan_beside_an_onnx_file_is_proven_and_built_again_from_its_timing_cache(tmp_path: Path) -> None:
    options = PublishOptions(
        format="tensorrt", fallback="onnx", keep_plans=True, config=ConfigOptions(max_batch_size=4)
    )
    said: list[str] = []
    for _ in range(2):
        done = publish(
            MODELS / "conv_view_ts11.onnx", tmp_path / "m", options=options, report=lambda _, what: said.append(what)
        )
    assert any("it starts from the timing cache of the served version" in what for what in said)
    plan = done.manifest.plan
    assert plan is not None
    assert plan.timing_cache is not None
    assert plan.compute_capability
    found = api.verify("conv_view_ts11", tmp_path / "m")
    assert found.notes == (f"its ONNX file and its plan for {plan.gpu} were compared",)
