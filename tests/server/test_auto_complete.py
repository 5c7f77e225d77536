"""The embedded server's backend completes a config as the C++ backend does, and `adopt` writes the same config."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import tritonclient.grpc as grpc
from onnx import parser
from support import bare_triton, foreign
from support.bare_triton import BareTriton
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from builder import api
from builder.config import pbtxt

pytestmark = pytest.mark.slow

SCALARS = """
<ir_version: 8, opset_import: ["": 17]>
g (float[batch] x, float[batch, size] other) => (float[batch] y, float[batch, size] z) {
    y = Neg (x)
    z = Neg (other)
}
"""

FIXED = """
<ir_version: 8, opset_import: ["": 17]>
g (float[2, 3] x) => (float[2, 3] y) {
    y = Neg (x)
}
"""

SCALE = foreign.SCALE.replace("FACTOR", "2.0")

MODELS: Mapping[str, tuple[str | None, str]] = {
    "bare": (None, SCALE),
    "scalars": (None, SCALARS),
    "fixed": (None, FIXED),
    "larger": ('backend: "onnxruntime" max_batch_size: 16', SCALARS),
    "without_outputs": ('backend: "onnxruntime" input { name: "x" data_type: TYPE_FP32 dims: 3 }', SCALE),
    "one": ('backend: "onnxruntime" max_batch_size: 1', SCALE),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("completed") / "models"
    for name, (config, text) in MODELS.items():
        foreign.write_onnx(root, name, config, parser.parse_model(text))
    foreign.write_onnx(root, "refused", 'backend: "onnxruntime" max_batch_size: 8', parser.parse_model(FIXED))
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[BareTriton]:
    command = ["tritonserver", f"--model-repository={bare_triton.REPOSITORY}", "--exit-on-error=false"]
    command.append("--strict-readiness=false")
    with bare_triton.running(command, repository=root) as server:
        yield server


def loaded(server: BareTriton, name: str) -> ModelConfig:
    with grpc.InferenceServerClient(server.grpc_address) as client:
        return client.get_model_config(name).config


def compared(config: ModelConfig) -> tuple[object, ...]:
    """What Triton completes; the order of inputs and outputs does not matter."""
    sides = [sorted(side, key=lambda tensor: str(tensor.name)) for side in (config.input, config.output)]
    return config.backend, config.max_batch_size, *sides, config.HasField("dynamic_batching")


@pytest.mark.parametrize("name", MODELS)
def test_what_adopt_writes_is_what_the_server_completes(
    server: BareTriton, root: Path, name: str, tmp_path: Path
) -> None:
    text, model = MODELS[name]
    foreign.write_onnx(tmp_path / "models", name, text, parser.parse_model(model))
    (done,) = api.adopt([name], tmp_path / "models").adopted
    completed = loaded(server, name)

    assert done.versions[1].max_batch_size == completed.max_batch_size
    if done.config is not None:
        assert compared(pbtxt.parse(done.config, where="")) == compared(completed)


def test_a_batch_that_the_model_does_not_have_is_refused_in_the_words_of_the_other_backend(
    server: BareTriton,
) -> None:
    with pytest.raises(InferenceServerException):
        loaded(server, "refused")
    assert re.search(r"autofill failed for model 'refused': model does not support batching", server.log.read_text())
