"""An opset is raised where that lets more of a model be lowered, and only if every node still means the same."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from builder.batching import BatchedModel, add_batch_axis
from builder.errors import ModelError, VerificationError
from builder.lowering import LoweringRequest, lower, reduce_precision
from builder.lowering.raising import CannotRaiseError, raised
from builder.model import load
from builder.proof import verify

OPSETS = '"" : {}, "com.microsoft" : 1'
IMAGE, SCORES = "float[1, 3, 8, 8] x", "float[1, 4, 8, 8] y"
CONV = "c = Conv <pads = [1, 1, 1, 1]> (x, w)"


def batched(folder: Path, body: str, *, opset: int = 17, y: str = SCORES, external: bool = False) -> BatchedModel:
    """`body` between an image `x` and `y`, with the weight `w` `[4, 3, 3, 3]`; its batch made dynamic."""
    text = f"<ir_version: 8, opset_import: [{OPSETS.format(opset)}]> g ({IMAGE}) => ({y}) {{ {body} }}"
    proto = parser.parse_model(text)
    weights = np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 2], np.int64), "halves"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1.0, 1.0, 2.0, 2.0], np.float32), "doubled"))
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=external, location="weights", size_threshold=0)
    return add_batch_axis(load(path))


def for_tensorrt(model: BatchedModel, **asked: Any) -> BatchedModel:
    """Lower to bf16 for TensorRT, prove it, and return it."""
    lowered = lower(model, LoweringRequest("bf16", "tensorrt", **asked))
    assert verify(lowered.batched, max_batch_size=3, rounded=lowered.rounded, is_lowered=True)
    return lowered.batched


def types(model: BatchedModel, op_type: str) -> set[str]:
    return {str(node.outputs[0].dtype) for node in model.ir.graph if node.op_type == op_type}


# ---------------------------------------------------------------- what is raised


@pytest.mark.parametrize("opset", [9, 13, 17, 21])
def test_a_convolution_is_in_bf16_whatever_the_opset(opset: int, tmp_path: Path) -> None:
    lowered = for_tensorrt(batched(tmp_path, f"{CONV} y = Relu (c)", opset=opset))
    assert types(lowered, "Conv") == types(lowered, "Relu") == {"BFLOAT16"}
    assert lowered.ir.opset_imports[""] == 22
    assert f"opset {opset} became 22" in lowered.rewrites[-1].what


@pytest.mark.parametrize(
    ("body", "opset", "y"),
    [
        (f"{CONV} y = Softmax <axis = 1> (c)", 11, SCORES),  # before opset 13 over all axes from 1 on
        (f"{CONV} a, b = Split <axis = 1> (c) y = Concat <axis = 1> (b, a)", 13, SCORES),  # later, parts are counted
        (f"{CONV} a, b = Split <axis = 1> (c, halves) y = Concat <axis = 1> (b, a)", 13, SCORES),
        (f"{CONV} y = ReduceMean <axes = [2, 3]> (c)", 17, "float[1, 4, 1, 1] y"),  # later, the axes are an input
        (f"{CONV} y = Upsample <mode = 'nearest'> (c, doubled)", 9, "float[1, 4, 16, 16] y"),  # later, it is gone
        (f"{CONV} u = Unsqueeze <axes = [1]> (c) y = Squeeze <axes = [1]> (u)", 11, SCORES),
        (f"{CONV} y = com.microsoft.Gelu (c)", 17, SCORES),  # another domain, which stays as it is
        (f"{CONV} y = AveragePool <kernel_shape = [2, 2], ceil_mode = 1> (c)", 11, "float[1, 4, 7, 7] y"),
    ],
)
def test_operators_that_changed_in_between_give_the_same_answers(body: str, opset: int, y: str, tmp_path: Path) -> None:
    lowered = for_tensorrt(batched(tmp_path, body.replace("'", '"'), opset=opset, y=y))
    assert types(lowered, "Conv") == {"BFLOAT16"}
    assert lowered.ir.opset_imports[""] == 22


def test_weights_in_a_file_of_their_own_are_found(tmp_path: Path) -> None:
    body = f"{CONV} y = ReduceMean <axes = [2, 3]> (c)"
    lowered = for_tensorrt(batched(tmp_path, body, y="float[1, 4, 1, 1] y", external=True))
    assert types(lowered, "Conv") == {"BFLOAT16"}


def test_a_node_that_is_to_stay_in_fp32_is_found_in_the_later_opset(tmp_path: Path) -> None:
    body = "[first] c = Conv <pads = [1, 1, 1, 1]> (x, w) m = ReduceMean <axes = [1]> (c) y = Mul (c, m)"
    lowered = for_tensorrt(batched(tmp_path, body), keep=frozenset({"first"}))
    assert types(lowered, "Conv") == {"FLOAT"}


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("body", "precision", "opset"),
    [(f"{CONV} y = Relu (c)", "fp16", 17), (f"{CONV} y = Relu (c)", "bf16", 22), ("y = Mul (x, x)", "bf16", 17)],
)
def test_a_model_that_needs_no_later_opset_is_as_it_was(body: str, precision: Any, opset: int, tmp_path: Path) -> None:
    model = batched(tmp_path, body, opset=opset, y=SCORES if "Conv" in body else "float[1, 3, 8, 8] y")
    was, now = (reduce_precision(model, precision, raise_to=opset).batched for opset in (0, 22))
    before, after = (ir.to_proto(of.ir).SerializeToString(deterministic=True) for of in (was, now))
    assert after == before
    assert now.rewrites == was.rewrites


def test_a_value_that_stays_in_fp32_anyway_raises_nothing(tmp_path: Path) -> None:
    body = "s = Sin (x) h = MatMul (x, x) y = Add (s, h)"
    lowered = for_tensorrt(batched(tmp_path, body, y="float[1, 3, 8, 8] y"))
    assert lowered.ir.opset_imports[""] == 17
    assert types(lowered, "MatMul") == {"BFLOAT16"}


# ---------------------------------------------------------------- what cannot be raised


@pytest.mark.parametrize(
    ("asked", "says", "fix"),
    [
        (LoweringRequest("bf16"), "1 Conv (needs opset 22)", "--format tensorrt"),
        (LoweringRequest("bf16", "tensorrt", newest_opset=21), "this Triton accepts opset 21", "accepts opset 22"),
    ],
)
def test_the_refusal_says_why_the_opset_stays(asked: LoweringRequest, says: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        lower(batched(tmp_path, CONV.replace("c =", "y =")), asked)
    assert str(caught.value.what).endswith(says)
    assert fix in str(caught.value.fix)


INNER = "b () => (float[2, 3, 4] {0}) {{ {0} = {1} (x) }}"


@pytest.mark.parametrize("inner", ["Relu", "Softmax <axis = 1>"])
def test_graphs_inside_nodes_are_raised_only_if_all_of_them_means_the_same(inner: str) -> None:
    branches = f"then_branch = {INNER.format('t', inner)}, else_branch = {INNER.format('e', 'Neg')}"
    text = (
        f'<ir_version: 7, opset_import: ["" : 11]> g (float[2, 3, 4] x, bool ok) => (y) {{ y = If (ok) <{branches}> }}'
    )
    model = ir.from_proto(parser.parse_model(text))
    if inner == "Relu":
        assert [graph.opset_imports[""] for graph in raised(model, 22, where=Path()).graphs()] == [22, 22, 22]
        return
    with pytest.raises(CannotRaiseError, match="it has graphs inside its nodes"):
        raised(model, 22, where=Path())


def test_the_proof_finds_a_node_that_means_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Softmax of opset 11, as if only the number had to change."""
    model = batched(tmp_path, f"{CONV} y = Softmax <axis = 1> (c)", opset=11)
    monkeypatch.setattr("builder.lowering.raising.why_not", lambda *_: None)
    with pytest.raises(VerificationError, match="differs from the original's"):
        for_tensorrt(model)


def test_an_opset_in_which_onnx_runtime_cannot_run_the_model_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split of opset 17 has no count of parts, which opset 18 requires."""
    body = f"{CONV} a, b = Split <axis = 1> (c) y = Concat <axis = 1> (b, a)"
    monkeypatch.setattr("builder.lowering.raising.why_not", lambda *_: None)
    with pytest.raises(ModelError, match=r"needs opset 22.*; it cannot be converted to opset 22: "):
        for_tensorrt(batched(tmp_path, body))
