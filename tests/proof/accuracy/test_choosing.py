"""Which output labels belong to and how they judge it follows from shapes and types; what is unclear is refused."""

import math
import re
from typing import Any

import numpy as np
import pytest

from builder.proof.accuracy.choosing import Wanted, choose
from builder.proof.accuracy.scoring import Classes, Flags, Labelled, Numbers, Same
from builder.proof.accuracy.unclear import UnclearLabelsError
from builder.tensors import Array

ROWS = 6


def answers(**shapes: tuple[int, ...]) -> dict[str, Array]:
    return {name: np.zeros((2, *shape), np.float32) for name, shape in shapes.items()}


def cycle(values: list[Any], *dims: int, dtype: Any = np.int64) -> Array:
    """Return labels `[ROWS, *dims]` that repeat some values."""
    return np.resize(np.array(values, dtype), (ROWS, *dims))


IDS = np.zeros(2, np.int64)
TEXTS = np.array(["a", "b"])
FITTING: list[tuple[str, Array, dict[str, Array], type[Labelled], str]] = [
    ("class numbers", cycle([0, 1, 9]), answers(y=(10,)), Classes, "accuracy"),
    ("class numbers in a column", cycle([0, 1, 9], 1), answers(y=(10,)), Classes, "accuracy"),
    ("class numbers as floats", cycle([0, 1, 9], dtype=np.float32), answers(y=(10,)), Classes, "accuracy"),
    ("an image of 1x1 for each class", cycle([0, 1]), answers(y=(10, 1, 1)), Classes, "accuracy"),
    ("a class for each position", cycle([0, -100, 2], 4), answers(y=(4, 3)), Classes, "accuracy"),
    ("a class for each pixel", cycle([0, 255, 2], 4, 5), answers(y=(3, 4, 5)), Classes, "accuracy"),
    ("one hot", np.eye(3, dtype=np.float32)[cycle([0, 1, 2])], answers(y=(3,)), Classes, "accuracy"),
    ("several hot", cycle([1, 0, 1, 1], 3), answers(y=(3,)), Flags, "f1"),
    ("a binary mask", cycle([1, 0, 1, 1], 4, 5), answers(y=(1, 4, 5)), Flags, "f1"),
    ("yes or no", cycle([0, 1]), answers(y=(1,)), Flags, "accuracy"),
    ("true or false", cycle([True, False], dtype=bool), answers(y=()), Flags, "accuracy"),
    ("yes or no for two classes", cycle([0, 1]), answers(y=(2,)), Classes, "accuracy"),
    ("numbers", cycle([0.5, 1, 2], dtype=np.float32), answers(y=(1,)), Numbers, ""),
    ("whole numbers", cycle([20, 31, 64]), answers(y=()), Numbers, ""),
    ("several numbers", cycle([0.5, 1, 2, 4], 3, dtype=np.float64), answers(y=(3,)), Numbers, ""),
    ("classes as answers", cycle([3, 7]), {"y": IDS}, Same, "accuracy"),
    ("texts as answers", cycle(["a", "b"], dtype=str), {"y": TEXTS}, Same, "accuracy"),
    ("a class beside its scores", cycle([3, 1]), {"y": IDS, **answers(p=(4,))}, Same, "accuracy"),
    ("texts beside their scores", cycle(["a", "b"], dtype=str), {**answers(p=(4,)), "y": TEXTS}, Same, "accuracy"),
    ("one output of several that fits", cycle([0, 4]), answers(a=(3,), y=(10,), b=(7, 7)), Classes, "accuracy"),
]


@pytest.mark.parametrize(
    ("labels", "given", "kind", "metric"), [case[1:] for case in FITTING], ids=[c[0] for c in FITTING]
)
def test_labels_find_their_output(labels: Array, given: dict[str, Array], kind: type, metric: str) -> None:
    found = choose(labels, given, Wanted())
    assert (type(found), found.output, getattr(found, "metric", "")) == (kind, "y", metric)


REFUSED: list[tuple[str, Array, dict[str, Array], str, str]] = [
    ("two outputs", cycle([0, 1]), answers(a=(4,), b=(4,)), "", "fit the outputs a and b"),
    ("no output", cycle([0, 1], 7), answers(y=(10,)), "", "[rows, 7] do not fit output 'y' float32[rows, 10]"),
    ("no output of several", cycle([0, 1], 7), answers(a=(10,), b=(9,)), "", "fit no output: labels int64[rows, 7]"),
    ("counted from 1", cycle([1, 10]), answers(y=(10,)), "", "labels go from 1 to 10, and output 'y' has 10 classes"),
    ("below 0", cycle([-7, 3]), answers(y=(10,)), "", "the labels go from -7 to 3"),
    ("-1 and 1", cycle([-1, 1]), answers(y=(1,)), "", "the labels for output 'y' are -1 and 1"),
    ("classes on either axis", cycle([0, 1], 4), answers(y=(4, 4)), "", "can be on axis 1 or 2"),
    ("nothing counts", cycle([-100]), answers(y=(10,)), "", "all labels are left out"),
    ("nothing varies", cycle([2.5], dtype=np.float32), answers(y=(1,)), "", "R² is not defined"),
    ("NaN", cycle([np.nan, 1], dtype=np.float32), answers(y=(1,)), "", "some labels are NaN"),
    ("text for scores", cycle(["a"], dtype=str), answers(y=(10,)), "", "labels text[rows] do not fit"),
    ("complex", cycle([1j], dtype=complex), answers(y=(1,)), "", "the labels are of the type complex128"),
    ("r2 of classes", cycle([0, 1]), answers(y=(10,)), "r2", "a score for each of 10 classes, and r2 judges numbers"),
    ("a threshold for classes", cycle([0, 1]), answers(y=(10,)), "f1@0.5", "is chosen without a threshold"),
    ("top-5 of answers", cycle([0, 1]), {"y": IDS}, "top-5", "does not have a score for each class"),
    ("a threshold for answers", cycle([0, 1]), {"y": IDS}, "accuracy@1", "there is no threshold"),
    ("accuracy of numbers", cycle([0.5, 1], dtype=np.float32), answers(y=(1,)), "accuracy", "does not judge"),
    ("accuracy of whole numbers", cycle([5, 9]), answers(y=(1,)), "accuracy", "are not only 0 and 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "given", "metric", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_labels_that_do_not_fit_or_could_mean_several_things_are_refused(
    labels: Array, given: dict[str, Array], metric: str, message: str
) -> None:
    with pytest.raises(UnclearLabelsError, match=re.escape(message)) as refusal:
        choose(labels, given, Wanted.parse(metric) if metric else Wanted())
    assert refusal.value.fix


def test_the_output_and_the_figure_that_the_user_names_are_taken() -> None:
    named = choose(cycle([0, 1]), answers(a=(4,), b=(4,)), Wanted.parse("f1"), output="b")
    assert (named.output, getattr(named, "metric", "")) == ("b", "f1")
    assert isinstance(choose(cycle([0, 1]), answers(y=(1,)), Wanted.parse("r2")), Numbers)
    flags = choose(cycle([0, 1]), answers(y=(1,)), Wanted.parse("f1@0.3"))
    assert isinstance(flags, Flags)
    assert (flags.metric, flags.threshold) == ("f1", 0.3)


@pytest.mark.parametrize("text", ["", "auc", "top-5@0.5", "f1@", "f1@nan", "accuracy@x", "f1@1e999"])
def test_what_is_no_figure_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|threshold"):
        Wanted.parse(text)


@pytest.mark.parametrize("text", ["f1@1e", "accuracy@1e999", "top-1@."])
def test_a_threshold_that_is_no_number_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text.partition('@')[2]}' is no threshold: it has to be a number"):
        Wanted.parse(text)


def test_top_1_is_accuracy() -> None:
    assert Wanted.parse("top-1").name == "accuracy"
    assert math.isnan(Wanted.parse("top-1").threshold)


def test_labels_that_are_left_out_do_not_count() -> None:
    found = choose(cycle([0, -100, 2], 3), answers(y=(3, 5)), Wanted())
    assert isinstance(found, Classes)
    assert found.ignored == ROWS
    pixels = choose(cycle([0, 255, 2], 4, 5), answers(y=(3, 4, 5)), Wanted())
    assert isinstance(pixels, Classes)
    assert pixels.ignored == ROWS * 20 // 3
