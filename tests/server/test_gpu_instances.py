"""A real Triton places the instances of a published model on the GPU where there is one, and says so where not."""

from pathlib import Path

import numpy as np
import pytest
from support.bare_triton import REPOSITORY, running
from support.on_gpu import missing_gpu
from support.serving import grpc_inputs
from tritonclient.grpc import InferenceServerClient

from builder.config import ConfigOptions
from builder.publishing import PublishOptions, publish

MODEL = Path(__file__).parents[1] / "models" / "convolution_axis_0.onnx"


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(bool(missing_gpu()), reason=missing_gpu())
def test_instances_on_a_gpu_answer(tmp_path: Path) -> None:
    done = publish(MODEL, tmp_path, options=PublishOptions(config=ConfigOptions(max_batch_size=4, kind="gpu")))
    (tensor,) = done.manifest.inputs
    feeds = {tensor.name: np.ones((2, *map(int, tensor.dims)), np.float32)}
    command = ["tritonserver", f"--model-repository={REPOSITORY}"]
    with (
        running(command, repository=tmp_path, environment={"CUDA_VISIBLE_DEVICES": "0"}) as server,
        InferenceServerClient(server.grpc_address) as client,
    ):
        client.infer(done.name, grpc_inputs(feeds))
        config = client.get_model_config(done.name).config
    assert [list(group.gpus) for group in config.instance_group] == [[0]]
