"""Inputs that have a value in the file (ONNX's optional inputs): they are served as constants, and publish says so."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from support.serving import infer, load, write_model
from tritonclient.utils import InferenceServerException

import builder
from builder import PublishOptions
from builder.cli.inspection import to_json
from builder.errors import ModelError
from builder.record import read_reference
from builder.server import Server

GRAPH = "(float[1, 2] x, float[2] w, float b) => (float[1, 2] y) <float[2] w = {2.0, 3.0}, float b = {10.0}> "
BODY = "{ h = Mul (x, w) y = Add (h, b) }"


def written(folder: Path, *, ir_version: int = 8, graph: str = GRAPH + BODY) -> Path:
    path = folder / "model.onnx"
    onnx.save(parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : 17]> g {graph}'), path)
    return path


def answers(folder: Path, **options: Any) -> tuple[builder.Publication, np.ndarray[Any, Any]]:
    """Publish the model, and return what comes out for each sample above its input."""
    done = builder.publish(written(folder), folder / "models", name="m", options=PublishOptions(**options))
    stored = read_reference(done.version.path, done.manifest)
    return done, stored["output:y"] - stored["input:x"] * np.array([2, 3], np.float32)


def test_publish_says_which_inputs_clients_cannot_send(tmp_path: Path) -> None:
    done, rest = answers(tmp_path)

    assert [tensor.name for tensor in done.manifest.inputs] == ["x"]
    np.testing.assert_allclose(rest, 10, rtol=1e-5)
    (note,) = done.notes
    assert note.startswith("clients cannot send 'w', 'b': the file has values for them, which every request gets")
    assert "set another value with --constant NAME=VALUE, or remove the initializer" in note


def test_an_optional_input_can_become_another_constant(tmp_path: Path) -> None:
    done, rest = answers(tmp_path, constants={"b": 5.0})

    np.testing.assert_allclose(rest, 5, rtol=1e-5)
    (note,) = done.notes
    assert note.startswith("clients cannot send 'w': the file has a value for it")
    with pytest.raises(ModelError, match=r"input 'w' is float32\[2\]|--constant names z"):
        answers(tmp_path, constants={"z": 5.0})


def test_before_ir_version_4_every_initializer_is_an_input(tmp_path: Path) -> None:
    done = builder.publish(written(tmp_path, ir_version=3), tmp_path / "models", name="m")
    assert done.notes == ()


def test_many_weights_that_are_inputs_are_not_all_named(tmp_path: Path) -> None:
    names = [f"w{number}" for number in range(9)]
    inputs = ", ".join(f"float[2] {name}" for name in names)
    values = ", ".join(f"float[2] {name} = {{1.0, 2.0}}" for name in names)
    graph = f"(float[1, 2] x, {inputs}) => (float[1, 2] y) <{values}> {{ y = Sum (x, {', '.join(names)}) }}"

    (note,) = builder.publish(written(tmp_path, graph=graph), tmp_path / "models", name="m").notes

    assert note.startswith("clients cannot send 'w0', 'w1', 'w2', 'w3', 'w4' and 4 more: the file has values for them")


def test_inspect_lists_optional_inputs(tmp_path: Path) -> None:
    found = to_json(builder.inspect(written(tmp_path)))

    assert [tensor["name"] for tensor in found["inputs"]] == ["x"]
    assert found["optional_inputs"] == ["w", "b"]


@pytest.mark.slow
def test_triton_has_optional_inputs_only_without_a_batch(triton: Server) -> None:
    """So a published model, which has a batch, cannot offer them to its clients."""
    graph = "(float[n, 2] x, float[2] w) => (float[n, 2] y) <float[2] w = {2.0, 3.0}> { y = Mul (x, w) }"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    config = """
    max_batch_size: BATCH
    input { name: "x" data_type: TYPE_FP32 dims: [ROWS 2] }
    input { name: "w" data_type: TYPE_FP32 dims: 2 optional: true }
    output { name: "y" data_type: TYPE_FP32 dims: [ROWS 2] }
    """
    whole = config.replace("BATCH", "0").replace("ROWS", "-1,")
    write_model(triton.repository, "optional_once", whole, model)
    write_model(triton.repository, "optional-batched", config.replace("BATCH", "8").replace("ROWS", ""), model)

    load(triton, "optional_once")
    x = np.ones((1, 2), np.float32)
    assert infer(triton, "optional_once", {"x": x})["y"].tolist() == [[2, 3]]
    assert infer(triton, "optional_once", {"x": x, "w": np.array([5, 7], np.float32)})["y"].tolist() == [[5, 7]]
    with pytest.raises(InferenceServerException, match="optional input 'w' is not supported for models"):
        load(triton, "optional-batched")
