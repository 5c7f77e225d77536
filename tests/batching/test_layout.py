"""Operators that lay out elements anew."""

from pathlib import Path

import pytest
from support.batched import Case, proofs, prove, refusals, refuse

from builder.batching.layout import Placed, Shape, choose, placements

CASES = [
    Case("Reshape to [1, -1]", "float[B, 3, 4] x", "y = Reshape(x, s)", "int64[2] s = {B, -1}"),
    Case("Reshape to a spelled out shape", "float[B, 3, 4] x", "y = Reshape(x, s)", "int64[2] s = {B, 12}"),
    Case("Reshape with zeros", "float[B, 3, 4] x", "y = Reshape(x, s)", "int64[3] s = {0, 0, 4}"),
    Case("Reshape with -1 behind the batch", "float[B, 3, 4] x", "y = Reshape(x, s)", "int64[3] s = {B, 4, -1}"),
    Case("Reshape that splits heads", "float[B, 4, 6] x", "y = Reshape(x, s)", "int64[4] s = {B, 4, 2, 3}"),
    Case("Reshape that folds time into the batch", "float[B, 4, 6] x", "y = Reshape(x, s)", "int64[2] s = {4B, 6}"),
    Case("Reshape that folds the batch behind windows", "float[B, 4, 6] x",
         "t = Transpose <perm = [1, 0, 2]> (x) y = Reshape(t, s)", "int64[2] s = {4B, 6}"),
    Case("Reshape that folds the batch between heads", "float[B, 2, 3, 5] x",
         "t = Transpose <perm = [1, 0, 2, 3]> (x) y = Reshape(t, s)", "int64[2] s = {6B, 5}"),
    Case("Reshape that unfolds the batch", "float[B, 4, 6] x",
         "f = Reshape(x, s) r = Relu(f) y = Reshape(r, u)", "int64[2] s = {4B, 6}; int64[3] u = {B, 4, 6}"),
    Case("Reshape that unfolds a batch behind windows", "float[B, 4, 6] x",
         "t = Transpose <perm = [1, 0, 2]> (x) f = Reshape(t, s) r = Relu(f) u = Reshape(r, v) "
         "y = Transpose <perm = [1, 0, 2]> (u)", "int64[2] s = {4B, 6}; int64[3] v = {4, B, 6}"),
    Case("Reshape that merges the batch into the last axis", "float[B, 4] x",
         "t = Transpose <perm = [1, 0]> (x) y = Reshape(t, s)", "int64[1] s = {4B}"),
    Case("Reshape that puts the batch into the middle", "float[B, 4] x", "y = Reshape(x, s)", "int64[3] s = {1, B, 4}"),
    Case("Reshape that splits the batch", "float[B, 3] x", "y = Reshape(x, s)", "int64[3] s = {2, 2, 3}", batches=[4],
         refused={4: "splits the batch over several axes"}),
    Case("Reshape that mixes the batch with what lies before it", "float[B, 4, 2] x",
         "t = Transpose <perm = [1, 0, 2]> (x) y = Reshape(t, s)", "int64[2] s = {6, 4}", batches=[3],
         refused={3: "splits the batch over several axes"}),
    Case("a static batch that equals every other dimension", "float[B, 4, 4] x",
         "f = Reshape(x, s) t = Transpose <perm = [0, 2, 1]> (x) g = Reshape(t, s) a = Add(f, g) y = Reshape(a, u)",
         "int64[2] s = {4B, 4}; int64[3] u = {B, 4, 4}", batches=[1, 4]),
    Case("Reshape of a computed shape", "float[B, 3, 4] x",
         "s = Shape(x) b = Gather(s, zero) u = Unsqueeze(b, one) t = Concat <axis = 0> (u, rest) y = Reshape(x, t)",
         "int64 zero = {0}; int64[1] one = {0}; int64[1] rest = {-1}"),
    Case("Reshape by a product of the batch", "float[B, 3, 4] x",
         "s = Shape(x) b = Gather(s, zero) c = Gather(s, one) m = Mul(b, c) u = Unsqueeze(m, axis) "
         "t = Concat <axis = 0> (u, rest) y = Reshape(x, t)",
         "int64 zero = {0}; int64 one = {1}; int64[1] axis = {0}; int64[1] rest = {4}"),
    Case("Reshape of opset 14 with allowzero", "float[B, 3, 4] x", "y = Reshape <allowzero = 1> (x, s)",
         "int64[2] s = {B, 12}"),
    Case("Flatten", "float[B, 3, 4] x", "y = Flatten(x)"),
    Case("Flatten of a matrix", "float[B, 3] x", "y = Flatten <axis = -1> (x)"),
    Case("Flatten that folds time", "float[B, 3, 4] x", "y = Flatten <axis = 2> (x)"),
    Case("Flatten of the batch behind another axis", "float[3, B, 4] x", "y = Flatten <axis = 1> (x)", axes={"x": 1}),
    Case("Squeeze of opset 11", "float[B, 1, 4] x", "y = Squeeze <axes = [-2]> (x)", opset=11),
    Case("Squeeze of every axis of one", "float[B, 1, 4] x", "y = Squeeze(x)", batches=[3]),
    Case("Squeeze of the batch", "float[B, 4] x", "y = Squeeze(x, a)", "int64[1] a = {0}", batches=[1],
         refused={1: "has no batch axis (dropped by Squeeze"}),
    Case("Squeeze of the batch, put back", "float[B, 4] x", "s = Squeeze(x, a) r = Relu(s) y = Unsqueeze(r, a)",
         "int64[1] a = {0}", batches=[1]),
    Case("Unsqueeze of opset 11", "float[B, 4] x", "y = Unsqueeze <axes = [1, -1]> (x)", opset=11),
    Case("Unsqueeze before the batch", "float[B, 4] x", "y = Unsqueeze(x, a)", "int64[2] a = {0, 2}", batches=[3]),
    Case("Transpose", "float[B, 3, 4] x", "y = Transpose <perm = [0, 2, 1]> (x)"),
    Case("Transpose by default", "float[B, 3, 4] x", "y = Transpose(x)"),
    Case("Expand behind the batch", "float[B, 1, 4] x", "y = Expand(x, s)", "int64[3] s = {B, 3, 4}"),
    Case("Expand to more axes", "float[B, 4] x", "e = Expand(x, s) y = Transpose <perm = [1, 0, 2]> (e)",
         "int64[3] s = {3, B, 4}"),
    Case("Expand of a constant to the batch", "float[B, 4] x", "e = Expand(w, s) y = Add(x, e)",
         "float[1, 4] w; int64[2] s = {B, 4}"),
    Case("Expand of a class token by the batch of the input", "float[B, 3, 4] x",
         "s = Shape(x) b = Gather(s, zero) u = Unsqueeze(b, axis) t = Concat <axis = 0> (u, rest) e = Expand(w, t) "
         "y = Concat <axis = 1> (e, x)",
         "int64 zero = {0}; int64[1] axis = {0}; int64[2] rest = {1, 4}; float[1, 1, 4] w"),
    Case("Expand of one sample", "float[B, 4] x", "e = Expand(x, s) y = Unsqueeze(e, a)",
         "int64[2] s = {3, 4}; int64[1] a = {0}", batches=[1]),
    Case("Tile", "float[B, 4] x", "y = Tile(x, r)", "int64[2] r = {1, 2}"),
    Case("Tile of the batch", "float[B, 4] x", "y = Tile(x, r)", "int64[2] r = {2, 1}"),
    Case("Tile of a sample without an axis", "float[B, 4] x", "s = Squeeze(x) t = Tile(s, r) y = Unsqueeze(t, a)",
         "int64[1] r = {2}; int64[1] a = {0}", batches=[1]),
    Case("an output with time first, whose batch was dropped on the way", "float[B, 5, 3] x",
         "t = Transpose <perm = [1, 0, 2]> (x) q = Squeeze(t, one) g = Gemm(q, w) y = Unsqueeze(g, one)",
         "int64[1] one = {1}; float[3, 4] w", batches=[1]),
    Case("an output of one column, whose batch was dropped", "float[B, 5, 3] x",
         "q = Squeeze(x, zero) y = MatMul(q, w)", "int64[1] zero = {0}; float[3, 1] w", batches=[1],
         refused={1: "has no batch axis"}),
    Case("Concat of two inputs", "float[B, 3] a; float[B, 2] b", "y = Concat <axis = -1> (a, b)"),
    Case("Concat of samples with a constant", "float[B, 3] x", "y = Concat <axis = 1> (x, w)", "float[1, 2] w",
         batches=[1]),
    Case("Concat of samples with a constant for the batch", "float[B, 3] x", "y = Concat <axis = 1> (x, w)",
         "float[B, 2] w", equal={"w": 0}),
    Case("Concat along the batch", "float[B, 3] a; float[B, 3] b", "y = Concat <axis = 0> (a, b)"),
    Case("Concat along the batch, split again", "float[B, 3] a; float[B, 3] b",
         "c = Concat <axis = 0> (a, b) r = Relu(c) y, z = Split <axis = 0> (r, s)", "int64[2] s = {B, B}",
         outputs=["y", "z"]),
    Case("Concat along the batch with a constant's rows for all samples, split again", "float[B, 3] a",
         "e = Expand(w, s) c = Concat <axis = 0> (e, a) r = Relu(c) y, z = Split <axis = 0> (r, p)",
         "float[1, 3] w; int64[2] s = {B, 3}; int64[2] p = {B, B}", outputs=["y", "z"]),
    Case("Concat along the batch with a constant", "float[B, 3] x", "y = Concat <axis = 0> (x, w)", "float[3, 3] w",
         batches=[3], refused={3: "holds different values for the 3 samples"}),
    Case("Concat along the batch with one more row", "float[B, 3] x", "y = Concat <axis = 0> (x, w)", "float[1, 3] w",
         batches=[3], refused={3: "joins rows of 'w' to the samples"}),
    Case("Slice", "float[B, 6] x", "y = Slice(x, s, e, a)", "int64[1] s = {1}; int64[1] e = {-1}; int64[1] a = {-1}"),
    Case("Slice of opset 9", "float[B, 6] x", "y = Slice <axes = [1], starts = [1], ends = [4]> (x)", opset=9),
    Case("Slice backwards", "float[B, 6] x", "y = Slice(x, s, e, a, t)",
         "int64[1] s = {-1}; int64[1] e = {-9}; int64[1] a = {1}; int64[1] t = {-2}"),
    Case("Slice of all of the batch", "float[B, 6] x", "y = Slice(x, s, e)",
         "int64[2] s = {0, 0}; int64[2] e = {B, 3}"),
    Case("Slice of the rows of a folded batch", "float[B, 4, 3] x",
         "t = Transpose <perm = [1, 0, 2]> (x) f = Reshape(t, r) y = Slice(f, s, e)",
         "int64[2] r = {4B, 3}; int64[1] s = {B}; int64[1] e = {3B}"),
    Case("Slice of one sample", "float[B, 6] x", "y = Slice(x, s, e)", "int64[1] s = {0}; int64[1] e = {1}",
         batches=[3], refused={3: "takes only some of the samples of the batch"}),
    Case("Slice that turns the batch around", "float[B, 6] x", "y = Slice(x, s, e, a, t)",
         "int64[1] s = {-1}; int64[1] e = {-9}; int64[1] a = {0}; int64[1] t = {-1}", batches=[3],
         refused={3: "picks or reorders samples"}),
    Case("Split", "float[B, 6] x", "y, z = Split <axis = 1> (x, s)", "int64[2] s = {2, 4}", outputs=["y", "z"]),
    Case("Split of opset 11", "float[B, 6] x", "y, z = Split <axis = -1, split = [1, 5]> (x)", opset=11,
         outputs=["y", "z"]),
    Case("Split in equal parts, of opset 18", "float[B, 6] x", "y, z = Split <axis = 1, num_outputs = 2> (x)", opset=18,
         outputs=["y", "z"]),
    Case("Split of single samples", "float[B, 6] x", "y, z, v = Split <axis = 0> (x)", outputs=["y", "z", "v"],
         batches=[3], refused={3: "takes only some of the samples of the batch"}),
    Case("Pad", "float[B, 3, 4] x", "y = Pad(x, p)", "int64[6] p = {0, 1, 0, 0, 0, 2}"),
    Case("Pad with a value", "float[B, 3, 4] x", 'y = Pad <mode = "constant"> (x, p, v)',
         "int64[6] p = {0, 1, -1, 0, 0, 2}; float v = {7}"),
    Case("Pad of opset 10", "float[B, 3, 4] x", 'y = Pad <mode = "reflect", pads = [0, 1, 0, 0, 0, 2]> (x)', opset=10),
    Case("Pad of opset 18 along some axes", "float[B, 3, 4] x", 'y = Pad(x, p, "", a)',
         "int64[2] p = {1, 2}; int64[1] a = {-1}", opset=18),
    Case("Pad of a sample without an axis", "float[B, 3, 4] x", "s = Squeeze(x) p = Pad(s, w) y = Unsqueeze(p, a)",
         "int64[4] w = {1, 0, 0, 2}; int64[1] a = {0}", batches=[1]),
    Case("Pad of the batch", "float[B, 4] x", "y = Pad(x, p)", "int64[4] p = {0, 0, 1, 0}",
         refused={1: "adds rows to the samples", 3: "adds rows to the samples"}),
    Case("Shape and Size of samples are constants", "float[B, 3, 4] x",
         "s = Shape <start = 1> (x) n = Size(x) r = Reshape(x, t) f = Cast <to = 1> (n) y = Div(r, f) ",
         "int64[2] t = {B, 12}"),
    Case("EyeLike", "float[B, 3, 3] x", "f = Reshape(x, s) e = EyeLike(f) y = Mul(x, e)", "int64[2] s = {3, -1}",
         batches=[1]),
    Case("EyeLike over the batch", "float[B, 3] x", "e = EyeLike(x) y = Mul(x, e)", batches=[3],
         refused={3: "holds different values for the 3 samples"}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "static_batch"), proofs(CASES))
def test_the_batched_model_answers_each_sample_as_the_original_does(
    case: Case, static_batch: int, tmp_path: Path
) -> None:
    prove(case, static_batch, tmp_path)


@pytest.mark.parametrize(("case", "static_batch"), refusals(CASES))
def test_what_mixes_samples_is_refused_with_its_reason(case: Case, static_batch: int, tmp_path: Path) -> None:
    refuse(case, static_batch, tmp_path)


@pytest.mark.parametrize(
    ("shape", "batch", "target", "static_batch", "places"),
    [
        ((4, 3, 6), Placed(1), (12, 6), 3, [Placed(0, outer=4)]),
        ((4, 3, 6), Placed(1), (2, 6, 6), 3, [Placed(1, outer=2)]),
        ((4, 3, 6), Placed(1), (6, 12), 3, []),
        ((2, 1, 4), Placed(1), (2, 4), 1, [Placed(0, outer=2), Placed(1, inner=4)]),
        ((2, 1, 0), Placed(1), (0, 2), 1, []),
    ],
)
def test_a_reshape_leaves_the_batch_where_no_element_moves(
    shape: Shape, batch: Placed, target: Shape, static_batch: int, places: list[Placed]
) -> None:
    assert placements(shape, batch, target, static_batch) == places


@pytest.mark.parametrize(
    ("shape", "batch", "target", "chosen"),
    [
        ((1, 3, 4), Placed(0), (1, 12), Placed(0)),
        ((3, 1, 4), Placed(1), (1, 3, 1, 4), Placed(2)),
        ((1, 4), Placed(0), (1, 1, 4), Placed(0, certain=False)),
        ((1, 4, 6), Placed(0), (4, 6), Placed(0, inner=4, certain=False)),
        ((2, 1, 4), Placed(1), (2, 4), Placed(0, outer=2, certain=False)),
        ((2, 1, 4, 5), Placed(1), (2, 20), Placed(1, inner=20, certain=False)),
    ],
)
def test_where_a_reshape_leaves_a_choice_the_likeliest_axis_is_the_batch(
    shape: Shape, batch: Placed, target: Shape, chosen: Placed
) -> None:
    found = placements(shape, batch, target, 1)
    assert choose(shape, batch, target, found, grows=None) == chosen
