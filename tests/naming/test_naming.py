import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from support.by_hand import by_hand, original

from builder.batching import BatchedModel
from builder.errors import ModelError
from builder.naming import Contract, rename, stable_name
from builder.record import ServedTensor


@pytest.mark.parametrize(
    ("original_name", "count", "name"),
    [
        ("input_ids", 3, "input_ids"),
        ("X", 1, "X"),
        ("logits", 1, "logits"),
        ("input", 1, "input"),
        ("input_1", 1, "input_1"),
        ("output0", 1, "output0"),
        ("softmax", 1, "softmax"),
        ("box_2", 4, "box_2"),
        ("serving_default/image:0", 1, "image"),
        ("serving_default_image:0", 1, "serving_default_image"),
        ("StatefulPartitionedCall/logits", 1, "logits"),
        ("gpu_0/data_0", 1, "data_0"),
        ("images.1", 1, "images"),
        ("logits_274", 1, "logits"),
        ("my scores!", 1, "my_scores"),
        ("input.1", 1, None),
        ("input_7", 1, None),
        ("42", 1, None),
        ("batchnorm_274", 1, None),
        ("linear_12", 1, None),
        ("onnx::Gemm_0", 1, None),
        ("/fc/Gemm_output_0", 1, None),
        ("gpu_0/softmax_1", 1, None),
        ("StatefulPartitionedCall:1", 2, None),
        ("Identity:0", 1, None),
        ("val_12", 1, None),
    ],
)
def test_a_persons_name_is_kept_and_an_exporters_counter_is_not(
    original_name: str, count: int, name: str | None
) -> None:
    assert stable_name(original_name, count) == name


# ---------------------------------------------------------------- a first version


def two_by_two(folder: Path, inputs: Sequence[str] = ("a", "b"), outputs: Sequence[str] = ("s", "p")) -> BatchedModel:
    """Two inputs of the same type and shape, and their sum and their product."""
    a, b, s, p = (_quoted(name) for name in (*inputs, *outputs))
    text = f"g (float[1, 3] {a}, float[1, 3] {b}) => (float[1, 3] {s}, float[1, 3] {p}) {{"
    text += f" {s} = Add ({a}, {b}) {p} = Mul ({a}, {b}) }}"
    return by_hand(original(folder, text))


def _quoted(name: str) -> str:
    return f'"{name}"'


def names(batched: BatchedModel) -> tuple[list[str], list[str]]:
    """The names of inputs and outputs; the graph must agree with the record."""
    graph = batched.ir.graph
    inputs = [t.name for t in batched.inputs]
    served = [v.name for v in graph.inputs if v.name not in graph.initializers]
    assert served == inputs
    assert [v.name for v in graph.outputs] == [t.name for t in batched.outputs]
    return inputs, [t.name for t in batched.outputs]


def row(*values: float) -> np.ndarray[Any, Any]:
    return np.array([values], np.float32)


def run(batched: BatchedModel, *arrays: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(batched.ir).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = dict(zip((t.name for t in batched.inputs), arrays, strict=True))
    return list(session.run([t.name for t in batched.outputs], feeds))


@pytest.mark.parametrize(
    ("inputs", "outputs", "named"),
    [
        (("a", "b"), ("s", "p"), (["a", "b"], ["s", "p"])),
        (("input.1", "input.3"), ("42", "43"), (["input_0", "input_1"], ["output_0", "output_1"])),
        (("image", "onnx::Add_1"), ("sum", "45"), (["image", "input_1"], ["sum", "output_1"])),
        (("x/v", "y/v"), ("s", "p"), (["input_0", "input_1"], ["s", "p"])),
        (("v:0", "b"), ("out/v", "p"), (["v", "b"], ["output_0", "p"])),
        (("input_1", "42"), ("output_1", "43"), (["input_1", "input_1_"], ["output_1", "output_1_"])),
    ],
)
def test_inputs_and_outputs_get_stable_names_without_clash(
    tmp_path: Path, inputs: Sequence[str], outputs: Sequence[str], named: tuple[list[str], list[str]]
) -> None:
    batched = rename(two_by_two(tmp_path, inputs, outputs))
    assert names(batched) == named
    assert [t.original for t in batched.inputs] == list(inputs)
    assert [t.original for t in batched.outputs] == list(outputs)
    a, b = row(1, 2, 3), row(4, 5, 6)
    total, product = run(batched, a, b)
    assert (total == a + b).all()
    assert (product == a * b).all()


def test_the_caller_names_all_inputs_in_order_and_single_outputs(tmp_path: Path) -> None:
    batched = rename(two_by_two(tmp_path), input_names=["left", "right"], renames={"p": "product"})
    assert names(batched) == (["left", "right"], ["s", "product"])


def test_names_can_be_exchanged(tmp_path: Path) -> None:
    batched = rename(two_by_two(tmp_path), renames={"s": "p", "p": "s"})
    assert names(batched)[1] == ["p", "s"]
    total, _ = run(batched, row(1, 2, 3), row(4, 5, 6))
    assert total.tolist() == [[5, 7, 9]]


def test_a_default_name_gives_way_to_one_from_the_caller(tmp_path: Path) -> None:
    assert names(rename(two_by_two(tmp_path), renames={"a": "b"}))[0] == ["b", "input_1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_names": ["only"]}, r"--input-names needs 2 names, for a, b, but gives 1"),
        ({"output_names": ["x", "y", "z"]}, r"--output-names needs 2 names, for s, p, but gives 3"),
        ({"renames": {"q": "r"}}, r"no input or output 'q' to rename.*\n.*use one of a, b, s, p"),
        ({"input_names": ["x", "x"]}, r"would be named 'x'"),
        ({"renames": {"a": "s"}, "output_names": ["s", "p"]}, r"would be named 's'"),
        ({"renames": {"a": "two words"}}, r"'two words' is not a valid name"),
        ({"renames": {"a": ""}}, r"'' is not a valid name"),
        ({"renames": {"a": "../up"}}, r"'../up' is not a valid name"),
    ],
)
def test_unknown_invalid_and_repeated_names_are_refused(
    tmp_path: Path, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        rename(two_by_two(tmp_path), **options)


# ---------------------------------------------------------------- renaming every place in the graph


def test_an_inner_value_of_the_same_name_is_renamed(tmp_path: Path) -> None:
    text = """g (float[1, 3] x) => (float[1, 3] y) {
        image = Neg (x)
        image_inner = Neg (image)
        y = Add (image_inner, x)
    }"""
    batched = rename(by_hand(original(tmp_path, text)), renames={"x": "image"})
    assert names(batched) == (["image"], ["y"])
    assert run(batched, row(1, 2, 3))[0].tolist() == [[2, 4, 6]]


def test_subgraphs_use_the_new_name_of_an_input_and_their_own_values_are_renamed(tmp_path: Path) -> None:
    text = """g (float[1, 3] x) => (float[1, 3] y) {
        zero = Constant <value = float {0.0}> ()
        total = ReduceSum <keepdims = 0> (x)
        positive = Greater (total, zero)
        y = If (positive) <
            then_branch = yes () => (float[1, 3] image) { image = Mul (x, x) },
            else_branch = no () => (float[1, 3] z) { z = Neg (x) }
        >
    }"""
    batched = rename(by_hand(original(tmp_path, text)), renames={"x": "image", "y": "z"})
    assert names(batched) == (["image"], ["z"])
    assert run(batched, row(1, 2, 3))[0].tolist() == [[1, 4, 9]]
    assert run(batched, row(-1, -2, -3))[0].tolist() == [[1, 2, 3]]


def test_an_initializer_that_is_listed_as_an_input_is_renamed(tmp_path: Path) -> None:
    text = """g (float[1, 3] x, float[3] w) => (float[1, 3] y) <float[3] w = {1.0, 2.0, 3.0}> { y = Mul (x, w) }"""
    batched = rename(by_hand(original(tmp_path, text)), renames={"x": "w"})
    assert names(batched) == (["w"], ["y"])
    assert run(batched, row(1, 1, 1))[0].tolist() == [[1, 2, 3]]


def test_an_output_that_is_also_used_inside_is_renamed_there_too(tmp_path: Path) -> None:
    text = "g (float[1, 3] x) => (float[1, 3] h, float[1, 3] y) { h = Neg (x) y = Neg (h) }"
    batched = rename(by_hand(original(tmp_path, text)), renames={"h": "inverse"})
    assert names(batched) == (["x"], ["inverse", "y"])
    assert run(batched, row(1, 2, 3))[1].tolist() == [[1, 2, 3]]


PASSED_ON = "g (float[1, 3] x) => (float[1, 3] x, float[1, 3] y) { y = Neg (x) }"


def test_an_input_that_is_directly_an_output_keeps_its_name_on_both_sides(tmp_path: Path) -> None:
    batched = rename(by_hand(original(tmp_path, PASSED_ON)))
    assert names(batched) == (["x"], ["x", "y"])


def test_an_input_that_is_directly_an_output_can_have_two_names(tmp_path: Path) -> None:
    batched = rename(by_hand(original(tmp_path, PASSED_ON)), input_names=["image"], output_names=["same", "inverse"])
    assert names(batched) == (["image"], ["same", "inverse"])
    same, inverse = run(batched, row(1, 2, 3))
    assert same.tolist() == [[1, 2, 3]]
    assert inverse.tolist() == [[-1, -2, -3]]


def test_quantization_annotations_use_the_new_names(tmp_path: Path) -> None:
    model = original(tmp_path, "g (float[1, 3] x) => (float[1, 3] y) <float scale = {0.5}> { y = Mul (x, scale) }")
    proto = onnx.load(model.path)
    annotation = proto.graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    batched = by_hand(model)
    batched = BatchedModel(
        model, ir.from_proto(proto), batched.inputs, batched.outputs, static_batch=1, is_static=False, rewrites=()
    )
    renamed = ir.to_proto(rename(batched, renames={"x": "image", "y": "scale"}).ir)
    (annotation,) = renamed.graph.quantization_annotation
    assert annotation.tensor_name == "image"
    (parameter,) = annotation.quant_parameter_tensor_names
    assert parameter.value == renamed.graph.initializer[0].name != "scale"


def test_functions_keep_their_own_names(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[1, 3] x) => (float[1, 3] y) { y = own.twice (x) }
        <domain: "own", opset_import: ["" : 17]> twice (image) => (z) { z = Add (image, image) }"""
    )
    onnx.save(proto, tmp_path / "model.onnx")
    from builder.model import load

    batched = rename(by_hand(load(tmp_path / "model.onnx")), renames={"x": "image", "y": "z"})
    (function,) = ir.to_proto(batched.ir).functions
    assert (list(function.input), list(function.output)) == (["image"], ["z"])
    assert run(batched, row(1, 2, 3))[0].tolist() == [[2, 4, 6]]


# ---------------------------------------------------------------- a later version


@dataclass(frozen=True)
class Side:
    """One side of a contract, as (name, original, dim), and of a new model, as (name, dim); all are float32."""

    name: str
    served: Sequence[tuple[str, str, int]]
    new: Sequence[tuple[str, int]]
    mapped: Sequence[str] = ()
    refused: str = ""
    renames: Mapping[str, str] | None = None


SIDES = [
    Side("the same names", [("a", "a", 2), ("b", "b", 3)], [("a", 2), ("b", 3)], ["a", "b"]),
    Side("the same originals", [("image", "input.1", 2)], [("input.1", 2)], ["image"]),
    Side("other counters, dims that differ", [("a", "input.1", 2), ("b", "7", 3)], [("x.4", 2), ("9", 3)], ["a", "b"]),
    Side("other order, dims that differ", [("a", "a", 2), ("b", "b", 3)], [("9", 3), ("8", 2)], ["b", "a"]),
    Side("alike and counted: by order", [("a", "1", 2), ("b", "2", 2)], [("5", 2), ("6", 2)], ["a", "b"]),
    Side("counters that moved on: by order", [("a", "42", 2), ("b", "45", 2)], [("45", 2), ("48", 2)], ["a", "b"]),
    Side("alike and named: by name", [("a", "a", 2), ("b", "b", 2)], [("b", 2), ("a", 2)], ["b", "a"]),
    Side("alike, by original name", [("a", "left", 2), ("b", "right", 2)], [("right", 2), ("left", 2)], ["b", "a"]),
    Side("alike, one name left over", [("a", "a", 2), ("b", "b", 2)], [("a", 2), ("c", 2)], ["a", "b"]),
    Side("one name that was renamed", [("image", "image", 2)], [("picture", 2)], ["image"]),
    Side(
        "a caller's rename decides",
        [("a", "a", 2), ("b", "b", 2)],
        [("q", 2), ("r", 2)],
        ["b", "a"],
        renames={"q": "b", "r": "a"},
    ),
    Side(
        "alike, both names new",
        [("a", "a", 2), ("b", "b", 2)],
        [("q", 2), ("r", 2)],
        refused="'q', 'r' have the same data type and dimensions",
    ),
    Side(
        "alike, counters exchanged",
        [("a", "1", 2), ("b", "2", 2)],
        [("2", 2), ("1", 2)],
        refused="do not show which is which",
    ),
    Side("a dim changed", [("a", "a", 2)], [("a", 3)], refused="the data type or dimensions of an input changed"),
    Side(
        "dims exchanged between names",
        [("a", "a", 2), ("b", "b", 3)],
        [("a", 3), ("b", 2)],
        refused="'a' has the data type and dimensions of the served 'b'",
    ),
    Side("one more", [("a", "a", 2)], [("a", 2), ("b", 2)], refused="2 inputs instead of 1"),
    Side("one less", [("a", "a", 2), ("b", "b", 2)], [("a", 2)], refused="1 input instead of 2"),
    Side(
        "a rename to no served name",
        [("a", "a", 2)],
        [("q", 2)],
        refused="the served version has no input 'z'",
        renames={"q": "z"},
    ),
    Side(
        "a rename to other dims",
        [("a", "a", 2), ("b", "b", 3)],
        [("q", 2), ("r", 3)],
        refused="'q' cannot be renamed to 'b'",
        renames={"q": "b", "r": "a"},
    ),
]


def served(name: str, was: str, dim: int, data_type: str = "TYPE_FP32") -> ServedTensor:
    return ServedTensor(name, was, data_type, (dim,))


def with_inputs(folder: Path, new: Sequence[tuple[str, int]]) -> BatchedModel:
    """Return a model with these inputs and one output, the sum of them all."""
    inputs = ", ".join(f'float[1, {dim}] "{name}"' for name, dim in new)
    sums = " ".join(f'sum_{i} = ReduceSum <keepdims = 0> ("{name}")' for i, (name, _) in enumerate(new))
    total = ", ".join(f"sum_{i}" for i in range(len(new)))
    text = f"g ({inputs}) => (float[1] total) <int64[1] one = {{1}}> {{ {sums} all = Sum ({total}) "
    return by_hand(original(folder, text + "total = Reshape (all, one) }"))


TOTAL = ServedTensor("total", "total", "TYPE_FP32", ())


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_a_later_version_is_mapped_onto_the_contract_or_refused(tmp_path: Path, side: Side) -> None:
    batched = with_inputs(tmp_path, side.new)
    contract = Contract(tuple(served(*tensor) for tensor in side.served), (TOTAL,))
    if not side.refused:
        assert names(rename(batched, contract=contract, renames=side.renames))[0] == side.mapped
        return
    with pytest.raises(ModelError, match=re.escape(side.refused)) as refusal:
        rename(batched, contract=contract, renames=side.renames)
    assert refusal.value.exit_code == 3
    for name, _, dim in side.served:
        assert re.search(rf"input +{name} TYPE_FP32 \[{dim}\]", str(refusal.value)), "the served side is shown"
    for name, dim in side.new:
        assert re.search(rf"{name} TYPE_FP32 \[{dim}\]\n", str(refusal.value)), "this side is shown"
    assert "a new model with --name" in refusal.value.fix
    is_other_model = "instead of" in side.refused or "changed" in side.refused
    assert ("--rename OLD=NEW" in refusal.value.fix) == (not is_other_model), "renaming does not make it fit"


def test_a_data_type_that_changed_is_refused(tmp_path: Path) -> None:
    contract = Contract((served("a", "a", 2, "TYPE_FP16"),), (TOTAL,))
    with pytest.raises(ModelError, match="the data type or dimensions of an input changed"):
        rename(with_inputs(tmp_path, [("a", 2)]), contract=contract)


def test_outputs_must_match_the_contract_too(tmp_path: Path) -> None:
    contract = Contract((served("a", "a", 2),), (ServedTensor("scores", "42", "TYPE_FP32", (1,)),))
    batched = rename(with_inputs(tmp_path, [("9", 2)]), contract=contract)
    assert names(batched) == (["a"], ["scores"]), "a row of rank 0 is one of dims [1] to clients"
    two = Contract((served("a", "a", 2),), (TOTAL, TOTAL))
    with pytest.raises(ModelError, match="1 output instead of 2"):
        rename(with_inputs(tmp_path, [("9", 2)]), contract=two)
