"""The proof of a plan, with ONNX Runtime in the place of TensorRT."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.plans import ask, long

from builder.config import Profile, make_profiles
from builder.errors import ModelError, VerificationError
from builder.proof import VerifiedModel, verify
from builder.proof.session import open_rewritten
from builder.tensorrt import prove_profile

Arrays = Mapping[str, np.ndarray[Any, Any]]
Run = Callable[[Arrays], Arrays]


@pytest.fixture
def plan(tmp_path: Path) -> tuple[VerifiedModel, Profile, Run]:
    verified = verify(long(tmp_path), max_batch_size=8)
    (profile,) = make_profiles(verified.batched, ask("x=1x2x2:4x6x2:8x9x2"), max_batch_size=8)
    return verified, profile, open_rewritten(verified.model_bytes, where=tmp_path, folder=tmp_path).run


def test_a_plan_is_run_at_the_edges_and_in_the_middle_of_its_profile(plan: tuple[VerifiedModel, Profile, Run]) -> None:
    verified, profile, run = plan
    shapes = set()

    def watched(feeds: Arrays) -> Arrays:
        shapes.add(feeds["x"].shape[:2])
        return run(feeds)

    proven = prove_profile(verified, profile, watched, "fp32")
    assert proven.largest["y"] < 1e-6
    assert {size for size, _ in shapes} == {1, 2, 3, 4, 7, 8}
    assert {length for _, length in shapes} == {2, 6, 9}


@pytest.mark.parametrize("length", [2, 6, 9])
def test_rows_that_are_wrong_in_a_batch_only_are_found_at_every_size(
    length: int, plan: tuple[VerifiedModel, Profile, Run], tmp_path: Path
) -> None:
    verified, profile, run = plan

    def wrong(feeds: Arrays) -> Arrays:
        answer = run(feeds)["y"].copy()
        if answer.shape[0] > 1 and answer.shape[1] == length:
            answer[1] = answer[0]
        return {"y": answer}

    with pytest.raises(VerificationError, match=r"output 'y'.*the worst is row 1.*other rows of the batch change it"):
        prove_profile(verified, profile, wrong, "fp32", failure_dir=tmp_path)


def test_sizes_with_nothing_to_compare_with_are_refused(plan: tuple[VerifiedModel, Profile, Run]) -> None:
    verified, profile, run = plan
    with pytest.raises(ModelError, match=r"at x \[\d, 2\] there is nothing to compare with"):
        prove_profile(verified, profile, run, "bf16")
