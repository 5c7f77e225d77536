"""A model whose functions are inlined answers as ONNX Runtime does, which inlines them itself."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import parser

from builder.model import inlined

Array = np.ndarray[Any, Any]

HEAD = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
OWN = '<domain: "own", opset_import: ["" : 17, "own" : 1]>'

X = np.asarray([[-1.5, 0.25, 2.0]], np.float32)

MODELS = {
    "functions that call functions": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ a = own.f (x) y = own.f (a) }}
        {OWN} f (x) => (y) {{ a = own.h (x) y = own.h (a) }}
        {OWN} h (x) => (y) {{ t = Tanh (x) y = Add (t, x) }}""",
    "an attribute that is given, one by default, and one handed on": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ a = own.f <slope = 0.5> (x) b = own.f (x) y = Sub (a, b) }}
        {OWN} f <slope: float = 0.125> (x) => (y) {{
            a = own.h <alpha: float = @slope> (x) b = own.h (a) y = Sub (a, b) }}
        {OWN} h <alpha: float = 0.25> (x) => (y) {{ y = LeakyRelu <alpha: float = @alpha> (x) }}""",
    "an attribute that nobody gives": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ y = own.f (x) }}
        {OWN} f <slope> (x) => (y) {{ y = LeakyRelu <alpha: float = @slope> (x) }}""",
    "an input that is left out, in the middle and at the end": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) <float one = {{1}}> {{
            a = own.f (x, , one) b = own.f (x, one) y = Sub (a, b) }}
        {OWN} f (x, low, high) => (y) {{ y = own.h (x, low, high) }}
        {OWN} h (x, low, high) => (y) {{ y = Clip (x, low, high) }}""",
    "an output that nobody reads": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ y, n = own.f (x) }}
        {OWN} f (x) => (y, z) {{ z = Neg (x) y = Add (z, x) }}""",
    "an output that is left out although the body reads it": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ "", y = own.f (x) }}
        {OWN} f (x) => (z, y) {{ z = Neg (x) y = Exp (z) }}""",
    "names that are taken": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] t_2) {{ t = Neg (x) u = own.f (t) t_2 = own.f (u) }}
        {OWN} f (x) => (y) {{ t = Tanh (x) t_2 = Exp (t) y = Sub (t_2, t) }}""",
    "a call in a branch of the graph": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{
            s = ReduceSum <keepdims = 0> (x) zero = Constant <value = float {{0}}> () c = Greater (s, zero)
            y = If (c) <
                then_branch = t () => (float[1, 3] a) {{ a = own.f (x) }},
                else_branch = e () => (float[1, 3] b) {{ b = Neg (x) }}> }}
        {OWN} f (x) => (y) {{ t = Tanh (x) y = Add (t, x) }}""",
    "a branch in a function that calls a function, with an attribute": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ a = own.f <slope = 0.5> (x) y = own.f <slope = 0.25> (a) }}
        {OWN} f <slope> (x) => (y) {{
            s = ReduceSum <keepdims = 0> (x) zero = Constant <value = float {{0}}> () c = Greater (s, zero)
            y = If (c) <
                then_branch = t () => (a) {{ n = Neg (x) a = own.h <alpha: float = @slope> (n) }},
                else_branch = e () => (b) {{ b = Tanh (x) }}> }}
        {OWN} h <alpha: float = 0.25> (x) => (y) {{ y = LeakyRelu <alpha: float = @alpha> (x) }}""",
    "a loop in a function that calls a function": f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ a = own.f (x) y = own.f (a) }}
        {OWN} f (x) => (y) {{
            n = Constant <value = int64 {{3}}> () go = Constant <value = bool {{1}}> ()
            y = Loop (n, go, x) <
                body = b (int64 i, bool c, float[1, 3] v) => (bool d, float[1, 3] w) {{
                    d = Identity (c) t = own.h (v) w = Add (t, x) }}> }}
        {OWN} h (x) => (y) {{ y = Tanh (x) }}""",
}


def run(model: onnx.ModelProto) -> list[Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, {"x": X})]


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS)
def test_an_inlined_model_answers_as_before(text: str, tmp_path: Path) -> None:
    proto = parser.parse_model(text)
    model = ir.from_proto(proto)
    flat = ir.to_proto(inlined(model, where=tmp_path))

    onnx.checker.check_model(flat)
    assert not flat.functions
    assert not [node for node in inlined(model, where=tmp_path).graph.all_nodes() if node.domain == "own"]
    assert [v.name for v in flat.graph.output] == [v.name for v in proto.graph.output]
    assert len(model.functions) == len(proto.functions), "the model that was given is untouched"
    for got, want in zip(run(flat), run(proto), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("functions", "answers"),
    [
        (f"{OWN} f (x) => (x, z) {{ z = own.h (x) }} {OWN} h (x) => (x) {{ t = Tanh (x) }}", [X, X]),
        (f"{OWN} f (x) => (t, t) {{ t = Tanh (x) }}", [np.tanh(X), np.tanh(X)]),
    ],
    ids=["an input", "listed twice"],
)
def test_outputs_that_are_one_value_keep_their_names(functions: str, answers: list[Array], tmp_path: Path) -> None:
    """ONNX Runtime does not load such functions."""
    graph = "g (float[1, 3] x) => (float[1, 3] y, float[1, 3] z) { y, z = own.f (x) }"
    flat = ir.to_proto(inlined(ir.from_proto(parser.parse_model(f"{HEAD} {graph} {functions}")), where=tmp_path))

    assert [v.name for v in flat.graph.input] == ["x"]
    assert [v.name for v in flat.graph.output] == ["y", "z"]
    for got, want in zip(run(flat), answers, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_graph_that_a_call_gives_reads_the_values_around_the_call(tmp_path: Path) -> None:
    proto = parser.parse_model(f"""
        {HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ y = Neg (x) }}
        {OWN} f (x) => (y) {{ n = Neg (x) go = Constant <value = bool {{1}}> () y = Exp (n) }}""")
    branches = {
        name: parser.parse_graph(f"{name} () => (float[1, 3] r) {{ r = {op} (x) }}")
        for name, op in (("then_branch", "Exp"), ("else_branch", "Tanh"))
    }
    choose = onnx.helper.make_node("If", ["go"], ["y"])
    for name in branches:
        reference = onnx.AttributeProto(name=name, ref_attr_name=name, type=onnx.AttributeProto.GRAPH)
        choose.attribute.append(reference)
    proto.functions[0].node[-1].CopyFrom(choose)
    proto.functions[0].attribute.extend(branches)
    call = onnx.helper.make_node("f", ["x"], ["y"], domain="own")
    call.attribute.extend(onnx.helper.make_attribute(name, branch) for name, branch in branches.items())
    proto.graph.node[0].CopyFrom(call)

    flat = ir.to_proto(inlined(ir.from_proto(proto), where=tmp_path))

    np.testing.assert_allclose(run(flat)[0], np.exp(X), rtol=1e-6)


def test_calls_may_be_nested_deeper_than_python_can_recurse(tmp_path: Path) -> None:
    deepest = 3000
    proto = parser.parse_model(f"{HEAD} g (float[1, 3] x) => (float[1, 3] y) {{ y = own.f0 (x) }}")
    for k in range(deepest):
        callee = ("own", f"f{k + 1}") if k + 1 < deepest else ("", "Neg")
        node = onnx.helper.make_node(callee[1], ["x"], ["y"], domain=callee[0])
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
        proto.functions.append(onnx.helper.make_function("own", f"f{k}", ["x"], ["y"], [node], opsets))

    flat = inlined(ir.from_proto(proto), where=tmp_path)

    assert [node.op_type for node in flat.graph] == ["Neg"]
    assert flat.graph.outputs[0].name == "y"


def test_a_node_of_a_function_has_the_metadata_of_the_call(tmp_path: Path) -> None:
    proto = parser.parse_model(MODELS["functions that call functions"])
    proto.graph.node[0].metadata_props.add(key="scope", value="encoder")
    proto.functions[1].node[0].metadata_props.add(key="line", value="7")

    flat = inlined(ir.from_proto(proto), where=tmp_path)

    assert flat.graph[0].metadata_props == {"scope": "encoder", "line": "7"}
