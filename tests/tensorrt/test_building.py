"""What is checked before a plan is built, and building it with NVIDIA's own compiler."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.plans import small

from builder.config import make_profiles
from builder.errors import HostError, RepositoryError
from builder.proof import verify
from builder.tensorrt import BuildOptions, build, building, check_build_options, running


@pytest.mark.parametrize(
    ("make", "what"),
    [(os.mkfifo, "it is a named pipe"), (lambda path: path.symlink_to("/dev/zero"), "it is a device")],
    ids=["pipe", "zeros"],
)
def test_what_is_no_file_is_not_taken_for_a_timing_cache_or_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], what: str
) -> None:
    path = tmp_path / "file"
    make(path)
    with pytest.raises(HostError, match=what):
        building.has_cache(path)
    monkeypatch.setattr(running, "find_host", lambda: None)
    with pytest.raises(RepositoryError, match=what), running.open_plan(path):
        pass


def test_a_timing_cache_is_read_if_it_is_there_and_not_too_large(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    assert not building.has_cache(path)
    path.write_bytes(b"kernels")
    assert building.has_cache(path)
    os.truncate(path, 2_000_000_000)
    with pytest.raises(HostError, match=r"it has 2\.0 GB, and a timing cache has at most 1\.0 GB"):
        building.has_cache(path)


@pytest.mark.rtx
def test_a_plan_is_built_without_a_gpu(tmp_path: Path) -> None:
    verified = verify(small(tmp_path), max_batch_size=4, effort="off")
    phases: list[str] = []
    built = build(verified, make_profiles(verified.batched, (), max_batch_size=4), BuildOptions(), phases.append)
    assert len(built.plan) > 1000
    assert built.seconds > 0
    assert phases


@pytest.mark.rtx
def test_a_plan_is_built_at_the_levels_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = verify(small(tmp_path), max_batch_size=4, effort="off")
    profiles = make_profiles(verified.batched, (), max_batch_size=4)
    seen: list[tuple[int, str]] = []

    def look(library: object, route: object, config: Any) -> None:
        seen.append((config.builder_optimization_level, config.tiling_optimization_level.name))

    monkeypatch.setattr(building, "_take_route", look)
    options = BuildOptions(builder_optimization_level=1, tiling_optimization_level="moderate")
    assert build(verified, profiles, options, lambda _: None).plan
    assert seen == [(1, "MODERATE")]


@pytest.mark.rtx
def test_without_a_driver_the_first_build_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(**_: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr("polygraphy.backend.trt.CreateNetwork", create)
    check_build_options(BuildOptions(hardware_compatible=True))
