"""Sizes are found at which a model with dynamic dimensions runs, whatever they have to be."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.by_hand import HEADER

from builder.model import Model, load
from builder.proof import OriginalRuns
from builder.samples import candidates, free_names
from builder.samples.constraints import Constraints

RNG = np.random.default_rng(0)
WEIGHTS = {
    **{name: RNG.standard_normal(shape, np.float32) for name, shape in {
        "w_16_5": (16, 5), "kernel": (4, 3, 3, 3), "three": (3,), "w_8_6": (1, 8, 6), "w_8_8": (1, 8, 8),}.items()},
    **{name: np.array(value) for name, value in {
        "one_row_of_4": [1, 4], "four_rows_of_3": [4, 3], "eight_by_six": [8, 6], "patches_14_by_14": [-1, 588],
        "two": [2], "rows_of_8": [-1, 8], "rows_of_1": [-1, 1], "lines": [0, 144],
        "windows": [0, 512], "half": [0, 256]}.items()},
    "up": np.array([1, 1, 32, 32], np.float32),
}  # fmt: skip


def model_of(folder: Path, inputs: str, body: str) -> Model:
    """A model of one output; its weights are those above that the body uses."""
    parsed = onnx.parser.parse_model(f"{HEADER} g ({inputs}) => (float[o1] y) {{ {body} }}")
    parsed.graph.output[0].type.tensor_type.ClearField("shape")
    parsed.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in WEIGHTS.items() if name in body)
    shaped = onnx.shape_inference.infer_shapes(parsed)
    rank = len(shaped.graph.output[0].type.tensor_type.shape.dim) or 2
    parsed.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, [f"o{i}" for i in range(rank)]))
    onnx.save(parsed, folder / "model.onnx")
    return load(folder / "model.onnx")


CASES = [
    # What it shows; inputs; nodes; the sizes that are the only ones, by name; pairs of names that have to be equal.
    ("any size will do", "float[N, T] x", "y = Neg (x)", {}, ""),
    ("one sample is baked in", "float[N, 4] x", "y = Reshape (x, one_row_of_4)", {"N": 1}, ""),
    ("four samples are", "float[N, 3] x", "y = Reshape (x, four_rows_of_3)", {"N": 4}, ""),
    ("the rows of a matrix", "float[N, F] x", "y = MatMul (x, w_16_5)", {"F": 16}, ""),
    ("or its columns", "float[N, F] x", "y = Gemm <transB = 1> (x, w_16_5)", {"F": 5}, ""),
    ("channels", "float[N, C, H, W] x", "y = Conv <pads = [1, 1, 1, 1]> (x, kernel)", {"C": 3}, ""),
    ("channels that are normalized", "float[N, C, H] x", "y = InstanceNormalization (x, three, three)", {"C": 3}, ""),
    ("the states of a recurrent network", "float[T, M, F] x, float[1, N, H] h",
     "y, z = RNN <hidden_size = 8> (x, w_8_6, w_8_8, , , h)", {"F": 6, "H": 8}, "M N"),
    ("as many elements as before", "float[4, F] x", "y = Reshape (x, eight_by_six)", {"F": 12}, ""),
    ("multiples of 32", "float[N, 3, H, W] x", """a = MaxPool <kernel_shape = [32, 32], strides = [32, 32]> (x)
     b = Resize <mode = "nearest"> (a, , up) y = Sub (x, b)""", {}, ""),
    ("one image only", "float[N, 3, H, W] x", """a = AveragePool <kernel_shape = [16, 16], strides = [16, 16]> (x)
     y = Reshape (a, patches_14_by_14)""",
     {"H": 224, "W": 224}, ""),
    ("lengths that have no name", "int64[A, ?] ids, float[?, B] mask", "a = Cast <to = 1> (ids) y = Add (a, mask)",
     {}, "A mask_0, B ids_1"),
    ("lengths that add up", 'float[N, past, 2] k, float[N, new, 2] x, float[N, "past + new"] mask',
     "a = Concat <axis = 1> (k, x) b = ReduceSum <keepdims = 0> (a, two) y = Add (b, mask)", {}, ""),
    ("states of the same batch", "float[?, T] x, float[2, ?, 8] h", """a = ReduceMean <axes = [0], keepdims = 0> (h)
     b = Reshape (a, rows_of_8) c = ReduceMean <axes = [1]> (x) d = Reshape (c, rows_of_1) y = Add (b, d)""",
     {}, "x_0 h_1"),
    ("a line of text", "float[N, 3, H, W] x", "a = ReduceMean <axes = [3], keepdims = 0> (x) y = Reshape (a, lines)",
     {"H": 48}, ""),
    ("an index below the length", "float[T, 2] x, int64[N] i", "y = Gather (x, i)", {}, ""),
    ("a length that a branch wants", "float[N, T] x, bool c", """y = If (c) <
     then_branch = t () => (float[a, b] p) { p = Reshape (x, windows) },
     else_branch = e () => (float[a, b] q) { q = Reshape (x, half) }>""",
     {}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "body", "only", "same"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_sizes_at_which_a_model_runs_are_found(
    tmp_path: Path, inputs: str, body: str, only: dict[str, int], same: str
) -> None:
    model = model_of(tmp_path, inputs, body)
    found = OriginalRuns(model).working_sizes({})
    assert found, "none"
    for sizes in found:
        assert sizes.keys() == set(free_names(model))
        assert sizes.items() >= only.items()
        assert all(sizes[left] == sizes[right] for left, right in map(str.split, filter(None, same.split(", "))))
    varied = {name for name in free_names(model) if len({sizes[name] for sizes in found}) > 1}
    assert varied == set(free_names(model)) - only.keys(), "every other size is tried at several"


def test_settled_sizes_stay_and_those_equal_to_them_follow(tmp_path: Path) -> None:
    model = model_of(tmp_path, "int64[A, B] ids, float[C, D] mask", "a = Cast <to = 1> (ids) y = Add (a, mask)")
    sizes, variations = next(candidates(model, {"A": 6}))
    assert all(each["A"] == each["C"] == 6 for each in (sizes, *variations))
    assert sizes["B"] == sizes["D"] != 6


def test_a_model_that_never_runs_has_no_sizes(tmp_path: Path) -> None:
    model = model_of(tmp_path, "float[N, 5] x", "y = Reshape (x, four_rows_of_3)")
    assert OriginalRuns(model).working_sizes({}) == ()


def test_what_nodes_say_may_be_wrong(tmp_path: Path) -> None:
    """A dimension of 1 is broadcast, and then the sizes are not equal: both have to be tried."""
    model = model_of(tmp_path, "float[N, A] x, float[N, B] z", "y = Mul (x, z)")
    assert Constraints(model).name("A") == Constraints(model).name("B")
    tried = [sizes for sizes, _ in candidates(model, {})]
    assert tried[0]["A"] == tried[0]["B"]
    assert any(sizes["A"] != sizes["B"] for sizes in tried)


@pytest.mark.parametrize("name", ["a // 0", "a + ", "f(a)", "a - b", "a + c", "(" * 500])
def test_a_name_that_is_no_sum_of_others_is_just_a_name(tmp_path: Path, name: str) -> None:
    model = model_of(tmp_path, f'float[a, b, "{name}"] x', "y = Neg (x)")
    for sizes, variations in candidates(model, {}):
        assert all(size > 0 for each in (sizes, *variations) for size in each.values())
