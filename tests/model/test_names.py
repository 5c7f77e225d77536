"""What is put into a graph has names that the model has nowhere, whatever names its exporter gave."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from builder.batching import BatchedModel, add_batch_axis, free_axes, keep_static, run_one_by_one
from builder.lowering import reduce_precision
from builder.model import Model, free_name, inlined, load, name_nodes
from builder.model.soundness import nodes_of
from builder.naming import rename

RNG = np.random.default_rng(0)


def weight(name: str, *shape: int) -> str:
    values = ", ".join(f"{v:.3f}" for v in RNG.standard_normal(int(np.prod(shape))))
    return f"float[{', '.join(map(str, shape))}] {name} = {{{values}}}"


LSTM = f"<{weight('w', 1, 12, 4)}, {weight('r', 1, 12, 3)}, int64[1] one = {{1}}>"

STATE = f"""g (float[1, 5, 4] x, float[1, 1, 3] h) => (float[1, 5, 3] y, float[1, 1, 3] z) {LSTM} {{
    t = Transpose <perm = [1, 0, 2]> (x)
    a, z, c = LSTM <hidden_size = 3> (t, w, r, , , h)
    s = Squeeze (a, one)
    y = Transpose <perm = [1, 0, 2]> (s)
}}"""
"""A state on axis 1, which comes to axis 0 behind nodes that are put in."""

LOOP = f"""g (float[1, 4] x, float[1, 4] h) => (float[1, 4] y, float[1, 4] z) <{weight("w", 4, 4)}> {{
    n = Constant <value_int = 3> ()
    t = Constant <value = bool {{1}}> ()
    z = Identity (h)
    y = Loop (n, t, x) <body = b (int64 i, bool c, float[1, 4] v) => (bool d, float[1, 4] o) {{
        d = Identity (c)
        m = MatMul (v, w)
        o = Add (m, h)
    }}>
}}"""

VIEW = f"""g (float[1, 6, 4] x, float[1, 6, 4] h) => (float[1, 6, 4] y, float[1, 6, 4] z) <
    {weight("w", 4, 4)}, int64[2] flat = {{6, 4}}, int64[3] full = {{1, 6, 4}}> {{
    f = Reshape (x, flat)
    m = MatMul (f, w)
    z = Identity (h)
    y = Reshape (m, full)
}}"""

PASSED = "g (float[1, 4] x, float[1, 4] h) => (float[1, 4] y, float[1, 4] h) { y = Neg (x) }"
"""An input that is an output too."""


def with_function(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Call a function that passes an input on, besides what it computes."""
    function = parser.parse_function(
        '<opset_import: ["" : 17], domain: "own"> both (a, b) => (c, b) { k = Neg (a) c = Neg (k) }'
    )
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    name = proto.graph.output[0].name
    made = next(node for node in proto.graph.node if name in node.output)
    made.output[list(made.output).index(name)] = "plain"
    proto.graph.node.append(helper.make_node("both", ["plain", "h"], [name, "passed"], domain="own"))
    return proto


Make = Callable[[Model], BatchedModel | ir.Model]

WAYS: dict[str, tuple[str, Make]] = {
    "a batch on another axis": (STATE, lambda m: add_batch_axis(m, batch_axes={"h": 1})),
    "a loop that is written out": (LOOP, add_batch_axis),
    "one sample at a time": (LOOP, run_one_by_one),
    "other dynamic axes": (VIEW, lambda m: free_axes(add_batch_axis(m), {"x": {1: "length"}, "h": {1: "length"}})),
    "a lower precision": (VIEW, lambda m: reduce_precision(add_batch_axis(m), "fp16").batched),
    "functions": (VIEW, lambda m: inlined(m.ir, where=m.path)),
    "an output that is an input": (
        PASSED,
        lambda m: rename(keep_static(m), input_names=["x", "hidden"], output_names=["y", "h"]),
    ),
}


def save(folder: Path, text: str, *, is_function: bool) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    proto = with_function(proto) if is_function else proto
    for number, node in enumerate(nodes_of(proto.graph.node)):
        node.name = f"{node.op_type}_{number}"
    onnx.save(proto, folder / "model.onnx")
    return proto


def graph_of(made: BatchedModel | ir.Model) -> ir.Model:
    return made.ir if isinstance(made, BatchedModel) else made


def names(model: ir.Model) -> tuple[set[str], set[str]]:
    """Return the names of all nodes, and those of all values."""
    nodes = {node.name for node in model.graph.all_nodes() if node.name}
    return nodes, {v.name for node in model.graph.all_nodes() for v in node.outputs if v.name} | {
        str(name) for graph in model.graphs() for name in graph.initializers
    }


def add_names(proto: onnx.ModelProto, nodes: set[str], values: set[str]) -> None:
    """Make nodes with these names, and values with these names, at the end of the model, where they are read last."""
    output = proto.graph.output[0].name
    made = next(node for node in proto.graph.node if output in node.output)
    made.output[list(made.output).index(output)] = "before.all.others"
    chain = ["before.all.others", *sorted(values - {output}), *(f"chain.{k}" for k in range(len(nodes)))]
    called = [*sorted(nodes), *(f"called.{k}" for k in range(len(chain)))]
    for (source, target), name in zip(zip(chain, [*chain[1:], output], strict=True), called, strict=False):
        proto.graph.node.append(helper.make_node("Abs" if target == output else "Neg", [source], [target], name=name))


def twice(model: ir.Model) -> Iterator[str]:
    """Yield the names that two nodes of one graph have, or two values that can be seen from one place."""
    outer = Counter(str(value.name) for value in values_of(model.graph))
    yield from (name for name, n in outer.items() if n > 1)
    for graph in model.graphs():
        yield from (str(name) for name, n in Counter(node.name for node in graph if node.name).items() if n > 1)
        if graph is not model.graph:
            yield from {str(value.name) for value in values_of(graph)} & outer.keys()


def values_of(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    return list(dict.fromkeys(v for v in values if v.name))


def answers(model: ir.Model) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    feeds = {
        value.name: rng.standard_normal([dim if isinstance(dim, int) else 2 for dim in value.shape]).astype(np.float32)
        for value in session.get_inputs()
    }
    found: list[np.ndarray[Any, Any]] = session.run(None, feeds)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_has_every_name_already_is_made_with_others(tmp_path: Path, way: str) -> None:
    text, make = WAYS[way]
    is_function = way == "functions"
    path = tmp_path / "model.onnx"
    save(tmp_path, text, is_function=is_function)
    plain = graph_of(make(load(path)))
    nodes, values = names(plain)
    proto = save(tmp_path, text, is_function=is_function)
    before = names(ir.from_proto(proto))
    ends = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    taken = (nodes - before[0], values - before[1] - ends)
    add_names(proto, *taken)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    made = graph_of(make(load(path)))
    assert taken[0], "nothing was put in"
    assert list(twice(made)) == []
    for one, other in zip(answers(plain), answers(made), strict=True):
        np.testing.assert_allclose(abs(one), abs(other), rtol=1e-2, atol=1e-2)


def test_a_copy_in_a_function_is_named_apart_from_the_nodes_of_later_ones(tmp_path: Path) -> None:
    proto = save(tmp_path, VIEW, is_function=True)
    later = parser.parse_function('<opset_import: ["" : 17], domain: "own"> later (a) => (c) { c = Neg (a) }')
    later.node[0].name = "node_Identity_0"
    proto.functions.append(later)
    proto.graph.node.append(helper.make_node("later", ["passed"], ["last"], domain="own"))
    onnx.save(proto, tmp_path / "model.onnx")
    assert list(twice(inlined(load(tmp_path / "model.onnx").ir, where=tmp_path))) == []


def test_nodes_are_numbered_as_onnx_ir_does_where_the_names_are_free() -> None:
    nodes = [ir.node("Neg", []), ir.node("Abs", [], name="mine"), ir.node("Neg", []), ir.node("Abs", [])]
    name_nodes(nodes, {"node_Neg_1"})
    assert [node.name for node in nodes] == ["node_Neg_0", "mine", "node_Neg_2", "node_Abs_3"]


def test_a_free_name_is_taken_from_then_on() -> None:
    taken = {"a", "a_1"}
    assert [free_name("a", taken), free_name("a", taken), free_name("b", taken)] == ["a_2", "a_3", "b"]
    assert taken == {"a", "a_1", "a_2", "a_3", "b"}


def test_initializers_of_a_model_are_as_before(tmp_path: Path) -> None:
    proto = save(tmp_path, VIEW, is_function=False)
    stored = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    made = add_batch_axis(load(tmp_path / "model.onnx"))
    assert (made.ir.graph.initializers["w"].const_value.numpy() == stored["w"]).all()  # type: ignore[union-attr]
