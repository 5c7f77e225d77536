"""Graphs on integers, with ranges that were measured on calibration data."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from builder.batching import BatchedModel, add_batch_axis
from builder.errors import ModelError, VerificationError
from builder.lowering import LoweredModel, LoweringRequest, Runtime, lower
from builder.lowering.int8 import sensitivity
from builder.lowering.int8.folding import fold_normalization
from builder.model import load
from builder.proof import verify
from builder.proof.session import open_rewritten

Floats = np.ndarray[Any, Any]

RNG = np.random.default_rng(0)


STATE = np.random.default_rng(1).bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Draw the same numbers whatever tests ran before."""
    RNG.bit_generator.state = STATE


def random(*shape: int) -> Floats:
    return RNG.standard_normal(shape).astype(np.float32)


def batched(
    folder: Path, body: str, weights: Mapping[str, Floats], *, x: str = "1, 16", y: str = "1, 8", opset: int = 17
) -> BatchedModel:
    """Return `body` between x and y, with these weights, its batch made dynamic."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    proto = parser.parse_model(f"{header} g (float[{x}] x) => (float[{y}] y) {{ {body} }}")
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.save_model(proto, folder / "model.onnx")
    return add_batch_axis(load(folder / "model.onnx"))


def quantized(model: BatchedModel, x: Floats, runtime: Runtime = "cpu", **asked: Any) -> LoweredModel:
    return lower(model, LoweringRequest("int8", runtime, calibration={"x": x}, **asked))


def answers(graph: ir.Model, x: Floats, *, as_written: bool = False) -> Floats:
    proto = ir.to_proto(graph).SerializeToString()
    return open_rewritten(proto, where=Path("model.onnx"), as_written=as_written).run({"x": x})["y"]


def quantizers(lowered: LoweredModel) -> list[ir.Node]:
    return [node for node in lowered.batched.ir.graph if node.op_type == "QuantizeLinear"]


def constant(value: ir.Value | None) -> Floats:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


MLP = "h = Gemm (x, w, b) r = Relu (h) y = MatMul (r, v)"
MLP_WEIGHTS = {"w": random(16, 32), "b": random(32), "v": random(32, 8)}
BLOCK = """a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b) r = Relu (a)
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r, v) s = Add (c, r) t = Relu (s)
    y = Conv <kernel_shape = [1, 1]> (t, u)"""
BLOCK_WEIGHTS = {"w": random(8, 3, 3, 3), "b": random(8), "v": random(8, 8, 3, 3), "u": random(4, 8, 1, 1)}


def block(folder: Path) -> BatchedModel:
    return batched(folder, BLOCK, BLOCK_WEIGHTS, x="1, 3, 6, 6", y="1, 4, 6, 6")


IMAGES = random(40, 3, 6, 6)


# ---------------------------------------------------------------- what is quantized, and where


@pytest.mark.parametrize("runtime", ["cpu", "tensorrt"])
@pytest.mark.parametrize("is_of_images", [False, True])
def test_products_and_convolutions_answer_as_the_original_at_every_batch_size(
    runtime: Runtime, is_of_images: bool, tmp_path: Path
) -> None:
    model, x = (block(tmp_path), IMAGES) if is_of_images else (batched(tmp_path, MLP, MLP_WEIGHTS), random(40, 16))
    lowered = quantized(model, x, runtime)
    assert lowered.quantization is not None
    assert (lowered.quantization.runtime, lowered.quantization.weights) == (runtime, 1.0)
    assert lowered.quantization.kept == {}
    proof = verify(lowered.batched, max_batch_size=4, samples={"x": x}, is_lowered=True, failure_dir=tmp_path).proof
    found = proof.outputs["y"]
    assert proof.batch_sizes[-1] == 4
    assert found.rtol == 0.1
    assert (found.largest_difference or 0) > 0
    assert (found.mean_difference or 0) < found.atol / 5


def test_for_a_cpu_values_have_8_bits_and_weights_7_so_that_no_cpu_cuts_a_sum_off(tmp_path: Path) -> None:
    lowered = quantized(batched(tmp_path, MLP, MLP_WEIGHTS), x := random(40, 16))
    weights = [value for value in lowered.batched.ir.graph.initializers.values() if value.dtype == ir.DataType.INT8]
    assert {constant(node.inputs[2]).dtype for node in quantizers(lowered)} == {np.dtype(np.uint8)}
    assert max(np.abs(constant(value).astype(int)).max() for value in weights) == 64
    # One of 100 values is at the border of two steps. With 8 bits, a CPU without VNNI is off by several percent.
    far = np.abs(answers(lowered.batched.ir, x) - answers(lowered.batched.ir, x, as_written=True))
    assert far.max() < 0.02 * np.abs(answers(lowered.batched.ir, x)).max()


def test_for_tensorrt_all_zero_points_are_0_and_biases_stay_in_fp32(tmp_path: Path) -> None:
    lowered = quantized(block(tmp_path), IMAGES, "tensorrt")
    nodes = [node for node in lowered.batched.ir.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constant(node.inputs[2]).dtype for node in nodes} == {np.dtype(np.int8)}
    assert not any(constant(node.inputs[2]).any() for node in nodes)
    first = next(node for node in lowered.batched.ir.graph if node.op_type == "Conv")
    assert constant(first.inputs[2]).dtype == np.float32


def test_each_output_channel_has_a_scale_of_its_own(tmp_path: Path) -> None:
    lowered = quantized(block(tmp_path), IMAGES)
    scales = [constant(n.inputs[1]).shape for n in lowered.batched.ir.graph if n.op_type == "DequantizeLinear"]
    assert {(8,), (4,)} <= set(scales)


def test_a_sum_of_convolutions_runs_on_integers_and_a_residual_connection_of_products_stays_in_fp32(
    tmp_path: Path,
) -> None:
    def adds_quantized_values(lowered: LoweredModel) -> list[bool]:
        (add,) = (node for node in lowered.batched.ir.graph if node.op_type == "Add")
        producers = [value.producer() for value in add.inputs if value is not None]
        return [node is not None and node.op_type == "DequantizeLinear" for node in producers]

    assert adds_quantized_values(quantized(block(tmp_path), IMAGES)) == [True, True]
    assert sorted(adds_quantized_values(quantized(block(tmp_path), IMAGES, "tensorrt"))) == [False, True]
    residual = batched(tmp_path, "h = MatMul (x, w) y = Add (h, x)", {"w": random(16, 16)}, y="1, 16")
    assert adds_quantized_values(quantized(residual, random(40, 16))) == [False, False]


def test_an_output_that_is_also_multiplied_keeps_its_own_value(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    body = "h = Tanh (x) y = MatMul (h, w)"
    proto = parser.parse_model(f"{header} g (float[1, 16] x) => (float[1, 16] h, float[1, 8] y) {{ {body} }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(random(16, 8), "w"))
    onnx.save_model(proto, tmp_path / "model.onnx")
    lowered = quantized(add_batch_axis(load(tmp_path / "model.onnx")), x := random(40, 16))
    session = open_rewritten(ir.to_proto(lowered.batched.ir).SerializeToString(), where=tmp_path)
    assert np.allclose(session.run({"x": x})["h"], np.tanh(x), rtol=1e-5, atol=1e-6)


def test_weights_that_a_table_shares_stay_in_fp32_there(tmp_path: Path) -> None:
    body = "i = Cast <to = 7> (x) e = Gather (w, i) m = ReduceMean <axes = [1], keepdims = 0> (e) y = MatMul (m, w)"
    model = batched(tmp_path, body, {"w": (w := random(16, 16))}, x="1, 3", y="1, 16")
    lowered = quantized(model, RNG.integers(0, 16, (40, 3)).astype(np.float32))
    (gather,) = (node for node in lowered.batched.ir.graph if node.op_type == "Gather")
    assert np.array_equal(constant(gather.inputs[0]), w)


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("a = Unsqueeze (x, i) b = Unsqueeze (x, j) s = MatMul (b, a) m = ReduceMean <axes = [1, 2]> (s) "
         "q = Squeeze (m, i) f = MatMul (x, w) y = Add (f, q)", {"i": np.array([1]), "j": np.array([2])},
         "no constant weights"),
        ("f = MatMul (x, w) q = Einsum <equation = \"bi,ij->bj\"> (x, v) y = Add (f, q)", {"v": random(16, 8)},
         "operator does not support it"),
        ("f = MatMul (x, w) k = Mul (x, v) q = MatMul (k, u) y = Add (f, q)",
         {"v": np.full((1, 16), 1e31, np.float32), "u": random(16, 8) * 1e-30},
         "values are infinite, NaN or beyond 1e30"),
        ("f = MatMul (x, w) q = MatMul (x, v) n = IsNaN (q) z = Where (n, f, q) y = Add (z, f)",
         {"v": np.full((16, 8), np.inf, np.float32)}, "weights are infinite or NaN"),
    ],
)  # fmt: skip
def test_what_cannot_be_on_integers_stays_in_fp32_with_the_reason(
    body: str, weights: Mapping[str, Floats], reason: str, tmp_path: Path
) -> None:
    model = batched(tmp_path, body, {"w": random(16, 8), **weights})
    lowered = quantized(model, random(40, 16))
    assert reason in lowered.kept
    assert reason in lowered.description


# ---------------------------------------------------------------- what stays in fp32 by its error


def sensitive(folder: Path) -> BatchedModel:
    """Two products, of which the first has 1 value in 16 a thousand times as large as the others, times almost 0."""
    first = random(16, 16)
    first[0] *= 1e-3
    body = "k = Mul (x, s) h = MatMul (k, w) t = Tanh (h) y = MatMul (t, v)"
    scale = np.ones((1, 16), np.float32)
    scale[0, 0] = 1000
    return batched(folder, body, {"s": scale, "w": first * 0.2, "v": random(16, 48)}, y="1, 48")


def products(lowered: LoweredModel) -> list[bool]:
    """Return for each product whether its weights are integers."""
    nodes = [node for node in lowered.batched.ir.graph if node.op_type == "MatMul"]
    return [value is not None and value.const_value is None for node in nodes for value in node.inputs[1:2]]


def test_the_node_that_causes_the_error_stays_in_fp32(tmp_path: Path) -> None:
    lowered = quantized(sensitive(tmp_path), x := random(60, 16), max_error=0.05)
    assert products(lowered) == [False, True]
    assert lowered.kept == {"too large an error": {"MatMul": 1}}
    assert lowered.quantization is not None
    assert len(lowered.quantization.kept_nodes) == 1
    assert verify(lowered.batched, max_batch_size=4, samples={"x": x}, is_lowered=True, max_error=0.05)


def test_a_model_that_loses_too_much_is_refused_with_its_worst_nodes(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"only 0% of the weights can be in int8: 2 MatMul \(too large an err"
    ) as error:
        quantized(sensitive(tmp_path), random(60, 16), max_error=1e-4)
    assert "times the allowed error by itself" in error.value.what
    assert "--max-error" in error.value.fix


def test_nodes_that_the_caller_keeps_stay_in_fp32(tmp_path: Path) -> None:
    model = batched(tmp_path, MLP, MLP_WEIGHTS)
    for index, node in enumerate(model.ir.graph):
        node.name = f"node {index}"
    lowered = quantized(model, random(40, 16), keep=frozenset({"node 2"}))
    assert lowered.kept == {"kept in fp32": {"MatMul": 1}}
    (last,) = (node for node in lowered.batched.ir.graph if node.name == "node 2")
    assert constant(last.inputs[1]).dtype == np.float32


def search(errors: Mapping[str, float], *, budget_s: float = 60.0, monkeypatch: pytest.MonkeyPatch) -> sensitivity.Kept:
    """Search among nodes that cause these errors, which add up."""

    def error(self: Any, keep: frozenset[str]) -> float:
        return sum(part for name, part in errors.items() if name not in keep)

    monkeypatch.setattr(sensitivity._Search, "_error", error)
    monkeypatch.setattr(sensitivity._Search, "_answer", lambda self, model: {})
    model: Any = SimpleNamespace(ir=None)
    quantize: Any = None
    units = [(name,) for name in errors]
    return sensitivity.keep_sensitive(model, units, quantize, {"x": random(2, 1)}, budget_s=budget_s)


def test_as_few_nodes_as_are_enough_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert search({"a": 0.1, "b": 1.9, "c": 0.2, "d": 0.4}, monkeypatch=monkeypatch).names == {"b"}
    assert search({"a": 0.1, "b": 0.2}, monkeypatch=monkeypatch).names == frozenset()
    assert search({"a": 5.0, "b": 5.0, "c": 0.1}, monkeypatch=monkeypatch).names == {"a", "b"}


def test_groups_are_told_apart_by_halving_them(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {f"n{i}": 0.001 for i in range(64)} | {"n13": 3.0, "n40": 2.0}
    found = search(errors, budget_s=1e-2 * 8, monkeypatch=monkeypatch)
    assert {"n13", "n40"} <= found.names


def test_if_the_time_is_up_groups_stay_and_the_summary_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {f"n{i}": 0.001 for i in range(64)} | {"n13": 3.0}
    found = search(errors, budget_s=0, monkeypatch=monkeypatch)
    assert found.is_over
    assert "n13" in found.names


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("body", "weights", "x", "what"),
    [
        ("y = MatMul (x, w)", {"w": random(16, 8)}, random(1, 16), "one row of calibration data"),
        ("y = MatMul (x, w)", {"w": random(16, 8)}, np.zeros((9, 16), np.float32), "all rows of the .* are equal"),
        ("y = MatMul (x, w)", {"w": random(16, 8)}, np.full((4, 16), np.nan, np.float32), "row 0 .* infinite or NaN"),
        ("h = Relu (x) y = Slice (h, a, b, c)",
         {"a": np.array([0]), "b": np.array([8]), "c": np.array([1])}, random(9, 16), "nothing in this model"),
        ("q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = MatMul (d, w)",
         {"s": np.float32(0.1), "z": np.uint8(3), "w": random(16, 8)}, random(9, 16), "quantized already"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    body: str, weights: Mapping[str, Floats], x: Floats, what: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=what):
        quantized(batched(tmp_path, body, weights), x)


def test_rows_with_values_that_have_no_scale_are_named(tmp_path: Path) -> None:
    rows = random(9, 16)
    rows[7] = 1e33
    with pytest.raises(ModelError, match="beyond 1e30") as refused:
        quantized(batched(tmp_path, MLP, MLP_WEIGHTS), rows)
    assert refused.value.fix.startswith("leave out rows of the calibration data that give such values, or leave out")


def test_without_data_the_other_precision_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs real inputs") as error:
        lower(batched(tmp_path, MLP, MLP_WEIGHTS), LoweringRequest("int8"))
    assert "int8-dynamic" in error.value.fix


def test_samples_are_used_where_there_are_no_calibration_data(tmp_path: Path) -> None:
    request = LoweringRequest("int8", samples={"x": random(9, 16)})
    lowered = lower(batched(tmp_path, MLP, MLP_WEIGHTS), request)
    assert lowered.quantization is not None
    assert lowered.quantization.calibration == 9


# ---------------------------------------------------------------- older opsets


@pytest.mark.parametrize(
    "body",
    [
        "h = MatMul (x, w) y = Relu (h)",  # the same in opset 13
        "h = MatMul (x, w) u = Unsqueeze <axes = [1]> (h) s = Squeeze <axes = [1]> (u) y = Softmax <axis = 1> (s)",
    ],
)
def test_an_older_opset_is_raised(body: str, tmp_path: Path) -> None:
    lowered = quantized(batched(tmp_path, body, {"w": random(16, 8)}, opset=11), x := random(40, 16))
    assert lowered.batched.ir.opset_imports[""] == 13
    assert verify(lowered.batched, max_batch_size=4, samples={"x": x}, is_lowered=True, failure_dir=tmp_path)


# ---------------------------------------------------------------- the proof


def test_the_proof_finds_wrong_weights(tmp_path: Path) -> None:
    lowered = quantized(batched(tmp_path, MLP, MLP_WEIGHTS), x := random(40, 16)).batched
    scale = next(value for value in lowered.ir.graph.initializers.values() if value.name == "w_scale")
    scale.const_value = ir.tensor(constant(scale) * 1.5, name=scale.name)
    with pytest.raises(VerificationError, match="differs from the original's"):
        verify(lowered, max_batch_size=4, samples={"x": x}, is_lowered=True, failure_dir=tmp_path)


def test_the_proof_bounds_the_mean_error_too(tmp_path: Path) -> None:
    lowered = quantized(batched(tmp_path, "y = MatMul (x, w)", {"w": random(16, 8)}), x := random(40, 16)).batched
    scale = next(value for value in lowered.ir.graph.initializers.values() if value.name == "w_scale")
    scale.const_value = ir.tensor(constant(scale) * np.float32(1.15), name=scale.name)
    with pytest.raises(VerificationError, match=r"off by .* in the mean"):
        verify(lowered, max_batch_size=4, samples={"x": x}, is_lowered=True, failure_dir=tmp_path)


def test_a_scale_that_the_rows_of_a_batch_share_is_found(tmp_path: Path) -> None:
    """It moves a row's answer by far less than the tolerance."""
    model = quantized(batched(tmp_path, "y = MatMul (x, w)", {"w": random(16, 8)}), x := random(40, 16)).batched
    leak = ir.from_proto(
        parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 16] x) => (float[n, 16] l) '
            "{ m = ReduceMean <axes = [0], keepdims = 1> (x) s = Constant <value_float = 0.01> () d = Mul (m, s) "
            "l = Add (x, d) }"
        )
    )
    body = ir.to_proto(model.ir)
    joined = onnx.compose.merge_models(
        onnx.compose.add_prefix(ir.to_proto(leak), "leak_"), _renamed(body, "x"), io_map=[("leak_l", "inner_x")]
    )
    graph = ir.from_proto(joined)
    graph.graph.inputs[0].name, graph.graph.outputs[0].name = "x", "y"
    with pytest.raises(VerificationError, match="changes in row"):
        verify(replace(model, ir=graph), max_batch_size=4, samples={"x": x}, is_lowered=True, failure_dir=tmp_path)


def _renamed(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    renamed: onnx.ModelProto = onnx.compose.add_prefix(proto, "inner_")
    assert renamed.graph.input[0].name == f"inner_{name}"
    return renamed


# ---------------------------------------------------------------- what is done before


def test_a_normalization_behind_a_convolution_is_folded_into_its_weights(tmp_path: Path) -> None:
    body = """c = Conv <kernel_shape = [3, 3]> (x, w) n = BatchNormalization <epsilon = 0.01> (c, s, b, m, v)
        y = Relu (n)"""
    weights = {"w": random(8, 3, 3, 3), "s": random(8), "b": random(8), "m": random(8), "v": np.abs(random(8))}
    model = batched(tmp_path, body, weights, x="1, 3, 6, 6", y="1, 8, 4, 4")
    lowered = quantized(model, IMAGES).batched.ir
    assert "BatchNormalization" not in {node.op_type for node in lowered.graph}
    folded = model.ir.clone()
    fold_normalization(folded)
    assert np.allclose(answers(folded, IMAGES), answers(model.ir, IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv <kernel_shape = [3, 3]> (x, w) n = BatchNormalization (c, s, b, m, v) y = Add (n, c)",
        "c = Conv <kernel_shape = [3, 3]> (x, w) t = Tanh (c) y = BatchNormalization (t, s, b, m, v)",
    ],
)
def test_a_normalization_of_something_else_stays(body: str, tmp_path: Path) -> None:
    weights = {"w": random(8, 3, 3, 3), "s": random(8), "b": random(8), "m": random(8), "v": np.abs(random(8))}
    model = batched(tmp_path, body, weights, x="1, 3, 6, 6", y="1, 8, 4, 4").ir.clone()
    fold_normalization(model)
    assert "BatchNormalization" in {node.op_type for node in model.graph}


def test_weights_in_a_file_of_their_own_are_quantized_too(tmp_path: Path) -> None:
    batched(tmp_path, MLP, MLP_WEIGHTS)
    path = tmp_path / "outside.onnx"
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.save_model(proto, path, save_as_external_data=True, location="weights", size_threshold=0)
    lowered = quantized(add_batch_axis(load(path)), x := random(40, 16))
    found = verify(lowered.batched, max_batch_size=4, samples={"x": x}, is_lowered=True, failure_dir=tmp_path)
    assert found.external_files == ()


def test_a_model_that_does_not_fit_into_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.lowering.int8.static.LARGEST_BYTES", 100)
    with pytest.raises(ModelError, match="in one ONNX file of at most 2 GB"):
        quantized(batched(tmp_path, MLP, MLP_WEIGHTS), random(40, 16))


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("t = Transpose (w) y = MatMul (x, t)", {"w": random(8, 16)}),
        ("i = Identity (w) y = MatMul (x, i)", {"w": random(16, 8)}),
        ("y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w, b)", {"w": random(8, 16), "b": random(8)}),
    ],
)
def test_weights_that_are_rearranged_or_scaled_are_quantized_too(
    body: str, weights: Mapping[str, Floats], tmp_path: Path
) -> None:
    lowered = quantized(batched(tmp_path, body, weights), x := random(40, 16))
    assert lowered.kept == {}
    assert verify(lowered.batched, max_batch_size=4, samples={"x": x}, is_lowered=True, failure_dir=tmp_path)


def test_what_is_known_to_be_sensitive_is_not_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = sensitive(tmp_path), random(60, 16)
    first = quantized(model, x, max_error=0.05)
    assert first.quantization is not None
    known = frozenset(first.quantization.kept_nodes)
    monkeypatch.setattr(sensitivity._Search, "_choose", None)
    again = quantized(model, x, max_error=0.05, sensitive=known)
    assert (again.kept, again.quantization) == (first.kept, first.quantization)
