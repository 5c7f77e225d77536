"""Functions with another opset than their model are inlined if every node means the same."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from builder.batching import add_batch_axis
from builder.errors import ModelError
from builder.model import Model, load
from builder.model.opsets import inlined
from builder.proof import verify


def model_with_function(folder: Path, body: str, *, model_opset: int, function_opset: int) -> Model:
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {model_opset}, "own" : 1]>
        g (float[1, 2, 4] x) => (float[1, 8] y) {{ y = own.f (x) }}
        <domain: "own", opset_import: ["" : {function_opset}, "own" : 1]> f (a) => (b) {{ c = own.inner (a) {body} }}
        <domain: "own", opset_import: ["" : {function_opset}]> inner (a) => (b) {{ b = Relu (a) }}"""
    )
    onnx.save(proto, folder / "model.onnx")
    return load(folder / "model.onnx")


RESHAPE = "s = Constant <value_ints = [1, 8]> () b = Reshape (c, s)"


@pytest.mark.parametrize(("model_opset", "function_opset"), [(17, 16), (16, 17), (17, 17)])
def test_a_function_of_another_opset_is_batched_correctly(
    tmp_path: Path, model_opset: int, function_opset: int
) -> None:
    model = model_with_function(tmp_path, RESHAPE, model_opset=model_opset, function_opset=function_opset)

    batched = add_batch_axis(model)
    verify(batched, max_batch_size=8)

    assert batched.ir.opset_imports[""] == model_opset
    assert len(batched.rewrites) == 1
    assert not batched.ir.functions
    assert model.ir.functions, "the model that was given is untouched"


@pytest.mark.parametrize(
    ("body", "model_opset", "function_opset", "reason"),
    [
        (
            "b = ReduceSum <axes = [2]> (c)",
            13,
            12,
            "ReduceSum 'b' of function 'f': opset 13 has no attribute axes for it",
        ),
        (
            "b = Softmax (c)",
            13,
            12,
            "Softmax 'b' of function 'f': its attribute axis has a different default in opset 13",
        ),
        ("b = Mish (c)", 17, 18, "Mish 'b' of function 'f': the operator was added in opset 18"),
        (
            "i = Constant <value_ints = [1]> () b = Squeeze (c, i)",
            12,
            13,
            "Squeeze 'b' .* different inputs or outputs in opset 12",
        ),
        (
            "s = Constant <value_floats = [1.0, 1.0, 1.0]> () b = GroupNormalization <num_groups = 1> (c, s, s)",
            21,
            18,
            "GroupNormalization 'b' of function 'f': the operator means something else from opset 21 on",
        ),
        ("b = Softmax <axis = 1> (c)", 13, 12, "Softmax 'b' .* means something else from opset 13 on"),
        (
            "s = Constant <value_floats = [1.0, 1.0, 2.0]> () b = Upsample (c, s)",
            10,
            9,
            "Upsample 'b' of function 'f': the operator is gone from opset 10 on",
        ),
    ],
    ids=["attribute", "default", "operator", "inputs", "operator that changed", "its default changed too", "gone"],
)
def test_a_node_that_means_something_else_is_named(
    tmp_path: Path, body: str, model_opset: int, function_opset: int, reason: str
) -> None:
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {model_opset}, "own" : 1]>
        g (float[1, 2, 4] x) => (float[1, 2, 4] y) {{ y = own.f (x) }}
        <domain: "own", opset_import: ["" : {function_opset}]> f (c) => (b) {{ {body} }}"""
    )
    with pytest.raises(ModelError, match=reason):
        inlined(ir.from_proto(proto), where=tmp_path)


def test_an_attribute_that_only_the_newer_opset_has_makes_no_difference(tmp_path: Path) -> None:
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[1, 2, 4] x) => (float[1, 8] y) {{ y = own.f (x) }}
        <domain: "own", opset_import: ["" : 13]> f (c) => (b) {{ {RESHAPE} }}"""
    )
    assert [node.op_type for node in inlined(ir.from_proto(proto), where=tmp_path).graph] == ["Constant", "Reshape"]
