"""The program that measures files in benchmarks/int8 sees what is wrong with one: errors, accuracy, neighbours."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import parser, save

FOLDER = Path(__file__).parents[2] / "benchmarks" / "int8"
ROWS = 64


def imported(name: str) -> ModuleType:
    """Return a program of the benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: Path, body: str, batch: str = "N") -> Path:
    head = '<ir_version: 8, opset_import: ["": 17]> g'
    save(parser.parse_model(f"{head} (float[{batch}, 3] x) => (float[{batch}, 3] y) {{ {body} }}"), path)
    return path


def judged(folder: Path, body: str) -> dict[str, Any]:
    """Return what the judge says of a file that should give its input back."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 3)).astype(np.float32)
    original = write(folder / "original.onnx", "y = Identity(x)", "1")
    fp32 = write(folder / "fp32.onnx", "y = Identity(x)")
    samples = {"x": x, "label": x.argmax(-1)}
    answer: dict[str, Any] = imported("int8_judge").judge(
        original, fp32, write(folder / "other.onnx", body), samples, None, 0.0
    )
    return answer


def test_a_file_with_the_original_s_answers_has_no_error(tmp_path: Path) -> None:
    found = judged(tmp_path, "y = Identity(x)")
    assert found["largest_error"] == found["mean_error"] == {"y": 0}
    assert (found["neighbours"], found["before"], found["after"], found["changed"]) == (0, 1, 1, 0)
    assert found["rows"] == ROWS
    assert set(found["speed"]) == {"1", "32"}


def test_errors_are_parts_of_the_output_s_values(tmp_path: Path) -> None:
    found = judged(tmp_path, "f = Constant <value_float = 1.25> () y = Mul(x, f)")
    assert found["largest_error"]["y"] == pytest.approx(0.25)
    assert found["mean_error"]["y"] == pytest.approx(0.25)
    assert found["changed"] == 0


def test_an_answer_that_is_not_a_number_is_an_infinite_error(tmp_path: Path) -> None:
    assert judged(tmp_path, "l = Log(x) y = Identity(l)")["largest_error"]["y"] == np.inf


def test_classes_that_change_cost_accuracy(tmp_path: Path) -> None:
    found = judged(tmp_path, "y = Neg(x)")
    assert (found["before"], found["after"], found["changed"]) == (1, 0, ROWS)


def test_a_scale_that_the_batch_shares_shows_among_neighbours(tmp_path: Path) -> None:
    scaled = "a = Abs(x) m = ReduceMax <keepdims = 1> (a) d = Div(x, m) r = Round(d) y = Mul(r, m)"
    assert judged(tmp_path, scaled)["neighbours"] > 0.1


def test_average_precision_counts_boxes_in_the_right_place_only() -> None:
    metric = imported("int8_metric")
    rng = np.random.default_rng(0)
    corners = rng.random((8, 4, 2)) / 2
    boxes = np.concatenate([corners, corners + 0.4], -1)
    kinds = np.arange(32).reshape(8, 4) % 3
    labels = np.concatenate([kinds[..., None], boxes], -1)
    scores = np.eye(3)[kinds]
    assert metric.average_precision({"boxes": boxes, "scores": scores}, labels) == 1
    assert metric.average_precision({"boxes": boxes + 1, "scores": scores}, labels) == 0
    assert 0.1 < metric.average_precision({"boxes": boxes, "scores": np.roll(scores, 1, -1)}, labels) < 0.9
