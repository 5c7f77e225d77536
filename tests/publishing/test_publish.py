"""`publish` from end to end: what is proven is what is served, and a failure changes nothing on disk."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from support.artifacts import tree
from support.crashes import is_writing
from support.real_models import BATCHABLE, FOLDER, REFUSED, Array, RealModel, session

from builder.config import ConfigOptions
from builder.errors import ModelError, RepositoryError, VerificationError
from builder.publishing import Publication, PublishOptions, publish
from builder.record import Manifest, read_manifest
from builder.repository import Repository

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"

LINEAR = "(float[1, 4] x) => (float[1, 3] y) { y = MatMul (x, w) }"
W = np.arange(12, dtype=np.float32).reshape(4, 3)


def write_model(path: Path, graph: str, *, ir_version: int = 8, opset: int = 17, **weights: Array) -> Path:
    opsets = f'"": {opset}, "com.microsoft": 1'
    model = onnx.parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{opsets}]> g {graph}")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def put(path: Path, root: Path, config: ConfigOptions | None = None, **options: Any) -> Publication:
    """Publish under the name `m`."""
    return publish(path, root, name="m", options=PublishOptions(config=config or ConfigOptions(), **options))


def run(done: Publication, *inputs: Array) -> list[Array]:
    """Run the published model; inputs and outputs in its manifest's order."""
    manifest = done.manifest
    feeds = {tensor.name: array for tensor, array in zip(manifest.inputs, inputs, strict=True)}
    outputs = [tensor.name for tensor in manifest.outputs]
    answers: list[Array] = session(done.version.path / manifest.model.file).run(outputs, feeds)
    return answers


def names(manifest: Manifest) -> tuple[list[str], list[str]]:
    return [tensor.name for tensor in manifest.inputs], [tensor.name for tensor in manifest.outputs]


def command(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """`python -m builder publish …` in its own process."""
    return subprocess.Popen(
        [sys.executable, "-m", "builder", "publish", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    return write_model(tmp_path / "linear.onnx", LINEAR, w=W)


# ---------------------------------------------------------------- real models


@pytest.mark.parametrize("model", BATCHABLE, ids=lambda model: str(model.stem))
def test_a_real_model_is_published_and_answers_as_its_original(model: RealModel, root: Path) -> None:
    done = publish(model.path, root, options=PublishOptions())
    assert done.version.path == root / model.stem / "1"
    assert done.manifest.source.static_batch == model.static_batch
    assert max(done.manifest.proof.batch_sizes) == done.manifest.max_batch_size == 32
    published = session(done.version.path / "model.onnx")
    assert all(isinstance(value.shape[0], str) for value in (*published.get_inputs(), *published.get_outputs()))
    for rows in (1, 2, 3, 5, 13):
        inputs = model.draw(rows)
        model.check(run(done, *inputs), inputs)


def test_the_check_of_real_models_can_fail() -> None:
    model = BATCHABLE[0]
    inputs = model.draw(2)
    with pytest.raises(AssertionError):
        model.check([answer[::-1] for answer in model.answer(inputs)], inputs)


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: str(model.stem))
def test_a_model_that_mixes_samples_is_refused_and_the_error_names_the_node(model: RealModel, root: Path) -> None:
    with pytest.raises(ModelError, match=model.refused):
        publish(model.path, root, options=PublishOptions())
    assert not root.parent.exists() or not any(root.parent.iterdir())


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: str(model.stem))
def test_a_model_that_mixes_samples_is_served_unchanged_on_request(model: RealModel, root: Path) -> None:
    if model.stem == "loss_b4_ts17":  # its output is a scalar
        with pytest.raises(ModelError, match="'loss': it is a scalar, which Triton can serve only with a batch"):
            publish(model.path, root, options=PublishOptions(is_static=True))
        return
    done = publish(model.path, root, options=PublishOptions(is_static=True))
    assert done.manifest.max_batch_size == 0
    inputs = model.draw(model.static_batch)
    feeds = dict(zip((entry["name"] for entry in model.inputs), inputs, strict=True))
    for got, wanted in zip(run(done, *inputs), session(model.path).run(None, feeds), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_example_is_published_under_names_that_clients_can_use(root: Path) -> None:
    done = publish(DIGITS, root, options=PublishOptions())
    assert done.name == "digits"
    assert names(done.manifest) == (["input"], ["output"])
    with np.load(DIGITS.with_name("test_images.npz")) as held_out:
        images, labels = held_out["images"], held_out["labels"]
    (scores,) = run(done, images)
    assert (scores.argmax(1) == labels).mean() > 0.95


# ---------------------------------------------------------------- publishing again, and later versions


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["conv_qdq_ts13", "mixer_external_dynamo20", "text_encoder_ts13"])
def test_the_same_input_and_options_give_the_same_bytes_in_any_process(stem: str, tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    running = [
        command(FOLDER / f"{stem}.onnx", "--repository", root, PYTHONHASHSEED=str(seed))
        for seed, root in enumerate(roots)
    ]
    for process in running:
        process.communicate()
        assert process.returncode == 0
    one, two = map(tree, roots)
    assert one == two
    assert f"{stem}/1/model.onnx" in one


def test_what_was_drawn_is_said_and_recorded(linear: Path, root: Path) -> None:
    reported = list[str]()
    done = publish(linear, root, name="m", options=PublishOptions(), report=lambda _, what: reported.append(what))
    assert "samples: x: normal" in reported
    assert json.loads((done.version.path / "manifest.json").read_text())["proof"]["drawn"] == {"x": "normal"}


def test_publishing_the_same_again_adds_no_version_and_reports_that(linear: Path, root: Path) -> None:
    put(linear, root)
    before, reported = tree(root), list[str]()
    again = publish(linear, root, name="m", options=PublishOptions(), report=lambda step, what: reported.append(what))
    assert (again.version.version, again.version.created, again.version.config_changed) == (1, False, False)
    assert reported[-1] == "version 1 is already this model; nothing changed"
    assert tree(root) == before


def test_other_weights_make_a_second_version(linear: Path, root: Path) -> None:
    put(linear, root)
    write_model(linear, LINEAR, w=W + 1)
    done = put(linear, root)
    assert (done.version.version, done.version.created) == (2, True)
    assert Repository(root).model("m").served_version() == 2
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(run(done, x)[0], x @ (W + 1))


def test_a_later_version_with_other_names_keeps_the_first_ones(tmp_path: Path, root: Path) -> None:
    first = write_model(
        tmp_path / "1.onnx",
        "(float[1, 4] image, int64[1, 2] ids) => (float[1, 4] scores, int64[1, 2] kept)"
        " { scores = Relu (image)  kept = Identity (ids) }",
    )
    later = write_model(
        tmp_path / "2.onnx",
        "(float[1, 4] onnx_cast_0, int64[1, 2] input_5) => (float[1, 4] out_77, int64[1, 2] t9)"
        " { out_77 = Sigmoid (onnx_cast_0)  t9 = Identity (input_5) }",
    )
    put(first, root)
    done = put(later, root)
    assert names(done.manifest) == (["image", "ids"], ["scores", "kept"])
    assert [tensor.original for tensor in done.manifest.inputs] == ["onnx_cast_0", "input_5"]
    assert done.version.version == 2


@pytest.mark.parametrize(
    "graph",
    [
        "(float[1, 5] x) => (float[1, 5] y) { y = Relu (x) }",
        "(double[1, 4] x) => (double[1, 4] y) { y = Relu (x) }",
        "(float[1, 4] x) => (float[1, 4] y, float[1, 4] z) { y = Relu (x)  z = Neg (x) }",
    ],
)
def test_a_later_version_of_another_shape_or_type_is_refused_and_the_error_shows_both(
    tmp_path: Path, root: Path, graph: str
) -> None:
    put(write_model(tmp_path / "1.onnx", "(float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }"), root)
    before = tree(root)
    with pytest.raises(ModelError, match=r"served version +this model\n") as refused:
        put(write_model(tmp_path / "2.onnx", graph), root)
    assert "x TYPE_FP32 [4]" in refused.value.what
    assert "--name" in refused.value.fix
    assert tree(root) == before


def test_an_output_listed_twice_maps_onto_its_own_contract_again(tmp_path: Path, root: Path) -> None:
    path = write_model(tmp_path / "twice.onnx", "(float[1, 4] x) => (float[1, 4] y, float[1, 4] y) { y = Relu (x) }")
    assert names(put(path, root).manifest) == (["x"], ["output_0", "output_1"])
    assert put(path, root).version.created is False


# ---------------------------------------------------------------- options


def test_every_tensor_can_be_named_by_the_caller(tmp_path: Path, root: Path) -> None:
    path = write_model(
        tmp_path / "two.onnx",
        "(float[1, 4] a, float[1, 4] b) => (float[1, 4] s, float[1, 4] d) { s = Add (a, b)  d = Sub (a, b) }",
    )
    given = put(path, root, input_names=("left", "right"), renames={"d": "difference"})
    assert names(given.manifest) == (["left", "right"], ["s", "difference"])
    a, b = np.array([[1, 2, 3, 4]], np.float32), np.array([[4, 3, 2, 1]], np.float32)
    np.testing.assert_array_equal(run(given, a, b)[1], a - b)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"renames": {"nope": "x2"}}, "'nope' to rename"),
        ({"renames": {"x": "not a name"}}, "'not a name'"),
        ({"renames": {"x": "z", "y": "z"}}, "would be named 'z'"),
        ({"input_names": ("a", "b")}, "needs 1 name, for x, but gives 2"),
        ({"batch_axes": {"nope": 1}}, "'nope', which is not an input"),
        ({"batch_axes": {"x": 7}}, "has no axis 7"),
        ({"batch_axes": {"x": 1}}, "cannot be separated"),
    ],
)
def test_an_option_that_does_not_fit_the_model_is_refused(
    linear: Path, root: Path, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ModelError, match=what):
        put(linear, root, **options)
    assert not root.exists()


def test_a_batch_on_another_axis_is_brought_to_the_front(tmp_path: Path, root: Path) -> None:
    text = "(float[6, 2, 4] steps) => (float[6, 2, 4] doubled) { doubled = Add (steps, steps) }"
    done = put(write_model(tmp_path / "time_first.onnx", text), root, batch_axes={"steps": 1})
    assert [tensor.dims for tensor in (*done.manifest.inputs, *done.manifest.outputs)] == [(6, 4), (6, 4)]
    steps = np.random.default_rng(0).standard_normal((5, 6, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(done, steps)[0], steps + steps)


@pytest.mark.parametrize("largest", [1, 2, 7, 100])
def test_the_largest_batch_is_proven_and_set(linear: Path, root: Path, largest: int) -> None:
    done = put(linear, root, ConfigOptions(max_batch_size=largest))
    assert done.manifest.max_batch_size == largest == max(done.manifest.proof.batch_sizes)
    assert f"max_batch_size: {largest}\n" in (root / "m" / "config.pbtxt").read_text()


def test_other_dynamic_axes_are_reported_with_the_sizes_they_were_proven_at(tmp_path: Path, root: Path) -> None:
    model = write_model(tmp_path / "m.onnx", "(float[1, 3, 8, 4] x) => (float[1, 3, 8, 4] y) { y = Relu (x) }")
    said: list[str] = []
    options = PublishOptions(dynamic={"x": {2: "height", 3: "width"}})
    done = publish(model, root, options=options, report=lambda step, what: said.append(f"{step} {what}"))
    sizes = ({"height": 4, "width": 2}, {"height": 12, "width": 6}, {"height": 16, "width": 8})
    assert done.manifest.proof.other_sizes == sizes
    assert read_manifest(done.version.path) == done.manifest
    assert any(line.endswith("; other dynamic axes: height, width") for line in said)
    assert "height=4, width=2; height=12, width=6; height=16, width=8" in " ".join(said)


def test_a_static_model_is_published_unchanged(linear: Path, root: Path) -> None:
    done = put(linear, root, is_static=True)
    assert [tensor.dims for tensor in done.manifest.inputs] == [(1, 4)]
    assert done.manifest.max_batch_size == 0
    assert [value.shape for value in session(done.version.path / "model.onnx").get_inputs()] == [[1, 4]]


def test_a_model_whose_batch_is_already_dynamic_is_published_unchanged(tmp_path: Path, root: Path) -> None:
    text = '(float["N", 4] x) => (float["N", 3] y) { y = MatMul (x, w) }'
    done = put(write_model(tmp_path / "dynamic.onnx", text, w=W), root)
    assert done.manifest.rewrites == ()
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_allclose(run(done, x)[0], x @ W, rtol=1e-6)


def test_a_dynamic_batch_that_mixes_samples_is_refused(tmp_path: Path, root: Path) -> None:
    text = '(float["N", 4] x) => (float["N", 4] y) { y = Softmax <axis = 0> (x) }'
    with pytest.raises(ModelError, match="Softmax 'y': it normalizes over axis 0, which holds the batch"):
        put(write_model(tmp_path / "mixing.onnx", text), root)
    assert not root.exists()


def test_a_model_that_cannot_be_analysed_is_proven_at_more_batch_sizes_and_says_so(tmp_path: Path, root: Path) -> None:
    text = '(float["N", 4] x) => (float["N", 4] y) { e = com.microsoft.SampleOp (x) y = Neg (e) }'
    path = write_model(tmp_path / "unknown.onnx", text)
    done = put(path, root)
    assert set(range(1, 17)) < set(done.manifest.proof.batch_sizes)
    assert any("SampleOp 'e': there is no rule for this operator" in note for note in done.notes)


def test_a_batch_that_the_file_only_claims_is_made_dynamic(tmp_path: Path, root: Path) -> None:
    text = '(float["N", 2, 2] x) => (float["N", 4] y) { s = Constant <value_ints = [1, 4]> () y = Reshape (x, s) }'
    steps: list[str] = []
    model = write_model(tmp_path / "claimed.onnx", text)
    done = publish(model, root, options=PublishOptions(), report=lambda step, what: steps.append(what))
    assert "symbolic batch made dynamic in the body too; 1 node rewritten" in steps
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    np.testing.assert_array_equal(run(done, x)[0], x.reshape(3, 4))


def test_external_weights_stay_external(root: Path) -> None:
    stem = "mixer_external_dynamo20"
    done = put(FOLDER / f"{stem}.onnx", root)
    weights = f"{stem}.onnx.data"
    assert (done.version.path / weights).read_bytes() == (FOLDER / weights).read_bytes()
    assert list(done.manifest.model.weights) == [weights]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[::4] = bytes(byte ^ 0x10 for byte in content[::4])
    path.write_bytes(content)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 64)


@pytest.mark.parametrize("change", [flip, shorten, Path.unlink])
@pytest.mark.parametrize("step", ["load", "batch", "rename", "verify"])
def test_weights_that_change_at_any_step_are_never_published(
    tmp_path: Path, root: Path, change: Callable[[Path], None], step: str
) -> None:
    for name in ("mixer_external_dynamo20.onnx", "mixer_external_dynamo20.onnx.data"):
        shutil.copy(FOLDER / name, tmp_path)
    weights, left = tmp_path / "mixer_external_dynamo20.onnx.data", [step]

    def report(reported: str, what: str) -> None:
        if reported in left:
            left.remove(reported)
            change(weights)

    expected = "its files changed while it was being published|out of bounds"  # the latter is ONNX Runtime's
    with pytest.raises((ModelError, RepositoryError), match=expected):
        publish(tmp_path / "mixer_external_dynamo20.onnx", root, name="m", options=PublishOptions(), report=report)

    assert not left
    assert tree(root) == {}


def test_weights_behind_a_link_are_published_under_the_name_the_model_has(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    shutil.copy(FOLDER / "mixer_external_dynamo20.onnx", folder / "m.onnx")
    shutil.copy(FOLDER / "mixer_external_dynamo20.onnx.data", folder / "real.bin")
    (folder / "mixer_external_dynamo20.onnx.data").symlink_to("real.bin")
    done = put(folder / "m.onnx", root)
    assert not (done.version.path / "mixer_external_dynamo20.onnx.data").is_symlink()
    model = next(model for model in BATCHABLE if model.stem == "mixer_external_dynamo20")
    model.check(run(done, *model.draw(3)), model.draw(3))


def test_strings_are_inputs_and_outputs(tmp_path: Path, root: Path) -> None:
    text = "(string[1, 2] words, float[1, 2] x) => (string[1, 2] same, float[1, 2] y)"
    text += " { same = Identity (words)  y = Neg (x) }"
    done = put(write_model(tmp_path / "words.onnx", text), root)
    assert [tensor.data_type for tensor in done.manifest.inputs] == ["TYPE_STRING", "TYPE_FP32"]
    words = np.array([["a", "größer"], ["", "b c"], ["\n", "x"]], object)
    np.testing.assert_array_equal(run(done, words, np.zeros((3, 2), np.float32))[0], words)


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "double", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool"]
)
def test_every_type_that_triton_has_is_published(tmp_path: Path, root: Path, dtype: str) -> None:
    text = f"({dtype}[2, 3] x) => ({dtype}[2, 3, 1] y) {{ y = Unsqueeze (x, a) }}"
    done = put(write_model(tmp_path / "typed.onnx", text, a=np.array([2])), root)
    assert done.manifest.source.static_batch == 2
    assert [tensor.dims for tensor in done.manifest.outputs] == [(3, 1)]


@pytest.mark.parametrize("dtype", ["complex64", "float8e4m3fn", "int4"])
def test_a_type_that_triton_does_not_have_is_refused_before_anything_runs(
    tmp_path: Path, root: Path, dtype: str
) -> None:
    text = f"({dtype}[1, 4] x) => ({dtype}[1, 4] y) {{ y = Identity (x) }}"
    reported: list[str] = []
    path = write_model(tmp_path / "typed.onnx", text, ir_version=10, opset=21)
    with pytest.raises(ModelError, match="Triton has no data type for"):
        publish(path, root, options=PublishOptions(), report=lambda step, what: reported.append(step))
    assert reported == ["load"]


def test_initializers_that_are_inputs_stay_weights(tmp_path: Path, root: Path) -> None:
    text = "(float[1, 4] x, float[4, 3] w) => (float[1, 3] y) { y = MatMul (x, w) }"
    done = put(write_model(tmp_path / "old.onnx", text, ir_version=3, opset=8, w=W), root)
    assert names(done.manifest) == (["x"], ["y"])
    np.testing.assert_array_equal(run(done, np.ones((5, 4), np.float32))[0], np.ones((5, 4), np.float32) @ W)


def test_an_input_that_is_an_output_stays_one_value(tmp_path: Path, root: Path) -> None:
    text = "(float[1, 4] x) => (float[1, 4] x, float[1, 4] y) { y = Relu (x) }"
    done = put(write_model(tmp_path / "through.onnx", text), root)
    assert names(done.manifest) == (["x"], ["x", "y"])


def test_constant_outputs_are_named_in_a_note(tmp_path: Path, root: Path) -> None:
    text = "(float[1, 4] x) => (float[1, 4] y, float[1, 4] c) { y = Relu (x)  c = Mul (x, zero) }"
    done = put(write_model(tmp_path / "constant.onnx", text, zero=np.zeros(1, np.float32)), root)
    assert "all samples give the same c, so the proof says little about it" in done.notes


# ---------------------------------------------------------------- samples


def test_the_callers_samples_become_the_reference(linear: Path, root: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    done = put(linear, root, samples=tmp_path / "samples.npz")
    assert done.manifest.proof.drawn == {"x": "given"}
    reference = Repository(root).model("m").read_reference(1)
    np.testing.assert_array_equal(reference["input:x"], x)
    np.testing.assert_array_equal(reference["output:y"], run(done, x)[0])


def test_what_is_published_can_be_the_samples_of_the_next_publish(linear: Path, root: Path) -> None:
    done = put(linear, root)
    again = put(linear, root, samples=done.version.path / "reference.npz")
    assert again.version.version in (1, 2)


X = np.ones((4, 4), np.float32)


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": X.astype(np.float64)}, r"is float64\[4, 4\]"),
        ({"x": X[:, :3]}, r"is float32\[4, 3\]"),
        ({"x": X[0]}, r"is float32\[4\]"),
        ({"x": X[:0]}, "too few rows"),
        ({"x": X[:1]}, "too few rows"),
        ({"z": X}, "no array for input 'x'; the file has z"),
        ({}, "no array for input 'x'; the file has no arrays"),
        ({"x": np.array([["a"] * 4] * 4)}, r"is str"),
        ({"x": np.array([[object()] * 4] * 4)}, "cannot be read"),
    ],
)
def test_samples_of_another_shape_or_type_are_refused(
    linear: Path, root: Path, tmp_path: Path, arrays: dict[str, Array], what: str
) -> None:
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(ModelError, match=what):
        put(linear, root, samples=tmp_path / "samples.npz")
    assert not root.exists()


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04broken", b"\x93NUMPY"])
def test_samples_that_cannot_be_read_are_refused(
    linear: Path, root: Path, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        put(linear, root, samples=tmp_path / "samples.npz")
    assert not root.exists()


def test_truncated_samples_are_refused(linear: Path, root: Path, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "samples.npz", x=np.random.default_rng(0).standard_normal((99, 4)))
    whole = (tmp_path / "samples.npz").read_bytes()
    for end in (30, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "samples.npz").write_bytes(whole[:end])
        with pytest.raises(ModelError, match="cannot be read"):
            put(linear, root, samples=tmp_path / "samples.npz")


def test_samples_that_are_all_nan_prove_nothing(linear: Path, root: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", x=X * np.nan)
    with pytest.raises(VerificationError, match="NaN"):
        put(linear, root, samples=tmp_path / "samples.npz")


# ---------------------------------------------------------------- models that cannot be batched


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        ("(float[2, 4] x, float[3, 4] z) => (float[2, 4] y) { y = Relu (x) }", "different batches: x .*, z "),
        ("(float[2, 4] x) => (float[2, 1] y) { y = ReduceMax <axes = [0]> (x) }", "ReduceMax"),
    ],
)
def test_a_model_without_a_common_batch_is_refused_and_the_fix_is_static(
    tmp_path: Path, root: Path, graph: str, what: str
) -> None:
    with pytest.raises(ModelError, match=what) as refused:
        put(write_model(tmp_path / "m.onnx", graph), root)
    assert "--static" in refused.value.fix
    assert not root.exists()


@pytest.mark.parametrize("is_static", [False, True])
def test_a_model_without_inputs_is_refused(tmp_path: Path, root: Path, is_static: bool) -> None:
    path = write_model(
        tmp_path / "m.onnx", "() => (float[1, 4] y) { y = Constant <value = float[1, 4] {1, 2, 3, 4}> () }"
    )
    with pytest.raises(ModelError, match="no inputs"):
        put(path, root, is_static=is_static)
    assert not root.exists()


def test_a_scalar_without_a_batch_is_refused_before_anything_runs(tmp_path: Path, root: Path) -> None:
    path = write_model(tmp_path / "m.onnx", "(float x) => (float y) { y = Relu (x) }")
    with pytest.raises(ModelError, match="it is a scalar, which Triton can serve only with a batch"):
        put(path, root, is_static=True)


def test_the_warmup_is_no_larger_than_what_was_proven(linear: Path, root: Path) -> None:
    done = put(linear, root, ConfigOptions(max_batch_size=2**31 - 1))
    proven = max(done.manifest.proof.batch_sizes)
    assert proven < 2**31 - 1
    assert any(f"proven up to batch size {proven}, not" in note for note in done.notes)
    config = (root / "m" / "config.pbtxt").read_text()
    assert "max_batch_size: 2147483647\n" in config
    assert f"batch_size: {proven}\n" in config
    assert config.count("2147483647") == 1
    assert put(linear, root).version.config_changed is False


def test_an_unusable_name_is_refused_before_the_model_is_read(root: Path, tmp_path: Path) -> None:
    for name in ("../x", ".x", "a/b", "", "a b", "x" * 201, "-x", "a\nb", "größe"):
        with pytest.raises(RepositoryError, match="model name"):
            publish(tmp_path / "missing.onnx", root, name=name, options=PublishOptions())
    assert not root.exists()


def test_a_file_name_becomes_a_usable_model_name(tmp_path: Path, root: Path) -> None:
    path = write_model(tmp_path / "mein Modell (größer)!.onnx", LINEAR, w=W)
    assert publish(path, root, options=PublishOptions()).name == "mein_Modell_gr_er"


# ---------------------------------------------------------------- interrupts, and several at the same time


def is_whole(root: Path) -> bool:
    """Return whether the repository has no version, or a complete one that its config serves."""
    return not (root / "m").exists() or (
        Repository(root).model("m").served_version() in Repository(root).model("m").versions()
    )


@pytest.mark.slow
@pytest.mark.parametrize("step", ["load", "batch", "rename", "verify"])
def test_ctrl_c_ends_publish_with_130_and_nothing_changed(root: Path, step: str) -> None:
    arguments = (FOLDER / "text_encoder_ts13.onnx", "--repository", root)
    with Repository(root).changing("another", "publish another"):  # so that it has not ended before the signal comes
        process = command(*arguments)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(step):
                process.send_signal(signal.SIGINT)
                break
        _, reported = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in reported
    assert reported.splitlines()[-1].startswith("interrupted")
    assert not root.exists() or tree(root) == {}
    again = publish(FOLDER / "text_encoder_ts13.onnx", root, options=PublishOptions())
    assert again.version.path == root / "text_encoder_ts13" / "1"


class Interrupter:
    """Raises KeyboardInterrupt at the n-th call that changes the filesystem below a folder, as Ctrl-C would."""

    CALLS = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock"})
    installed: "Interrupter | None" = None

    def __init__(self, folder: Path, call: int) -> None:
        self.folder, self.left = str(folder), call

    @classmethod
    def hook(cls, event: str, arguments: tuple[object, ...]) -> None:
        current = cls.installed
        if current is None or not (event in cls.CALLS or (event == "open" and is_writing(arguments[2]))):
            return
        if event == "fcntl.flock" or str(arguments[0]).startswith(current.folder):
            current.left -= 1
            if current.left < 0:
                cls.installed = None
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupts() -> Iterator[type[Interrupter]]:
    sys.addaudithook(Interrupter.hook)
    yield Interrupter
    Interrupter.installed = None


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [True, False])
def test_ctrl_c_at_any_call_of_the_install_leaves_the_old_or_the_whole_new_version(
    tmp_path: Path, interrupts: type[Interrupter], is_first: bool
) -> None:
    old = write_model(tmp_path / "old.onnx", LINEAR, w=W)
    new = write_model(tmp_path / "new.onnx", LINEAR, w=W + 1)
    before = tmp_path / "before"
    before.mkdir()
    if not is_first:
        put(old, before / "models", effort="off")
    served = []
    for call in itertools.count():
        root = shutil.copytree(before, tmp_path / f"interrupted-{call}") / "models"
        interrupts.installed = interrupts(root.parent, call)
        try:
            put(new, root, effort="off")
            break
        except KeyboardInterrupt:
            pass
        finally:
            interrupts.installed = None
        assert is_whole(root)
        done = put(new, root, effort="off")
        served.append(done.version.version)
        assert done.version.version == (1 if is_first else 2)
        assert sorted(p.name for p in (root / "m").iterdir() if p.name.isdigit()) == (["1"] if is_first else ["1", "2"])
    assert len(served) > 10


@pytest.mark.slow
def test_publishing_one_model_many_times_at_once_makes_a_version_each(tmp_path: Path, root: Path) -> None:
    paths = [write_model(tmp_path / f"{i}.onnx", LINEAR, w=W + i) for i in range(3)]
    running = [command(path, "--repository", root, "--name", "m") for path in paths]
    for process in running:
        process.communicate()
        assert process.returncode == 0
    assert Repository(root).model("m").versions() == (1, 2, 3)
    weights = {onnx.load(root / "m" / str(v) / "model.onnx").graph.initializer[0].raw_data for v in (1, 2, 3)}
    assert weights == {(W + i).tobytes() for i in range(3)}


@pytest.mark.slow
def test_publishing_the_same_bytes_at_once_makes_one_version(linear: Path, root: Path) -> None:
    running = [command(linear, "--repository", root, "--name", "m", "--json") for _ in range(2)]
    created = [json.loads(process.communicate()[0])["created"] for process in running]
    assert sorted(created) == [False, True]
    assert Repository(root).model("m").versions() == (1,)


def test_a_manifest_lists_only_the_first_of_very_many_rewritten_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.publishing.version_files.MOST_REWRITTEN", 200)
    body = "; ".join(f"a{k} = Reshape (a{k - 1}, s)" for k in range(1, 21)).replace(";", "")
    graph = f"(float[2, 4] a0) => (float[2, 4] y) {{ {body} y = Neg (a20) }}"
    done = put(write_model(tmp_path / "m.onnx", graph, s=np.array([2, 4])), tmp_path / "repository")
    *listed, rest = done.manifest.rewrites
    assert {rewrite["op_type"] for rewrite in listed} == {"Reshape"}
    assert rest["what"] == f"{20 - len(listed)} more nodes were rewritten"
