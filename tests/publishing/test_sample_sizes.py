"""The sizes of samples on dynamic axes are those that the caller asks for, or sizes at which the model runs."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from support.by_hand import HEADER

from builder import cli
from builder.api import adopt, inspect
from builder.errors import ModelError
from builder.publishing import AdoptOptions, Publication, PublishOptions, publish
from builder.repository import Repository

PAST = """(float[batch, past, 2] k, float[batch, total] mask, float[batch, 1, 2] x) => (float[batch, o] y) {
    whole = Concat <axis = 1> (k, x) last = Constant <value_ints = [2]> ()
    sums = ReduceSum <keepdims = 0> (whole, last) y = Add (sums, mask) }"""
"""A step of a decoder: the mask is one longer than the past."""

LONG = """(float[batch, time] x) => (float[batch, o] y) { axis = Constant <value_ints = [1]> ()
    u = Unsqueeze (x, axis) p = AveragePool <kernel_shape = [400], strides = [160]> (u) y = Squeeze (p, axis) }"""
"""A front end for sound, of 400 samples at least."""

UNNAMED = "(float[batch, ?] x, float[batch, length] z) => (float[batch, o] y) { y = Add (x, z) }"
STATIC = "(float[1, 6] x) => (float[1, 6] y) { y = Neg (x) }"
TIME_FIRST = "(float[time, batch, 3] x) => (float[time, batch, 3] y) { y = Neg (x) }"


def write_model(folder: Path, text: str) -> Path:
    onnx.save(parser.parse_model(f"{HEADER} g {text}"), folder / "m.onnx")
    return folder / "m.onnx"


def put(folder: Path, text: str, sizes: Mapping[str, int] | None = None, **options: Any) -> Publication:
    model = write_model(folder, text)
    return publish(model, folder / "repository", options=PublishOptions(sizes=sizes or {}, **options))


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the stored samples, without their rows."""
    reference = Repository(folder / "repository").model("m").read_reference(1)
    return {name[6:]: array.shape[1:] for name, array in reference.items() if name.startswith("input:")}


@pytest.mark.parametrize(
    ("text", "sizes", "expected"),
    [
        (LONG, {"time": 16000}, {"x": (16000,)}),
        (PAST, {"past": 7, "total": 8}, {"k": (7, 2), "mask": (8,), "x": (1, 2)}),
        (PAST, {"past": 7}, {"k": (7, 2), "mask": (8,), "x": (1, 2)}),
        (PAST, {"mask:1": 8}, {"k": (7, 2), "mask": (8,), "x": (1, 2)}),
        (UNNAMED, {"x:1": 9}, {"x": (9,), "z": (9,)}),
        (UNNAMED, {"length": 9}, {"x": (9,), "z": (9,)}),
        (STATIC, {"x:1": 6}, {"x": (6,)}),
    ],
)
def test_samples_have_the_sizes_that_are_asked_for(
    tmp_path: Path, text: str, sizes: dict[str, int], expected: dict[str, tuple[int, ...]]
) -> None:
    done = put(tmp_path, text, sizes)
    assert shapes(tmp_path) == expected
    assert done.manifest.options["size"] == sizes


def test_the_other_sizes_are_near_them_and_keep_the_relations(tmp_path: Path) -> None:
    others = put(tmp_path, PAST, {"past": 7, "total": 8}).manifest.proof.other_sizes
    near = [{"past": 3, "total": 4}, {"past": 10, "total": 11}, {"past": 14, "total": 15}]
    assert [dict(each) for each in others[:3]] == near
    assert {"past": 0, "total": 1} in others, "the first step has no past"


def test_without_sizes_an_axis_that_depends_on_another_follows_it(tmp_path: Path) -> None:
    """A mask of 1 would fit any past, because it is broadcast: that would prove nothing."""
    done = put(tmp_path, PAST)
    assert shapes(tmp_path) == {"k": (32, 2), "mask": (33,), "x": (1, 2)}
    larger = [each for each in done.manifest.proof.other_sizes if each["past"] > 1]
    assert len(larger) > 2
    assert all(each["total"] == each["past"] + 1 for each in larger)


def test_the_warm_up_has_these_sizes_and_the_line_of_the_proof_says_them(tmp_path: Path) -> None:
    said: list[str] = []
    model = write_model(tmp_path, LONG)
    options = PublishOptions(sizes={"time": 1600})
    publish(model, tmp_path / "repository", options=options, report=lambda step, what: said.append(f"{step} {what}"))
    text = (tmp_path / "repository" / "m" / "config.pbtxt").read_text()
    assert re.findall(r"dims: \[(\d+)\]\s+input_data_file", text) == ["1600", "1600"]
    (line,) = [line for line in said if "rows equal the original's" in line]
    assert ", with time=1600; largest difference" in line
    assert "equal at other sizes too: time=800; time=2400; time=3200" in " ".join(said)


def test_the_sizes_of_own_samples_are_the_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    arrays = {"k": rng.random((6, 4, 2)), "mask": rng.random((6, 5)), "x": rng.random((6, 1, 2))}
    np.savez(tmp_path / "own.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})
    done = put(tmp_path, PAST, samples=tmp_path / "own.npz")
    assert shapes(tmp_path) == {"k": (4, 2), "mask": (5,), "x": (1, 2)}
    assert {"past": 8, "total": 9} in done.manifest.proof.other_sizes


WRONG = [
    # What it shows; the model; sizes; the error; its fix.
    ("no such axis", PAST, {"lenght": 8}, "'lenght', which is no dynamic axis of an input",
     "use one of its dynamic axes: past (k:1), total (mask:1)"),
    ("no dynamic axis at all", STATIC, {"time": 8}, "which is no dynamic axis", "no axis of an input is dynamic"),
    ("an axis of another size", STATIC, {"x:1": 8}, "--size x:1=8: that axis always has size 6", "leave it out"),
    ("no such position", STATIC, {"x:2": 8}, "'x:2', which is no dynamic axis", "leave out --size"),
    ("the batch", PAST, {"batch": 8}, "'batch', which is the batch", "leave batch out of --size; --max-batch-size"),
    ("the batch on axis 1", TIME_FIRST, {"batch": 8}, "'batch', which is the batch", "leave batch out of --size"),
    ("two sizes for one axis", PAST, {"past": 7, "k:1": 9}, "the axis 'past' two sizes, 7 and 9", "give it one"),
    ("sizes that do not fit together", PAST, {"past": 7, "total": 9},
     "the model does not run with past=7, total=9: ", "--size past=7,total=8 works"),
    ("too small a size", LONG, {"time": 100}, "the model does not run with time=100", "--size time="),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sizes", "what", "fix"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_sizes_that_cannot_be_are_refused(
    tmp_path: Path, text: str, sizes: dict[str, int], what: str, fix: str
) -> None:
    with pytest.raises(ModelError) as refused:
        put(tmp_path, text, sizes)
    assert what in str(refused.value.what)
    assert fix in str(refused.value.fix)


def test_the_size_that_a_refusal_names_works(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        put(tmp_path, LONG, {"time": 100})
    (size,) = re.findall(r"--size time=(\d+) works", str(refused.value.fix))
    put(tmp_path, LONG, {"time": int(size)})
    assert shapes(tmp_path) == {"x": (int(size),)}


def test_axes_made_dynamic_keep_their_relation_and_each_is_proven_at_another_size(tmp_path: Path) -> None:
    static = PAST.replace("batch", "1").replace("past", "7").replace("total", "8").replace("[1, o]", "[1, 8]")
    dynamic = {"k": {1: "past"}, "mask": {1: "total"}}
    done = put(tmp_path, static, dynamic=dynamic)
    near = [{"past": 3, "total": 4}, {"past": 10, "total": 11}, {"past": 14, "total": 15}]
    assert [dict(each) for each in done.manifest.proof.other_sizes] == near


def test_inspect_and_adopt_take_sizes_too(tmp_path: Path) -> None:
    model = write_model(tmp_path, LONG)
    assert inspect(model, sizes={"time": 16000}).refusal is None
    with pytest.raises(ModelError, match="no dynamic axis"):
        inspect(model, sizes={"tim": 16000})
    version = tmp_path / "repository" / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(model.read_bytes())
    done = adopt(["m"], tmp_path / "repository", options=AdoptOptions(sizes={"time": 1600}))
    assert not done.refused
    assert shapes(tmp_path) == {"x": (1600,)}
    assert done.adopted[0].versions[1].options == {"size": {"time": 1600}}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--size", "time"], "'time' is not of the form NAME=N"),
        (["--size", "time=-3"], "'time=-3' is not of the form NAME=N"),
        (["--size", "time=0"], "the size of 'time', 0, is out of range"),
        (["--size", "time=8,time=9"], "'time' is given two sizes, 8 and 9"),
        (["--size", "time=8", "--size", "time=9"], "'time' is given two sizes, 8 and 9"),
        (["--size", "time=8", "--samples", "own.npz"], "--size is for random inputs, and --samples gives others"),
    ],
)
def test_wrong_usage_is_refused_before_the_file_is_read(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["builder", "publish", "missing.onnx", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert what in capsys.readouterr().err
