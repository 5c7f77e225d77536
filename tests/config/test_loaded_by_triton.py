"""Configs that people edited, loaded by a real Triton: it loads what publish leaves, and refuses what we refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.load_server import serving
from support.serving import infer, load, parse
from tritonclient.utils import InferenceServerException

import builder
from builder import ConfigOptions, PublishOptions
from builder.config import pbtxt
from builder.config.rules import problems
from builder.server import Server

pytestmark = pytest.mark.slow

MIXED = """(float[N, 16] x, int64[N] n) => (float[N, 16] y, float[N, 4] mean, int64[N] m) {
    y = Mul (x, factor)
    m = Identity (n)
    square = Reshape (x, shape)
    mean = ReduceMean <axes = [2], keepdims = 0> (square)
}"""

NO_WARMUP = PublishOptions(config=ConfigOptions(warmup=False))

X = np.arange(32, dtype=np.float32).reshape(2, 16)
N = np.array([[5], [6]])


def mixed(path: Path, factor: float = 2.0) -> Path:
    """`y = factor * x`, the mean of each row of x as 4 x 4, and a number for each row that comes back."""
    model = parse(MIXED, factor=np.float32(factor).reshape(()), shape=np.array([0, 4, 4]))
    onnx.save(model, path)
    return path


def config_of(server: Server, name: str) -> Path:
    return server.repository / name / "config.pbtxt"


def edit(server: Server, name: str, change: Callable[[Any], None]) -> None:
    """Change the message of a config, and write the text as a person would."""
    path = config_of(server, name)
    config = pbtxt.parse(path.read_text(), where=path)
    change(config)
    path.write_text(pbtxt.edit(path.read_text(), config, where=path))


def loads(server: Server, name: str) -> bool:
    try:
        load(server, name)
    except InferenceServerException:
        return False
    return True


def reshape(config: Any) -> None:
    """Show clients x as 4 x 4, y as 2 x 8, and no mean."""
    x, _ = config.input
    x.dims[:], x.reshape.shape[:] = [4, 4], [16]
    y, mean, _ = config.output
    y.dims[:], y.reshape.shape[:] = [2, 8], [16]
    config.output.remove(mean)


def test_an_input_that_was_reshaped_by_hand_is_warmed_up_as_clients_send_it(triton: Server, tmp_path: Path) -> None:
    builder.publish(mixed(tmp_path / "model.onnx"), triton.repository, name="reshaped-by-hand")
    edit(triton, "reshaped-by-hand", reshape)

    published = builder.publish(mixed(tmp_path / "model.onnx", 3.0), triton.repository, name="reshaped-by-hand")

    assert published.version.version == 2
    load(triton, "reshaped-by-hand")
    answers = infer(triton, "reshaped-by-hand", {"x": X.reshape(2, 4, 4), "n": N})
    assert answers.keys() == {"y", "m"}
    np.testing.assert_allclose(answers["y"], 3 * X.reshape(2, 2, 8))
    assert builder.verify("reshaped-by-hand", triton.repository).version == 2

    builder.rollback("reshaped-by-hand", triton.repository)
    load(triton, "reshaped-by-hand")
    answers = infer(triton, "reshaped-by-hand", {"x": X.reshape(2, 4, 4), "n": N})
    np.testing.assert_allclose(answers["y"], 2 * X.reshape(2, 2, 8))


@pytest.mark.parametrize(
    ("left", "batch"),
    [
        ('platform: "onnxruntime_onnx" max_batch_size: 8', 8),
        ('backend: "onnxruntime"', 32),
        (
            'backend: "onnxruntime" max_batch_size: 8 input { name: "n" data_type: TYPE_INT64 dims: 1 reshape {} } '
            'input { name: "x" data_type: TYPE_FP32 dims: [2, 8] reshape { shape: 16 } }',
            8,
        ),
        ('backend: "onnxruntime" max_batch_size: 8 output { name: "y" data_type: TYPE_FP32 dims: 16 }', 8),
        ('backend: "onnxruntime" max_batch_size: 8 input [ { name: "x" }, { name: "n" } ] output { name: "y" }', 8),
    ],
)
def test_what_a_config_leaves_to_triton_is_written_by_the_next_publish(
    triton: Server, tmp_path: Path, left: str, batch: int
) -> None:
    name = f"partial-{abs(hash(left))}"
    builder.publish(mixed(tmp_path / "model.onnx"), triton.repository, name=name)
    config_of(triton, name).write_text(f"# mine\n{left}\n")

    builder.publish(mixed(tmp_path / "model.onnx", 3.0), triton.repository, name=name)

    text = config_of(triton, name).read_text()
    config = pbtxt.parse(text, where="config.pbtxt")
    assert text.startswith("# mine\n")
    assert config.max_batch_size == batch
    load(triton, name)
    x = X.reshape(2, *config.input[[tensor.name for tensor in config.input].index("x")].dims)
    answers = infer(triton, name, {"x": x, "n": N})
    assert answers.keys() == {tensor.name for tensor in config.output}
    np.testing.assert_allclose(answers["y"], 3 * X)


ROW = {"x": "data_type: TYPE_FP32 dims: 16", "n": "data_type: TYPE_INT64 dims: 1"}


@pytest.mark.parametrize(
    ("batch", "rows", "is_right"),
    [
        (1, {}, True),
        (0, {"x": "data_type: TYPE_FP16"}, True),
        (33, {}, False),
        (1, {"x": ""}, False),
        (1, {"x": "data_type: TYPE_FP16 dims: 16"}, False),
        (1, {"x": "data_type: TYPE_FP32 dims: [4, 4]"}, False),
        (1, {"x": "data_type: TYPE_FP32 dims: -1"}, False),
        (1, {"z": "data_type: TYPE_FP32 dims: 16"}, False),
    ],
)
def test_a_warmup_of_somebody_else_is_judged_as_triton_does(
    tmp_path: Path, batch: int, rows: dict[str, str], is_right: bool
) -> None:
    builder.publish(mixed(tmp_path / "model.onnx"), tmp_path / "models", name="warmed", options=NO_WARMUP)
    path = tmp_path / "models/warmed/config.pbtxt"
    inputs = "".join(
        f' inputs {{ key: "{key}" value {{ zero_data: true {row} }} }}' for key, row in {**ROW, **rows}.items()
    )
    text = (
        path.read_text().partition("model_warmup")[0] + f'model_warmup {{ name: "mine" batch_size: {batch}{inputs} }}\n'
    )
    path.write_text(text)

    assert (list(problems(pbtxt.parse(text, where=path))) == []) is is_right
    with serving(tmp_path / "models", model_control_mode="explicit") as server:  # a wrong warm-up can end it
        assert loads(server, "warmed") is is_right
