"""A model with axes made dynamic answers at a new size what the model exported at that size answers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from builder.batching import add_batch_axis, free_axes
from builder.batching.sizes.dims import Baked, Symbol, fixed, regroup
from builder.errors import ModelError
from builder.model import load

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS = {"conv": weight(4, 3, 3, 3), "w": weight(8, 8), "up": weight(3, 3, 3, 3)}

# Each model as text, exported at a size: inputs, output and nodes; and the axes that are made dynamic.
STRETCHED: dict[str, tuple[Callable[[int], tuple[str, str, str]], dict[int, str]]] = {
    "a convolution": (
        lambda s: (f"float[1,3,{s},{s}] x", f"float[1,4,{s - 2},{s - 2}] y", "y = Conv<kernel_shape=[3,3]>(x, conv)"),
        {2: "height", 3: "width"},
    ),
    "attention with heads folded out of the features": (
        lambda s: (
            f"float[1,{s},8] x",
            f"float[1,{s},8] y",
            f"""q = MatMul(x, w)  t = Constant<value_ints=[1,{s},2,4]>()  r = Reshape(q, t)
                h = Transpose<perm=[0,2,1,3]>(r)  k = Transpose<perm=[0,2,3,1]>(r)  a = MatMul(h, k)
                p = Softmax<axis=-1>(a)  o = MatMul(p, h)  m = Transpose<perm=[0,2,1,3]>(o)
                u = Constant<value_ints=[1,{s},8]>()  y = Reshape(m, u)""",
        ),
        {1: "tokens"},
    ),
    "an image as a sequence and back": (
        lambda s: (
            f"float[1,3,{s},{s}] x",
            f"float[1,3,{s},{s}] y",
            f"""t = Constant<value_ints=[1,3,{s * s}]>()  r = Reshape(x, t)  p = Softmax<axis=-1>(r)
                u = Constant<value_ints=[1,3,{s},{s}]>()  y = Reshape(p, u)""",
        ),
        {2: "height", 3: "width"},
    ),
    "a resize to twice the size": (
        lambda s: (
            f"float[1,3,{s},{s}] x",
            f"float[1,3,{2 * s},{2 * s}] y",
            f'z = Constant<value_ints=[1,3,{2 * s},{2 * s}]>()  y = Resize<mode="nearest">(x, , , z)',
        ),
        {2: "height", 3: "width"},
    ),
    "a crop from the second row to the end": (
        lambda s: (
            f"float[1,3,{s},4] x",
            f"float[1,3,{s - 1},4] y",
            f"""b = Constant<value_ints=[1]>()  e = Constant<value_ints=[{s}]>()  a = Constant<value_ints=[2]>()
                y = Slice(x, b, e, a)""",
        ),
        {2: "height"},
    ),
    "a table of equal rows": (
        lambda s: (
            f"float[1,{s},8] x",
            f"float[1,{s},8] y",
            f"""c = Constant<value_float=2.0>()  t = Constant<value_ints=[1,{s},8]>()
                o = Expand(c, t)  y = Mul(x, o)""",
        ),
        {1: "tokens"},
    ),
}

BAKED = {
    "a table of positions": (
        "float[1,4,8] x",
        "float[1,4,8] y",
        "y = Add(x, table)",
        "constant 'table' holds 4 values for size",
        {"table": weight(4, 8)},
    ),
    "weights over all positions": (
        "float[1,8,4] x",
        "float[1,8,2] y",
        "y = MatMul(x, over)",
        "its weights need an axis of 4, which would become size",
        {"over": weight(4, 2)},
    ),
    "windows cut out of the axis": (
        "float[1,4,8] x",
        "float[1,2,2,8] y",
        "t = Constant<value_ints=[1,2,2,8]>()  y = Reshape(x, t)",
        "it splits .size. \\(4\\) over several axes",
        {},
    ),
    "a split into fixed parts": (
        "float[1,4,8] x",
        "float[1,2,8] y",
        "y, z = Split<axis=1, num_outputs=2>(x)",
        "it splits size into parts of fixed sizes",
        {},
    ),
}


def made(path: Path, inputs: str, output: str, body: str, weights: Mapping[str, Any]) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : 18]> g ({inputs}) => ({output}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    for name in used & weights.keys():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights[name], name))
    onnx.save(model, path)
    return path


def answer(model: Path | bytes, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    result: np.ndarray[Any, Any] = session.run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("case", STRETCHED)
def test_a_stretched_model_answers_as_one_exported_at_that_size(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export, axes = STRETCHED[case]
    freed = free_axes(add_batch_axis(load(made(tmp_path / "m.onnx", *export(4), WEIGHTS))), {"x": axes})
    model = ir.to_proto(freed.ir).SerializeToString()

    for size in (4, 6, 9):
        exported = made(tmp_path / f"{size}.onnx", *export(size), WEIGHTS)
        shape = [d if isinstance(d, int) else size for d in freed.inputs[0].dims]
        x = RNG.standard_normal((3, *shape)).astype(np.float32)
        alone = np.concatenate([answer(exported, row[np.newaxis]) for row in x])
        np.testing.assert_allclose(answer(model, x), alone, rtol=1e-5, atol=1e-6)
    assert "Expected shape" not in capfd.readouterr().err


@pytest.mark.parametrize("case", BAKED)
def test_a_size_that_is_baked_in_is_refused_with_its_node(case: str, tmp_path: Path) -> None:
    inputs, output, body, reason, weights = BAKED[case]
    source = load(made(tmp_path / "m.onnx", inputs, output, body, weights))
    axis = 2 if "over" in weights else 1
    with pytest.raises(ModelError, match=reason):
        free_axes(add_batch_axis(source), {"x": {axis: "size"}})


def test_an_axis_that_is_not_there_is_refused(tmp_path: Path) -> None:
    source = load(made(tmp_path / "m.onnx", "float[1,4] x", "float[1,4] y", "y = Relu(x)", {}))
    with pytest.raises(ModelError, match="has no other axis"):
        free_axes(add_batch_axis(source), {"x": {3: "width"}})
    with pytest.raises(ModelError, match="which are not inputs"):
        free_axes(add_batch_axis(source), {"z": {1: "width"}})


def test_factors_keep_their_order_when_regrouped() -> None:
    value = ir.Value(name="x")
    height, width = Symbol("h", 4, (value, 2)), Symbol("w", 4, (value, 3))
    assert regroup([fixed(3), (height,), (width,)], [3, 16]) == [(3,), (height, width)]
    assert regroup([(3,), (height, width)], [3, 4, 4]) == [(3,), (height,), (width,)]
    assert regroup([(12,), (height,)], [3, 16]) == [(3,), (4, height)]
    with pytest.raises(Baked, match="over several axes"):
        regroup([(height,), (width,)], [2, 8])
