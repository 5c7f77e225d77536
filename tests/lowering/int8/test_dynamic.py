"""Products of matrices on integers, with a scale for each row of the values."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from builder.batching import BatchedModel, add_batch_axis, run_one_by_one
from builder.errors import ModelError, VerificationError
from builder.lowering import LoweringRequest, lower
from builder.lowering.int8.integers import BITS, IntegerProducts, quantized
from builder.lowering.int8.products import find_products
from builder.lowering.preparing import prepared
from builder.model import load
from builder.proof import verify
from builder.proof.session import open_rewritten

Floats = np.ndarray[Any, Any]

REQUEST = LoweringRequest("int8-dynamic")
K, COLUMNS = 32, 8


def batched(
    folder: Path, body: str, weights: Mapping[str, Floats], *, x: str = f"1, {K}", y: str = "", opset: int = 18
) -> BatchedModel:
    """Return `body` between x and y, with these weights, its batch made dynamic."""
    y = y or f"{x.rpartition(',')[0]}, {COLUMNS}"
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    proto = parser.parse_model(f"{header} g (float[{x}] x) => (float[{y}] y) {{ {body} }}")
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, np.float32), name))
    onnx.save_model(proto, folder / "model.onnx")
    return add_batch_axis(load(folder / "model.onnx"))


def answers(model: BatchedModel, x: Floats) -> Floats:
    session = open_rewritten(ir.to_proto(model.ir).SerializeToString(), where=model.original.path)
    return session.run({"x": x.astype(np.float32)})["y"]


def op_types(model: BatchedModel) -> list[str]:
    return [node.op_type for node in model.ir.graph]


def random(*shape: int) -> Floats:
    """Return normal numbers, the same for the same shape."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------- the arithmetic


W = {"w": random(K, COLUMNS)}
FORMS: Mapping[str, tuple[Any, ...]] = {
    "MatMul": ("y = MatMul (x, w)", W, f"1, {K}"),
    "of tokens": ("y = MatMul (x, w)", W, f"1, 5, {K}"),
    "of heads": ("y = MatMul (x, w)", {"w": random(3, K, COLUMNS)}, f"1, 3, 5, {K}"),
    "of heads that share values": (
        "y = MatMul (x, w)",
        {"w": random(1, 3, K, COLUMNS)},
        f"1, 1, 5, {K}",
        f"1, 3, 5, {COLUMNS}",
    ),
    "weights transposed by a node": ("t = Transpose (w) y = MatMul (x, t)", {"w": random(COLUMNS, K)}, f"1, {K}"),
    "Gemm": ("y = Gemm (x, w, b)", W | {"b": random(COLUMNS)}, f"1, {K}"),
    "Gemm without a bias": ("y = Gemm (x, w)", W, f"1, {K}"),
    "Gemm, transposed and scaled": (
        "y = Gemm <alpha = 0.5, beta = -2.0, transB = 1> (x, w, b)",
        {"w": random(COLUMNS, K), "b": random(1, COLUMNS)},
        f"1, {K}",
    ),
    "Gemm of transposed values": ("t = Transpose (x) y = Gemm <transA = 1> (t, w)", W, f"1, {K}"),
    "never negative": ("p = Relu (x) y = MatMul (p, w)", W, f"1, {K}"),
    "a product of a product": ("h = MatMul (x, v) y = MatMul (h, w)", W | {"v": random(K, K)}, f"1, {K}"),
    "the same values twice": (
        "a = MatMul (x, w) b = MatMul (x, v) y = Add (a, b)",
        W | {"v": random(K, COLUMNS)},
        f"1, {K}",
    ),
}


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("form", FORMS)
def test_a_product_on_integers_is_close_to_the_one_in_fp32(form: str, opset: int, tmp_path: Path) -> None:
    body, weights, shape, *of_y = FORMS[form]
    model = batched(tmp_path, body, weights, x=shape, y="".join(of_y), opset=opset)
    lowered = lower(model, REQUEST)
    assert "MatMulInteger" in op_types(lowered.batched)
    assert not {"MatMul", "Gemm"} & set(op_types(lowered.batched))
    x = random(7, *map(int, shape.split(",")[1:]))
    wanted, got = answers(model, x), answers(lowered.batched, x)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()
    onnx.checker.check_model(ir.to_proto(lowered.batched.ir), full_check=True)


def test_weights_in_a_file_of_their_own_are_found_in_an_older_opset_too(tmp_path: Path) -> None:
    """ONNX's converter writes the Softmax anew."""
    model = batched(tmp_path, "h = MatMul (x, w) y = Softmax <axis = 1> (h)", W, opset=11)
    proto = ir.to_proto(model.ir)
    onnx.save_model(proto, tmp_path / "apart.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    apart = add_batch_axis(load(tmp_path / "apart.onnx"))
    x = random(5, K)
    wanted = answers(model, x)
    assert np.abs(answers(lower(apart, REQUEST).batched, x) - wanted).max() < 0.1 * wanted.max()


def test_the_example_of_the_docstring(tmp_path: Path) -> None:
    w = np.array([[0.9, 0.1], [-0.3, 0.4]], np.float32)
    integers, scales = quantized(w)
    np.testing.assert_array_equal(integers, [[63, 16], [-21, 63]])
    x = np.array([[0.5, -2.0], [100.0, 40.0]], np.float32)
    rows = np.array([[2 / 127], [100 / 127]])
    np.testing.assert_array_equal(np.rint(x / rows), [[32, -127], [127, 51]])
    lowered = lower(batched(tmp_path, "y = MatMul (x, w)", {"w": w}, x="1, 2", y="1, 2"), REQUEST)
    wanted = np.array([[32, -127], [127, 51]]) @ integers * rows * scales
    np.testing.assert_allclose(answers(lowered.batched, x), wanted, rtol=1e-6)


@pytest.mark.parametrize("body", ["y = MatMul (x, w)", "p = Relu (x) y = MatMul (p, w)"])
def test_weights_of_8_bits_are_more_exact_than_those_of_7(body: str, tmp_path: Path) -> None:
    model = batched(tmp_path, body, W)
    x = random(64, K)
    wanted, errors = answers(model, x), []
    for bits in BITS:
        graph = prepared(model.ir, tmp_path)
        writer = IntegerProducts(graph, bits)
        for product in find_products(graph).products:
            writer.replace(product)
        errors.append(np.abs(answers(replace(model, ir=graph), x) - wanted).mean())
    assert errors[1] < 0.8 * errors[0] < 0.02 * np.abs(wanted).max()


def test_values_that_share_a_product_are_quantized_once(tmp_path: Path) -> None:
    body, weights, shape, *_ = FORMS["the same values twice"]
    assert op_types(lower(batched(tmp_path, body, weights, x=shape), REQUEST).batched).count("QuantizeLinear") == 1


def test_equal_weights_are_stored_once_and_count_once(tmp_path: Path) -> None:
    w = random(K, K)
    body = "a = MatMul (x, w) v = Identity (w) b = MatMul (a, v) t = Transpose (u) y = MatMul (b, t)"
    lowered = lower(batched(tmp_path, body, {"w": w, "u": w.T}, y=f"1, {K}"), REQUEST)
    constants = [value.const_value for value in lowered.batched.ir.graph.initializers.values()]
    assert sum(tensor.dtype == ir.DataType.INT8 for tensor in constants if tensor is not None) == 1
    assert lowered.quantization is not None
    assert (lowered.quantization.nodes, lowered.quantization.weights) == (3, 1.0)


def test_sums_are_exact_where_a_processor_without_vnni_would_cut_them_off(tmp_path: Path) -> None:
    weights = {"w": np.ones((K, COLUMNS)) * np.array([1, -1] * (COLUMNS // 2))}
    x = np.ones((2, K), np.float32)
    for body in ("y = MatMul (x, w)", "p = Relu (x) y = MatMul (p, w)"):
        model = batched(tmp_path, body, weights)
        lowered = lower(model, REQUEST)
        assert "(7 bits)" in lowered.description  # with sums that are cut off, 8 bits would be taken
        np.testing.assert_allclose(answers(lowered.batched, x), answers(model, x), rtol=1e-5)


# ---------------------------------------------------------------- rows


def test_a_row_has_the_same_answer_beside_any_other(tmp_path: Path) -> None:
    lowered = lower(batched(tmp_path, "y = Gemm (x, w, b)", W | {"b": random(COLUMNS)}), REQUEST).batched
    row = random(1, K)
    alone = answers(lowered, row)
    for beside in (random(1, K) * 1e30, random(1, K) * 1e-30, np.zeros((1, K)), np.full((1, K), np.nan), -row):
        np.testing.assert_array_equal(answers(lowered, np.concatenate([beside, row]))[1:], alone)


@pytest.mark.parametrize("position", [0, 5, K - 1])
@pytest.mark.parametrize("body", ["y = MatMul (x, w)", "p = Relu (x) y = MatMul (p, w)"])
def test_a_row_with_a_nan_answers_with_nan(position: int, body: str, tmp_path: Path) -> None:
    lowered = lower(batched(tmp_path, body, W), REQUEST).batched
    x = random(3, K)
    x[1, position] = np.nan
    found = answers(lowered, x)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


def test_a_row_of_zeros_answers_with_the_bias(tmp_path: Path) -> None:
    bias = random(COLUMNS)
    lowered = lower(batched(tmp_path, "y = Gemm (x, w, b)", W | {"b": bias}), REQUEST).batched
    np.testing.assert_array_equal(answers(lowered, np.zeros((1, K))), bias[np.newaxis])


def test_columns_of_zeros_stay_zero(tmp_path: Path) -> None:
    w = random(K, COLUMNS)
    w[:, 3] = 0
    assert (
        answers(lower(batched(tmp_path, "y = MatMul (x, w)", {"w": w}), REQUEST).batched, random(4, K))[:, 3] == 0
    ).all()


def test_the_scale_that_all_rows_share_in_a_model_of_the_library_is_refused(tmp_path: Path) -> None:
    """The proof compares rows with themselves at the tolerance of fp32, not at that of integers."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = batched(tmp_path, "y = MatMul (x, w)", W)
    plain, shared = tmp_path / "plain.onnx", tmp_path / "shared.onnx"
    ir.save(model.ir, plain)
    quantize_dynamic(plain, shared, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    theirs = replace(model, ir=ir.load(shared))
    assert "DynamicQuantizeLinear" in op_types(theirs)
    ours = lower(model, REQUEST).batched
    assert verify(ours, max_batch_size=4, is_lowered=True, max_error=0.5, failure_dir=tmp_path)
    with pytest.raises(VerificationError, match=r"changes in row \d when other rows of the batch do"):
        verify(theirs, max_batch_size=4, is_lowered=True, max_error=0.5, failure_dir=tmp_path)


# ---------------------------------------------------------------- what stays in fp32


def test_what_cannot_be_a_product_of_integers_is_said(tmp_path: Path) -> None:
    weights = W | {"f": random(4, 4, 1), "left": random(4, 4)}
    body = """c = Conv (x, f) l = MatMul (left, c) t = Transpose <perm = [0, 2, 1]> (l)
              m = MatMul (l, t) z = MatMul (m, l) y = MatMul (z, w)"""
    lowered = lower(batched(tmp_path, body, weights, x=f"1, 4, {K}"), REQUEST)
    assert lowered.kept == {
        "slower in int8": {"Conv": 1},
        "the first factor is constant": {"MatMul": 1},
        "has no weights": {"MatMul": 2},
    }
    assert lowered.quantization is not None
    assert lowered.quantization.nodes == 1
    assert lowered.quantization.weights == pytest.approx(W["w"].size / (W["w"].size + 16 + 16), abs=1e-3)
    assert lowered.description.startswith(
        "1 product and 89% of the weights in int8 (7 bits), with a scale for each row of values"
    )


@pytest.mark.parametrize("is_slow", [True, False])
def test_named_nodes_stay_in_fp32(is_slow: bool, tmp_path: Path) -> None:
    body, weights, shape, *_ = FORMS["the same values twice"]
    model = batched(tmp_path, body, weights, x=shape)
    (name, _) = [str(node.name) for node in model.ir.graph if node.op_type == "MatMul"]
    names = frozenset({name})
    lowered = lower(model, replace(REQUEST, slow=names) if is_slow else replace(REQUEST, keep=names))
    assert op_types(lowered.batched).count("MatMul") == 1
    assert sum(sum(counts.values()) for counts in lowered.kept.values()) == 1


def test_weights_that_are_not_finite_stay_in_fp32(tmp_path: Path) -> None:
    v = random(K, COLUMNS)
    v[0, 0] = np.inf
    body = "a = MatMul (x, w) b = MatMul (x, v) y = Add (a, b)"
    assert lower(batched(tmp_path, body, W | {"v": v}), REQUEST).kept == {"weights are not finite": {"MatMul": 1}}


@pytest.mark.parametrize(
    ("body", "opset", "runtime", "says"),
    [
        ("y = Relu (x)", 18, "cpu", "nothing in this model can be in int8: it has no products of matrices"),
        (
            """h = Cast <to = 10> (x) t = Transpose <perm = [0, 2, 1]> (h) m = MatMul (h, t) z = MatMul (m, h)
               y = Cast <to = 1> (z)""",
            18,
            "cpu",
            r"int8: 2 MatMul \(not in fp32\)",
        ),
        (
            "t = Transpose <perm = [0, 2, 1]> (x) m = MatMul (x, t) y = MatMul (m, x)",
            18,
            "cpu",
            r"int8: 2 MatMul \(has no weights\)",
        ),
        ("q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z)", 18, "cpu", "is quantized already"),
        ("y = MatMul (x, w)", 18, "tensorrt", "TensorRT cannot quantize values while a model runs"),
    ],
)
def test_what_is_refused(body: str, opset: int, runtime: Any, says: str, tmp_path: Path) -> None:
    x = f"1, 4, {K}"
    model = batched(tmp_path, body, W if "w)" in body else {}, x=x, y="" if "w)" in body else x, opset=opset)
    with pytest.raises(ModelError, match=says):
        lower(model, replace(REQUEST, runtime=runtime))


def test_products_that_are_run_row_by_row_are_not_found(tmp_path: Path) -> None:
    model = batched(tmp_path, "y = MatMul (x, w)", W)
    with pytest.raises(ModelError, match=r"int8: 1 Scan \(is a loop or a branch\)"):
        lower(run_one_by_one(model.original), REQUEST)


def test_a_product_that_is_too_inexact_stays_in_fp32(tmp_path: Path) -> None:
    """The first row of v is 1e4 times as large as the others, and the product with u takes it away again."""
    v, u = random(K, K), random(K, COLUMNS)
    v[:, 0] *= 1e4
    u[0] *= 0
    body = "a = MatMul (x, w) h = MatMul (x, v) b = MatMul (h, u) y = Add (a, b)"
    lowered = lower(batched(tmp_path, body, W | {"v": v, "u": u}), REQUEST)
    assert lowered.quantization is not None
    assert lowered.kept == {"too large an error": {"MatMul": 1}}
    assert len(lowered.quantization.kept_nodes) == 1
    assert "(8 bits)" in lowered.description
    x = random(16, K)
    wanted = answers(lowered.batched, x), answers(batched(tmp_path, body, W | {"v": v, "u": u}), x)
    assert np.abs(wanted[0] - wanted[1]).max() < 0.1 * np.abs(wanted[1]).max()


@pytest.mark.parametrize(("max_error", "says"), [(0.03, "(7 bits)"), (0.017, "(8 bits)")])
def test_weights_have_as_few_bits_as_are_exact_enough(max_error: float, says: str, tmp_path: Path) -> None:
    model = batched(tmp_path, "y = MatMul (x, w)", W)
    assert says in lower(model, replace(REQUEST, max_error=max_error)).description


def test_a_model_without_an_exact_enough_form_is_refused_with_the_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="times the allowed error by itself") as caught:
        lower(batched(tmp_path, "y = MatMul (x, w)", W), replace(REQUEST, max_error=1e-4))
    assert "only 0% of the weights can be in int8: 1 MatMul (too large an error)" in str(caught.value)
    assert caught.value.fix.startswith("allow larger errors with --max-error PART, leave out --precision")
