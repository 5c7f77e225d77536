"""A model that mixes the rows of a batch answers each row alone when its graph runs one sample at a time."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from builder.batching import run_one_by_one
from builder.errors import ModelError
from builder.model import load

MIXING = {
    "a mean over everything": ("float[1,3]", "y = ReduceMean<keepdims=0>(x)", "float"),
    "a softmax over the batch": ("float[1,3]", "y = Softmax<axis=0>(x)", "float[1,3]"),
    "the first sample only": ("float[1,3]", "i = Constant<value_int=0>() y = Gather<axis=0>(x, i)", "float[3]"),
    "a captured weight": ("float[1,3]", "w = Constant<value_floats=[1.0,2.0,3.0]>() y = Mul(x, w)", "float[1,3]"),
}


def save(path: Path, inputs: str, body: str, output: str, opset: int = 17) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs} x) => ({output} y) {{ {body} }}'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.mark.parametrize("case", MIXING)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_every_row_gets_the_answer_it_gets_alone(case: str, rows: int, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", *MIXING[case])
    batched = run_one_by_one(load(path))
    x = np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)

    original = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    session = onnxruntime.InferenceSession(
        ir.to_proto(batched.ir).SerializeToString(), providers=["CPUExecutionProvider"]
    )

    (answers,) = session.run(None, {"x": x})
    alone = [batched.outputs[0].split(original.run(None, {"x": row[np.newaxis]})[0])[0] for row in x]
    np.testing.assert_array_equal(answers, np.stack(alone))


def test_a_static_batch_above_one_has_no_answer_for_a_row_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", "float[2,3]", "y = Softmax<axis=0>(x)", "float[2,3]")
    with pytest.raises(ModelError, match="static batch is 2"):
        run_one_by_one(load(path))


def test_an_opset_without_this_form_of_scan_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", "float[1,3]", "y = Relu(x)", "float[1,3]", opset=8)
    with pytest.raises(ModelError, match="opset 8 has no Scan"):
        run_one_by_one(load(path))


def test_weights_that_an_old_file_lists_as_inputs_stay_weights(tmp_path: Path) -> None:
    text = """<ir_version: 3, opset_import: ["" : 11]>
        g (float[1,3] x, float[3] w) => (float[1,3] y) <float[3] w = {1, 2, 3}> { y = Mul(x, w) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")

    batched = run_one_by_one(load(tmp_path / "m.onnx"))

    session = onnxruntime.InferenceSession(
        ir.to_proto(batched.ir).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (answers,) = session.run(None, {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(answers, [[1, 2, 3], [1, 2, 3]])
