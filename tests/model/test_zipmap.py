"""scikit-learn's dictionaries of probabilities are served as a tensor with the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from builder.model import load
from builder.publishing import PublishOptions, publish
from builder.record import read_manifest

LABELS = ["setosa", "virginica", "cherry"]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A linear classifier of 2 features as skl2onnx writes it; its labels are not in alphabetical order."""
    scores = helper.make_node(
        "LinearClassifier",
        ["X"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=[1.0, 0.5, -1.0, 0.25, 0.5, -0.5],
        intercepts=[0.0, 0.5, -0.25],
        classlabels_strings=LABELS,
        post_transform="SOFTMAX",
    )
    zipmap = helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", classlabels_strings=LABELS)
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    graph = helper.make_graph(
        [scores, zipmap],
        "classifier",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, [1]),
            helper.make_value_info("probabilities", maps),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "classifier.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_columns_are_in_the_order_of_the_class_labels(classifier: Path, tmp_path: Path) -> None:
    published = publish(classifier, tmp_path / "repository", options=PublishOptions())
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)

    original = onnxruntime.InferenceSession(classifier, providers=["CPUExecutionProvider"])
    served = onnxruntime.InferenceSession(published.version.path / "model.onnx", providers=["CPUExecutionProvider"])

    (probabilities,) = served.run(["probabilities"], {"X": x})
    for row, answer in zip(x, probabilities, strict=True):
        (expected,) = original.run(["probabilities"], {"X": row[np.newaxis]})[0]
        np.testing.assert_allclose(answer, [expected[label] for label in LABELS], rtol=1e-6)
    manifest = read_manifest(published.version.path)
    assert manifest is not None
    assert [rewrite["op_type"] for rewrite in manifest.rewrites] == ["ZipMap"]
    assert str(LABELS) in manifest.rewrites[0]["what"]


def test_the_file_itself_is_not_changed(classifier: Path) -> None:
    before = classifier.read_bytes()
    assert load(classifier).zipmaps == {"probabilities": tuple(LABELS)}
    assert classifier.read_bytes() == before
