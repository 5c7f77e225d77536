"""The accuracy on labelled samples is measured before and after, and a model that loses too much is refused."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from builder.cli import cli
from builder.errors import ModelError, VerificationError
from builder.exporting import InputSpec
from builder.exporting import publishing as exporting
from builder.proof import AccuracyOptions
from builder.publishing import Publication, PublishOptions, publish
from builder.record import Manifest
from builder.repository import Repository
from builder.tensors import Array

FEATURES = 4
NARROW = 1.0002
"""How much higher class 1 scores. In fp16 and bf16 it is 1: both classes score the same, and class 0 is chosen."""

CLASSIFIER = "(float[1, 4] x) => (float[1, 2] y) { y = MatMul (x, w) }"

METRICS = """
import numpy as np

def right(outputs, labels):
    assert outputs["y"].shape == (len(labels), 2), outputs["y"].shape
    return np.float32((outputs["y"].argmax(1) == labels).mean())

def loss(outputs, labels):
    return -20 * float((outputs["y"].argmax(1) != labels).mean())

def at_least(outputs, labels, part):
    print("judging")
    return float(right(outputs, labels) >= part)

def boxes(outputs, labels):
    assert sorted(labels) == ["boxes", "classes"]
    return -abs(outputs["y"].sum() - labels["boxes"].sum()) / 1e6

def random(outputs, labels):
    return np.random.random()

def nothing(outputs, labels):
    pass

def truth(outputs, labels):
    return True

def percent(outputs, labels):
    return 97.2

def infinite(outputs, labels):
    return float("-inf")

def unknown(outputs, labels):
    return np.nan

def changing(outputs, labels):
    labels[:] = 0
    return 1.0

def failing(outputs, labels):
    return np.concatenate([outputs["y"], labels])

def leaving(outputs, labels):
    raise SystemExit(0)

number = 3
"""


def classifier(path: Path, margin: float, *, batch: str = "1", weights: Any = None) -> Path:
    """Write a classifier that scores class 1 so many times as high as class 0, or one with other weights."""
    graph = CLASSIFIER.replace("[1,", f"[{batch},")
    found = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {graph}')
    w = np.full((FEATURES, 2), [1, margin], np.float32) if weights is None else np.array(weights, np.float32)
    found.graph.initializer.append(numpy_helper.from_array(w, "w"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return classifier(tmp_path / "m.onnx", NARROW)


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metrics.py").write_text(METRICS)
    monkeypatch.syspath_prepend(str(tmp_path))


def samples(folder: Path, rows: int, *, close: int, name: str = "label", **arrays: Array) -> Path:
    """Write samples of which the last `close` are decided otherwise in a lower precision, and their labels."""
    x = -np.random.default_rng(0).uniform(1, 2, (rows, FEATURES)).astype(np.float32)
    x[rows - close :] *= -1
    labels = np.zeros(rows, np.int64)
    labels[rows - close :] = 1
    x[0], labels[0] = 0.0, 0  # an answer of 0 for both classes
    path = folder / f"samples{rows}-{close}.npz"
    given: dict[str, Any] = {"x": x, name: labels, **arrays}
    np.savez(path, **given)
    return path


def put(path: Path, root: Path, **options: Any) -> Publication:
    asked = {name: options.pop(name) for name in ("metric", "label_output", "max_accuracy_drop") if name in options}
    return publish(path, root, name="m", options=PublishOptions(accuracy=AccuracyOptions(**asked), **options))


def lines(path: Path, root: Path, **options: Any) -> list[str]:
    told: list[str] = []

    def report(step: str, what: str) -> None:
        told.append(f"{step}: {what}")

    publish(path, root, name="m", options=PublishOptions(**options), report=report)
    return told


def test_accuracy_is_measured_on_all_rows_and_recorded(model: Path, tmp_path: Path) -> None:
    told = lines(model, tmp_path / "r", samples=samples(tmp_path, 300, close=30))
    assert "accuracy: top-1 100.00% → 100.00% on 300 rows; 0 rows decided otherwise" in told
    manifest = Repository(tmp_path / "r").model("m").read_manifest(1)
    assert manifest is not None
    assert manifest.accuracy is not None
    assert (manifest.accuracy.rows, manifest.accuracy.max_drop, manifest.accuracy.output) == (300, None, "y")
    assert Manifest.from_json(manifest.to_json(), where="m").accuracy == manifest.accuracy
    listed = CliRunner().invoke(cli, ["list", "--json", "--repository", str(tmp_path / "r")])
    assert json.loads(listed.stdout)[0]["versions"][0]["accuracy"]["rows"] == 300
    verified = CliRunner().invoke(cli, ["verify", "m", "--repository", str(tmp_path / "r")])
    assert "accuracy when it was published: top-1 100.00% → 100.00% on 300 rows" in verified.stderr
    verified = CliRunner().invoke(cli, ["verify", "m", "--json", "--repository", str(tmp_path / "r")])
    assert json.loads(verified.stdout)["accuracy"]["rows"] == 300


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_lower_precision_that_loses_too_much_is_refused(model: Path, tmp_path: Path, precision: str) -> None:
    """The errors are within the tolerance, and the rows behind the reference's 256 make the difference."""
    given = samples(tmp_path, 300, close=30)
    said = (
        "on 300 labelled rows, top-1 falls from 100.00% to 90.00%, which is 10 points lower, and at most 0.5 points "
        "are allowed; 30 of 300 rows are decided otherwise"
    )
    with pytest.raises(VerificationError, match=re.escape(said)) as refusal:
        put(model, tmp_path / "r", samples=given, precision=precision)
    assert "--max-accuracy-drop 10%" in refusal.value.fix
    assert not (tmp_path / "r" / "m").exists()
    done = put(model, tmp_path / "r", samples=given, precision=precision, max_accuracy_drop=0.1)
    assert done.manifest.accuracy is not None
    assert (done.manifest.accuracy.after, done.manifest.accuracy.changed) == (0.9, 30)


def test_the_rounded_copy_counts_where_a_cpu_rounds_less_than_a_gpu(tmp_path: Path) -> None:
    """1000.2 is 1000 in fp16, but ONNX Runtime on a CPU keeps it."""
    path, given = classifier(tmp_path / "m.onnx", 1, weights=[[1, 1], [0, 1], [0, 0], [0, 0]]), tmp_path / "s.npz"
    labels = np.resize([0, 1], 40)
    x = np.stack([np.full(40, 1000), labels * 0.4 - 0.2, *np.zeros((2, 40))], axis=1).astype(np.float32)
    np.savez(given, x=x, label=labels)
    with pytest.raises(VerificationError, match=re.escape("top-1 falls from 100.00% to 50.00%")):
        put(path, tmp_path / "r", samples=given, precision="fp16")


def test_a_loss_within_the_limit_is_published_and_few_rows_are_pointed_out(model: Path, tmp_path: Path) -> None:
    done = put(model, tmp_path / "r", samples=samples(tmp_path, 300, close=1), precision="fp16")
    assert done.manifest.accuracy is not None
    assert done.manifest.accuracy.after == pytest.approx(299 / 300)
    assert not [note for note in done.notes if "labelled rows are few" in note]
    with pytest.raises(VerificationError, match=re.escape("falls from 100.00% to 99.00%")):
        put(model, tmp_path / "r", samples=samples(tmp_path, 100, close=1), precision="fp16")
    done = put(model, tmp_path / "r", samples=samples(tmp_path, 100, close=0), precision="fp16")
    assert [note for note in done.notes if "100 labelled rows are few: one more wrong answer is 1 points" in note]


def test_labels_that_cannot_be_used_are_noted_unless_accuracy_matters(model: Path, tmp_path: Path) -> None:
    other = samples(tmp_path, 100, close=50, label=np.zeros((100, 7), np.int64))
    told = lines(model, tmp_path / "r", samples=other)
    assert any(line.startswith("accuracy: not measured: labels int64[rows, 7] do not fit output 'y'") for line in told)
    for options in ({"precision": "fp16"}, {"max_accuracy_drop": 0.1}, {"metric": "f1"}):
        with pytest.raises(ModelError, match=re.escape("labels int64[rows, 7] do not fit output 'y' float32[rows, 2]")):
            put(model, tmp_path / "r", samples=other, **options)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"label": np.zeros(3, np.int64)}, {}, "'label' of labels has 3 rows, and the inputs have 100 rows"),
        ({"name": "other"}, {"max_accuracy_drop": 0.1}, "there are no labels to compare the answers with"),
        ({"name": "label:z"}, {}, "the array 'label:z' names 'z', but there is no such output"),
        ({}, {"label_output": "z"}, "--label-output names 'z', but there is no such output"),
        ({"label": np.resize([1, 1, 1, 0], 100)}, {}, "the original agrees with"),
    ],
)
def test_labels_that_do_not_belong_to_the_samples_are_refused(
    model: Path, tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        put(model, tmp_path / "r", samples=samples(tmp_path, 100, close=20, **arrays), precision="fp16", **options)


def test_labels_can_name_their_output(model: Path, tmp_path: Path) -> None:
    done = put(model, tmp_path / "r", samples=samples(tmp_path, 100, close=20, name="label:y"), metric="f1")
    assert done.manifest.accuracy is not None
    assert (done.manifest.accuracy.metric, list(done.manifest.accuracy.others)) == ("macro F1", ["top-1"])
    assert done.manifest.options["metric"] == "f1"


def test_an_input_that_is_called_label_wins_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "label.onnx"
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1, 4] label) => (float[1, 4] y) { y = Relu (label) }'
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    given = tmp_path / "label.npz"
    np.savez(given, label=np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32))
    said = "the array 'label' is the input of that name, and there are no other labels"
    assert f"accuracy: not measured: {said}" in lines(path, tmp_path / "r", samples=given)
    with pytest.raises(ModelError, match=re.escape(said)):
        put(path, tmp_path / "r", samples=given, max_accuracy_drop=0.1)


def test_a_static_model_is_measured_request_by_request(model: Path, tmp_path: Path) -> None:
    given = tmp_path / "static.npz"
    labels = np.resize([0, 1], 20)
    np.savez(given, x=np.full((20, 1, FEATURES), 2.0 * labels[:, None, None] - 1, np.float32), label=labels)
    done = put(model, tmp_path / "r", samples=given, is_static=True)
    assert done.manifest.accuracy is not None
    assert (done.manifest.accuracy.rows, done.manifest.accuracy.after) == (20, 1.0)


# ---- A function of the user's


@pytest.mark.usefixtures("own_code")
def test_a_function_judges_all_answers(model: Path, tmp_path: Path) -> None:
    given = samples(tmp_path, 300, close=30)
    done = put(
        model, tmp_path / "r", samples=given, precision="fp16", metric="own_metrics:right", max_accuracy_drop=0.2
    )
    found = done.manifest.accuracy
    assert found is not None
    assert (found.metric, found.before, found.changed) == ("own_metrics:right", 1.0, None)
    assert found.after == pytest.approx(0.9)
    with pytest.raises(VerificationError, match=re.escape("right falls from 1 to 0.9, which is 0.1 lower")) as refusal:
        put(model, tmp_path / "r", samples=given, precision="fp16", metric="own_metrics:right")
    assert (
        "accept the loss with --max-accuracy-drop 0.1" in refusal.value.fix
    )  # 0.1001, as the function answers float32
    several = samples(tmp_path, 10, close=3, name="label:classes", **{"label:boxes": np.ones((10, 4))})
    done = put(model, tmp_path / "r", samples=several, metric="own_metrics:boxes")
    assert done.manifest.accuracy is not None
    assert done.manifest.accuracy.before < 0


@pytest.mark.usefixtures("own_code")
def test_a_loss_that_no_limit_allows_names_no_limit(model: Path, tmp_path: Path) -> None:
    given = samples(tmp_path, 300, close=30)
    with pytest.raises(VerificationError, match=re.escape("loss falls from 0 to -2, which is 2 lower")) as refusal:
        put(model, tmp_path / "r", samples=given, precision="fp16", metric="own_metrics:loss", max_accuracy_drop=0.3)
    assert refusal.value.fix == "publish without --precision, or in a finer one"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metric": "auc"}, "metric: 'auc' is neither accuracy"),
        ({"max_accuracy_drop": math.nan}, "max_accuracy_drop: the accuracy may not drop by nan"),
        ({"max_accuracy_drop": -0.1}, "may not drop by -0.1"),
        ({"max_error": math.nan}, "max_error: nan is not a number above 0"),
        ({"min_speedup": math.nan, "precision": "int8-dynamic"}, "min_speedup: nan is not a number from 0 up"),
        ({"precision": "int4"}, "precision: 'int4' is no precision\nfix: use one of fp32, fp16"),
    ],
)
def test_limits_that_nothing_could_be_beyond_are_refused(
    asked: dict[str, Any], said: str, model: Path, tmp_path: Path
) -> None:
    """The command line refuses them before; from Python, every comparison with a NaN would pass."""
    with pytest.raises(ModelError, match=re.escape(said)):
        put(model, tmp_path / "r", samples=samples(tmp_path, 10, close=3), **{"precision": "fp16", **asked})


@pytest.mark.usefixtures("own_code")
def test_what_a_function_prints_stays_off_stdout(model: Path, tmp_path: Path) -> None:
    given = samples(tmp_path, 20, close=5)
    done = CliRunner().invoke(
        cli,
        ["publish", str(model), "--repository", str(tmp_path / "r"), "--samples", str(given), "--json",
         "--metric", "own_metrics:at_least(part=0.5)"],
    )  # fmt: skip
    assert json.loads(done.stdout)["manifest"]["accuracy"]["after"] == 1.0


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("random", "and then"),
        ("nothing", "the metric returns an object of type NoneType"),
        ("truth", "the metric returns an object of type bool"),
        ("percent", "the metric returns 97.2, which is more than 1"),
        ("infinite", "the metric returns -inf"),
        ("unknown", "the metric returns nan"),
        ("changing", "ValueError: assignment destination is read-only (own_metrics.py:"),
        ("failing", 'return np.concatenate([outputs["y"], labels])`)'),
        ("leaving", "the metric fails: SystemExit: 0 (own_metrics.py:"),
        ("number", "number is of type int, and cannot be called"),
        ("absent", "own_metrics does not define 'absent'"),
        ("right(1)", "the first two arguments of a metric are the outputs and the labels"),
        ("right(depth=1)", "TypeError: right() got an unexpected keyword argument 'depth'"),
        ("right(", "its arguments cannot be read"),
    ],
)
def test_a_function_that_fails_or_returns_no_number_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=re.escape(message)) as refusal:
        put(model, tmp_path / "r", samples=samples(tmp_path, 20, close=5), metric=f"own_metrics:{function}")
    assert refusal.value.where == f"own_metrics:{function}"


def test_a_module_without_labels_is_refused_before_it_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_: object, **__: object) -> None:
        raise AssertionError("it is exported")

    monkeypatch.setattr(exporting, "export", export)
    given = tmp_path / "s.npz"
    np.savez(given, label=np.zeros((4, 2), np.float32))
    options = PublishOptions(samples=given, accuracy=AccuracyOptions(max_accuracy_drop=0.1))
    spec = InputSpec.parse("label=float32[1,2]")
    with pytest.raises(ModelError, match="the array 'label' is the input of that name"):
        exporting.publish_module("nets:make", tmp_path / "r", inputs=[spec], options=options)


# ---- A version that is in a repository already


def test_an_adopted_version_is_measured_beside_its_original(tmp_path: Path) -> None:
    root, given = tmp_path / "r", samples(tmp_path, 100, close=30)
    file = classifier(root / "m" / "1" / "model.onnx", 1, batch="batch")
    original = classifier(tmp_path / "original.onnx", 1.00005)
    command = ["adopt", "m", "--repository", str(root), "--samples", str(given), "--original", str(original)]
    refused = CliRunner().invoke(cli, [*command, "--max-accuracy-drop", "5%"])
    assert "top-1 falls from 100.00% to 70.00%" in str(refused.exception)
    assert "fix: accept the loss with --max-accuracy-drop 30%" in str(refused.exception)
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    done = CliRunner().invoke(cli, [*command, "--json"])
    (version,) = json.loads(done.stdout)["adopted"][0]["versions"]
    assert (version["accuracy"]["before"], version["accuracy"]["after"]) == (1.0, 0.7)


def test_adopt_refuses_options_for_accuracy_without_samples() -> None:
    done = CliRunner().invoke(cli, ["adopt", "m", "--metric", "f1"], standalone_mode=False)
    assert "there is no --samples" in str(done.exception)


# ---- The command line


@pytest.mark.parametrize(
    ("given", "message", "fix"),
    [
        ("--max-accuracy-drop 0.5%", "and there is no --samples", "add --samples FILE.npz with an array label"),
        ("--metric f1", "--metric is about the accuracy", "leave out --metric"),
        ("--label-output y", "--label-output is about the accuracy", "leave out --label-output"),
        ("--samples s.npz --metric m:f --label-output y", "--label-output has no effect with a function", "leave out"),
        ("--max-accuracy-drop 5", "5 is not from 0 up to less than 1", "write 5%, or a part such as 0.005"),
        ("--max-accuracy-drop 0.5", "0.5 would let the figure fall by 50%", "write 0.5%, or 50% if it is"),
        ("--max-accuracy-drop 120%", "120% is not from 0 up to less than 100%", "for example 0.005 or 0.5%"),
        ("--max-accuracy-drop -1%", "-1% is not from 0", "for example"),
        ("--max-accuracy-drop nan", "nan is not from 0", "for example"),
        ("--max-accuracy-drop x%", "'x' is not a number", "for example"),
        ("--metric auc", "'auc' is neither accuracy, top-1", "name a figure or a function"),
    ],
)
def test_options_for_accuracy_that_cannot_work_are_refused_before_any_work(given: str, message: str, fix: str) -> None:
    done = CliRunner().invoke(cli, ["publish", "no.onnx", *given.split()], standalone_mode=False)
    assert isinstance(done.exception, BaseException)
    error: Any = done.exception
    assert message in error.message
    assert fix in error.fix
