"""The shapes of the rewritten graph: how they are written, and that the file declares them."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from support.batched import Case, batch

from builder.batching.layout import COPY, REST, Shape, reshape_target, scaled, symbolic


@pytest.mark.parametrize(
    ("shape", "target", "written"),
    [
        ((-1, 12), (-1, 3, 4), (COPY, 3, 4)),
        ((4, -1, 3), (2, -2, 3), (2, REST, 3)),
        ((4, -1, 3), (4, -1, 3), (4, COPY, 3)),
        ((-1, 12), (-3, 4), (REST, 4)),
        ((-3, 4), (-3, 2, 2), (COPY, 2, 2)),
        ((-1, 12), (12, -1), (12, REST)),
        ((-1, 3, 0), (-1, 1, 0), (COPY, 1, COPY)),
        ((-1, 0), (-1, 3, 0), None),
        ((-1, 3, 0), (-3, 0), None),
    ],
)
def test_a_reshape_copies_the_batch_where_it_stays(shape: Shape, target: Shape, written: Shape | None) -> None:
    assert reshape_target(shape, target) == written


@pytest.mark.parametrize(
    ("target", "elements", "declared"),
    [
        ((-1, 4), 12, ("3*batch", 4)),
        ((4, -1), 4, (4, "batch")),
        ((-3, 0), 0, ("3*batch", 0)),
    ],
)
def test_a_multiple_of_the_batch_has_its_own_name(
    target: Shape, elements: int, declared: tuple[int | str, ...]
) -> None:
    assert symbolic(scaled(target, elements)) == declared


def test_the_file_declares_the_shape_of_every_value(tmp_path: Path) -> None:
    case = Case(
        "windows, folded into the batch and put in front of it",
        "float[B, 4, 6] x",
        "f = Reshape(x, s) m = MatMul(f, w) r = Reshape(m, t) u = Transpose <perm = [1, 0, 2]> (r) h = Reshape(u, v) "
        "y = Reshape(h, q)",
        "int64[2] s = {4B, 6}; float[6, 6] w; int64[3] t = {B, 4, 6}; int64[3] v = {12, B, 2}; int64[3] q = {B, 4, 6}",
    )
    proto = ir.to_proto(batch(case.model(1), tmp_path).ir)
    found = {value.name: _dims(value) for value in (*proto.graph.value_info, *proto.graph.output)}
    assert {name for node in proto.graph.node for name in node.output} <= found.keys()
    assert found["m"] == ["4*batch", 6]
    assert found["u"] == [4, "batch", 6]


def test_a_batch_that_stays_on_its_axis_has_no_minus_one(tmp_path: Path) -> None:
    case = Case(
        "heads",
        "float[B, 4, 6] x",
        "h = Reshape(x, s) t = Tanh(h) y = Reshape(t, q)",
        "int64[4] s = {B, 4, 2, 3}; int64[3] q = {B, 4, 6}",
    )
    graph = ir.to_proto(batch(case.model(1), tmp_path).ir).graph
    targets = [onnx.numpy_helper.to_array(t).tolist() for t in graph.initializer]
    assert sorted(targets) == [[0, 4, 2, 3], [0, 4, 6]]


def test_a_dynamic_axis_that_stays_is_copied_too(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (float[1, seq, width, 6] x) => (float[1, seq, width, 6] y)
        <int64[5] s = {1, 0, 0, 2, 3}, int64[4] q = {1, 0, -1, 6}>
        { h = Reshape(x, s) t = Tanh(h) y = Reshape(t, q) }""")
    graph = ir.to_proto(batch(model, tmp_path).ir).graph
    targets = [onnx.numpy_helper.to_array(t).tolist() for t in graph.initializer]
    assert sorted(targets) == [[0, 0, 0, 2, 3], [0, 0, 0, 6]]
    assert [node.op_type for node in graph.node] == ["Reshape", "Tanh", "Reshape"]
    dims = {value.name: _dims(value) for value in graph.value_info}
    assert dims["t"] == ["batch", 0, 0, 2, 3], "the declared shape does not name sizes that may be anything"


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
