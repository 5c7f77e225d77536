"""The example is what a user's own export is: static, oddly named, and good at its task."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from builder.cli import demo

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
RECORD = json.loads((EXAMPLE / "digits.json").read_text())


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_model_is_static_at_batch_one_with_the_names_the_exporter_gave() -> None:
    graph = onnx.load(EXAMPLE / "digits.onnx").graph
    (image,), (scores,) = graph.input, graph.output
    assert (image.name, shape_of(image)) == ("input.1", [1, 1, 8, 8])
    assert scores.name.isdigit()
    assert shape_of(scores) == [1, 10]


def test_the_model_has_its_batch_baked_into_a_reshape() -> None:
    graph = onnx.load(EXAMPLE / "digits.onnx").graph
    constants = {
        node.output[0]: onnx.helper.get_node_attr_value(node, "value")
        for node in graph.node
        if node.op_type == "Constant"
    }
    targets = [
        onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
        for node in graph.node
        if node.op_type == "Reshape"
    ]
    assert targets == [[1, -1]]


def test_the_model_as_shipped_refuses_two_images_at_once() -> None:
    session = onnxruntime.InferenceSession(EXAMPLE / "digits.onnx", providers=["CPUExecutionProvider"])
    with pytest.raises(InvalidArgument, match="Got: 2 Expected: 1"):
        session.run(None, {"input.1": np.zeros((2, 1, 8, 8), np.float32)})


def test_the_test_images_are_held_out_digits_in_the_range_the_model_was_trained_on() -> None:
    with np.load(EXAMPLE / "test_images.npz") as samples:
        images, labels = samples["images"], samples["labels"]
    assert images.dtype == np.float32
    assert images.shape == (RECORD["test_rows"], 1, 8, 8)
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert labels.shape == (len(images),)
    assert set(labels) == set(range(10))


def test_the_model_reads_the_held_out_digits_as_well_as_was_recorded() -> None:
    session = onnxruntime.InferenceSession(EXAMPLE / "digits.onnx", providers=["CPUExecutionProvider"])
    with np.load(EXAMPLE / "test_images.npz") as samples:
        images, labels = samples["images"], samples["labels"]
    guesses = [session.run(None, {"input.1": image[np.newaxis]})[0].argmax() for image in images]
    accuracy = float((np.array(guesses) == labels).mean())
    assert accuracy > 0.95
    assert accuracy == pytest.approx(RECORD["test_accuracy"])


@pytest.mark.parametrize("name", ["digits.onnx", "test_images.npz"])
def test_the_files_are_the_ones_the_script_recorded(name: str) -> None:
    assert hashlib.sha256((EXAMPLE / name).read_bytes()).hexdigest() == RECORD["sha256"][name]


def test_the_model_is_small_enough_to_ship() -> None:
    assert (EXAMPLE / "digits.onnx").stat().st_size < 300_000


def test_the_result_of_the_demo_ends_with_one_line_in_a_pipe_too(capsys: pytest.CaptureFixture[str]) -> None:
    drive = demo.Drive("HTTP", 1, 1362, 880.0, {1: 409, 2: 62}, 0.0)
    demo.show(demo.DemoResult(360, 0.9917, 0.9917, (drive,)))
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("Accuracy on 360 test images: 99.17% with Triton")
    assert last.endswith("Every answer matched the original's.")
