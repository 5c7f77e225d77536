"""Models with names in their shapes: what is examined, what is kept, what is rewritten, and what is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser
from support.batched import session

from builder.batching import BatchedModel, add_batch_axis
from builder.errors import ModelError
from builder.model import load
from builder.proof import OriginalRuns

Array = np.ndarray[Any, Any]

HEADER = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'
ROWS = 6


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: What it shows.
        graph: Its inputs and outputs, as in ONNX text.
        body: Its nodes. `w` is a weight of 4 rows and 4 columns, `k` a table of 4 columns.
        weights: Its integer constants.
        dims: The shapes of a sample, by tensor, in the rewritten model.
        batch: The static batch that the body has; 0 where it is dynamic and stays as it is.
        axes: The axis of the batch, for inputs that do not have it in front.
        below: The bound of integer inputs.
    """

    name: str
    graph: str
    body: str
    weights: str = ""
    dims: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    batch: int = 1
    axes: Mapping[str, int | None] = field(default_factory=dict)
    below: int = 9

    def model(self) -> onnx.ModelProto:
        """Return the model, with its weights drawn at random."""
        weights = f"<float[4, 4] w, float[9, 4] k{', ' + self.weights if self.weights else ''}>"
        model = parser.parse_model(f"{HEADER} g {self.graph} {weights} {{ {self.body} }}")
        rng = np.random.default_rng(0)
        for name, shape in (("w", (4, 4)), ("k", (9, 4))):
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            )
        return model


KEPT = [
    Case("rows by themselves", "(float[N, 4] x) => (float[N, 4] y)", "y = MatMul (x, w)", dims={"y": (4,)}, batch=0),
    Case("shapes that the body computes", "(float[N, T, 4] x) => (float[N, T, 4] y)",
         "s = Shape (x) r = Reshape (x, flat) m = MatMul (r, w) y = Reshape (m, s)", "int64[2] flat = {-1, 4}",
         {"y": ("T", 4)}, batch=0),
    Case("zeros for each sample", "(float[N, T, 4] x) => (float[N, T, 4] y)",
         "s = Shape (x) z = ConstantOfShape (s) y = Add (x, z)", dims={"y": ("T", 4)}, batch=0),
    Case("sizes that are shapes and no more", "(float[N, T, 4] x) => (float[a, 4] y)",
         "s = Shape (x) d = Slice (s, one, two) z = Gather (s, zero) c = Concat <axis = 0> (z, m1) r = Reshape (x, c) "
         "f = Cast <to = 1> (d) q = Div (r, f) g = Concat <axis = 0> (z, m1, four) v = Reshape (q, g) "
         "y = ReduceSum <keepdims = 0> (v, one)",
         "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] m1 = {-1}, int64[1] four = {4}",
         {"y": (4,)}, batch=0),
    Case("an output that the file gives a number", "(float[N, 4] x) => (float[1, 4] y)", "y = Neg (x)",
         dims={"y": (4,)}, batch=0),
    Case("an output that the file gives another rank", "(float[N, 4] x) => (float[N, 1, 4] y)", "y = Neg (x)",
         dims={"y": (4,)}, batch=0),
    Case("a dimension below 0", "(float[-1, 4] x) => (float[-1, 4] y)", "y = Neg (x)", dims={"y": (4,)}, batch=0),
    Case("points with a usual name of a batch", "(float[B, N, 4] x) => (float[B, 4] y)",
         "y = ReduceMax <axes = [1], keepdims = 0> (x)", dims={"x": ("N", 4), "y": (4,)}, batch=0),
]  # fmt: skip

REWRITTEN = [
    Case("a batch of 1 in a Reshape", "(float[N, 4] x) => (float[N, 4] y)",
         "r = Reshape (x, to) m = Softmax (r) y = Reshape (m, of)", "int64[3] to = {1, 2, -1}, int64[2] of = {1, 4}",
         {"y": (4,)}),
    Case("a batch of 1, its output says so", "(float[N, 4] x) => (float[1, 4] y)", "y = Reshape (x, to)",
         "int64[2] to = {1, -1}", {"y": (4,)}),
    Case("a batch of 4 in a Reshape", "(float[N, 2, 2] x) => (float[N, 4] y)", "y = Reshape (x, to)",
         "int64[2] to = {4, 4}", {"y": (4,)}, batch=4),
    Case("a length beside a batch of 1", "(int64[1, seq] ids) => (float[1, seq, 4] y)",
         "e = Gather (k, ids) r = Reshape (e, to) m = ReduceMean <axes = [2], keepdims = 0> (r) c = Concat <axis = -1> "
         "(m, m) y = Tanh (c)", "int64[4] to = {1, -1, 2, 2}", {"ids": ("seq",), "y": ("seq", 4)}),
    Case("a length that the body reads, beside a batch of 1", "(float[1, seq, 4] x) => (float[1, seq, 4] y)",
         "s = Shape (x) n = Gather (s, i) u = Unsqueeze (n, i0) t = Concat <axis = 0> (one, u, two, two) "
         "r = Reshape (x, t) p = Transpose <perm = [0, 2, 1, 3]> (r) m = Softmax (p) "
         "q = Transpose <perm = [0, 2, 1, 3]> (m) b = Concat <axis = 0> (one, u, four) y = Reshape (q, b)",
         "int64 i = {1}, int64[1] i0 = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}",
         {"y": ("seq", 4)}),
    Case("positions that the body counts, beside a batch of 1", "(float[1, seq, 4] x) => (float[1, seq, 4] y)",
         "s = Shape (x) n = Gather (s, i) p = Range (zero, n, i) f = Cast <to = 1> (p) u = Unsqueeze (f, i1) "
         "a = Add (x, u) r = Reshape (a, to) y = Reshape (r, back)",
         "int64 i = {1}, int64 zero = {0}, int64[1] i1 = {1}, int64[3] to = {1, -1, 2}, int64[3] back = {1, -1, 4}",
         {"y": ("seq", 4)}),
    Case("half a length, rounded up", "(float[1, 4, t] x) => (float[1, 4, h] y)",
         "p = MaxPool <kernel_shape = [2], strides = [2], ceil_mode = 1> (x) s = Shape (p) r = Reshape (p, flat) "
         "y = Reshape (r, s)", "int64[3] flat = {1, 1, -1}", {"x": (4, "t"), "y": (4, "h")}),
    Case("windows of an image", "(float[1, 4, h, w8] x) => (float[1, 4, h, w8] y)",
         "s = Shape (x) r = Reshape (x, to) q = Relu (r) y = Reshape (q, s)", "int64[4] to = {1, 2, 2, -1}",
         {"y": (4, "h", "w8")}),
    Case("a time-major output", "(float[batch, 4, time] x) => (float[time, batch, 4] y)",
         "t = Transpose <perm = [2, 0, 1]> (x) y = MatMul (t, w)", dims={"y": ("time", 4)}),
    Case("a state with layers in front", "(float[batch, 4] x, float[2, batch, 4] h) => (float[batch, 4] y, "
         "float[2, batch, 4] n)", "a = ReduceSum <keepdims = 0> (h, i) y = Add (x, a) n = Neg (h)", "int64[1] i = {0}",
         {"h": (2, 4), "n": (2, 4)}),
    Case("time and batch by their names", "(float[time, batch, 4] x) => (float[time, batch, 4] y)",
         "y = CumSum (x, i)", "int64 i = {0}", {"x": ("time", 4), "y": ("time", 4)}),
    Case("one scale for the whole batch", "(float[N, 4] x) => (float[N, 4] y)",
         "q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z)", dims={"y": (4,)}),
    Case("a Squeeze that takes a batch of 1 away", "(float[N, 1, 4] x) => (float[N, 4] y)", "y = Squeeze (x)",
         dims={"y": (4,)}, batch=7),
    Case("a constant output", "(float[N, 4] x) => (float[N, 4] y, float[4, 4] z)", "y = Neg (x) z = Identity (w)",
         dims={"z": (4, 4)}),
    Case("all of the only input is one sample", "(float[6, 4] x) => (float[1, 4] y)",
         "m = ReduceMax <axes = [0]> (x) y = MatMul (m, w)", dims={"x": (6, 4), "y": (4,)}, axes={"x": None}),
]  # fmt: skip

REFUSED = [
    ("statistics of the batch", "(float[D, K, 4] x) => (float[D, K, 4] y)",
     "m = ReduceMean <axes = [0]> (x) y = Sub (x, m)", "ReduceMean 'm': it reduces over axis 0, which holds the batch"),
    ("a threshold that hides the batch", "(float[N, 4] x) => (float[N, 4] y)",
     "m = ReduceMax <axes = [0]> (x) t = Constant <value = float {1e6}> () c = Greater (m, t) y = Where (c, m, x)",
     "ReduceMax 'm': it reduces over axis 0, which holds the batch"),
    ("a little of the batch's mean", "(float[N, 4] x) => (float[N, 4] y)",
     "p = Constant <value = float {0.02}> () m = ReduceMean <axes = [0]> (x) o = Mul (m, p) d = Sub (x, o) "
     "q = QuantizeLinear (d, p) y = DequantizeLinear (q, p)", "ReduceMean 'm'"),
    ("rows that are dropped", "(float[N, 4] x) => (float[kept, 4] y)",
     "z = Constant <value = float {0}> () i = Constant <value = int64 {0}> () f = Gather <axis = 1> (x, i) "
     "g = Greater (f, z) y = Compress <axis = 0> (x, g)", "Compress 'y': the size of its output depends"),
    ("sorted rows", "(float[N, 4] x) => (float[N, 4] y)",
     "s = Shape (x) i = Constant <value = int64[1] {0}> () n = Gather (s, i) y, j = TopK <axis = 0> (x, n)", "TopK"),
    ("attention over all rows", "(float[N, 4] x) => (float[N, 4] y)",
     "t = Transpose (x) a = MatMul (x, t) s = Softmax (a) y = MatMul (s, x)", "MatMul 'a'"),
    ("a part of the batch's size", "(float[N, 4] x) => (float[N, 4] y)",
     "s = Shape (x) i = Constant <value = int64 {0}> () n = Gather (s, i) f = Cast <to = 1> (n) y = Div (x, f)",
     "Div 'y': it computes with the size of the batch"),
    ("a triangle that grows with the batch", "(float[N, 4, 4] x) => (float[N, 4, 4] y)",
     "s = Shape (x) i = Constant <value = int64 {0}> () n = Gather (s, i) y = Trilu <upper = 0> (x, n)",
     "Trilu 'y': it computes with the size of the batch"),
    ("a range that starts at the batch's size", "(float[N, 3] x) => (float[N, 3] y)",
     "s = Shape (x) i = Constant <value = int64 {0}> () n = Gather (s, i) o = Constant <value = int64 {1}> () "
     "t = Constant <value = int64 {3}> () e = Add (n, t) r = Range (n, e, o) f = Cast <to = 1> (r) y = Add (x, f)",
     "Add 'y': it computes with the size of the batch"),
    ("a sample that is cut at the batch's size", "(float[N, T, 4] x) => (float[N, 4] y)",
     "s = Shape (x) i = Constant <value = int64[1] {0}> () n = Gather (s, i) o = Constant <value = int64[1] {1}> () "
     "c = Slice (x, i, n, o) y = ReduceSum <keepdims = 0> (c, o)",
     "Slice 'c': it cuts a sample at the size of the batch"),
    ("a branch for large batches", "(float[N, 4] x) => (float[N, 4] y)",
     "s = Shape (x) i = Constant <value = int64 {0}> () n = Gather (s, i) l = Constant <value = int64 {20}> () "
     "c = Greater (n, l) y = If (c) <then_branch = t () => (float[N, 4] p) { p = Neg (x) }, "
     "else_branch = e () => (float[N, 4] q) { q = Abs (x) }>", "depends on the size of the batch"),
    ("the batch on two axes", "(float[N, 4] x, float[N, N] a) => (float[N, 4] y)", "y = MatMul (a, x)",
     "axis 1 of input 'a' ['N', 'N'] has the size of the batch"),
    ("chunks of the batch", "(float[N, 4] x) => (float[N, 4] y)",
     "s = Shape (x) p = Constant <value = int64[3] {-1, 3, 4}> () r = Reshape (x, p) "
     "t = Transpose <perm = [1, 0, 2]> (r) y = Reshape (t, s)", "depends on the others"),
    ("another order above a threshold", "(float[N, 4] x) => (float[N, 4] y)",
     "b = Constant <value = int64[1] {-1}> () e = Constant <value = int64[1] {-1000}> () "
     "i = Constant <value = int64[1] {0}> () f = Slice (x, b, e, i, b) h = Constant <value = float {100}> () "
     "c = Greater (x, h) y = Where (c, f, x)", "picks or reorders samples"),
]  # fmt: skip


def batch(model: onnx.ModelProto, folder: Path, axes: Mapping[str, int | None]) -> BatchedModel:
    """Load a model, and give it its batch axis."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    loaded = load(path)
    return add_batch_axis(loaded, batch_axes=axes, original=OriginalRuns(loaded))


def compare(case: Case, model: onnx.ModelProto, batched: BatchedModel, size: int) -> None:
    """Compare a batch with the original's answers to its samples, `static_batch` of them at a time."""
    rng, step = np.random.default_rng(size), batched.static_batch
    rows = -(-ROWS // step) * step

    def draw(tensor: Any) -> Array:
        shape = (rows, *(dim if isinstance(dim, int) else size + k for k, dim in enumerate(tensor.dims)))
        if tensor.dtype == ir.DataType.INT64:
            return rng.integers(0, case.below, shape)
        return rng.standard_normal(shape).astype(np.float32)

    feeds = {tensor.name: draw(tensor) for tensor in batched.inputs}
    chunks = [{t.original: t.join(feeds[t.name][i : i + step]) for t in batched.inputs} for i in range(0, rows, step)]
    runner = session(model)
    wanted = [runner.run(None, chunk) for chunk in chunks]
    for count in (1, 2, rows):
        got = session(ir.to_proto(batched.ir)).run(None, {name: array[:count] for name, array in feeds.items()})
        for k, tensor in enumerate(batched.outputs):
            whole = [tensor.split(answers[k]) for answers in wanted]
            np.testing.assert_allclose(got[k], np.concatenate(whole)[:count], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case.name)
def test_a_body_that_follows_the_batch_stays_as_it_is(case: Case, tmp_path: Path) -> None:
    model = case.model()
    batched = batch(model, tmp_path, case.axes)
    assert batched.is_kept
    assert [n.op_type for n in ir.to_proto(batched.ir).graph.node] == [n.op_type for n in model.graph.node]
    check_dims(case, batched)


@pytest.mark.parametrize("size", [16, 37])
@pytest.mark.parametrize("case", REWRITTEN, ids=lambda case: case.name)
def test_a_body_that_does_not_follow_is_rewritten(case: Case, size: int, tmp_path: Path) -> None:
    model = case.model()
    batched = batch(model, tmp_path, case.axes)
    assert not batched.is_kept
    if case.batch != 7:
        assert batched.static_batch == case.batch
    check_dims(case, batched)
    compare(case, model, batched, size)


def check_dims(case: Case, batched: BatchedModel) -> None:
    """Check the shapes of samples, in the description and in the graph."""
    dims = {tensor.name: tensor.dims for tensor in (*batched.inputs, *batched.outputs)}
    assert {name: dims[name] for name in case.dims} == dict(case.dims)
    for value in (*batched.ir.graph.inputs, *batched.ir.graph.outputs):
        assert value.shape is not None
        assert not isinstance(value.shape[0], int)
        assert [d for d in value.shape[1:] if isinstance(d, int)] == [
            d for d in dims[str(value.name)] if isinstance(d, int)
        ]


@pytest.mark.parametrize(("name", "graph", "body", "reason"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_body_that_mixes_its_samples_is_refused(
    name: str, graph: str, body: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=re.escape(reason)):
        batch(Case(name, graph, body).model(), tmp_path, {})


def test_a_model_with_an_unknown_operator_is_kept_and_says_so(tmp_path: Path) -> None:
    case = Case("unknown", "(float[N, 4] x) => (float[N, 4] y)", "e = com.microsoft.SampleOp (x) y = MatMul (e, w)")
    batched = batch(case.model(), tmp_path, {})
    assert batched.is_kept
    assert batched.undecided == ("SampleOp 'e': there is no rule for this operator",)


def test_a_loop_over_a_dynamic_axis_beside_a_batch_of_1_is_refused(tmp_path: Path) -> None:
    body = """s = Shape (x) i = Constant <value = int64 {1}> () n = Gather (s, i) c = Constant <value = bool {1}> ()
        l = Loop (n, c, x) <body = b (int64 i, bool k, float[a, s, 4] v) => (bool k, float[a, s, 4] u) { u = Neg (v) }>
        y = Reshape (l, to)"""
    case = Case("loop", "(float[1, seq, 4] x) => (float[1, seq, 4] y)", body, "int64[3] to = {1, -1, 4}")
    with pytest.raises(ModelError, match="how often it runs depends on the size of a dynamic axis"):
        batch(case.model(), tmp_path, {})


def test_a_size_that_says_how_large_a_grid_is_counts_nothing(tmp_path: Path) -> None:
    text = """g (float[N, 1, 3, 3] x, float[N, 2, 3] m) => (float[N, 1, 3, 3] y) {
        s = Shape (x) g = AffineGrid (m, s) y = GridSample (x, g) }"""
    assert batch(onnx.parser.parse_model(HEADER.replace("17", "20") + text), tmp_path, {}).is_kept


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_what_is_the_same_at_all_larger_sizes_may_be_smaller_at_small_ones(size: int, tmp_path: Path) -> None:
    body = """b = Constant <value = int64[1] {-5}> () e = Constant <value = int64[1] {1000}> ()
        i = Constant <value = int64[1] {1}> () z = Slice (x, b, e, i) s = Shape (z) n = Gather (s, i)
        f = Cast <to = 1> (n) t = ReduceSum <keepdims = 0> (z, i) y = Div (t, f)"""
    case = Case("mean of the last", "(float[1, seq, 4] x) => (float[1, 4] y)", body)
    model = case.model()
    compare(case, model, batch(model, tmp_path, {}), size)


def test_the_analysis_does_without_runs_of_the_original(tmp_path: Path) -> None:
    for case in (KEPT[1], REWRITTEN[0], REWRITTEN[3]):
        onnx.save(case.model(), tmp_path / "model.onnx")
        batched = add_batch_axis(load(tmp_path / "model.onnx"))
        assert batched.is_kept == (case.batch == 0)
        check_dims(case, batched)


def test_a_search_that_used_up_its_time_still_finds_out_whether_the_body_follows(tmp_path: Path) -> None:
    """Otherwise a model that sorts its batch would be taken for one that is frozen at one sample, and be published."""
    (sorting,) = (case for case in REFUSED if case[0] == "sorted rows")
    onnx.save(Case(*sorting[:3]).model(), tmp_path / "model.onnx")
    loaded = load(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="TopK"):
        add_batch_axis(loaded, original=OriginalRuns(loaded, budget_s=1e-9))
    onnx.save(KEPT[0].model(), tmp_path / "model.onnx")
    loaded = load(tmp_path / "model.onnx")
    assert add_batch_axis(loaded, original=OriginalRuns(loaded, budget_s=1e-9)).is_kept
