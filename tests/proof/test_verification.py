import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser
from onnx.external_data_helper import convert_model_to_external_data
from support.by_hand import HEADER, by_hand, original

from builder.batching import BatchedModel, add_batch_axis, keep_static, run_one_by_one
from builder.errors import ModelError, RepositoryError, VerificationError
from builder.model import load
from builder.naming import rename
from builder.proof import VerifiedModel, verify, verify_published
from builder.proof.comparison import Tolerance, compare, tolerance_for
from builder.proof.prover import batch_sizes, batches, dimensions_of
from builder.proof.session import Session, open_rewritten
from builder.record import Manifest, ModelFile, ReferenceFile, ServedTensor, Source

MODELS = Path(__file__).parents[1] / "models"

WEIGHTS = "float[4, 3] w = {0.5, -0.25, 1.0, 0.75, 0.5, -0.5, -1.0, 0.25, 0.5, 0.1, 0.2, 0.3}"
ORIGINAL = f"g (float[1, 4] x) => (float[1, 3] y) <{WEIGHTS}> {{ h = MatMul (x, w) y = Tanh (h) }}"


def batched_graph(body: str, *, declared: str = "", weights: str = WEIGHTS) -> str:
    values = ", ".join(filter(None, [weights, declared]))
    return f"g (float[N, 4] x) => (float[N, 3] y) <{values}> {{ {body} }}"


RIGHT = batched_graph("h = MatMul (x, w) y = Tanh (h)")


def prove(folder: Path, text: str = ORIGINAL, batched: str = RIGHT, **options: Any) -> VerifiedModel:
    return verify(by_hand(original(folder, text), batched), max_batch_size=16, failure_dir=folder, **options)


# ---------------------------------------------------------------- right models


def test_the_proof_says_what_was_compared_and_the_reference_answers_it(tmp_path: Path) -> None:
    verified = prove(tmp_path)
    assert verified.proof.batch_sizes == (1, 2, 3, 5, 16), "4 is a dimension of the model"
    assert verified.proof.rows == 16
    assert verified.proof.outputs["y"].rtol == 1e-4
    largest = verified.proof.outputs["y"].largest_difference
    assert largest is not None
    assert largest <= verified.proof.outputs["y"].atol <= 1e-5
    assert {name: array.shape for name, array in verified.reference.items()} == {
        "input:x": (16, 4),
        "output:y": (16, 3),
    }
    w = np.array(re.findall(r"-?\d+\.\d+", WEIGHTS), np.float32).reshape(4, 3)
    assert np.allclose(verified.reference["output:y"], np.tanh(verified.reference["input:x"] @ w), atol=1e-6)
    assert verified.constant_outputs == ()
    assert verified.undecided_rows == 0


def test_large_weights_are_read_for_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = original(tmp_path, ORIGINAL).path.stat().st_size
    for times, rows in ((99, 16), (9, 9), (1, 4)):
        monkeypatch.setattr("builder.proof.truth.READ_BYTES", times * size)
        proof = prove(tmp_path).proof
        assert (proof.rows, proof.batch_sizes) == (rows, (1, 2, 3, 5, 16))


@pytest.mark.parametrize(("effort", "name"), [("sample", "to"), ("full", "to"), ("off", "")])
def test_the_bytes_are_those_of_earlier_releases(tmp_path: Path, effort: Any, name: str) -> None:
    """Otherwise publishing a model again after an update would add a version, although nothing changed."""
    text = "g (float[1, 3] x) => (float[1, 3] y) { to = Constant <value = int64[2] {1, -1}> () y = Reshape (x, to) }"
    verified = verify(run_one_by_one(original(tmp_path, text)), max_batch_size=4, effort=effort)
    (scan,) = onnx.load_from_string(verified.model_bytes).graph.node
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    (constant,) = (node.attribute[0].t for node in body.node if node.output == ["to"])
    assert constant.name == name


def test_the_bytes_and_the_reference_are_the_same_when_made_again(tmp_path: Path) -> None:
    first, second = prove(tmp_path), prove(tmp_path)
    assert first.model_bytes == second.model_bytes
    assert first.sha256 == second.sha256
    assert first.proof == second.proof
    assert all((first.reference[name] == second.reference[name]).all() for name in first.reference)


def test_the_names_of_the_batched_graph_are_those_of_the_reference(tmp_path: Path) -> None:
    batched = rename(by_hand(original(tmp_path, ORIGINAL), RIGHT), renames={"x": "features", "y": "scores"})
    verified = verify(batched, max_batch_size=8)
    assert verified.reference.keys() == {"input:features", "output:scores"}
    assert verified.proof.outputs.keys() == {"scores"}


@pytest.mark.parametrize("static_batch", [2, 3])
def test_an_original_with_a_larger_batch_runs_in_chunks(tmp_path: Path, static_batch: int) -> None:
    text = ORIGINAL.replace("float[1,", f"float[{static_batch},")
    batched = by_hand(original(tmp_path, text), RIGHT, static_batch=static_batch)
    verified = verify(batched, max_batch_size=16)
    single = prove(tmp_path, samples={"x": verified.reference["input:x"]})
    assert np.allclose(verified.reference["output:y"], single.reference["output:y"], atol=1e-6)


def test_a_batch_on_another_axis_is_cut_into_samples(tmp_path: Path) -> None:
    text = "g (float[5, 1, 2] x) => (float[5, 1, 2] y) { y = Neg (x) }"
    graph = "g (float[N, 5, 2] x) => (float[N, 5, 2] y) { y = Neg (x) }"
    batched = by_hand(original(tmp_path, text), graph, axes={"x": 1, "y": 1})
    assert verify(batched, max_batch_size=8).reference["output:y"].shape == (8, 5, 2)


def test_rows_of_one_sample_become_an_axis(tmp_path: Path) -> None:
    text = "g (float[1, 6] x) => (float[3, 2] y) <int64[2] s = {3, 2}> { y = Reshape (x, s) }"
    graph = "g (float[N, 6] x) => (float[N, 3, 2] y) <int64[3] s = {-1, 3, 2}> { y = Reshape (x, s) }"
    batched = by_hand(original(tmp_path, text), graph, rows={"y": 3})
    assert verify(batched, max_batch_size=8).reference["output:y"].shape == (8, 3, 2)


@pytest.mark.parametrize("element", ["float16", "double", "bfloat16", "string", "bool", "uint8", "int32"])
def test_every_data_type_is_returned_as_it_was_given(tmp_path: Path, element: str) -> None:
    text = f"g ({element}[1, 4] x) => ({element}[1, 4] y) {{ y = Identity (x) }}"
    verified = prove(tmp_path, text, text.replace("[1,", "[N,"))
    assert (verified.reference["output:y"] == verified.reference["input:x"]).all()
    assert verified.reference["output:y"].dtype == verified.reference["input:x"].dtype
    assert verified.reference["output:y"].dtype.kind != "O", "nothing to pickle"


def test_external_weights_stay_external_and_are_found(tmp_path: Path) -> None:
    stem = "mixer_external_dynamo20"
    verified = verify(rename(add_batch_axis(load(MODELS / f"{stem}.onnx"))), max_batch_size=4)
    assert verified.external_files == (MODELS / f"{stem}.onnx.data",)
    assert len(verified.model_bytes) < (MODELS / f"{stem}.onnx.data").stat().st_size + 100_000
    assert any(onnx.external_data_helper.uses_external_data(t) for t in onnx.load_from_string(
        verified.model_bytes).graph.initializer)  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "tail", "is_mapped"),
    [
        ("external", "y = Tanh (h)", True),
        ("inline", "y = Tanh (h)", False),
        ("external", "y = com.microsoft.Gelu (h)", False),
        ("external", "i = Cast <to = 10> (h) y = Cast <to = 1> (i)", False),
    ],
    ids=["external", "inline", "of_another_domain", "fp16"],
)
def test_only_external_weights_of_plain_fp32_are_proven_where_they_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, tail: str, is_mapped: bool
) -> None:
    model = parser.parse_model(HEADER + ORIGINAL.replace("y = Tanh (h)", tail))
    if weights == "external":
        (w,) = model.graph.initializer
        w.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(w), w.name))  # as bytes, to be taken out
        convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    batched = rename(add_batch_axis(load(tmp_path / "model.onnx")))
    assert len(batched.original.external_files) == (weights == "external")
    packing = []

    def spy(*arguments: Any, **options: Any) -> Session:
        session = open_rewritten(*arguments, **options)
        chosen: Any = session.session.get_session_options()
        with contextlib.suppress(RuntimeError):  # an entry that is not set
            packing.append(chosen.get_session_config_entry("session.disable_prepacking"))
        return session

    monkeypatch.setattr("builder.proof.rewritten.open_rewritten", spy)

    verify(batched, max_batch_size=4)
    assert packing == [], "so few weights are packed"

    monkeypatch.setattr("builder.proof.rewritten.MAPPED_BYTES", 1)
    verify(batched, max_batch_size=4)
    assert packing == ["1"] * is_mapped


def test_a_static_model_is_compared_request_by_request(tmp_path: Path) -> None:
    model = original(tmp_path, "g (float[4, 3] x) => (float[3] y) { y = ReduceMean <axes = [0], keepdims = 0> (x) }")
    verified = verify(keep_static(model), max_batch_size=0)
    assert verified.proof.batch_sizes == ()
    assert verified.reference["input:x"].shape[1:] == (4, 3)
    assert verified.reference["output:y"].shape[1:] == (3,)


def test_a_full_proof_runs_every_batch_size(tmp_path: Path) -> None:
    assert prove(tmp_path, effort="full").proof.batch_sizes == tuple(range(1, 17))


def test_without_a_proof_there_is_a_reference_but_no_claim(tmp_path: Path) -> None:
    wrong = batched_graph("h = MatMul (x, w) y = Softmax <axis = 0> (h)")
    verified = prove(tmp_path, batched=wrong, effort="off")
    assert verified.proof.effort == "off"
    assert verified.proof.batch_sizes == ()
    assert verified.proof.outputs["y"].largest_difference is None
    assert verified.reference["output:y"].shape == (16, 3)
    with pytest.raises(VerificationError):
        prove(tmp_path, batched=wrong, effort="sample")


def test_an_output_that_never_varies_is_reported(tmp_path: Path) -> None:
    text = f"g (float[1, 4] x) => (float[1, 3] y, float[1, 4] c) <{WEIGHTS}> {{ y = MatMul (x, w) c = Sub (x, x) }}"
    assert prove(tmp_path, text, text.replace("[1,", "[N,")).constant_outputs == ("c",)


def test_own_samples_are_the_reference(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)
    verified = prove(tmp_path, samples={"x": x})
    assert (verified.reference["input:x"] == x).all()
    assert verified.proof.rows == 10


# ---------------------------------------------------------------- wrong models

SHAPED = "s = Shape (x) zero = Constant <value_int = 0> () n = Gather (s, zero) h = MatMul (x, w) t = Tanh (h)"
WRONG: list[tuple[str, str, str]] = [
    ("one weight is off", RIGHT.replace("0.1,", "0.2,"), r"at batch size 1, output 'y' differs .* 1 of 1 rows"),
    ("a mean over the batch leaks in",
     batched_graph("h = MatMul (x, w) m = ReduceMean <axes = [0]> (h) d = Sub (h, m) s = Add (h, d) y = Tanh (s)"),
     r"at batch size 2, .* in 2 of 2 rows.*other rows of the batch change it"),
    ("neighbours leak in", batched_graph(
        "h = MatMul (x, w) m = ReduceMean <axes = [0]> (h) two = Constant <value = float {2.0}> () a = Add (h, m) "
        "b = Div (a, two) y = Tanh (b)"), r"at batch size 2, .*the row is right when it runs alone"),
    ("rows come out in reverse", batched_graph(
        "h = MatMul (x, w) t = Tanh (h) b = Constant <value_ints = [-1]> () e = Constant <value_ints = [-9999]> () "
        "a = Constant <value_ints = [0]> () y = Slice (t, b, e, a, b)"),
     r"at batch size 2, .* 2 of 2 rows.*other rows of the batch change it"),
    ("NaN where there was a number", batched_graph(
        "h = MatMul (x, w) t = Tanh (h) n = Log (t) z = Sub (n, n) y = Add (t, z)"), r"largest error is inf"),
    ("an infinity where there was a number", batched_graph(
        "h = MatMul (x, w) t = Tanh (h) o = Sub (t, t) y = Div (t, o)"), r"largest error is inf"),
    ("another shape", batched_graph("h = MatMul (x, w) t = Tanh (h) a = Constant <value_ints = [1]> () "
        "y = Unsqueeze (t, a)").replace("float[N, 3] y", "float[N, 1, 3] y"),
     r"output 'y' is float32\[1, 1, 3\] instead of float32\[1, 3\]"),
    ("another data type", batched_graph("h = MatMul (x, w) t = Tanh (h) y = Cast <to = 6> (t)").replace(
        "float[N, 3] y", "int32[N, 3] y"), r"output 'y' is int32\[1, 3\]"),
    ("one row whatever the batch", batched_graph("h = MatMul (x, w) t = Tanh (h) y = ReduceMean <axes = [0]> (t)"),
     r"at batch size 2, output 'y' is float32\[1, 3\]"),
    ("right up to three rows", batched_graph(
        SHAPED + " three = Constant <value_int = 3> () more = Greater (n, three) u = Neg (t) y = Where (more, u, t)"),
     r"at batch size 5, .*the row is right when it runs alone"),
    ("right up to eight rows", batched_graph(
        SHAPED + " most = Constant <value_int = 8> () more = Greater (n, most) u = Neg (t) y = Where (more, u, t)"),
     r"at batch size 16"),
    ("wrong in the last of many rows", batched_graph(
        SHAPED + " i = Constant <value_int = 1> () r = Range (zero, n, i) k = Constant <value_int = 15> () "
        "l = Equal (r, k) a = Constant <value_ints = [1]> () lu = Unsqueeze (l, a) u = Neg (t) y = Where (lu, u, t)"),
     r"at batch size 16, .* in 1 of 16 rows; the worst is row 15: 3 of 3 values are wrong"),
    ("it cannot run on two rows", batched_graph(
        "h = MatMul (x, w) t = Tanh (h) s = Constant <value_ints = [1, 3]> () y = Reshape (t, s)"),
     r"at batch size 2, ONNX Runtime cannot run it: .*Reshape"),
    ("a shape left stale", batched_graph("h = MatMul (x, w) y = Tanh (h)").replace("float[N, 3] y", "float[1, 3] y"),
     r"declares the shape \{1,3\} for 'y', but it is \{2,3\}"),
    ("it does not load", batched_graph("h = MatMul (x, w) y = com.microsoft.NoSuchThing (h)"), r"cannot load"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "message"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_a_wrong_graph_is_refused(tmp_path: Path, graph: str, message: str) -> None:
    with pytest.raises(VerificationError, match=f"(?s){message}") as refusal:
        prove(tmp_path, batched=graph)
    assert refusal.value.exit_code == 4
    assert refusal.value.fix


def test_the_failing_batch_is_kept_with_both_answers(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"batch is in (\S+)") as refusal:
        prove(tmp_path, batched=RIGHT.replace("Tanh", "Sin"))
    path = Path(re.findall(r"batch is in (\S+)", refusal.value.what)[0])
    assert path.parent == tmp_path
    with np.load(path) as kept:
        assert {name: kept[name].shape for name in kept.files} == {
            "input:x": (1, 4), "expected:y": (1, 3), "got:y": (1, 3)
        }  # fmt: skip
        assert not np.allclose(kept["expected:y"], kept["got:y"])


def test_a_failing_batch_that_cannot_be_written_is_not_a_second_error(tmp_path: Path) -> None:
    batched = by_hand(original(tmp_path, ORIGINAL), RIGHT.replace("Tanh", "Sin"))
    with pytest.raises(VerificationError, match=r"could not be written to .*missing.*: No such file"):
        verify(batched, max_batch_size=4, failure_dir=tmp_path / "missing")


def test_a_permuted_axis_is_noticed_even_if_it_has_the_size_of_a_batch(tmp_path: Path) -> None:
    text = "g (float[1, 3, 3] x) => (float[1, 3, 3] y) { y = Transpose <perm = [0, 2, 1]> (x) }"
    graph = "g (float[N, 3, 3] x) => (float[N, 3, 3] y) { y = Transpose <perm = [1, 2, 0]> (x) }"
    with pytest.raises(VerificationError):
        prove(tmp_path, text, graph)


def test_other_lines_on_stderr_are_passed_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from builder.proof.session import onnxruntime_warnings

    with onnxruntime_warnings() as warnings:
        os.write(2, b"\x1b[0;93m[W:onnxruntime:, frame.cc:1 Verify] a warning\n\x1b[m\n")
        print("a line of ours", file=sys.stderr)
    assert len(warnings) == 1
    assert capfd.readouterr().err == "a line of ours\n"


# ---------------------------------------------------------------- NaN, and answers that rounding decides

ROOT = (
    "g (float[1, 4] x) => (float[1, 4] y) { half = Constant <value = float {0.2}> () d = Sub (x, half) y = Sqrt (d) }"
)


def test_nan_where_the_original_has_it_is_right(tmp_path: Path) -> None:
    reference = prove(tmp_path, ROOT, ROOT.replace("[1,", "[N,")).reference
    assert 0 < np.isnan(reference["output:y"]).mean() < 0.5


def test_a_number_where_the_original_has_nan_is_wrong(tmp_path: Path) -> None:
    graph = ROOT.replace("[1,", "[N,").replace("y = Sqrt (d)", "a = Abs (d) y = Sqrt (a)")
    with pytest.raises(VerificationError, match="largest error is inf"):
        prove(tmp_path, ROOT, graph)


def test_an_original_that_answers_nothing_but_nan_proves_nothing(tmp_path: Path) -> None:
    text = "g (float[1, 4] x) => (float[1, 4] y) { a = Abs (x) b = Neg (a) y = Log (b) }"
    with pytest.raises(VerificationError, match=r"(?s)most of output 'y' is NaN.*--samples") as refusal:
        prove(tmp_path, text, text.replace("[1,", "[N,"))
    assert "original model" in refusal.value.what


def test_an_original_that_runs_only_on_cautious_samples_gets_such_samples(tmp_path: Path) -> None:
    """The table has two rows, and the index comes out of a sum that the search for valid inputs cannot follow."""
    text = """g (int64[1, 3] x) => (float[1, 3] y) <float[2] table = {1.5, 2.5}> {
        square = Mul (x, x) y = Gather (table, square)
    }"""
    text = text.replace("Mul (x, x)", "Pow (x, x)").replace("y = Gather", "one = Constant <value_int = 1> () "
        "e = Sub (square, one) y = Gather").replace("(table, square)", "(table, e)")  # fmt: skip
    verified = prove(tmp_path, text, text.replace("[1, 3]", "[N, 3]"))
    assert verified.reference["input:x"].max() <= 1
    (note,) = verified.notes
    assert note.startswith("the samples that were drawn at first are not used, but others: ")
    assert "out of" in note


def test_an_original_that_cannot_run_at_all_asks_for_samples(tmp_path: Path) -> None:
    text = """g (int64[1, 3] x) => (float[1, 3] y) <float[2] table = {1.5, 2.5}, int64 far = {7}> {
        a = Pow (x, x) b = Add (a, far) y = Gather (table, b)
    }"""
    with pytest.raises(
        VerificationError, match=r"(?s)no answers to compare with: .*out of.*bounds.*--samples FILE.npz"
    ):
        prove(tmp_path, text, text.replace("[1, 3]", "[N, 3]"))


def test_an_original_that_onnxruntime_cannot_load_is_a_model_error(tmp_path: Path) -> None:
    text = "g (float[1, 4] x) => (float[1, 4] y) { y = com.microsoft.Nothing (x) }"
    with pytest.raises(ModelError, match="cannot load"):
        prove(tmp_path, text, text)


def test_an_original_without_a_row_for_each_sample_is_refused(tmp_path: Path) -> None:
    text = "g (float[2, 4] x) => (float[1, 4] y) { y = ReduceMean <axes = [0]> (x) }"
    batched = by_hand(original(tmp_path, text), text.replace("[2,", "[N,").replace("[1,", "[N,"), static_batch=2)
    with pytest.raises(VerificationError, match="output 'y' has 1 rows for a batch of 2"):
        verify(batched, max_batch_size=8)


WIDTH = """g (float[1, 4] x) => (float[1, {n}] y) <float zero = {{0.0}}, int64[1] none = {{0}}, int64[1] one = {{1}}> {{
    above = Greater (x, zero)  ones = Cast <to = 7> (above)  flat = ReduceSum <keepdims = 0> (ones)
    {more}
    end = Unsqueeze (flat, none)  y = Slice (x, none, end, one)
}}"""


def test_a_shape_that_depends_on_the_values_is_refused_and_kept_though_other_samples_do_not_show_it(
    tmp_path: Path,
) -> None:
    text = WIDTH.format(n="width", more="")
    with pytest.raises(VerificationError, match=r"shape of output 'y' depends on the values .* for sample \d+ and"):
        prove(tmp_path, text, text.replace("[1, 4]", "[N, 4]").replace("[1, w", "[N, w"))
    kept = np.load(tmp_path / "model.failed.npz")
    assert kept["got:y"].shape == (1, int((kept["input:x"] > 0).sum())), "positive samples all have 4 values"


def test_what_the_original_answers_counts_although_it_fails_on_other_samples(tmp_path: Path) -> None:
    more = (
        "three = Constant <value_int = 3> ()  at = Sub (three, flat)  s = Gather (zeros, at)  u = Unsqueeze (s, none)"
    )
    text = WIDTH.format(n="width", more=more).replace("<float zero", "<float[3] zeros = {0, 0, 0}, float zero")
    text = text.replace("(float[1, width] y)", "(float[1, width] y, float[1] u)")
    with pytest.raises(VerificationError, match="shape of output 'y' depends on the values of the samples"):
        prove(
            tmp_path,
            text,
            text.replace("[1, 4]", "[N, 4]").replace("[1, w", "[N, w").replace("float[1] u", "float[N] u"),
        )


def test_an_answer_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    text = "g (float[1, 4] x) => (string[1] y) { s = Shape (x)  y = Identity (label) }"
    model = parser.parse_model(HEADER + text)
    model.graph.initializer.add(
        name="label", dims=[1], data_type=onnx.TensorProto.STRING, string_data=[b"\xed\xa0\x80"]
    )
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(VerificationError, match="can't decode byte 0xed"):
        verify(keep_static(load(tmp_path / "m.onnx")), max_batch_size=1)


def test_an_output_with_other_axes_than_declared_is_refused(tmp_path: Path) -> None:
    """ONNX reads only 0 and 1 of `keepdims`; ONNX Runtime takes the lowest bits of other numbers, here 0."""
    text = f"g (float[1, 4] x) => (float[1, 4] y) {{ y = ReduceSum <keepdims = {1 << 62}> (x) }}"
    batched = by_hand(original(tmp_path, text), text.replace("[1,", "[N,"), static_batch=1)
    with pytest.raises(VerificationError, match=r"output 'y' has the shape \[\] when it runs, but the file declares"):
        verify(batched, max_batch_size=8)


def test_an_output_without_a_batch_is_the_answer_to_every_sample(tmp_path: Path) -> None:
    text = "g (float[2, 4] x) => (float[2, 4] y, float[3] a) {{ y = Neg (x) {} }}"
    anchors = "a = Constant <value_floats = [1.0, 2.0, 3.0]> ()"
    spread = "s = Shape <start = 0, end = 1> (x) t = Constant <value_ints = [3]> () u = Concat <axis = 0> (s, t) "
    spread += anchors.replace("a =", "v =") + " a = Expand (v, u)"
    graph = text.format(spread).replace("[2, 4]", "[N, 4]").replace("float[3]", "float[N, 3]")
    batched = by_hand(original(tmp_path, text.format(anchors)), graph, static_batch=2)
    deltas, shared = batched.outputs
    shared = replace(shared, batch_axis=None, dims=(3,))
    verified = verify(replace(batched, outputs=(deltas, shared)), max_batch_size=8)
    assert verified.reference["output:a"].tolist() == [[1, 2, 3]] * 8
    assert verified.constant_outputs == ("a",)


CHOICE = """g (float[1, 4] x) => (int64[1] y) <int64[2] split = {{2, 2}}, float bias = {{{bias}}}> {{
    l, r = Split <axis = 1> (x, split)
    a = ReduceSum <keepdims = 1, noop_with_empty_axes = 0> (l, one)
    b = ReduceSum <keepdims = 1, noop_with_empty_axes = 0> (r, one)
    c = Add (b, bias)
    s = Concat <axis = 1> (a, c)
    y = ArgMax <axis = 1, keepdims = 0> (s)
}}""".replace("<int64[2] split", "<int64[1] one = {{1}}, int64[2] split")
FIRM = np.array([[i, 0, 1, -i] for i in range(1, 9)], np.float32) * 1.1
TIE = np.array([[0.1, 0.7, 0.7, 0.1]], np.float32)


def test_a_row_that_rounding_decides_is_left_out(tmp_path: Path) -> None:
    graph = CHOICE.format(bias="0.0000001").replace("[1,", "[N,").replace("int64[1] y", "int64[N] y")
    graph = graph.replace("int64[N,", "int64[1,")
    verified = prove(tmp_path, CHOICE.format(bias="0.0"), graph, samples={"x": np.concatenate([FIRM, TIE])})
    assert verified.undecided_rows == 1
    assert (verified.reference["input:x"] == FIRM).all()


def test_a_row_that_rounding_does_not_decide_is_not_excused(tmp_path: Path) -> None:
    graph = CHOICE.format(bias="2.0").replace("float[1,", "float[N,").replace("int64[1] y", "int64[N] y")
    with pytest.raises(VerificationError, match="have to be equal"):
        prove(tmp_path, CHOICE.format(bias="0.0"), graph, samples={"x": FIRM})


def test_too_many_rows_that_rounding_decides_prove_nothing(tmp_path: Path) -> None:
    graph = CHOICE.format(bias="0.000001").replace("float[1,", "float[N,").replace("int64[1] y", "int64[N] y")
    ties = np.concatenate([TIE * np.float32(0.9) ** i for i in range(8)])
    with pytest.raises(VerificationError, match=r"rounding decides the original's answer to [5-8] of 8 samples"):
        prove(tmp_path, CHOICE.format(bias="0.0"), graph, samples={"x": ties})


def test_an_original_that_answers_at_random_cannot_be_compared(tmp_path: Path) -> None:
    text = "g (float[1, 4] x) => (float[1, 4] y) { r = RandomNormalLike (x) y = Add (x, r) }"
    with pytest.raises(
        VerificationError, match=r"the original model gives another answer in output 'y' each time it runs"
    ):
        prove(tmp_path, text, text.replace("[1,", "[N,"))


# ---------------------------------------------------------------- sizes, batches, tolerances


@pytest.mark.parametrize(
    ("largest", "dimensions", "sizes"),
    [
        (32, set(), (1, 2, 3, 4, 32)),
        (32, {4, 5, 6}, (1, 2, 3, 7, 32)),
        (8, {4, 5, 6, 7}, (1, 2, 3, 8)),
        (2, set(), (1, 2)),
        (1, set(), (1,)),
    ],
)
def test_batch_sizes_are_1_2_3_one_that_no_dimension_has_and_the_largest(
    largest: int, dimensions: set[int], sizes: Sequence[int]
) -> None:
    assert batch_sizes(largest, dimensions) == sizes


def test_dimensions_are_those_of_all_values_and_small_constants(tmp_path: Path) -> None:
    text = "g (float[1, 12] x) => (float[1, 5] y) <int64[3] s = {1, -1, 6}, float[2, 5] w = {1.0, 1.0, 1.0, 1.0, 1.0, "
    text += "1.0, 1.0, 1.0, 1.0, 1.0}, float[1, 2, 6] r> { r = Reshape (x, s) t = ReduceMax <axes = [2], "
    text += "keepdims = 0> (r) y = MatMul (t, w) }"
    assert {2, 5, 6, 12} <= dimensions_of(original(tmp_path, text).ir.graph)


@pytest.mark.parametrize("rows", [2, 8, 16, 40])
def test_every_row_runs_next_to_different_others_and_to_itself(rows: int) -> None:
    run = list(batches((1, 2, 3, 5, 16), rows))
    assert sorted({len(batch) for batch in run}) == [1, 2, 3, 5, 16]
    assert {row for batch in run if len(batch) == 16 for row in batch} == set(range(rows))
    assert any(len(batch) > 1 and len(set(batch)) == 1 for batch in run), "equal rows"
    neighbours: dict[int, set[tuple[int, int]]] = {}
    for batch in run:
        for row in batch:
            neighbours.setdefault(row, set()).add((len(batch), batch.index(row)))
    assert sum(len(places) > 1 for places in neighbours.values()) >= min(rows, 5)
    assert any(b < a for batch in run for a, b in pairwise(batch)), "in another order"


@pytest.mark.parametrize(
    ("answer", "reference", "is_wrong"),
    [
        (1.0, 1.0, False),
        (1.0 + 2e-4, 1.0, True),
        (1.0 + 5e-5, 1.0, False),
        (np.nan, np.nan, False),
        (np.nan, 1.0, True),
        (1.0, np.nan, True),
        (np.inf, np.inf, False),
        (-np.inf, np.inf, True),
        (np.inf, 1.0, True),
        (1.0, np.inf, True),
        (1e38, np.inf, True),
    ],
)
def test_nan_and_infinity_are_equal_only_to_themselves(answer: float, reference: float, is_wrong: bool) -> None:
    answers, wanted = np.array([[0.0, answer]], np.float32), np.array([[0.0, reference]], np.float32)
    assert bool(compare(answers, wanted, [0], Tolerance(1e-4, 0.0)).wrong) is is_wrong


@pytest.mark.parametrize("values", [np.array([[1, 2]]), np.array([[True, False]]), np.array([["a", "b"]])])
def test_values_that_are_not_floats_have_to_be_equal(values: np.ndarray[Any, Any]) -> None:
    tolerance = tolerance_for(values, "FLOAT16")
    assert tolerance == Tolerance(0.0, 0.0)
    assert not compare(values, values, [0], tolerance).wrong
    (wrong,) = compare(values[:, ::-1], values, [0], tolerance).wrong
    assert wrong.values == (2, 2)


def test_the_absolute_tolerance_follows_the_scale_of_the_output() -> None:
    reference = np.array([[0.0, 200.0, -np.inf, np.nan]], np.float32)
    assert tolerance_for(reference, "FLOAT") == Tolerance(1e-4, 2e-3)
    assert tolerance_for(reference, "FLOAT16") == Tolerance(1e-2, 2.0)


@pytest.mark.parametrize(
    ("body", "rtol"),
    [
        ("y = Neg (x)", 1e-4),
        ("h = Cast <to = 10> (x) y = Cast <to = 1> (h)", 1e-2),
        ("q = QuantizeLinear (x, scale) y = DequantizeLinear (q, scale)", 2e-2),
    ],
)
def test_the_least_precise_number_type_in_the_graph_sets_the_tolerance(tmp_path: Path, body: str, rtol: float) -> None:
    text = f"g (float[1, 4] x) => (float[1, 4] y) <float scale = {{0.1}}> {{ {body} }}"
    assert prove(tmp_path, text, text.replace("[1,", "[N,")).proof.outputs["y"].rtol == rtol


# ---------------------------------------------------------------- published versions


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Manifest, dict[str, np.ndarray[Any, Any]]]:
    """A version directory with a model, its manifest and reference."""
    verified = prove(tmp_path)
    version_dir = tmp_path / "name" / "1"
    version_dir.mkdir(parents=True)
    (version_dir / "model.onnx").write_bytes(verified.model_bytes)
    manifest = Manifest(
        builder="0.1.0",
        max_batch_size=16,
        source=Source("model.onnx", "0" * 64, 1, 1, "text", {"ai.onnx": 17}),
        options={},
        model=ModelFile.of("model.onnx", {"model.onnx": version_dir / "model.onnx"}),
        inputs=tuple(map(ServedTensor.of, verified.batched.inputs)),
        outputs=tuple(map(ServedTensor.of, verified.batched.outputs)),
        rewrites=(),
        proof=verified.proof,
        reference=ReferenceFile("reference.npz", verified.proof.rows),
    )
    return version_dir, manifest, dict(verified.reference)


Published = tuple[Path, Manifest, dict[str, np.ndarray[Any, Any]]]


def test_published_bytes_are_proven_again(published: Published) -> None:
    version_dir, manifest, reference = published
    assert verify_published(version_dir, manifest, reference) == manifest.proof


def test_published_bytes_that_changed_are_refused(published: Published) -> None:
    version_dir, manifest, reference = published
    path = version_dir / "model.onnx"
    path.write_bytes(path.read_bytes().replace(np.float32(0.1).tobytes(), np.float32(0.9).tobytes()))
    with pytest.raises(VerificationError, match="files changed after they were published"):
        verify_published(version_dir, manifest, reference)
    changed = replace(manifest, model=ModelFile.of("model.onnx", {"model.onnx": version_dir / "model.onnx"}))
    with pytest.raises(VerificationError, match="output 'y' differs"):
        verify_published(version_dir, changed, reference, failure_dir=version_dir.parent)


def test_a_missing_model_file_is_reported(published: Published) -> None:
    version_dir, manifest, reference = published
    (version_dir / "model.onnx").unlink()
    with pytest.raises(RepositoryError, match=r"cannot be read: .*No such file"):
        verify_published(version_dir, manifest, reference)


def test_a_changed_reference_is_noticed(published: Published) -> None:
    version_dir, manifest, reference = published
    reference["output:y"] = reference["output:y"].copy()
    reference["output:y"][11, 2] += 0.01
    with pytest.raises(VerificationError, match="output 'y' differs"):
        verify_published(version_dir, manifest, reference, failure_dir=version_dir.parent)


def test_a_reference_of_another_model_is_refused(published: Published) -> None:
    version_dir, manifest, reference = published
    reference["input:z"] = reference.pop("input:x")
    with pytest.raises(RepositoryError, match="input:z"):
        verify_published(version_dir, manifest, reference)


STRANGE = {
    "above": ("../outside", "outside the model's folder"),
    "absolute": ("/dev/zero", "outside the model's folder"),
    "a link out": ("link", "outside the model's folder"),
    "a pipe": ("pipe", "which is not a file"),
    "missing": ("nowhere", "which is missing"),
    "too short": ("short", "was cut short"),
    "not listed": ("weights", "takes weights from 'weights', which the manifest does not list"),
}


@pytest.mark.parametrize(("location", "what"), STRANGE.values(), ids=STRANGE)
def test_a_published_model_takes_weights_only_from_files_of_its_version(
    published: Published, location: str, what: str
) -> None:
    version_dir, manifest, reference = published
    os.mkfifo(version_dir / "pipe")
    (version_dir / "link").symlink_to("../outside")
    for file, size in (("../outside", 12), ("short", 11), ("weights", 12)):
        (version_dir / file).write_bytes(bytes(size))
    model = onnx.load(version_dir / "model.onnx")
    weight = model.graph.initializer.add(name="strange", data_type=1, dims=[3], data_location="EXTERNAL")
    weight.external_data.add(key="location", value=location)
    onnx.save(model, version_dir / "model.onnx")
    manifest = replace(manifest, model=ModelFile.of("model.onnx", {"model.onnx": version_dir / "model.onnx"}))
    with pytest.raises(RepositoryError, match=rf"{what}.*\nfix: restore the file, or publish the model again"):
        verify_published(version_dir, manifest, reference)


def test_published_bytes_that_onnxruntime_does_not_load_are_refused_with_what_to_do(published: Published) -> None:
    version_dir, manifest, reference = published
    model = onnx.load(version_dir / "model.onnx")
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, version_dir / "model.onnx")
    manifest = replace(manifest, model=ModelFile.of("model.onnx", {"model.onnx": version_dir / "model.onnx"}))
    with pytest.raises(VerificationError, match=r"cannot load the rewritten model: .*\nfix: publish the model again"):
        verify_published(version_dir, manifest, reference)


def test_an_answer_of_another_rank_than_onnx_infers_is_refused(tmp_path: Path) -> None:
    """ONNX takes any number but 0 for true, ONNX Runtime only 1."""
    nodes = "y = ReduceSum <keepdims = 2, noop_with_empty_axes = 2> (x)"
    model = original(tmp_path, f"g (float[1, 4] x) => (float[1, 4] y) {{ {nodes} }}")
    with pytest.raises(
        VerificationError, match=r"output 'y' has the shape \[\] when it runs, but the file declares \[1, 4\]"
    ):
        verify(add_batch_axis(model), max_batch_size=4)


def test_a_failing_batch_is_not_written_through_a_link(published: Published) -> None:
    version_dir, manifest, reference = published
    (version_dir / "victim").write_bytes(b"precious")
    (version_dir / "model.failed.npz").symlink_to("victim")
    reference["output:y"] = reference["output:y"] + 1
    with pytest.raises(VerificationError, match=r"could not be written to .*something other than a file of yours"):
        verify_published(version_dir, manifest, reference, failure_dir=version_dir)
    assert (version_dir / "victim").read_bytes() == b"precious"


def test_onnxruntime_reports_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    code = "from builder.proof.session import onnxruntime_version; onnxruntime_version()"
    environment = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- batching and proof together


@pytest.mark.parametrize("static_batch", [1, 4])
def test_the_result_of_batching_is_proven(tmp_path: Path, static_batch: int) -> None:
    model = original(tmp_path, ORIGINAL.replace("[1,", f"[{static_batch},"))
    batched: BatchedModel = rename(add_batch_axis(model))
    verified = verify(batched, max_batch_size=32)
    assert onnx.load_from_string(verified.model_bytes).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert verified.model_bytes == ir.to_proto(batched.ir).SerializeToString(deterministic=True)


# ---------------------------------------------------------------- dynamic sizes

FREE: list[tuple[str, str, str, Any, dict[str, tuple[int, ...]]]] = [
    # What it shows; inputs; nodes; how it is kept; the shapes of one sample.
    ("the usual size", "float[N, T, 3] x", "y = Neg (x)", keep_static, {"x": (32, 32, 3)}),
    ("one sequence", "float[N, T] x", "s = Constant <value_ints = [1, -1]> () a = Reshape (x, s) "
     "u = Shape (a) v = Shape (x) z = Sub (u, v) w = Cast <to = 1> (z) m = ReduceSum <keepdims = 0> (w) "
     "i = Cast <to = 7> (m) t = Constant <value_floats = [0.5]> () g = Gather (t, i) y = Add (x, g)",
     keep_static, {"x": (1, 211)}),
    ("the size of a window", "float[N, T] x", "s = Constant <value_ints = [0, 400]> () y = Reshape (x, s)",
     keep_static, {"x": (3, 400)}),
    ("equal lengths", "float[N, A] x, float[N, ?] z", "y = Add (x, z)", keep_static, {"x": (32, 32), "z": (32, 32)}),
    ("one sample each", "float[N, T, 3] x", "y = Neg (x)", run_one_by_one, {"x": (32, 3)}),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "body", "keep", "shapes"), [c[1:] for c in FREE], ids=[c[0] for c in FREE])
def test_samples_have_sizes_at_which_the_model_runs(
    tmp_path: Path, inputs: str, body: str, keep: Any, shapes: dict[str, tuple[int, ...]]
) -> None:
    rank = "a, b, c" if ", 3] x" in inputs else "a, b"
    model = original(tmp_path, f"g ({inputs}) => (float[{rank}] y) {{ {body} }}")
    verified = verify(keep(model), max_batch_size=4)
    assert {name: verified.reference[f"input:{name}"].shape[1:] for name in shapes} == shapes


def test_other_sizes_of_dynamic_dimensions_are_compared_with_the_original_too(tmp_path: Path) -> None:
    text = "g (float[N, T] x) => (float[N, T] y) {{ y = {} (x) }}"
    proof = verify(by_hand(original(tmp_path, text.format("Neg"))), max_batch_size=4).proof
    others = {sizes["T"] for sizes in proof.other_sizes} - {32}
    assert len(others) == 6, "three that the analysis sees, one more, and two small ones"
    assert min(others) == 1
    assert {name for sizes in proof.other_sizes for name in sizes} == {"T"}, "the batch is no other size"
    image = "g (float[N, H, W] x) => (float[N, H, W] y) { y = Neg (x) }"
    found = verify(by_hand(original(tmp_path, image)), max_batch_size=4).proof.other_sizes
    assert max(sizes["H"] * sizes["W"] for sizes in found) < 200_000, "its memory may grow faster than its side"
    # Right at the usual size only.
    body = """s = Shape (x) i = Constant <value_int = 1> () n = Gather (s, i) u = Constant <value_int = 32> ()
        c = Equal (n, u) a = Neg (x) b = Abs (x) y = Where (c, a, b)"""
    wrong = by_hand(original(tmp_path, text.format("Neg")), text.replace("y = {} (x)", body).format())
    with pytest.raises(VerificationError, match="differs from the original's"):
        verify(wrong, max_batch_size=4)


def test_a_model_that_runs_at_no_size_fails_with_its_error_at_the_usual_one(tmp_path: Path) -> None:
    text = "g (float[N, T] x) => (float[a, b] y) { s = Constant <value_ints = [1009, 1013]> () y = Reshape (x, s) }"
    with pytest.raises(VerificationError, match=r"no answers to compare with: .*\{32,32\}"):
        verify(keep_static(original(tmp_path, text)), max_batch_size=1)


def test_requests_with_answers_of_several_shapes_are_compared_where_most_have_one(tmp_path: Path) -> None:
    text = """g (float[4] x) => (float[kept] y) { z = Constant <value = float {0.0}> () k = Greater (x, z)
        y = Compress <axis = 0> (x, k) }"""
    verified = verify(keep_static(original(tmp_path, text)), max_batch_size=1)
    assert verified.proof.rows == len(verified.reference["output:y"]) > 1
    assert ((verified.reference["input:x"] > 0).sum(axis=1) == verified.reference["output:y"].shape[1]).all()
