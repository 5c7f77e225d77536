import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.by_hand import by_hand, original

from builder.batching import keep_static
from builder.errors import ModelError
from builder.model import load
from builder.samples import domains, draw, numbers, positions, reach, read_samples, uses
from builder.samples.domains import Domains
from builder.samples.kinds import (
    Around,
    Choices,
    Domain,
    Integers,
    Lengths,
    Mask,
    Normal,
    Unit,
    in_words,
    list_in_words,
)

MODELS = Path(__file__).parents[1] / "models"

TABLE = "<float[7, 3] table>"
DOMAINS: list[tuple[str, str, str, Domain]] = [
    # Case; inputs; nodes up to y; the domain of x. `table` has 7 rows, `small` has 4, `one` is 1 and `t` is -10000.
    ("an index stays in its table", "int64[1, 5] x", "y = Gather (table, x)", Integers(0, 6)),
    ("along the right axis", "int64[1, 5] x", "y = Gather <axis = 1> (table, x)", Integers(0, 2)),
    ("the smallest of several tables", "int64[1, 5] x", "a = Gather (table, x) y = Gather (small, x)", Integers(0, 3)),
    ("through casts and shapes", "int32[1, 5] x",
     "a = Cast <to = 7> (x) five = Constant <value_ints = [5]> () b = Reshape (a, five) y = Gather (table, b)",
     Integers(0, 6)),
    ("as a float", "float[1, 5] x", "a = Cast <to = 7> (x) y = Gather (table, a)", Integers(0, 6)),
    ("with an offset", "int64[1, 5] x", "a = Add (x, one) y = Gather (table, a)", Integers(0, 5)),
    ("with an offset below zero", "int64[1, 5] x", "a = Sub (x, one) y = Gather (table, a)", Integers(1, 7)),
    ("with an offset for every row", "int64[3] x",
     "r = Constant <value_ints = [0, 1, 2]> () s = Shape (table) i = Constant <value_int = 1> () n = Gather (s, i) "
     "b = Mul (r, n) j = Sub (x, one) a = Add (j, b) y = Gather (table, a)", Integers(1, 1)),
    ("a difference of two parts", "int64[1, 2] x",
     "l, r = Split <axis = 1> (x) d = Sub (l, r) y = Gather (table, d)", Integers(0, 6)),
    ("a sum of two parts", "int64[1, 2] x",
     "l, r = Split <axis = 1> (x) d = Add (l, r) y = Gather (table, d)", Integers(0, 3)),
    ("a multiple", "int64[1, 5] x", "two = Constant <value_int = 2> () a = Mul (x, two) y = Gather (table, a)",
     Integers(0, 3)),
    ("a remainder needs no bound", "int64[1, 5] x",
     "seven = Constant <value_int = 7> () a = Mod (x, seven) y = Gather (table, a)", Integers(0, 9)),
    ("behind a start token", "int64[1, 5] x",
     "s = Constant <value_ints = [0]> () s2 = Unsqueeze (s, s) a = Concat <axis = 1> (s2, x) y = Gather (table, a)",
     Integers(0, 6)),
    ("elements", "int64[1, 3] x", "y = GatherElements (table, x)", Integers(0, 6)),
    ("tuples", "int64[1, 2] x", "y = GatherND (table, x)", Integers(0, 2)),
    ("scattered to", "int64[1, 3] x, float[1, 3] u", "y = ScatterElements (table, x, u)", Integers(0, 6)),
    ("one hot", "int64[1, 5] x",
     "d = Constant <value_int = 9> () v = Constant <value_floats = [0.0, 1.0]> () y = OneHot (x, d, v)",
     Integers(0, 8)),
    ("labels of a loss", "int64[1] x, float[1, 5] s", "y = SoftmaxCrossEntropyLoss (s, x)", Integers(0, 4)),
    ("inside a branch", "int64[1, 5] x, bool c", "y = If (c) <"
     "then_branch = a () => (float[1, 5, 3] p) { p = Gather (table, x) }, "
     "else_branch = b () => (float[1, 5, 3] q) { q = Gather (small, x) }>", Integers(0, 3)),
    ("a mask to hide by a penalty", "float[1, 5] x", "a = Sub (one_f, x) y = Mul (a, t)", Mask()),
    ("a mask of whole numbers, cast", "int64[1, 5] x", "y = Cast <to = 9> (x)", Mask()),
    ("a mask, compared", "int64[1, 5] x", "zero = Constant <value_int = 0> () y = Equal (x, zero)", Mask()),
    ("a mask that weighs", "int64[1, 5] x, float[1, 5] h", "a = Cast <to = 1> (x) y = Mul (a, h)", Mask()),
    ("a mask that is counted", "int64[1, 5] x",
     "i = Constant <value_int = 1> () a = CumSum (x, i) y = Gather (table, a)", Mask()),
    ("a rate of sound", "int64[1] x", "r = Constant <value_int = 16000> () y = Equal (x, r)", Choices((16000, 0))),
    ("a boolean", "bool[1, 5] x", "y = Not (x)", Mask()),
    ("token ids beside a padding id", "int64[1, 5] x", "p = Equal (x, one) y = Gather (table, x)",
     Around(Integers(0, 6), (1,), (1,))),
    ("token ids beside a number that is none", "int64[1, 5] x",
     "c = Constant <value_int = 99> () p = Equal (x, c) y = Gather (table, x)", Integers(0, 6)),
    ("an order of whole numbers", "int64[1] x",
     "c = Constant <value_int = 5> () y = Greater (x, c)", Choices((5, 0, 6, 4))),
    ("one of several whole numbers", "int64[1] x",
     "a = Constant <value_int = 1> () b = Constant <value_int = 2> () p = Equal (x, a) q = Equal (x, b) y = Or (p, q)",
     Choices((1, 2, 0))),
    ("one of a list", "int64[1, 1] x", "c = Constant <value_ints = [3, 7, 9]> () y = Equal (x, c)",
     Choices((3, 7, 9, 0))),
    ("one of all kinds", "int64[1, 1] x", "c = Constant <value_ints = [0, 1, 2, 3]> () y = Equal (c, x)",
     Integers(0, 3)),
    ("lengths, compared with positions", "int64[1, 1] x",
     "c = Constant <value_ints = [0, 1, 2, 3, 4]> () y = Less (c, x)", Lengths(5)),
    ("whole numbers, compared and computed with", "int64[1, 4] x",
     "c = Constant <value_int = 20> () p = Greater (x, c) f = Cast <to = 1> (x) y = Where (p, f, one_f)",
     Around(Integers(0, 31), (20,), (20,))),
    ("booleans that are data", "bool[1, 4] x", "f = Cast <to = 1> (x) y = MatMul (f, w4)", Around(Integers(0, 1))),
    ("booleans that are data and choose", "bool[1, 4] x",
     "f = Cast <to = 1> (x) z = Where (x, one_f, t) y = Add (f, z)", Around(Integers(0, 1), has_masks=True)),
    ("a mask that is squared", "int64[1, 4] x",
     "a = Unsqueeze (x, one) b = Mul (x, a) y = Cast <to = 9> (b)", Mask()),
    ("a mask that is subtracted as a penalty", "float[1, 4] x, float[1, 4] h",
     "a = Sub (one_f, x) b = Constant <value_float = 1e9> () p = Mul (a, b) y = Sub (h, p)", Mask()),
    ("a mask that weighs a mean", "float[1, 4] x, float[1, 4] h",
     "z = Constant <value_float = 0.0> () k = Greater (x, z) p = Mul (x, h) s = ReduceSum (x) y = Div (p, s)", Mask()),
    ("a mask that counts positions", "float[1, 4] x",
     "z = Constant <value_float = 0.0> () k = Greater (x, z) s = CumSum (x, one) i = Cast <to = 7> (s) "
     "y = Gather (table, i)", Mask()),
    ("a float that only chooses", "float[1, 5] x",
     "z = Constant <value_float = 0.0> () k = Greater (x, z) y = Where (k, one_f, t)",
     Around(Normal(), (0.0,), (0.0,), has_masks=True)),
    ("a float that is compared and returned", "float[1, 5] x",
     "z = Constant <value_float = 0.0> () k = Greater (x, z) s = Mul (x, one_f) y = Where (k, x, s)",
     Around(Normal(), (0.0,), (0.0,))),
    ("a float times its own side", "float[1, 5] x",
     "z = Constant <value_float = 0.0> () k = Greater (x, z) f = Cast <to = 1> (k) y = Mul (x, f)",
     Around(Normal(), (0.0,), (0.0,))),
    ("a float that is returned beside what looks like a penalty", "float[1, 5] x",
     "z = Constant <value_float = 0.0> () k = Greater (x, z) p = Mul (x, t) y = Where (k, x, p)",
     Around(Normal(), (0.0,), (0.0,), has_masks=True)),
    ("a float in other units", "float[1, 5] x",
     "m = Constant <value_float = 1000000.0> () y = Mul (x, m)", Normal()),
    ("a float, compared behind a scale and an offset", "float[1, 5] x",
     "two = Constant <value_float = 2.0> () a = Mul (x, two) b = Sub (a, one_f) c = Constant <value_float = 5.0> () "
     "k = Less (b, c) y = Where (k, b, one_f)", Around(Normal(), (3.0,))),
    ("a float, compared with zeros like it", "float[1, 5] x",
     "s = Shape (x) z = ConstantOfShape (s) k = Less (x, z) n = Neg (x) y = Where (k, n, x)",
     Around(Normal(), (0.0,), (0.0,))),
    ("a float that is cut off", "float[1, 5] x",
     "z = Constant <value_float = 0.0> () six = Constant <value_float = 6.0> () y = Clip (x, z, six)",
     Around(Normal(), (0.0, 6.0), (0.0, 6.0))),
    ("a float that may be missing", "float[1, 5] x", "k = IsNaN (x) y = Where (k, one_f, x)",
     Around(Normal(), special=(math.nan,))),
    ("a float that may differ from itself", "float[1, 5] x", "k = Equal (x, x) y = Where (k, x, one_f)",
     Around(Normal(), special=(math.nan,))),
    ("a float that may be infinite", "float[1, 5] x",
     "k = IsInf <detect_negative = 0> (x) y = Where (k, one_f, x)", Around(Normal(), special=(math.inf,))),
    ("a float beside what stands for infinity", "float[1, 5] x",
     "z = Constant <value_float = -1e9> () k = Less (x, z) y = Where (k, one_f, x)", Normal()),
    ("a float that is returned out of a branch", "float[1, 5] x, bool c",
     "z = Constant <value_float = 0.0> () k = Greater (x, z) y = If (c) <"
     "then_branch = a () => (float[1, 5] p) { p = Identity (x) }, "
     "else_branch = b () => (float[1, 5] q) { q = Where (k, one_f, t) }>", Around(Normal(), (0.0,), (0.0,))),
    ("a float that leaves a loop", "float[1, 5] x, int64 n, bool c",
     "z = Constant <value_float = 0.0> () k = Greater (x, z) y = Loop (n, c, x) <"
     "body = b (int64 i, bool c_in, float[1, 5] v) => (bool c_out, float[1, 5] o) "
     "{ c_out = Identity (c_in) o = Identity (v) }>", Around(Normal(), (0.0,), (0.0,))),
    ("lengths of sequences", "float[9, 1, 2] s, int32[1] x",
     "y, h = GRU <hidden_size = 1> (s, w, w3, , x)", Lengths(9)),
    ("lengths, where the shape is not written down", "float[1, 9, 2] s, int64[1] x",
     "st = Transpose <perm = [1, 0, 2]> (s) n = Cast <to = 6> (x) y, h = GRU <hidden_size = 1> (st, w, w3, , n)",
     Lengths(9)),
    ("pixels", "uint8[1, 3, 4, 4] x", "y = Cast <to = 1> (x)", Integers(0, 255)),
    ("signed bytes", "int8[1, 4] x", "y = Cast <to = 1> (x)", Integers(-128, 127)),
    ("other whole numbers", "int64[1, 4] x", "y = Cast <to = 1> (x)", Integers(0, 9)),
    ("features", "float[1, 4] x", "y = Neg (x)", Normal()),
    ("half features", "float16[1, 4] x", "y = Neg (x)", Normal()),
    ("positive features", "float[1, 4] x", "y = Log (x)", Unit()),
    ("strings", "string[1, 2] x", "y = Identity (x)", Choices(
        ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"))),
    ("strings of an encoder", "string[1, 2] x",
     'y = ai.onnx.ml.LabelEncoder <keys_strings = ["cat", "dog"], values_floats = [0.0, 1.0]> (x)',
     Choices(("cat", "dog"))),
    ("a raw mask of a fused attention", "float[1, 5, 4] s, int32[1, 5] x",
     "y = com.microsoft.Attention <num_heads = 2> (s, w4, b4, x)", Mask()),
    ("lengths of a fused attention", "float[1, 5, 4] s, int32[1] x",
     "y = com.microsoft.Attention <num_heads = 2> (s, w4, b4, x)", Lengths(5)),
]  # fmt: skip

WEIGHTS = (
    "<int64 one = {1}, float one_f = {1.0}, float t = {-10000.0}, "
    + ", ".join(
        f"float[{', '.join(map(str, shape))}] {name} = {{{', '.join(['0.5'] * int(np.prod(shape)))}}}"
        for name, shape in {
            "table": (7, 3), "small": (4, 3), "w": (1, 3, 2), "w3": (1, 3, 1), "w4": (4, 12), "b4": (12,),
        }.items()
    )
    + ">"
)  # fmt: skip


@pytest.mark.parametrize(("inputs", "body", "domain"), [c[1:] for c in DOMAINS], ids=[c[0] for c in DOMAINS])
def test_the_graph_shows_what_an_input_may_hold(tmp_path: Path, inputs: str, body: str, domain: Domain) -> None:
    model = original(tmp_path, f"g ({inputs}) => (float[1] y) {WEIGHTS} {{ {body} }}")
    assert Domains(model).at()["x"] == domain


def test_every_operator_in_a_table_is_in_the_domain_that_it_is_listed_under() -> None:
    tables: list[Any] = [
        positions.INDEX_INPUTS,
        positions.LENGTH_INPUTS,
        positions.MASK_INPUTS,
        numbers.LIKE,
        *(table for name, table in vars(uses).items() if name.isupper() and isinstance(table, frozenset | dict)),
        domains.POSITIVE_ONLY,
        reach.KEEPS_VALUES,
        reach.SELECTS_VALUES,
        reach.ARITHMETIC,
        reach.RESHAPES,
    ]
    listed = {(domain, op_type) for table in tables for domain, op_type, *_ in table}
    assert {key for key in listed if key[0] != "com.microsoft" and not onnx.defs.has(key[1], key[0])} == set()


def test_indices_are_followed_into_functions(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (int64[1, 5] x) => (float[1, 5, 2] y) <float[2, 2] table = {1.0, 2.0, 3.0, 4.0}> { y = own.embed (table, x) }
        <domain: "own", opset_import: ["" : 17]> embed (t, ids) => (z) { z = Gather (t, ids) }"""
    )
    onnx.save(proto, tmp_path / "model.onnx")
    assert Domains(load(tmp_path / "model.onnx")).at()["x"] == Integers(0, 1)


@pytest.mark.parametrize(
    "entry", json.loads((MODELS / "manifest.json").read_text())["models"], ids=lambda entry: str(entry["stem"])
)
def test_the_domains_of_exported_models_are_the_ones_that_they_were_made_for(entry: dict[str, Any]) -> None:
    found = Domains(load(MODELS / entry["file"])).at()
    for tensor in entry["inputs"]:
        sample = tensor["sample"]
        expected: dict[str, Domain] = {
            "normal": Normal(),
            "randint": Integers(0, sample.get("high", 0) - 1),
            "mask": Mask(),
            "bool": Mask(),
        }
        domain = found[tensor["name"]]
        assert (domain.base if isinstance(domain, Around) else domain) == expected[sample["kind"]], tensor["name"]


# ---------------------------------------------------------------- drawing


def drawn(folder: Path, inputs: str, body: str = "y = Identity (x)", rows: int = 16) -> list[np.ndarray[Any, Any]]:
    """Return the samples of x, from the first set to the most cautious."""
    model = original(folder, f"g ({inputs}) => (float[1] y) {WEIGHTS} {{ {body} }}")
    return [samples["x"] for samples in draw(by_hand(model), rows=rows)]


def test_drawn_rows_differ_and_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = (drawn(tmp_path, "float[1, 3, 4] x")[0] for _ in range(2))
    assert first.shape == (16, 3, 4)
    assert first.dtype == np.float32
    assert len(np.unique(first, axis=0)) == 16
    assert (first == second).all()


def test_drawn_indices_reach_both_ends_of_the_table(tmp_path: Path) -> None:
    ids = drawn(tmp_path, "int64[1, 5] x", "y = Gather (table, x)", rows=32)[0]
    assert (ids.min(), ids.max(), ids.dtype) == (0, 6, np.int64)


def test_a_drawn_mask_is_right_padded_and_never_empty(tmp_path: Path) -> None:
    mask = drawn(tmp_path, "int64[1, 6] x", "y = Cast <to = 9> (x)", rows=32)[0]
    assert set(np.unique(mask)) == {0, 1}
    assert (np.diff(mask, axis=1) <= 0).all(), "ones, then zeros"
    assert (mask.sum(axis=1) >= 3).all()
    assert mask[0].all()
    assert len(np.unique(mask, axis=0)) > 1


def test_a_drawn_boolean_mask_hides_some_and_shows_some_whatever_true_means(tmp_path: Path) -> None:
    mask = drawn(tmp_path, "bool[1, 6] x", "y = Not (x)", rows=32)[0]
    assert mask.dtype == np.bool_
    assert mask.any(axis=1).all()
    assert not mask.all(axis=1).any()


def test_a_mask_of_one_number_a_row_is_never_hidden(tmp_path: Path) -> None:
    assert (drawn(tmp_path, "int64[1] x", "y = Cast <to = 9> (x)")[0] == 1).all()


def test_drawn_lengths_are_at_least_one_and_one_is_the_longest(tmp_path: Path) -> None:
    inputs, body = "float[9, 1, 2] s, int32[1] x", "y, h = GRU <hidden_size = 1> (s, w, w3, , x)"
    model = original(tmp_path, f"g ({inputs}) => (float[1] y) {WEIGHTS} {{ {body} }}")
    first, *_, last = (samples["x"] for samples in draw(by_hand(model, axes={"s": 1}), rows=32))
    assert (first.min(), first.max()) == (1, 9)
    assert (last == 9).all(), "the most cautious are full"


def test_each_further_draw_is_more_cautious(tmp_path: Path) -> None:
    whole = drawn(tmp_path, "int64[1, 4] x", "y = Cast <to = 1> (x)")
    assert [int(x.max()) for x in whole] == [9, 1]
    features = drawn(tmp_path, "float[1, 4] x", "y = Neg (x)")
    assert [bool((x < 0).any()) for x in features] == [True, False]
    mask = drawn(tmp_path, "bool[1, 4] x", "y = Not (x)")
    assert [(bool(x.any()), bool(x.all())) for x in mask] == [(True, False), (False, False), (True, True)]


@pytest.mark.parametrize(
    ("tensor", "stored"),
    [("float16", np.float16), ("double", np.float64), ("bfloat16", np.uint16), ("string", np.str_)],
)
def test_samples_are_drawn_as_they_are_stored(tmp_path: Path, tensor: str, stored: type) -> None:
    values = drawn(tmp_path, f"{tensor}[1, 4] x")[0]
    assert values.dtype.type is stored
    assert len(np.unique(values, axis=0)) > 1


def test_dynamic_dimensions_have_the_given_sizes_and_one_name_has_one_size(tmp_path: Path) -> None:
    model = original(
        tmp_path,
        'g (float["batch", "n", 3] x, float["batch", "n"] z) => (float["batch", "n", 3] y) { y = Neg (x) }',
    )
    for sizes, size in (({"n": 5}, 5), ({}, 32)):
        for drawn in draw(by_hand(model), rows=4, sizes=sizes):
            assert drawn["x"].shape == (4, size, 3)
            assert drawn["z"].shape == (4, size)


def test_a_model_that_is_kept_static_is_drawn_whole_requests(tmp_path: Path) -> None:
    model = original(tmp_path, "g (float[2, 3] x) => (float[2, 3] y) { y = Neg (x) }")
    assert next(draw(keep_static(model), rows=4))["x"].shape == (4, 2, 3)


LEAKY = "z = Constant <value_float = 0.0> () k = Greater (x, z) s = Add (x, one_f) y = Where (k, x, s)"


def test_both_sides_of_a_point_are_drawn_as_whole_rows_and_inside_one_row(tmp_path: Path) -> None:
    first, second, *_ = drawn(tmp_path, "float[1, 6] x", LEAKY, rows=8)
    assert (first[0] == second[0]).all(), "the first row is a usual one: it is sent when a server warms up"
    below, above, on = (first < 0), (first > 0), (first == 0)
    assert below.all(axis=1).any()
    assert above.all(axis=1).any()
    assert (below.any(axis=1) & above.any(axis=1) & on.any(axis=1)).any()
    assert not on.all(axis=1).any()
    assert not (second == 0).any(), "the next ones are usual values only"


def test_four_rows_are_enough_for_both_sides(tmp_path: Path) -> None:
    first, *_ = drawn(tmp_path, "float[1, 6] x", LEAKY, rows=4)
    assert (first < 0).all(axis=1).any()
    assert (first > 0).all(axis=1).any()


def test_rows_that_a_model_takes_together_are_on_one_side_together(tmp_path: Path) -> None:
    model = original(tmp_path, f"g (float[4, 3] x) => (float[4, 3] y) {WEIGHTS} {{ {LEAKY} }}")
    samples = next(draw(by_hand(model, static_batch=4), rows=32))["x"].reshape(8, 4, 3)
    assert (samples < 0).all(axis=(1, 2)).any()
    assert (samples > 0).all(axis=(1, 2)).any()


@pytest.mark.parametrize(("inputs", "body", "low", "high"), [
    ("float[1, 6] x", "y = Neg (x)", 0, 0),
    ("int64[1, 6] x", "y = Gather (table, x)", 3, 3),
])  # fmt: skip
def test_a_traced_model_is_drawn_on_both_sides_though_its_graph_shows_none(
    tmp_path: Path, inputs: str, body: str, low: float, high: float
) -> None:
    model = original(tmp_path, f"g ({inputs}) => (float[1] y) {WEIGHTS} {{ {body} }}")
    traced, plain, *_ = draw(by_hand(model), rows=16, is_traced=True)
    assert (traced["x"] < low).all(axis=1).any()
    assert (traced["x"] > high).all(axis=1).any()
    assert (plain["x"] == next(draw(by_hand(model), rows=16))["x"]).all()
    if traced["x"].dtype.kind == "f":  # PyTorch and ONNX Runtime sort equal values in another order
        assert all(len(set(row)) == len(row) for row in traced["x"])


def test_token_ids_end_in_padding_in_some_rows_and_stay_inside_their_table(tmp_path: Path) -> None:
    first, *_ = drawn(tmp_path, "int64[1, 6] x", "p = Equal (x, one) y = Gather (table, x)", rows=32)
    padded = (first[:, -2:] == 1).all(axis=1)
    assert 2 <= padded.sum() <= 16
    assert (first.min(), first.max()) == (0, 6)
    assert not (first == 1).all(axis=1).any()


def test_masks_and_other_numbers_are_both_drawn_where_the_graph_does_not_tell_them_apart(tmp_path: Path) -> None:
    body = "z = Constant <value_float = 0.0> () k = Greater (x, z) y = Where (k, one_f, t)"
    first, second, *_ = drawn(tmp_path, "float[1, 6] x", body, rows=16)
    is_mask = np.isin(first, [0, 1]).all(axis=1) & (np.diff(first, axis=1) <= 0).all(axis=1)
    assert is_mask[0]
    assert 4 <= is_mask.sum() <= 8
    assert (first < 0).all(axis=1).any()
    assert np.isin(second, [0, 1]).all()


def test_nan_and_infinity_are_drawn_only_for_models_that_test_for_them(tmp_path: Path) -> None:
    first, second, *_ = drawn(tmp_path, "float[1, 20] x", "k = IsNaN (x) y = Where (k, one_f, x)", rows=8)
    assert 0 < np.isnan(first).mean() < 0.2
    assert not np.isnan(first[0]).any()
    assert np.isfinite(second).all()
    assert not np.isinf(first).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double", "int8", "uint8", "int32", "uint64", "bool"])
def test_points_that_a_type_cannot_hold_are_not_drawn(tmp_path: Path, dtype: str) -> None:
    body = (
        "f = Cast <to = 1> (x) a = Constant <value_float = 50000.0> () b = Constant <value_float = -300.0> () "
        "k = Greater (f, a) l = Less (f, b) p = Or (k, l) y = Where (p, f, one_f)"
    )
    with np.errstate(all="raise"):
        first, *_ = drawn(tmp_path, f"{dtype}[1, 6] x", body, rows=16)
    assert len(np.unique(first, axis=0)) > 1


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (Normal(), "normal"),
        (Integers(0, 1999), "0..1999"),
        (Mask(), "0/1"),
        (Lengths(9), "lengths 1..9"),
        (Choices((16000, 0)), "16000/0"),
        (Choices(("alpha", "bravo", "charlie", "delta", "echo", "foxtrot")), "alpha/bravo/charlie/delta and 2 more"),
        (Around(Integers(0, 1999), (1,), (1,)), "0..1999 and around 1"),
        (Around(Normal(), (0.0, 0.7), special=(math.nan,), has_masks=True), "0/1 and normal and around 0, 0.7 and nan"),
    ],
)
def test_what_was_drawn_is_said_in_a_few_words(domain: Domain, words: str) -> None:
    assert in_words(domain) == words


def test_inputs_of_one_kind_are_listed_together() -> None:
    drawn = {"ids": "0..1999", **{f"past_{k}": "normal" for k in range(48)}, "mask": "0/1"}
    assert list_in_words(drawn) == "ids: 0..1999; past_0, past_1, past_2, past_3 and 44 more: normal; mask: 0/1"


# ---------------------------------------------------------------- samples from a file

IDS = np.arange(6, dtype=np.int64).reshape(3, 2)
X = np.ones((3, 4), np.float32)


def read(folder: Path, **arrays: Any) -> dict[str, np.ndarray[Any, Any]]:
    text = "g (float[1, 4] x, int64[1, 2] ids) => (float[1, 4] y, int64[1, 2] z) { y = Neg (x) z = Neg (ids) }"
    np.savez(folder / "own.npz", **arrays)
    batched = by_hand(original(folder, text)).renamed({"x": "image"})
    return read_samples(folder / "own.npz", batched)


@pytest.mark.parametrize("name", ["x", "image", "input:x", "input:image"])
def test_samples_are_found_by_any_name_of_their_input(tmp_path: Path, name: str) -> None:
    samples = read(tmp_path, **{name: X, "ids": IDS, "labels": np.arange(3)})
    assert samples.keys() == {"image", "ids"}
    assert (samples["ids"] == IDS).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, r"no array for input 'ids'; the file has x\n.*ids of type and shape int64\[rows, 2\]"),
        ({"x": X.astype(np.float64), "ids": IDS}, r"input 'image' is float64\[3, 4\]\n.*give it as float32\[rows, 4\]"),
        ({"x": X[:, :3], "ids": IDS}, r"input 'image' is float32\[3, 3\]"),
        ({"x": X[0], "ids": IDS}, r"input 'image' is float32\[4\]"),
        ({"x": X, "ids": IDS[:2]}, r"different numbers of rows: image 3, ids 2"),
        ({"x": X[:1], "ids": IDS[:1]}, r"too few rows"),
        ({"x": np.array([None]), "ids": IDS}, r"cannot be read"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path, **arrays)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    batched = by_hand(original(tmp_path, "g (float[1, 4] x) => (float[1, 4] y) { y = Neg (x) }"))
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        read_samples(tmp_path / "own.npz", batched)
    np.save(tmp_path / "own.npy", X)
    with pytest.raises(ModelError, match="single array without a name"):
        read_samples(tmp_path / "own.npy", batched)
    with pytest.raises(ModelError, match="No such file"):
        read_samples(tmp_path / "missing.npz", batched)
