"""The metrics of the examples: right answers score 1, and boxes that are missed, wrong or found twice lower it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest


@pytest.fixture(scope="module")
def metrics() -> ModuleType:
    spec = importlib.util.spec_from_file_location("metrics", Path(__file__).parents[1] / "examples" / "metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BOX = np.array([0.0, 0, 2, 2])
APART = np.array([5.0, 5, 6, 6])
NONE = np.zeros(4)


def test_the_overlap_of_boxes(metrics: ModuleType) -> None:
    boxes = np.array([BOX, BOX, BOX, NONE])
    others = np.array([BOX, [1, 0, 3, 2], APART, NONE])
    assert metrics.intersection_over_union(boxes, others) == pytest.approx([1, 1 / 3, 0, 0])
    assert metrics.mean_overlap({"boxes": boxes}, others) == pytest.approx((1 + 1 / 3) / 4)


@pytest.mark.parametrize(
    ("found", "scores", "precision"),
    [
        ([[BOX, APART], [BOX, APART]], [[0.9, 0.1], [0.9, 0.8]], 1.0),
        ([[BOX, APART], [APART, APART]], [[0.9, 0.1], [0.9, 0.8]], 0.5),  # one of two boxes is missed
        ([[BOX, BOX], [BOX, APART]], [[0.9, 0.8], [0.7, 0.1]], (1 + 2 / 3) / 2),  # the same box twice
    ],
)
def test_the_average_precision_of_a_detector(
    metrics: ModuleType, found: list[list[npt.NDArray[np.float64]]], scores: list[list[float]], precision: float
) -> None:
    labels = np.array([[[0, *BOX], [-1, *NONE]], [[0, *BOX], [1, *APART]]])
    of_first, of_second = np.array(scores), np.array([[0.0, 0], [0, 1]])
    answers = {"boxes": np.array(found), "scores": np.stack([of_first, of_second], axis=-1)}
    assert metrics.average_precision(answers, labels) == pytest.approx((precision + 1) / 2)
