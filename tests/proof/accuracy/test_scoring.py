"""Each figure is what it is by its definition, and a wrong or missing answer lowers it."""

import math
import re

import numpy as np
import pytest

from builder.proof.accuracy import figures
from builder.proof.accuracy.choosing import Wanted, choose
from builder.proof.accuracy.scoring import VALUES, Flags, Scoring
from builder.proof.accuracy.unclear import UnclearLabelsError
from builder.tensors import Array

RNG = np.random.default_rng(0)


def test_the_figures_are_those_of_scikit_learn() -> None:
    decided, right = np.array([0, 1, 2, 2, 1, 0]), np.array([0, 2, 2, 1, 1, 0])
    assert figures.accuracy(decided, right) == pytest.approx(4 / 6)
    assert figures.macro_f1(decided, right) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert figures.mean_iou(decided, right) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert figures.f1(decided == 1, right == 1) == pytest.approx(1 / 2)
    assert figures.by_chance(decided, right) == pytest.approx(1 / 3)
    # The examples of its page on r2_score.
    wanted, numbers = np.array([[3], [-0.5], [2], [7]]), np.array([[2.5], [0], [2], [8]])
    assert figures.r2(numbers, wanted) == pytest.approx(0.948, abs=1e-3)
    wanted, numbers = np.array([[0.5, 1], [-1, 1], [7, -6]]), np.array([[0, 2], [-1, 2], [8, -5]])
    assert figures.r2(numbers, wanted) == pytest.approx(0.938, abs=1e-3)


def kept(scoring: Scoring, answers: Array) -> dict[str, Array]:
    """Keep answers in two chunks, as a proof over many rows does."""
    parts = [scoring.keep({"y": answers[:3]}, 0), scoring.keep({"y": answers[3:]}, 3)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_top_1_and_top_5_count_the_best_and_the_five_best_classes() -> None:
    scores = -np.abs(np.arange(10.0) - np.arange(8.0)[:, np.newaxis])  # row n: class n, then its neighbours
    labels = np.array([0, 1, 2, 3, 5, 6, 9, 0])
    scoring = choose(labels, {"y": scores}, Wanted())
    assert scoring.scores(kept(scoring, scores)) == {"top-1": 4 / 8, "top-5": 6 / 8}
    assert next(iter(choose(labels, {"y": scores}, Wanted.parse("top-5")).scores(kept(scoring, scores)))) == "top-5"


def test_labels_in_a_column_are_judged_like_others() -> None:
    scores, labels = np.eye(10)[:6], np.arange(6)
    scoring = choose(labels[:, np.newaxis], {"y": scores}, Wanted())
    assert scoring.scores(kept(scoring, scores)) == {"top-1": 1.0, "top-5": 1.0}


def test_nan_is_never_right() -> None:
    scores = np.eye(10)[:6]
    scoring = choose(np.arange(6), {"y": scores}, Wanted())
    right = kept(scoring, scores)
    scores[2, 2] = np.nan
    wrong = kept(scoring, scores)
    assert scoring.scores(right) == {"top-1": 1.0, "top-5": 1.0}
    assert scoring.scores(wrong) == {"top-1": 5 / 6, "top-5": 5 / 6}
    assert scoring.changed(right, wrong) == 1
    flags = choose(np.array([0, 1, 0, 1, 0, 1]), {"y": np.zeros((2, 1))}, Wanted.parse("f1@0.5"))
    values = np.array([[0.0], [1], [0], [1], [0], [1]])
    assert set(flags.scores(kept(flags, values)).values()) == {1.0}
    values[0] = np.nan
    assert max(flags.scores(kept(flags, values)).values()) < 1
    numbers = choose(np.arange(6) / 4, {"y": np.zeros((2, 1))}, Wanted())
    assert math.isnan(numbers.scores(kept(numbers, np.full((6, 1), np.nan)))["R²"])


@pytest.mark.parametrize("axis", [1, 3])
def test_pixels_count_wherever_the_classes_are_and_ignored_ones_do_not(axis: int) -> None:
    labels = RNG.integers(0, 3, (6, 4, 5))
    scores = np.moveaxis(np.eye(3)[labels], -1, axis)
    labels[0, 0, 0], labels[1, 0, :] = (labels[0, 0, 0] + 1) % 3, 255
    scoring = choose(labels, {"y": scores}, Wanted())
    assert scoring.scores(kept(scoring, scores)) == {"accuracy per position": 114 / 115}
    assert scoring.ignored == 5
    scoring = choose(labels, {"y": scores}, Wanted.parse("mean-iou"))
    assert list(scoring.scores(kept(scoring, scores))) == ["mean IoU", "accuracy per position"]


@pytest.mark.parametrize(
    ("values", "threshold"),
    [([0, 0.2, 0.7, 1, 0.4, 0.5], 0.5), ([-3, 0.2, 0.7, 1, 0.4, -0.5], 0.0), ([0.1, 7, 0.7, 1, 0.4, 0.5], 0.0)],
)
def test_probabilities_are_told_from_logits_by_their_range(values: list[float], threshold: float) -> None:
    scoring = choose(np.array([0, 0, 1, 1, 0, 1]), {"y": np.zeros((2, 1))}, Wanted())
    settled = scoring.settled({VALUES: np.array(values)})
    assert isinstance(settled, Flags)
    assert settled.threshold == threshold


def test_scores_that_could_be_logits_or_answers_near_0_and_1_are_refused() -> None:
    scoring = choose(np.array([0, 0, 1, 1, 0, 1]), {"y": np.zeros((2, 1))}, Wanted())
    with pytest.raises(UnclearLabelsError, match=re.escape("go from -0.2 to 1.1")) as refusal:
        scoring.settled({VALUES: np.array([-0.2, 1.1, 0, 0, 1, 1])})
    assert "--metric accuracy@0 for logits, or --metric accuracy@0.5" in refusal.value.fix


def test_labels_of_other_samples_are_doubted() -> None:
    labels = np.arange(6)
    scoring = choose(labels, {"y": np.eye(10)[:6]}, Wanted())
    assert scoring.doubt(kept(scoring, np.eye(10)[labels])) is None
    assert scoring.doubt(kept(scoring, np.eye(10)[(labels + 1) % 6])) is not None
    numbers = choose(labels / 4, {"y": np.zeros((2, 1))}, Wanted())
    assert numbers.doubt(kept(numbers, labels[:, np.newaxis] / 5)) is None
    assert numbers.doubt(kept(numbers, 1 - labels[:, np.newaxis] / 5)) is not None
    # The rarest class is missed, but that is better than by chance.
    rare = choose(np.array([0, 0, 0, 0, 1, 1]), {"y": np.zeros((2, 2))}, Wanted())
    assert rare.doubt(kept(rare, np.eye(2)[[0, 0, 0, 0, 0, 1]])) is None


def test_rows_count_as_changed_only_where_a_label_counts() -> None:
    labels = np.array([[0, -100], [1, 1], [2, -100], [0, 0], [1, 1], [2, 2]])
    scoring = choose(labels, {"y": np.zeros((2, 2, 3))}, Wanted())
    before = kept(scoring, np.eye(3)[np.where(labels < 0, 0, labels)])
    after = {VALUES: before[VALUES].copy()}
    after[VALUES][0, 1] = 2  # ignored
    after[VALUES][1] = 0
    assert scoring.changed(before, after) == 1
    assert scoring.scores(after)["accuracy per position"] == pytest.approx(8 / 10)
