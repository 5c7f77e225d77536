"""The accuracy of a plan on labelled samples, with ONNX Runtime in the place of TensorRT."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.plans import ask, long

from builder.config import Profile
from builder.errors import ModelError, VerificationError
from builder.proof import AccuracyOptions, Baseline, measure_original
from builder.proof.session import open_original
from builder.samples import Labels, Samples
from builder.tensorrt import judge_plan
from builder.tensors import Arrays

ROWS = 11
LENGTH = 6


def measured(folder: Path, *, max_drop: float | None) -> tuple[Baseline, Callable[[Arrays], Arrays]]:
    """Return a baseline on rows whose labels are the original's own answers, rounded, and the original itself."""
    batched = long(folder)
    x = np.random.default_rng(0).standard_normal((ROWS, LENGTH, 2)).astype(np.float32)
    session = open_original(batched.original.path)
    right = np.concatenate([session.run({"x": x[row : row + 1]})["y"] for row in range(ROWS)])
    labels = Labels(folder / "s.npz", {"label": right.astype(np.float64)})
    options = AccuracyOptions(max_accuracy_drop=max_drop)
    baseline = measure_original(batched, Samples({"x": x}, {}, labels), options, is_lowered=False)
    assert baseline is not None

    def run(feeds: Arrays) -> Arrays:
        rows = feeds["x"]
        return {"y": np.concatenate([session.run({"x": rows[row : row + 1]})["y"] for row in range(len(rows))])}

    return baseline, run


def profiles_of(*shapes: str) -> tuple[Profile, ...]:
    return tuple(dict([found]) for found in ask(*shapes))


def test_a_plan_is_judged_in_a_profile_that_takes_the_samples_and_in_no_batch_outside_of_it(tmp_path: Path) -> None:
    baseline, run = measured(tmp_path, max_drop=0.005)
    seen: list[tuple[int, ...]] = []

    def watched(feeds: Arrays) -> Arrays:
        seen.append(feeds["x"].shape)
        return run(feeds)

    def never(feeds: Arrays) -> Arrays:
        raise AssertionError

    profiles = profiles_of("x=1x2x2:1x2x2:8x5x2", "x=3x2x2:4x6x2:8x9x2")
    found = judge_plan(baseline, profiles, [never, watched])
    assert found is not None
    assert (found.metric, found.rows, found.before, found.after) == ("R²", ROWS, 1.0, 1.0)
    assert seen == [(4, LENGTH, 2), (4, LENGTH, 2), (3, LENGTH, 2)]
    (profile,) = profiles_of("x=4x2x2:8x6x2:8x9x2")
    seen.clear()
    assert judge_plan(baseline, [profile], [watched]) == found
    assert seen == [(8, LENGTH, 2), (4, LENGTH, 2)]  # the last sample is repeated, and its answers are cut off


def test_a_plan_that_is_right_too_seldom_is_refused(tmp_path: Path) -> None:
    baseline, run = measured(tmp_path, max_drop=0.005)

    def wrong(feeds: Arrays) -> Arrays:
        return {"y": run(feeds)["y"] * 0.5}

    with pytest.raises(VerificationError, match=r"R² falls from 1 to 0\.\d+, which is .* at most 0.005 are allowed"):
        judge_plan(baseline, profiles_of("x=1x2x2:4x6x2:8x9x2"), [wrong])


def test_a_plan_that_answers_nan_is_refused_even_without_a_limit(tmp_path: Path) -> None:
    baseline, run = measured(tmp_path, max_drop=None)

    def broken(feeds: Arrays) -> Arrays:
        return {"y": run(feeds)["y"] * np.float32("nan")}

    with pytest.raises(VerificationError, match="its R² cannot be computed, because answers are NaN"):
        judge_plan(baseline, profiles_of("x=1x2x2:4x6x2:8x9x2"), [broken])


def test_samples_that_no_profile_takes_are_refused_only_if_the_accuracy_is_limited(tmp_path: Path) -> None:
    baseline, run = measured(tmp_path, max_drop=0.005)
    profiles = profiles_of("x=1x7x2:4x7x2:8x9x2")
    with pytest.raises(ModelError, match=r"no profile takes the labelled samples, which have the shapes x \[6, 2\]"):
        judge_plan(baseline, profiles, [run])
    baseline, run = measured(tmp_path, max_drop=None)
    said: list[str] = []
    assert judge_plan(baseline, profiles, [run], said.append) is None
    assert said
