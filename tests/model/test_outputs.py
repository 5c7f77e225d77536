"""Outputs that nobody asked for are left out, with the nodes and weights that only they need."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from builder.errors import ModelError
from builder.model import keep_outputs, load
from builder.publishing import PublishOptions, publish

GRAPH = """(float[1,4] x, float[1,4] y) => (float[1,3] logits, float loss, float[1,4] sum) {
    logits = MatMul (x, w)
    loss = ReduceMean <keepdims = 0> (logits)
    s = Add (x, y)
    sum = Mul (s, v)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {GRAPH}')
    for name, shape in (("w", (4, 3)), ("v", (1, 4))):
        array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_nodes_and_weights_that_only_other_outputs_need_are_left_out(model: Path) -> None:
    loaded = load(model)
    kept = keep_outputs(loaded, ["logits"])
    assert [node.op_type for node in kept.ir.graph] == ["MatMul"]
    assert list(kept.ir.graph.initializers) == ["w"]
    assert (kept.output_names, kept.left_out) == (("logits",), ("loss", "sum"))
    assert [spec.name for spec in kept.inputs] == ["x", "y"]
    assert len(loaded.ir.graph) == 4, "the original never changes"
    assert keep_outputs(loaded, []) is loaded


def test_outputs_stay_in_the_order_of_the_file(model: Path) -> None:
    assert keep_outputs(load(model), ["sum", "logits"]).output_names == ("logits", "sum")


def test_an_output_that_is_not_there_is_refused_with_those_that_are(model: Path) -> None:
    with pytest.raises(ModelError, match=r"names logit, but(.|\n)*logits \[1, 3\], loss \[\], sum \[1, 4\]"):
        keep_outputs(load(model), ["logit"])


def test_a_model_is_published_without_a_loss_that_mixes_its_rows(model: Path, tmp_path: Path) -> None:
    options = PublishOptions(outputs=("logits", "sum"))
    done = publish(model, tmp_path / "repository", options=options)
    session = onnxruntime.InferenceSession(done.version.path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["logits", "sum"]
    rows = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)
    answers = session.run(None, {"x": rows, "y": rows})
    alone = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for row in range(5):
        one = rows[row : row + 1]
        expected = alone.run(["logits", "sum"], {"x": one, "y": one})
        for answer, right in zip(answers, expected, strict=True):
            np.testing.assert_allclose(answer[row : row + 1], right, rtol=1e-5)
    assert done.manifest.options["output"] == ["logits", "sum"]


def test_a_loss_that_keeps_the_batch_from_being_dynamic_is_named_with_the_option(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"publish it with --output logits,sum \(without loss\)"):
        publish(model, tmp_path / "repository", options=PublishOptions())
