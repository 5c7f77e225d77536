import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.by_hand import by_hand, original

from builder.batching import BatchedModel, add_batch_axis
from builder.config import ConfigOptions
from builder.errors import HostError, ModelError, VerificationError
from builder.lowering import ReducedModel, reduce_precision
from builder.model import load
from builder.naming import rename
from builder.proof import verify, verify_published
from builder.proof.session import open_rewritten
from builder.publishing import PublishOptions, publish

MODELS = Path(__file__).parents[1] / "models"
NETWORKS = ("class_token_dynamo18", "conv_view_ts11", "decoder_b4_ts15", "encoder_layer_ts17", "lstm_zero_states_ts14",
            "mixer_external_dynamo20", "shifted_windows_ts16", "text_encoder_ts13", "upscaler_ts12")  # fmt: skip

WEIGHTS = "float[4, 3] w = {0.5, -0.25, 1.0, 0.75, 0.5, -0.5, -1.0, 0.25, 0.5, 0.1, 0.2, 0.3}"


def model(folder: Path, body: str, *, weights: str = WEIGHTS, outputs: str = "float[1, 3] y") -> BatchedModel:
    """`body` between `x: float[1, 4]` and its outputs, its batch made dynamic."""
    return add_batch_axis(original(folder, f"g (float[1, 4] x) => ({outputs}) <{weights}> {{ {body} }}"))


def dtypes(reduced: ReducedModel) -> dict[str, str]:
    """Return the type of each node's output, by op_type."""
    return {node.op_type: str(node.outputs[0].dtype) for node in reduced.batched.ir.graph if node.op_type != "Cast"}


def answers(graph: ir.Model, folder: Path, x: Sequence[Sequence[float]]) -> np.ndarray[Any, Any]:
    found = open_rewritten(ir.to_proto(graph).SerializeToString(), where=folder, folder=folder)
    return found.run({"x": np.array(x, np.float32)})["y"]


# ---------------------------------------------------------------- what is lowered, and what stays in fp32


def test_an_infinity_that_the_model_tests_for_is_not_taken_for_a_large_value(tmp_path: Path) -> None:
    body = "m = IsInf (x) n = Neg (x) z = Where (m, one, n) y = MatMul (z, w)"
    reduced = reduce_precision(model(tmp_path, body, weights=f"{WEIGHTS}, float one = {{1.0}}"), "fp16")
    assert dtypes(reduced)["Neg"] == dtypes(reduced)["MatMul"] == "FLOAT16"


def test_outputs_that_a_node_leaves_out_stay_left_out(tmp_path: Path) -> None:
    body = 's = Unsqueeze(x, a) "", "", c = LSTM <hidden_size = 3> (s, w, r) y = Squeeze(c, a)'
    weights = f"int64[1] a = {{0}}, {_tensor('w', (1, 12, 4))}, {_tensor('r', (1, 12, 3))}"
    source = original(tmp_path, f"g (float[1, 4] x) => (float[1, 3] y) <{weights}> {{ {body} }}")
    reduced = reduce_precision(add_batch_axis(source), "fp16")
    (lstm,) = (n for n in ir.to_proto(reduced.batched.ir).graph.node if n.op_type == "LSTM")
    assert [bool(name) for name in lstm.output] == [False, False, True]
    assert verify(reduced.batched, max_batch_size=4, rounded=reduced.rounded, failure_dir=tmp_path)


def _tensor(name: str, shape: Sequence[int]) -> str:
    values = np.linspace(-1, 1, int(np.prod(shape))).round(3)
    return f"float{list(shape)} {name} = {{{', '.join(map(str, values))}}}"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_fp16_gives_the_answers_of_the_original(name: str, tmp_path: Path) -> None:
    batched = rename(add_batch_axis(load(MODELS / f"{name}.onnx")))
    reduced = reduce_precision(batched, "fp16")
    assert reduced.reduction.weights > 0.99
    proto = ir.to_proto(reduced.batched.ir)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    verified = verify(reduced.batched, max_batch_size=4, rounded=reduced.rounded, failure_dir=tmp_path)
    for output in verified.proof.outputs.values():
        assert output.largest_difference is not None
        assert output.mean_difference is not None
        assert 0 <= output.mean_difference <= output.largest_difference


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_and_outputs_keep_names_types_and_shapes(name: str) -> None:
    batched = rename(add_batch_axis(load(MODELS / f"{name}.onnx")))

    def interface(graph: ir.Model) -> list[tuple[str | None, Any, str]]:
        return [(v.name, v.dtype, str(v.shape)) for v in (*graph.graph.inputs, *graph.graph.outputs)]

    before = interface(batched.ir)
    reduced = reduce_precision(batched, "fp16")
    assert interface(reduced.batched.ir) == interface(reduced.rounded) == before
    assert interface(batched.ir) == before, "the model given is untouched"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    batched = rename(add_batch_axis(load(MODELS / "text_encoder_ts13.onnx")))
    first, second = (ir.to_proto(reduce_precision(batched, "fp16").batched.ir) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_a_value_beyond_fp16_stays_in_fp32_with_what_makes_and_takes_it(tmp_path: Path) -> None:
    body = "h = MatMul (x, w) big = Mul (h, million) y = Div (big, million)"
    reduced = reduce_precision(model(tmp_path, body, weights=f"{WEIGHTS}, float million = {{1000000.0}}"), "fp16")
    assert dtypes(reduced) == {"MatMul": "FLOAT16", "Mul": "FLOAT", "Div": "FLOAT"}
    assert reduced.reduction.kept == {"values too large": {"Mul": 1, "Div": 1}}
    x = [[1.0, 2.0, -1.0, 0.5]]
    assert np.allclose(answers(reduced.batched.ir, tmp_path, x), answers(reduced.rounded, tmp_path, x), rtol=1e-3)
    assert np.isfinite(answers(reduced.rounded, tmp_path, x)).all()


def test_room_is_left_for_larger_values_than_the_samples_gave(tmp_path: Path) -> None:
    body = "h = MatMul (x, w) big = Mul (h, factor) y = Div (big, factor)"
    samples = {"x": np.eye(4, dtype=np.float32)}  # so that the largest of h is 1
    for factor, kept in ((8000, set()), (8500, {"values too large"})):
        batched = model(tmp_path, body, weights=f"{WEIGHTS}, float factor = {{{factor}}}")
        assert set(reduce_precision(batched, "fp16", samples=samples).reduction.kept) == kept


def test_a_value_that_would_vanish_in_fp16_stays_in_fp32(tmp_path: Path) -> None:
    body = "h = MatMul (x, w) s = Mul (h, h) t = Add (s, epsilon) y = Div (h, t)"
    reduced = reduce_precision(model(tmp_path, body, weights=f"{WEIGHTS}, float epsilon = {{0.000000001}}"), "fp16")
    assert reduced.reduction.kept == {"values too small": {"Add": 1}}


def test_angles_and_the_arithmetic_that_makes_them_keep_full_precision(tmp_path: Path) -> None:
    body = "a = Mul (x, frequency) s = Sin (a) y = MatMul (s, w)"
    reduced = reduce_precision(model(tmp_path, body, weights=f"{WEIGHTS}, float frequency = {{100.0}}"), "fp16")
    assert dtypes(reduced) == {"Mul": "FLOAT", "Sin": "FLOAT", "MatMul": "FLOAT16"}


def test_integers_that_fp16_cannot_hold_stay_in_fp32(tmp_path: Path) -> None:
    features = f"float[3, 8] v = {{{', '.join(['0.5'] * 24)}}}"
    for start, kept in ((2000, {"Cast"}), (2100, {"Cast", "MatMul"})):
        text = f"g (int32[1, 4] x) => (float[1, 8] y) <{WEIGHTS}, {features}, int32 start = {{{start}}}> "
        text += "{ b = Add (x, start) f = Cast <to = 1> (b) h = MatMul (f, w) y = MatMul (h, v) }"
        reduced = reduce_precision(add_batch_axis(original(tmp_path, text)), "fp16")
        assert {op_type for found in reduced.reduction.kept.values() for op_type in found} == kept


def test_a_weight_that_both_kinds_of_nodes_use_is_stored_twice(tmp_path: Path) -> None:
    body = "a = Mul (x, k) s = Sin (a) b = Sub (s, k) y = MatMul (b, w)"
    reduced = reduce_precision(model(tmp_path, body, weights=f"{WEIGHTS}, float[4] k = {{1, 2, 3, 4}}"), "fp16")
    stored = {v.name: str(v.dtype) for v in reduced.batched.ir.graph.initializers.values()}
    assert stored == {"k": "FLOAT", "k_float16": "FLOAT16", "w_float16": "FLOAT16"}


def test_an_output_that_is_also_used_inside_is_returned_in_fp32(tmp_path: Path) -> None:
    batched = model(tmp_path, "z = MatMul (x, w) y = Tanh (z)", outputs="float[1, 3] y, float[1, 3] z")
    reduced = reduce_precision(batched, "fp16")
    assert [(v.name, str(v.dtype)) for v in reduced.batched.ir.graph.outputs] == [("y", "FLOAT"), ("z", "FLOAT")]
    assert verify(reduced.batched, max_batch_size=4, rounded=reduced.rounded).proof.rows == 8


def test_weights_in_other_files_that_were_converted_are_not_shipped_again() -> None:
    batched = rename(add_batch_axis(load(MODELS / "mixer_external_dynamo20.onnx")))
    reduced = reduce_precision(batched, "fp16")
    verified = verify(reduced.batched, max_batch_size=2, rounded=reduced.rounded)
    assert verified.external_files == ()
    assert not any(t.data_location for t in onnx.load_from_string(verified.model_bytes).graph.initializer)


# ---------------------------------------------------------------- the rounded copy


def test_the_rounded_copy_overflows_where_onnxruntime_on_a_cpu_hides_it(tmp_path: Path) -> None:
    """This is why there is a rounded copy."""
    batched = model(tmp_path, "h = MatMul (x, w) s = Mul (h, h) y = Sqrt (s)")
    reduced = reduce_precision(batched, "fp16")
    x = [[3000.0, 0.0, 0.0, 0.0]]
    assert np.isfinite(answers(reduced.batched.ir, tmp_path, x)).all()
    assert np.isinf(answers(reduced.rounded, tmp_path, x)).any()


def test_samples_that_overflow_in_fp16_are_not_published(tmp_path: Path) -> None:
    batched = model(tmp_path, "h = MatMul (x, w) s = Mul (h, h) y = Sqrt (s)")
    reduced = reduce_precision(batched, "fp16")
    samples = {"x": np.full((4, 4), 3000, np.float32) * np.arange(1, 5, dtype=np.float32)[:, None]}
    with pytest.raises(VerificationError, match="--max-error"):
        verify(reduced.batched, max_batch_size=4, samples=samples, rounded=reduced.rounded, failure_dir=tmp_path)
    with pytest.raises(ModelError, match="values too large"):
        reduce_precision(batched, "fp16", samples=samples)


def test_bf16_is_proven_by_the_rounded_copy(tmp_path: Path) -> None:
    done = publish(
        MODELS / "encoder_layer_ts17.onnx",
        tmp_path / "models",
        options=PublishOptions(precision="bf16", config=ConfigOptions(max_batch_size=4)),
    )
    assert any("bf16" in note for note in done.notes)
    assert "kind: KIND_GPU" in (tmp_path / "models/encoder_layer_ts17/config.pbtxt").read_text()
    stored = onnx.load(done.version.path / "model.onnx").graph.initializer
    assert onnx.TensorProto.BFLOAT16 in {tensor.data_type for tensor in stored}
    with pytest.raises(HostError, match="cannot run bf16 on a CPU"):
        verify_published(done.version.path, done.manifest, _reference(done.version.path))


# ---------------------------------------------------------------- what is refused


def test_a_wrong_weight_in_fp16_is_found(tmp_path: Path) -> None:
    reduced = reduce_precision(model(tmp_path, "h = MatMul (x, w) y = Tanh (h)"), "fp16")
    wrong = ir.from_proto(ir.to_proto(reduced.batched.ir))
    weight = wrong.graph.initializers["w_float16"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float16(1.1), name="w_float16")
    broken = replace(reduced.batched, ir=wrong)
    with pytest.raises(VerificationError, match="differs from the original's"):
        verify(broken, max_batch_size=4, rounded=reduced.rounded, failure_dir=tmp_path)


def test_a_model_with_too_large_an_error_is_not_published(tmp_path: Path) -> None:
    options = PublishOptions(precision="fp16", max_error=1e-5)
    with pytest.raises(VerificationError, match=r"publish without --precision, or allow larger errors"):
        publish(_copy(tmp_path), tmp_path / "models", options=options)
    assert not (tmp_path / "models").exists()


def test_an_operator_without_bf16_is_named_where_it_holds_the_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"bf16: 2 Conv, 1 MaxPool \(needs opset 22\)"):
        reduce_precision(add_batch_axis(load(MODELS / "conv_view_ts11.onnx")), "bf16")


def test_a_model_without_floats_is_refused(tmp_path: Path) -> None:
    text = "g (int32[1, 4] x) => (int32[1, 4] y) { y = Neg (x) }"
    with pytest.raises(ModelError, match="nothing in this model can be in fp16"):
        reduce_precision(add_batch_axis(original(tmp_path, text)), "fp16")


def test_a_model_that_fails_on_every_sample_is_refused(tmp_path: Path) -> None:
    text = f"g (float[1, 4] x) => (float[1, 3] y) <{WEIGHTS}> {{ y = MatMul (x, w) }}"
    graph = f"g (float[N, 4] x) => (float[N, 3] y) <{WEIGHTS}, int64[2] s = {{-1, 5}}, int64[2] t = {{-1, 4}}> "
    graph += "{ z = Reshape (x, s) q = Reshape (z, t) y = MatMul (q, w) }"
    with pytest.raises(ModelError, match="the model fails on every sample"):
        reduce_precision(by_hand(original(tmp_path, text), graph), "fp16")


# ---------------------------------------------------------------- publishing in a lower precision


def test_the_manifest_and_the_config_say_what_was_done(tmp_path: Path) -> None:
    said: list[str] = []
    options = PublishOptions(precision="fp16", max_error=0.02, config=ConfigOptions(max_batch_size=4))
    done = publish(_copy(tmp_path), tmp_path / "models", options=options, report=lambda *line: said.append(line[1]))
    manifest = json.loads((done.version.path / "manifest.json").read_text())
    assert manifest["options"] == {"precision": "fp16", "max_error": 0.02}
    assert manifest["proof"]["outputs"]["hidden"].keys() == {"rtol", "atol", "largest_difference", "mean_difference"}
    assert "42 nodes and 100% of the weights in fp16" in manifest["rewrites"][-1]["what"]
    assert any(line.startswith("hidden: largest error") and "mean" in line for line in said)
    assert "level: 1" in (tmp_path / "models/encoder_layer_ts17/config.pbtxt").read_text()
    assert verify_published(done.version.path, done.manifest, _reference(done.version.path)).rows == 8


def _copy(folder: Path) -> Path:
    path = folder / "encoder_layer_ts17.onnx"
    path.write_bytes((MODELS / "encoder_layer_ts17.onnx").read_bytes())
    return path


def _reference(version: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(version / "reference.npz") as arrays:
        return dict(arrays)
