"""When a model is refused, the error names the options that publish it, and no others: each of them is tried here."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

from builder import api
from builder.batching import BatchedModel
from builder.cli import cli
from builder.errors import BuilderError, ModelError, VerificationError
from builder.model import Model
from builder.publishing import Origin, PublishOptions, advice, make_batch_dynamic, pipeline, publish

NOTHING = "none of the options that were tried can publish it"


@dataclass(frozen=True)
class Case:
    """A model that is refused.

    Attributes:
        graph: As ONNX text.
        ways: The options that publish it, in order; each begins with `with` or `without`.
        model: What the error says to do with the model itself.
        weights: The shapes of random weights, by name.
        given: The options it was refused with.
        opset: Its opset.
    """

    graph: str
    ways: Sequence[str]
    model: str = "export it without these nodes"
    weights: dict[str, tuple[int, ...]] | None = None
    given: str = ""
    opset: int = 17


PER_SAMPLE, STATIC = "with --per-sample", "with --static"
EVERY_INPUT, SAME_BATCH = "export it with a batch in every input", "export it with the same batch in every input"
ONE_SAMPLE = "export it without these nodes, or with a batch of 1, which --per-sample needs"
RATE = """(float[1,8] x, int64 sr) => (float[1,8] y) <int64 known = {16000}> { e = Equal(sr, known)
    y = If<then_branch = a () => (float[1,8] p) { p = Relu(x) }, else_branch = b () => (float[1,8] q) { q = Neg(x) }>(e)
    }"""
LAYERS = """(float[2,4,6] x, float[2,2,6] h) => (float[2,4,6] y) <int64[2] halves = {1,1}, int64[1] one = {1}> {
    t = Transpose<perm=[1,0,2]>(x) h0, h1 = Split<axis=0>(h, halves)
    p, n = GRU<hidden_size=6>(t, w, r, "", "", h0) q = Squeeze(p, one)
    u, m = GRU<hidden_size=6>(q, w, r, "", "", h1) v = Squeeze(u, one) y = Transpose<perm=[1,0,2]>(v) }"""
CAMERAS = """(float[6,3,8,8] imgs) => (float[1,10] bev) <int64[2] flat = {1,24}> {
    c = Conv<pads=[1,1,1,1]>(imgs, w) m = ReduceMean<axes=[2,3], keepdims=0>(c) q = Reshape(m, flat)
    bev = MatMul(q, f) }"""
LOOK_UPS = """(float[3,4] dense, int64[15] indices) => (float[3,4] y) <int64[3] s = {3,5,4}, int64[1] one = {1}> {
    v = Gather(e, indices) q = Reshape(v, s) z = ReduceSum<keepdims=0>(q, one) y = Add(z, dense) }"""
DROPS = """(float[1,4] x) => (float[kept,4] y) <float zero = {0}> { m = ReduceMax<axes=[1], keepdims=0>(x)
    k = Greater(m, zero) y = Compress<axis=0>(x, k) }"""
MIXING, MIXING_NAMED, MIXING_OF_3 = (
    f"(float[{batch},4] x) => (float[{batch},4] y) {{ y = Softmax<axis=0>(x) }}" for batch in ("1", "N", "3")
)

CASES = {
    "a scalar": Case(
        "(float[1,4] x, float offset) => (float[1,4] y) { y = Mul(x, offset) }",
        ["with --batch-axis offset=none", "with --constant offset=VALUE"],
        EVERY_INPUT,
    ),
    "a name that a shell would split": Case(
        '(float[1,4] x, float "the offset") => (float[1,4] y) { y = Mul(x, "the offset") }',
        ["with --batch-axis 'the offset=none'", "with --constant 'the offset=VALUE'"],
        EVERY_INPUT,
    ),
    "a scalar that the graph compares": Case(
        RATE, ["with --batch-axis sr=none", "with --constant sr=16000"], EVERY_INPUT
    ),
    "two scalars": Case(
        "(float[1,4] x, float s, int64 t) => (float[1,4] y) { a = Mul(x, s) f = Cast<to=1>(t) y = Add(a, f) }",
        ["with --batch-axis s=none --batch-axis t=none", "with --constant s=VALUE --constant t=VALUE"],
        EVERY_INPUT,
    ),
    "a scalar beside several samples": Case(
        "(float[3,4] x, float s) => (float[3,4] y) { y = Mul(x, s) }", ["with --constant s=VALUE"], EVERY_INPUT
    ),
    "a scalar beside a mixing node": Case(
        "(float[1,4] x, float s) => (float[1,4] y) { a = Softmax<axis=0>(x) y = Mul(a, s) }",
        ["with --per-sample --batch-axis s=none"],
        EVERY_INPUT,
    ),
    "an input without a batch beside one sample": Case(
        "(float[1,4] x, float[4,6] table) => (float[1,6] y) { y = MatMul(x, table) }",
        ["with --batch-axis table=none", "with --constant table=FILE.npy", STATIC],
        SAME_BATCH,
    ),
    "an input without a batch beside several samples": Case(
        "(float[2,4] x, float[4,6] table) => (float[2,6] y) { y = MatMul(x, table) }",
        ["with --constant table=FILE.npy", STATIC],
        SAME_BATCH,
    ),
    "as many layers as samples": Case(
        LAYERS, ["with --batch-axis h=1", STATIC], ONE_SAMPLE, {"w": (1, 18, 6), "r": (1, 18, 6)}
    ),
    "several inputs with the batch on another axis": Case(
        """(float[5,3,4] x, float[1,3,6] h) => (float[1,3,6] last) {
            y, last = GRU<hidden_size=6>(x, w, r, "", "", h) }""",
        ["with --batch-axis x=1 --batch-axis h=1", STATIC],
        SAME_BATCH,
        {"w": (1, 18, 4), "r": (1, 18, 6)},
    ),
    "a setting beside a pair of samples": Case(
        "(float[2,70] x, float[1] t) => (float[2,70] y) { y = Mul(x, t) }",
        ["with --constant t=VALUE", STATIC],
        SAME_BATCH,
    ),
    "dynamic sizes on axis 0 and on the batch axis": Case(
        """(float["",""] x, float[2,"",6] h, int64 sr) => (float[2,"",6] next) <int64 known = {16000}> {
            e = Equal(sr, known) f = Cast<to=1>(e) m = ReduceMean<axes=[1], keepdims=1>(x) p = Mul(m, f)
            next = Add(h, p) }""".replace('""', "?"),
        ["with --batch-axis h=1 --batch-axis sr=none", "with --batch-axis h=1 --constant sr=16000"],
        EVERY_INPUT,
    ),
    "time in front": Case(
        "(float[7,1,3] x) => (float[7,1,3] y) <int64 zero = {0}> { y = CumSum(x, zero) }",
        ["with --batch-axis x=1", STATIC],
        ONE_SAMPLE,
    ),
    "one input that is one sample": Case(
        CAMERAS, ["with --batch-axis imgs=none", STATIC], ONE_SAMPLE, {"w": (4, 3, 3, 3), "f": (24, 10)}
    ),
    "samples folded into axis 0": Case(LOOK_UPS, ["with --batch-axis indices=0", STATIC], SAME_BATCH, {"e": (30, 4)}),
    "a mixing node": Case(MIXING, [PER_SAMPLE, STATIC]),
    "a mixing node and a symbolic batch": Case(MIXING_NAMED, ["with --batch-axis x=none", PER_SAMPLE, STATIC]),
    "a mixing node and several samples": Case(MIXING_OF_3, ["with --batch-axis x=none", STATIC], ONE_SAMPLE),
    "answers of no fixed size": Case(DROPS, [STATIC]),
    "an operator that ONNX Runtime cannot run": Case(
        """(float[1,4,4,4] x) => (float[1,4,4,4] y) { a = Softmax<axis=0>(x)
            y = com.microsoft.GroupNorm<activation=0, groups=2>(a, g, g) }""",
        [],
        f"export it without these nodes; {NOTHING}",
        {"g": (4,)},
    ),
    "one scale for several samples": Case(
        "(float[3,4] x) => (float[3,4] y) { q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }",
        ["with --batch-axis x=none", STATIC],
        f"{ONE_SAMPLE}, or publish the model in fp32 with --precision int8-dynamic, which takes a scale for each row",
    ),
    "random numbers": Case(
        "(float[1,4] x) => (float[1,4] y) { r = RandomNormalLike(x) y = Add(x, r) }",
        [],
        f"export it with the random numbers as an input, so that each request brings its own; {NOTHING}",
    ),
    "values dropped at random": Case(
        """(float[1,4] x) => (float[1,4] y) <float ratio = {0.5}> {
            training = Constant<value = bool {1}>() y = Dropout(x, ratio, training) }""",
        [],
        f"export it without these nodes; {NOTHING}",
    ),
    "one row at a time of several samples": Case(
        MIXING_OF_3,
        ["with --batch-axis x=none and without --per-sample",          "with --static and without --per-sample"],
        "export it with a batch of 1",
        given="--per-sample",
    ),
    "one row at a time in an old opset": Case(
        "(float[1,4] x) => (float[1,4] y) { y = Relu(x) }",
        ["without --per-sample"],
        "export it with opset 9 or newer",
        given="--per-sample",
        opset=8,
    ),
    "options that do not go with the ways": Case(
        "(float[1,4,6] x) => (float[1,4,6] y) { y = Softmax<axis=0>(x) }",
        [f"{PER_SAMPLE} and without --dynamic",
         f"{STATIC} and without --dynamic and --max-batch-size and --preferred-batch-size"],
        given="--dynamic x:1=length --max-batch-size 8 --preferred-batch-size 4",
    ),
    "the wrong axis": Case(
        "(float[7,3,4] x) => (float[7,3,4] y) <int64 zero = {0}> { y = CumSum(x, zero) }",
        ["with --batch-axis x=none", STATIC],
        ONE_SAMPLE,
    ),
    "an axis that an input does not have": Case(
        "(float[1,4] x) => (float[1,4] y) { y = Relu(x) }",
        ["without --batch-axis"],
        "name an axis from 0 to 1",
        given="--batch-axis x=2",
    ),
}  # fmt: skip


def write(path: Path, case: Case) -> Path:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {case.opset}, "com.microsoft": 1]> g {case.graph}'
    )
    rng = np.random.default_rng(0)
    for name, shape in (case.weights or {}).items():
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path, options: Sequence[str], *, repository: str = "repository") -> None:
    root = path.with_name(repository)
    cli.main(["publish", str(path), "--repository", str(root), *options], prog_name="builder", standalone_mode=False)


def ways_in(fix: str) -> list[str]:
    """Return the ways that a fix names, without their explanations."""
    named, is_named, _ = fix.removeprefix("publish it ").rpartition("; or export")
    named = named if is_named else fix.removeprefix("publish it ").rpartition("; or ")[0]
    return [re.sub(r" \([^()]*\)$", "", way) for way in named.split(", or ")] if fix.startswith("publish it") else []


def arguments(way: str, given: Sequence[str], inputs: Sequence[onnx.ValueInfoProto], folder: Path) -> list[str]:
    """Return the arguments that the user of a way would write."""
    added, _, removed = way.removeprefix("with ").partition("without ")
    left_out = set(removed.split(" and "))
    kept = [text for text, option in zip(given, ["", *given], strict=False) if not {text, option} & left_out]
    texts = [text.replace("=VALUE", "=1") for text in shlex.split(added.removesuffix(" and "))]
    for position, text in enumerate(texts):
        if text.endswith("=FILE.npy"):
            (dims,) = (i.type.tensor_type.shape.dim for i in inputs if i.name == text.removesuffix("=FILE.npy"))
            np.save(folder / "FILE.npy", np.ones([d.dim_value for d in dims], np.float32))
            texts[position] = text.replace("FILE.npy", str(folder / "FILE.npy"))
    return [*kept, *texts]


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_names_the_ways_that_work_and_they_work(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path, given = write(tmp_path / "m.onnx", case), case.given.split()
    with pytest.raises(ModelError) as refused:
        run(path, given)
    fix = refused.value.fix
    assert (ways_in(fix), fix.endswith(case.model)) == (list(case.ways), True), fix
    for way in case.ways:
        run(path, arguments(way, given, onnx.load(path).graph.input, tmp_path), repository=way)


def test_a_way_that_does_not_work_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", CASES["a mixing node and several samples"])
    with pytest.raises(BuilderError):
        run(path, arguments(PER_SAMPLE, [], onnx.load(path).graph.input, tmp_path))


def test_inspecting_names_the_same_ways(tmp_path: Path) -> None:
    case = CASES["a scalar"]
    found = api.inspect(write(tmp_path / "m.onnx", case))
    assert found.refusal is not None
    assert ways_in(found.refusal.fix) == case.ways


def refusal(path: Path, *, is_module: bool = False) -> BuilderError:
    with pytest.raises(BuilderError) as refused:
        publish(path, path.with_name("repository"), options=PublishOptions(), origin=Origin(is_module=is_module))
    return refused.value


def test_a_module_has_no_option_for_an_input(tmp_path: Path) -> None:
    case = CASES["an input without a batch beside one sample"]
    assert ways_in(refusal(write(tmp_path / "m.onnx", case), is_module=True).fix) == [STATIC]


@pytest.mark.parametrize("limit", [("TIME_BUDGET_S", -1.0), ("LARGEST_BYTES", 1)])
def test_what_was_not_tried_is_not_said_to_work(
    limit: tuple[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, *limit)
    fix = refusal(write(tmp_path / "m.onnx", CASES["a mixing node"])).fix
    assert fix == "export it without these nodes, or try --per-sample or --static (not tried here, to save time)"


def corrupt(monkeypatch: pytest.MonkeyPatch, change: Callable[[ir.Node], object]) -> None:
    """Let the pipeline change every node of the graph that it is about to prove."""

    def corrupted(model: Model, options: PublishOptions) -> BatchedModel:
        batched = make_batch_dynamic(model, options)
        for node in batched.ir.graph:
            change(node)
        return batched

    monkeypatch.setattr(pipeline, "make_batch_dynamic", corrupted)


def test_a_rewritten_model_that_is_wrong_asks_for_a_report_beside_the_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corrupt(monkeypatch, lambda node: setattr(node, "op_type", "Neg"))
    error = refusal(write(tmp_path / "m.onnx", Case("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }", [])))
    assert isinstance(error, VerificationError)
    assert ways_in(error.fix) == [PER_SAMPLE, STATIC]
    assert error.fix.endswith("or report this failure with that file")


def test_a_kept_model_that_mixes_samples_asks_for_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corrupt(monkeypatch, lambda node: node.attributes.update(axis=ir.Attr("axis", ir.AttributeType.INT, 0)))
    error = refusal(write(tmp_path / "m.onnx", Case("(float[N,4] x) => (float[N,4] y) { y = Softmax<axis=1>(x) }", [])))
    assert isinstance(error, VerificationError)
    assert ways_in(error.fix) == [PER_SAMPLE, STATIC]
    assert error.fix.endswith("or export it so that no row of a batch changes the answer to another")


@pytest.mark.parametrize(
    ("domain", "op_type"), [("TRT", "EfficientNMS_TRT"), ("", "BatchedNMS_TRT"), ("trt.plugins", "AnyNMS")]
)
def test_a_plugin_of_tensorrt_is_called_one(tmp_path: Path, domain: str, op_type: str) -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    node = onnx.helper.make_node(op_type, ["x"], ["y"], name="nms", domain=domain)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(domain or "com.microsoft", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]), opset_imports=opsets)
    onnx.save(model, tmp_path / "m.onnx")
    error = refusal(tmp_path / "m.onnx")
    assert error.what.startswith("plugins of TensorRT, which ONNX Runtime cannot run")
    assert error.what.endswith(f"{domain or 'ai.onnx'}::{op_type} (nms)")
    assert "--static" not in error.fix
