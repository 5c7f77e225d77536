from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser

from builder.batching import BatchedModel, add_batch_axis
from builder.cli import cli
from builder.cli.faults import BadValue
from builder.errors import ModelError
from builder.lowering import TARGETS, Target, fit
from builder.model import load
from builder.proof import verify
from builder.proof.session import onnxruntime_errors

OLD = TARGETS["24.10"]

GRAPH = "g (float[1, 4] x) => (float[1, 4] y)"


@pytest.fixture
def batched(tmp_path: Path) -> Callable[..., BatchedModel]:
    def make(body: str, *, opset: int, ir_version: int = 12, graph: str = GRAPH) -> BatchedModel:
        text = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> {graph} {{ {body} }}'
        path = tmp_path / "model.onnx"
        onnx.save(parser.parse_model(text), path)
        return add_batch_axis(load(path))

    return make


def test_a_model_that_the_target_accepts_is_unchanged(batched: Callable[..., BatchedModel]) -> None:
    model = batched("y = Relu (x)", opset=17, ir_version=8)
    assert fit(model, OLD) is model


def test_version_labels_are_lowered_where_every_node_means_the_same(batched: Callable[..., BatchedModel]) -> None:
    # As new as ONNX Runtime 1.23 takes it, the last for Python 3.10.
    model = batched("h = Relu (x) z = Softmax (h) y = Identity (z)", opset=23, ir_version=11)
    fitted = fit(model, OLD)
    assert (fitted.ir.ir_version, fitted.ir.opset_imports[""]) == (10, 21)
    assert (model.ir.ir_version, model.ir.opset_imports[""]) == (11, 23), "the model given is untouched"
    assert fitted.rewrites[-1].what == "for Triton 24.10: IR version 11 became 10, opset 23 became 21"
    onnx.checker.check_model(ir.to_proto(fitted.ir))
    verified = verify(fitted, max_batch_size=4)
    assert onnx.load_from_string(verified.model_bytes).opset_import[0].version == 21


def test_an_operator_newer_than_the_release_is_named(batched: Callable[..., BatchedModel]) -> None:
    model = batched('h = Relu (x) ["new"] y = Swish (h)', opset=24)
    with pytest.raises(ModelError, match=r"(?s)Triton 24.10 \(ONNX Runtime 1.19.2.*Swish 'new'.*was added in opset 24"):
        fit(model, OLD)


def test_an_attribute_newer_than_the_release_is_named(batched: Callable[..., BatchedModel]) -> None:
    model = batched('h = Cast <to = 18> (x) y = Cast <to = 1, round_mode = "up"> (h)', opset=24)
    with pytest.raises(ModelError, match="opset 21 has no attribute round_mode"):
        fit(model, OLD)


def test_a_type_newer_than_the_release_is_named(batched: Callable[..., BatchedModel]) -> None:
    graph = "g (float[1, 4] x) => (float[1, 4] y) <bfloat16[1] h, bfloat16[1] s>"
    model = batched("h = Cast <to = 16> (x) s = Sin (h) y = Cast <to = 1> (s)", opset=24, graph=graph)
    with pytest.raises(ModelError, match="is BFLOAT16, which the operator does not accept in opset 21"):
        fit(model, OLD)


def test_bf16_tensors_are_refused_for_a_release_that_does_not_serve_them(batched: Callable[..., BatchedModel]) -> None:
    graph = "g (bfloat16[1, 4] x) => (bfloat16[1, 4] y)"
    model = batched("y = Identity (x)", opset=17, graph=graph)
    with pytest.raises(ModelError, match=r"input 'x' is BF16.*\n.*output 'y' is BF16"):
        fit(model, TARGETS["24.10"])
    assert fit(model, TARGETS["26.10"]) is model


def test_the_table_is_right_about_the_installed_onnxruntime() -> None:
    installed = [target for target in TARGETS.values() if target.onnxruntime == onnxruntime.__version__]
    if not installed:
        pytest.skip(f"onnxruntime {onnxruntime.__version__} is in no container of the table")
    for target in installed:
        assert _loads(target.ir_version, target.opset)
        assert not _loads(target.ir_version + 1, target.opset)
        assert not _loads(target.ir_version, target.opset + 1)


def _loads(ir_version: int, opset: int) -> bool:
    text = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> {GRAPH} {{ y = Relu (x) }}'
    try:
        onnxruntime.InferenceSession(parser.parse_model(text).SerializeToString(), providers=["CPUExecutionProvider"])
    except onnxruntime_errors():
        return False
    return True


def test_an_unknown_release_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"Triton release '23\.01'") as refused:
        cli.main(["publish", str(tmp_path / "model.onnx"), "--triton", "23.01"], standalone_mode=False)
    assert refused.value.exit_code == 2
    assert all(release in refused.value.fix for release in TARGETS)


def test_releases_are_in_order_and_accept_what_older_ones_accept() -> None:
    targets: list[Target] = list(TARGETS.values())
    assert [target.release for target in targets] == sorted(target.release for target in targets)
    assert [target.opset for target in targets] == sorted(target.opset for target in targets)
