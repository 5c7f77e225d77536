"""Plans that are built and run, on a machine with a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.plans import HAS_HOST, MODELS

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
    assert (done.version.path / "model.plan").stat().st_size == done.manifest.model.bytes
    assert done.manifest.plan is not None
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
