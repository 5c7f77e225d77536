"""Inputs that all samples of the original share: they become constants, or each sample gets its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from builder.batching import add_batch_axis, keep_static, run_one_by_one
from builder.errors import ModelError, VerificationError
from builder.model import Model, fix_inputs, load
from builder.proof import verify
from builder.publishing import PublishOptions, publish

Array = np.ndarray[Any, Any]

TABLE = "(int64[1, 3] ids, float[7, 4] table) => (float[1, 3, 4] y) { h = Gather (table, ids) y = Tanh (h) }"
SHARED = {
    "added": ("(float[1, 3, 4] x, float[3, 4] t) => (float[1, 3, 4] y) { h = Add (x, t) y = Tanh (h) }", "t"),
    "multiplied": ("(float[1, 3, 4] x, float[4, 5] t) => (float[1, 3, 5] y) { y = MatMul (x, t) }", "t"),
    "looked_up": (TABLE, "table"),
    "scalar": ("(float[1, 4] x, float t) => (float[1, 4] y) { y = Mul (x, t) }", "t"),
    "convolved": ("(float[1, 2, 6, 6] x, float[3, 2, 3, 3] t) => (float[1, 3, 4, 4] y) { y = Conv (x, t) }", "t"),
}


def written(folder: Path, graph: str) -> Model:
    path = folder / "model.onnx"
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}'), path)
    return load(path)


def saved(folder: Path, array: Array) -> Path:
    path = folder / "value.npy"
    np.save(path, array)
    return path


# ---------------------------------------------------------------- each sample has its own


@pytest.mark.parametrize(("graph", "name"), SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("batch", [add_batch_axis, run_one_by_one], ids=["batched", "per_sample"])
def test_each_sample_has_its_own_input(tmp_path: Path, graph: str, name: str, batch: Any) -> None:
    model = written(tmp_path, graph)
    shape = next(spec.shape for spec in model.inputs if spec.name == name)

    batched = batch(model, batch_axes={name: None})
    verified = verify(batched, max_batch_size=8)

    (tensor,) = (tensor for tensor in batched.inputs if tensor.name == name)
    assert tensor.dims == shape
    rows = verified.reference[f"input:{name}"]
    assert rows.shape == (8, *shape)
    assert len(np.unique(rows.reshape(8, -1), axis=0)) == 8, "each row has another"


def test_samples_that_share_an_input_cannot_have_their_own(tmp_path: Path) -> None:
    model = written(tmp_path, "(float[4, 6] x, float[6] t) => (float[4, 6] y) { y = Mul (x, t) }")
    with pytest.raises(ModelError, match="all 4 samples of its static batch share the input t") as caught:
        add_batch_axis(model, batch_axes={"t": None})
    assert "a batch of 1" in caught.value.fix


def test_inputs_of_different_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"different batches: ids \[1, 3\], table \[7, 4\]"):
        add_batch_axis(written(tmp_path, TABLE))


# ---------------------------------------------------------------- constants


@pytest.mark.parametrize(("graph", "name"), SHARED.values(), ids=SHARED)
def test_an_input_becomes_a_constant(tmp_path: Path, graph: str, name: str) -> None:
    model = written(tmp_path, graph)
    shape = tuple(int(dim) for dim in next(spec.shape for spec in model.inputs if spec.name == name))
    value = np.asarray(np.random.default_rng(1).standard_normal(shape), np.float32)

    fixed = fix_inputs(model, {name: saved(tmp_path, value)})
    verified = verify(add_batch_axis(fixed), max_batch_size=8)

    assert name not in [spec.name for spec in fixed.inputs]
    assert {spec.name for spec in model.inputs} >= {name}, "the model that was given is untouched"
    assert f"input:{name}" not in verified.reference
    (initializer,) = onnx.load_from_string(verified.model_bytes).graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(initializer), value)


def test_a_wrong_constant_is_noticed(tmp_path: Path) -> None:
    fixed = fix_inputs(written(tmp_path, SHARED["scalar"][0]), {"t": 2.0})
    batched = add_batch_axis(fixed)
    for value in batched.ir.graph.initializers.values():
        value.const_value = ir.tensor(np.float32(3.0), name=value.name)
    with pytest.raises(VerificationError, match="output 'y'"):
        verify(batched, max_batch_size=4, failure_dir=tmp_path)


def test_several_samples_may_share_a_constant(tmp_path: Path) -> None:
    model = written(tmp_path, "(float[4, 6] x, float[6] t) => (float[4, 6] y) { y = Mul (x, t) }")
    batched = add_batch_axis(fix_inputs(model, {"t": 0.5}))
    assert batched.static_batch == 4
    assert verify(batched, max_batch_size=8).proof.rows == 8


@pytest.mark.parametrize(
    ("element", "value", "stored"),
    [
        ("float", 0.5, np.float32(0.5)),
        ("float16", 0.5, np.float16(0.5)),
        ("double", 0.1, np.float64(0.1)),
        ("int64", 3.0, np.int64(3)),
        ("bool", 1.0, np.bool_(True)),
    ],
)
def test_a_number_fills_the_input(tmp_path: Path, element: str, value: float, stored: Any) -> None:
    model = written(tmp_path, f"(float[1, 2] x, {element}[2] t) => (float[1, 2] y) {{ f = Cast <to = 1> (t) "
                              "y = Mul (x, f) }")  # fmt: skip
    found = fix_inputs(model, {"t": value}).constants["t"]
    assert found.dtype == stored.dtype
    assert found.tolist() == [stored.item()] * 2


def test_the_original_of_a_static_model_gets_the_constants(tmp_path: Path) -> None:
    fixed = fix_inputs(written(tmp_path, SHARED["added"][0]), {"t": 0.25})
    assert verify(keep_static(fixed), max_batch_size=0).proof.rows


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"nothing": 1.0}, "--constant names nothing, but there is no such input"),
        ({"ids": 1.5}, "the input 'ids' is int64.*, which cannot hold 1.5"),
        ({"table": Path("gone.npy")}, "cannot be read: No such file"),
        ({"table": np.zeros((7, 5), np.float32)}, r"the array is float32\[7, 5\]"),
        ({"table": np.zeros((7, 4))}, r"the array is float64\[7, 4\]"),
        ({"table": np.array([None])}, r"its values are of the type '\|O', which are neither numbers nor strings"),
        ({"table": b"nothing of numpy's"}, "not an array in NumPy's .npy format"),
    ],
    ids=["unknown", "no_integer", "missing", "shape", "type", "objects", "no_array"],
)
def test_a_constant_of_another_type_or_shape_is_refused(tmp_path: Path, values: Mapping[str, Any], what: str) -> None:
    def given(value: Any) -> Any:
        if isinstance(value, bytes):
            (tmp_path / "value.npy").write_bytes(value)
            return tmp_path / "value.npy"
        return saved(tmp_path, value) if isinstance(value, np.ndarray) else value

    with pytest.raises(ModelError, match=what):
        fix_inputs(written(tmp_path, TABLE), {name: given(value) for name, value in values.items()})


def test_publish_reports_and_records_constants(tmp_path: Path) -> None:
    model = written(tmp_path, TABLE)
    table = saved(tmp_path, np.ones((7, 4), np.float32))
    lines = []
    done = publish(
        model.path,
        tmp_path / "models",
        options=PublishOptions(constants={"table": table}),
        report=lambda step, text: lines.append(f"{step} {text}"),
    )
    assert "load input 'table' is a constant now" in lines
    assert [tensor.name for tensor in done.manifest.inputs] == ["ids"]
    assert done.manifest.options["constant"] == {"table": "value.npy"}
    assert done.manifest.rewrites[0] == {"node": "table", "op_type": "Constant", "what": "the input became a constant"}

    np.save(table, np.zeros((7, 4), np.float32))
    again = publish(model.path, tmp_path / "models", options=PublishOptions(constants={"table": table}))
    assert again.version.created, "another value makes another model"
