"""A row's answer may not depend on the rows beside it, however little, and however unlike samples these are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.by_hand import by_hand, original

from builder.errors import VerificationError
from builder.proof import Prover, VerifiedModel, verify
from builder.proof.comparison import Tolerance, rounding_for
from builder.proof.neighbours import prove_extreme_neighbours
from builder.tensors import Arrays

CONSTANTS = """<float scale = {0.05}, float part = {0.02}, float hundred = {100.0}, float one = {1.0},
    float tiny = {1e-8}, int64[1] first = {0}, int64[1] second = {1}, int64[1] last = {99}>"""
QUANTIZED = "q = QuantizeLinear (x, scale) d = DequantizeLinear (q, scale)"


def prove(folder: Path, body: str, *, output: str = "float[N, 4] y", **options: object) -> VerifiedModel:
    """Prove that a model with a symbolic batch answers, unchanged, in a batch what it answers to each row alone."""
    text = f"g (float[N, 4] x) => ({output}) {CONSTANTS} {{ {body} }}"
    kept = replace(by_hand(original(folder, text)), is_kept=True)
    return verify(kept, max_batch_size=8, failure_dir=folder, **options)  # type: ignore[arg-type]


LEAKS = {
    "a part of the batch's mean, less than a step of quantization": f"""{QUANTIZED}
        m = ReduceMean <axes = [0]> (d) p = Mul (m, part) y = Sub (d, p)""",
    "one scale for the whole batch": """q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z)""",
    "the largest row, above a threshold": """m = ReduceMax <axes = [0]> (x) f = Greater (m, hundred)
        a = Add (x, one) y = Where (f, a, x)""",
    "the smallest row, below a threshold": """m = ReduceMin <axes = [0]> (x) s = Add (m, hundred) n = Neg (s)
        f = Greater (n, one) a = Add (x, one) y = Where (f, a, x)""",
    "the first row, above a threshold": """r = Gather <axis = 0> (x, first) m = Abs (r) f = Greater (m, hundred)
        a = Add (x, one) y = Where (f, a, x)""",
    "the next row, above a threshold": """t = Slice (x, second, last, first) h = Slice (x, first, second, first)
        r = Concat <axis = 0> (t, h) m = Abs (r) f = Greater (m, hundred) a = Add (x, one)
        y = Where (f, a, x)""",
    "a part of the batch's mean, in half precision": """b = Tanh (x) c = Cast <to = 10> (b)
        m = ReduceMean <axes = [0]> (c) k = Cast <to = 10> (part) p = Mul (m, k)
        d = Sub (c, p) y = Cast <to = 1> (d)""",
}


@pytest.mark.parametrize("body", LEAKS.values(), ids=LEAKS)
def test_what_leaks_from_other_rows_is_noticed(tmp_path: Path, body: str) -> None:
    with pytest.raises(VerificationError, match=r"output 'y' (changes in row \d when other rows|differs)") as refusal:
        prove(tmp_path, body)
    assert list(tmp_path.glob("*.failed.npz")), refusal.value
    assert "report" not in refusal.value.fix


@pytest.mark.parametrize(
    "body",
    [
        QUANTIZED + " y = Mul (d, part)",
        "m = ReduceMax <axes = [1]> (x) f = Greater (m, hundred) a = Add (x, one) y = Where (f, a, x)",
        "h = Cast <to = 10> (x) t = Tanh (h) y = Cast <to = 1> (t)",
        "e = Exp (x) s = Sub (e, e) y = Add (s, x)",  # inf - inf = NaN, in the rows with large values
    ],
)
def test_rows_of_their_own_are_right_beside_any_others(tmp_path: Path, body: str) -> None:
    assert prove(tmp_path, body).proof.batch_sizes


@pytest.mark.parametrize(
    "body",
    [
        "m = IsNaN (x) y = Where (m, one, x)",
        "m = IsInf (x) y = Where (m, one, x)",
        "m = IsInf (x) n = Cast <to = 1> (m) y = Add (n, x)",
        "m = Equal (x, one) n = Log (x) y = Where (m, n, x)",
    ],
)
def test_rows_with_nan_or_infinity_are_proven_without_a_warning(tmp_path: Path, body: str) -> None:
    verified = prove(tmp_path, body)
    assert "and" in verified.proof.drawn["x"]


SMALL = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("k = Greater (v, zero)", r"output 'y' has 0 rows for a batch of 1"),
        ("k = Less (v, hundred)", r"output 'y' is float32\[\d, 4\] beside some rows and \[3, 4\] beside others"),
    ],
    ids=["half of the samples", "rows unlike samples"],
)
def test_rows_dropped_by_their_values_are_noticed(tmp_path: Path, keep: str, message: str) -> None:
    """Drawn samples lie around the number that values are compared with; the user's may all be on one side of it."""
    body = f"""zero = Sub (one, one) a = Constant <value_ints = [0]> () i = Constant <value_int = 0> ()
        v = Gather <axis = 1> (x, i) {keep} y = Compress <axis = 0> (x, k)"""
    with pytest.raises(VerificationError, match=message):
        prove(tmp_path, body, output="float[kept, 4] y", samples={"x": SMALL})
    with pytest.raises(VerificationError, match=r"output 'y' has 0 rows for a batch of 1"):
        prove(tmp_path, body, output="float[kept, 4] y")


def test_an_answer_that_rounding_decides_may_change(tmp_path: Path) -> None:
    """The two scores of the first samples are equal, and a rounding's worth of the neighbours decides between them."""
    body = """l, r = Split <axis = 1> (x) m = ReduceMean <axes = [0], keepdims = 1> (l) n = Mul (m, tiny)
        a = ReduceSum <keepdims = 1> (l, second) p = Add (r, n) b = ReduceSum <keepdims = 1> (p, second)
        s = Concat <axis = 1> (a, b) y = ArgMax <axis = 1, keepdims = 0> (s)"""
    rows = np.array([[i, 0, 1, -i] for i in range(1, 9)], np.float32) * np.float32(1.1)
    rows[3:6] = [[0.1, 0.7, 0.7, 0.1]]
    verified = prove(tmp_path, body, output="int64[N] y", samples={"x": rows})
    assert verified.proof.rows == 8 - verified.undecided_rows


def test_neighbours_are_unlike_samples(tmp_path: Path) -> None:
    seen: list[Arrays] = []

    def run(feeds: Arrays) -> Arrays:
        seen.append(feeds)
        return {"y": feeds["x"]}

    x = np.array([[0.5, -2.5], [1.5, 0.25], [1.0, 2.0]], np.float32)
    reference = {
        "input:x": x,
        "input:index_as_float": np.array([[3.0], [1.0], [5.0]], np.float32),
        "input:mask": np.array([[True], [False], [True]]),
        "input:text": np.array([["a"], ["b"], ["c"]]),
        "output:y": x,
    }
    prover = Prover(tmp_path, run, reference, {"y": Tolerance(0.0, 0.0)}, frozenset(), tmp_path)
    prove_extreme_neighbours(prover, "FLOAT", largest=8, nudge=1e-5)
    assert {float(feeds["x"].min()) for feeds in seen} >= {-2500, -1500}
    assert {float(feeds["x"].max()) for feeds in seen} >= {2500, 2000}
    indices = [set(feeds["index_as_float"].ravel().tolist()) for feeds in seen]
    assert sum(found <= {1, 3, 5} for found in indices) == 7, "the usual ones, and three others at either positions"
    assert {3000, -3000} <= set().union(*indices)
    assert {True, False} == {bool(feeds["mask"][0, 0]) for feeds in seen}
    assert all(len(feeds["text"]) == 3 for feeds in seen)


def test_a_model_that_answers_at_random_is_not_blamed_on_its_neighbours(tmp_path: Path) -> None:
    body = "r = RandomNormalLike (x) p = Mul (r, part) y = Add (x, p)"
    with pytest.raises(VerificationError, match="each time"):
        prove(tmp_path, f"{QUANTIZED} {body}")


def test_two_roundings_are_allowed_of_the_float_type_in_the_graph() -> None:
    answers = np.array([[2.0, -1.0]], np.float32)
    assert rounding_for(answers, "FLOAT") == Tolerance(1e-4, 2e-5)
    assert rounding_for(answers, "FLOAT16") == Tolerance(1e-3, 2e-3)
    assert rounding_for(answers.astype(np.int64), "FLOAT") == Tolerance(0.0, 0.0)
