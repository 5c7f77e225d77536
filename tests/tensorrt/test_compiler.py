"""What NVIDIA's own compiler does with our networks, profiles and options: TensorRT for RTX, without a GPU."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.plans import MODELS, ask, long, small

from builder import bounded
from builder.batching import add_batch_axis, run_one_by_one
from builder.bounded import Limits
from builder.config import Shapes, make_profiles
from builder.errors import HostError
from builder.model import load
from builder.naming import rename
from builder.progress import Report, silent
from builder.proof import VerifiedModel, verify
from builder.tensorrt import BuildOptions, UnbuildableError, build, check_build, need_library, running

pytestmark = pytest.mark.rtx

SILENT: Callable[[str], None] = partial(silent, "compile")
ENCODER = MODELS / "encoder_layer_ts17.onnx"


@pytest.fixture(scope="module")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> VerifiedModel:
    """A model of `x: float[batch, length, 2]`."""
    return verify(long(tmp_path_factory.mktemp("long")), max_batch_size=8, effort="off")


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> VerifiedModel:
    """A model of `x: float[batch, 4]`."""
    return verify(small(tmp_path_factory.mktemp("small")), max_batch_size=8, effort="off")


def on(verified: VerifiedModel, *profiles: str, **options: Any) -> Any:
    """Build with some profiles, as `--profile` gives them."""
    made = make_profiles(verified.batched, ask(*profiles), max_batch_size=8)
    return check_build(verified, made, BuildOptions(**options), SILENT)


# ---------------------------------------------------------------- profiles


def test_several_profiles_with_dynamic_sizes_are_built(flexible: VerifiedModel) -> None:
    checked = on(flexible, "x=1x2x2:1x2x2:1x2x2", "x=1x2x2:4x6x2:8x9x2")
    assert [profile["x"] for profile in checked.profiles] == ["1x2x2:1x2x2:1x2x2", "1x2x2:4x6x2:8x9x2"]
    assert checked.layers["Float"] > 0


def test_a_profile_that_contradicts_the_network_names_the_input(fixed: VerifiedModel) -> None:
    wrong = {"x": Shapes((1, 5), (2, 5), (4, 5))}
    with pytest.raises(UnbuildableError, match=r"'x'|input x") as caught:
        build(fixed, [wrong], BuildOptions(), SILENT)
    assert "profile" in str(caught.value).lower()


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("location", ["weights/w.bin", "model.onnx"])
def test_weights_beside_the_file_are_found(tmp_path: Path, location: str) -> None:
    """In a folder of their own, where the compiler only finds them through the link that is made for it."""
    model, weights = onnx.load(MODELS / "conv_view_ts11.onnx"), tmp_path / location
    weights.parent.mkdir(exist_ok=True)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location=location, size_threshold=64)
    verified = verify(rename(add_batch_axis(load(tmp_path / "m.onnx"))), max_batch_size=4, effort="off")
    assert verified.external_files == (weights,)
    built = build(verified, make_profiles(verified.batched, (), max_batch_size=4), BuildOptions(), SILENT)
    assert len(built.plan) > weights.stat().st_size


def test_a_model_that_runs_one_sample_at_a_time_is_built() -> None:
    """NVIDIA's parser refuses a Scan without a state."""
    batched = rename(run_one_by_one(load(MODELS / "conv_view_ts11.onnx")))
    checked = on(verify(batched, max_batch_size=8, effort="off"))
    assert checked.bytes > 10_000


# ---------------------------------------------------------------- options


def test_too_little_scratch_memory_is_a_reason_to_allow_more(tmp_path: Path) -> None:
    verified = verify(rename(add_batch_axis(load(ENCODER))), max_batch_size=4, effort="off")
    profiles = make_profiles(verified.batched, (), max_batch_size=4)
    with pytest.raises(HostError, match=r"(?s)so little scratch memory.*allow more than --workspace-mb 1"):
        build(verified, profiles, BuildOptions(workspace_mb=1), SILENT)
    assert build(verified, profiles, BuildOptions(workspace_mb=1024), SILENT).plan


def test_what_this_compiler_cannot_do_is_refused_by_the_name_of_the_option(fixed: VerifiedModel) -> None:
    with pytest.raises(HostError, match="does not support --hardware-compatible"):
        on(fixed, hardware_compatible=True)
    with pytest.raises(HostError, match=r"(?s)libnvinfer_lean.*leave out --version-compatible"):
        on(fixed, version_compatible=True)


def test_a_timing_cache_of_tensorrt_is_not_overwritten_by_tensorrt_for_rtx(
    fixed: VerifiedModel, tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"measured for hours")
    with pytest.raises(HostError, match="keeps no timings"):
        on(fixed, timing_cache=cache)
    assert cache.read_bytes() == b"measured for hours"


@pytest.mark.parametrize("content", [b"no cache at all", b"", bytes(172)], ids=["text", "empty", "zeros"])
def test_a_damaged_timing_cache_does_not_keep_a_plan_from_being_built(
    fixed: VerifiedModel, tmp_path: Path, content: bytes
) -> None:
    """It is read by the same code for every compiler, and written again."""
    cache = tmp_path / "timing.cache"
    cache.write_bytes(content)
    profiles = make_profiles(fixed.batched, (), max_batch_size=8)
    assert build(fixed, profiles, BuildOptions(timing_cache=cache), SILENT).plan
    written = cache.read_bytes()
    assert written not in (content, b"")
    assert build(fixed, profiles, BuildOptions(timing_cache=cache), SILENT).plan
    assert cache.read_bytes() == written


# ---------------------------------------------------------------- stopping


def test_a_build_stops_between_two_steps_when_its_time_is_up(fixed: VerifiedModel, tmp_path: Path) -> None:
    profiles = make_profiles(fixed.batched, (), max_batch_size=8)

    def work(report: Report) -> None:
        def dawdle(_: str) -> None:
            while bounded.time_left() > 0:
                pass

        build(fixed, profiles, BuildOptions(), dawdle)

    with pytest.raises(bounded.OutOfTimeError, match="it was stopped after 1s"):
        bounded.run(work, where=tmp_path, limits=Limits(prove_timeout=1.0), has_gpu=True)


def test_ctrl_c_ends_a_build(fixed: VerifiedModel) -> None:
    """The compiler swallows what is raised in its callbacks."""
    profiles = make_profiles(fixed.batched, (), max_batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        build(fixed, profiles, BuildOptions(), lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert build(fixed, profiles, BuildOptions(), SILENT).plan


def test_phases_are_reported(fixed: VerifiedModel) -> None:
    phases: list[str] = []
    build(fixed, make_profiles(fixed.batched, (), max_batch_size=8), BuildOptions(), phases.append)
    assert phases == ["Building engine"]


# ---------------------------------------------------------------- running


def test_without_a_gpu_a_plan_that_was_built_is_not_run(
    fixed: VerifiedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    built = build(fixed, make_profiles(fixed.batched, (), max_batch_size=8), BuildOptions(), SILENT)
    with pytest.raises(HostError, match="no driver for an NVIDIA GPU"), running.runners(built.plan, tmp_path, 1):
        pass
    capfd.readouterr()
    assert running.engine_formats(built.plan, need_library()) == {}
    assert capfd.readouterr().out == ""


def test_the_compiler_survives_a_fork(fixed: VerifiedModel, tmp_path: Path) -> None:
    """The child builds although the parent has built before."""
    profiles = make_profiles(fixed.batched, (), max_batch_size=8)
    first = len(build(fixed, profiles, BuildOptions(), SILENT).plan)

    def work(report: Report) -> int:
        return len(build(fixed, profiles, BuildOptions(), partial(report, "compile")).plan)

    assert bounded.run(work, where=tmp_path, limits=Limits(), has_gpu=True) == pytest.approx(first, rel=0.1)
