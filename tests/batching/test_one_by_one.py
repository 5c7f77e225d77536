"""A model that mixes the rows of a batch answers each row alone when its graph runs one sample at a time."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from builder.batching import BatchedModel, run_one_by_one
from builder.errors import ModelError
from builder.model import load
from builder.proof import OriginalRuns

MIXING = {
    "a mean over everything": ("float[1,3]", "y = ReduceMean<keepdims=0>(x)", "float"),
    "a softmax over the batch": ("float[1,3]", "y = Softmax<axis=0>(x)", "float[1,3]"),
    "the first sample only": ("float[1,3]", "i = Constant<value_int=0>() y = Gather<axis=0>(x, i)", "float[3]"),
    "a captured weight": ("float[1,3]", "w = Constant<value_floats=[1.0,2.0,3.0]>() y = Mul(x, w)", "float[1,3]"),
}


def save(path: Path, inputs: str, body: str, output: str, opset: int = 17) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs} x) => ({output} y) {{ {body} }}'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def session(batched: BatchedModel) -> onnxruntime.InferenceSession:
    proto = ir.to_proto(batched.ir)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", MIXING)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_every_row_gets_the_answer_it_gets_alone(case: str, rows: int, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", *MIXING[case])
    batched = run_one_by_one(load(path))
    x = np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)

    original = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    (answers,) = session(batched).run(None, {"x": x})
    alone = [batched.outputs[0].split(original.run(None, {"x": row[np.newaxis]})[0])[0] for row in x]
    np.testing.assert_array_equal(answers, np.stack(alone))


TRANSPOSED = "t = Transpose<perm=[2,0,1]>(x) y = Relu(t)"
NAMED = {
    "the name of the batch in front": ("float[N,3] x", "y = Softmax<axis=0>(x)", "float[N,3] y", (3,), 0),
    "another name in front": ("float[N,3] x", "y = Softmax<axis=0>(x)", "float[M,3] y", (3,), 0),
    "a name of which nothing is known": ("float[N,3] x", "y = com.microsoft.QuickGelu(x)", "float[M,3] y", (3,), 0),
    "the name of another axis in front": (
        "float[N,4,T] x", "t = Transpose<perm=[0,2,1]>(x) y = Squeeze(t, i)", "float[T,4] y", ("T", 4), None),
    "time in front": ("float[N,4,T] x", TRANSPOSED, "float[T,N,4] y", ("T", 4), 1),
    "time in front, a number": ("float[N,4,5] x", TRANSPOSED, "float[5,N,4] y", (5, 4), 1),
    "time in front, all numbers": ("float[1,4,5] x", TRANSPOSED, "float[5,1,4] y", (5, 4), 1),
    "time in front, names that no input has": (
        "float[N,4,T] x", "g = com.microsoft.QuickGelu(x) t = Transpose<perm=[2,0,1]>(g) y = Relu(t)",
        "float[L,N,4] y", ("L", 4), 1),
    "the name of the batch twice": (
        "float[N,3] x", "t = Transpose(x) y = MatMul(x, t)", "float[N,N] y", (1,), 0),
    "no axis for it": ("float[N,3] x", "y = ReduceMean<keepdims=0>(x)", "float y", (), None),
    "a name where the model has no axis": ("float[N,3] x", "y = Gather(x, zero)", "float[N,3] y", (3,), None),
    "another name where the model has no axis": ("float[N,3] x", "y = Gather(x, zero)", "float[M,3] y", (3,), None),
    "a static batch beside a dynamic axis": ("float[1,T] x", "y = Softmax<axis=0>(x)", "float[1,T] y", ("T",), 0),
}  # fmt: skip
"""Files with a name on some axis, and what their output is for one sample: its shape, and its own axis of one."""


@pytest.mark.parametrize("case", NAMED)
def test_the_batch_axis_of_outputs_is_removed_whatever_its_name(case: str, tmp_path: Path) -> None:
    given, body, output, dims, axis = NAMED[case]
    text = f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g ({given}) => ({output})
        <int64[1] i = {{0}}, int64 zero = {{0}}> {{ {body} }}"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    batched = run_one_by_one(load(tmp_path / "m.onnx"))
    ((tensor,), (result,)) = batched.inputs, batched.outputs
    assert (result.dims, result.batch_axis) == (dims, axis)

    shape = [6 if isinstance(dim, str) else dim for dim in tensor.dims]
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    for rows in (1, 2, 3):
        (answers,) = session(batched).run(None, {"x": x[:rows]})
        original = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        alone = [result.split(original.run(None, {"x": row[np.newaxis]})[0])[0] for row in x[:rows]]
        np.testing.assert_array_equal(answers, np.stack(alone))


def test_a_state_whose_batch_has_its_name_on_another_axis_keeps_its_layers(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3] x, float[2,N,3] h) => (float[N,3] y, float[2,N,3] next)
        { m = ReduceMax<axes=[1]>(x) y = Softmax<axis=0>(x) next = Add(h, y) }"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())

    batched = run_one_by_one(load(tmp_path / "m.onnx"))

    assert [tensor.dims for tensor in (*batched.inputs, *batched.outputs)] == [(3,), (2, 3), (3,), (2, 3)]
    x, h = np.ones((4, 3), np.float32), np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    _, state = session(batched).run(None, {"x": x, "h": h})
    np.testing.assert_array_equal(state, h + 1)


def test_a_shape_that_cannot_be_inferred_is_found_by_running_the_original(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,3] x, float[2,B,3] h) => (float[N,3] y, float[a,b,c] next, float[d] flat)
        <int64 one = {1}, int64 zero = {0}> {
        y = Softmax<axis=0>(x) next = com.microsoft.QuickGelu(h) s = Gather<axis=1>(next, zero)
        r = Gather<axis=0>(s, one) flat = com.microsoft.QuickGelu(r) }"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    loaded = load(tmp_path / "m.onnx")

    batched = run_one_by_one(loaded, batch_axes={"h": 1}, original=OriginalRuns(loaded))

    assert [(tensor.batch_axis, len(tensor.dims)) for tensor in batched.outputs] == [(0, 1), (1, 2), (None, 1)]
    x, h = np.zeros((4, 3), np.float32), np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    _, state, flat = session(batched).run(None, {"x": x, "h": h})
    assert state.shape == h.shape
    assert flat.shape == (4, 3)


SIZED_BY_VALUES = {
    "rows are dropped": "k = ReduceMax<axes=[1], keepdims=0>(x) b = Greater(k, zero) y = Compress<axis=0>(x, b)",
    "positions are listed": "p = NonZero(x) t = Transpose(p) y = Cast<to=1>(t)",
    "positions are listed in a branch": """t = ReduceMax<keepdims=0>(x) b = Greater(t, zero)
        f = If<then_branch = then () => (float[P,2] a) { p = NonZero(x) q = Transpose(p) a = Cast<to=1>(q) },
               else_branch = other () => (float[P,2] o) { o = Reshape(x, two) }>(b) y = Relu(f)""",
}


@pytest.mark.parametrize("batch", ["1", "N"])
@pytest.mark.parametrize("case", SIZED_BY_VALUES)
def test_an_output_whose_size_depends_on_the_values_is_refused(case: str, batch: str, tmp_path: Path) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},4] x) => (float[kept,2] y)
        <float zero = {{0}}, int64[2] two = {{-1,2}}> {{ {SIZED_BY_VALUES[case]} }}"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(ModelError, match=r"(Compress|NonZero) '\w+': the size of output 'y' depends on the values"):
        run_one_by_one(load(tmp_path / "m.onnx"))


def test_positions_that_do_not_depend_on_the_values_are_served(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (int64[2,P] y)
        { s = Shape(x) n = Constant<value_int=1>() e = Expand(n, s) y = NonZero(e) }"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    batched = run_one_by_one(load(tmp_path / "m.onnx"))
    (answers,) = session(batched).run(None, {"x": np.zeros((3, 4), np.float32)})
    np.testing.assert_array_equal(answers, [[[0, 0, 0, 0], [0, 1, 2, 3]]] * 3)


def test_inner_shapes_that_name_the_batch_are_removed(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,T] x) => (float[N,T] y)
        <float[N,T] m, float[T,N] t> { m = Softmax<axis=0>(x) t = Transpose(m) y = Transpose(t) }"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    batched = run_one_by_one(load(tmp_path / "m.onnx"))
    body = ir.to_proto(batched.ir).graph.node[0].attribute[0].g
    dims = [d.dim_param for value in (*body.value_info, *body.output) for d in value.type.tensor_type.shape.dim]
    assert set(dims) <= {"", "T"}


def test_random_numbers_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", "float[1,3]", "r = RandomNormalLike(x) y = Add(x, r)", "float[1,3]")
    with pytest.raises(
        ModelError, match=r"draws random numbers(.|\n)*fix: export it with the random numbers as an input"
    ):
        run_one_by_one(load(path))


def test_a_static_batch_above_one_has_no_answer_for_a_row_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", "float[2,3]", "y = Softmax<axis=0>(x)", "float[2,3]")
    with pytest.raises(ModelError, match="static batch is 2"):
        run_one_by_one(load(path))


def test_an_opset_without_this_form_of_scan_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", "float[1,3]", "y = Relu(x)", "float[1,3]", opset=8)
    with pytest.raises(ModelError, match="opset 8 has no Scan"):
        run_one_by_one(load(path))


def test_weights_that_an_old_file_lists_as_inputs_stay_weights(tmp_path: Path) -> None:
    text = """<ir_version: 3, opset_import: ["" : 11]>
        g (float[1,3] x, float[3] w) => (float[1,3] y) <float[3] w = {1, 2, 3}> { y = Mul(x, w) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")

    batched = run_one_by_one(load(tmp_path / "m.onnx"))

    (answers,) = session(batched).run(None, {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(answers, [[1, 2, 3], [1, 2, 3]])


def test_a_weight_may_be_an_output(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3] x) => (float[1,3] y, float[3] w)
        <float[3] w = {1, 2, 3}> { y = Add(x, w) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    y, w = session(run_one_by_one(load(tmp_path / "m.onnx"))).run(None, {"x": x})
    np.testing.assert_array_equal(y, x + np.array([1, 2, 3], np.float32))
    np.testing.assert_array_equal(w, np.array([[1, 2, 3], [1, 2, 3]], np.float32))


def test_names_in_the_file_may_be_those_of_new_values(tmp_path: Path) -> None:
    names = ["x.row", "x.row.axes", "x.row.unsqueeze", "y.whole", "y.whole.axes", "y.whole.squeeze", "y.answer"]
    chain = " ".join(f'"{to}" = Neg("{of}")' for of, to in zip(["x", *names], names, strict=False))
    path = save(tmp_path / "m.onnx", "float[1,3]", chain + ' y = Softmax<axis=0>("y.answer")', "float[1,3]")
    (answers,) = session(run_one_by_one(load(path))).run(None, {"x": np.zeros((4, 3), np.float32)})
    assert answers.shape == (4, 3)
