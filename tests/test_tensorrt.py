import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.artifacts import scale
from support.by_hand import original

from builder.batching import BatchedModel, add_batch_axis, free_axes, keep_static
from builder.cli import cli
from builder.config import Config, ConfigOptions, Profile, Shapes, make_config, make_profiles
from builder.config.profiles import parse
from builder.errors import HostError, ModelError, RepositoryError, VerificationError
from builder.model import load
from builder.naming import rename
from builder.proof import VerifiedModel, verify
from builder.proof.session import open_rewritten
from builder.publishing import PublishOptions, publish
from builder.record import Manifest, ModelFile, Plan, first_row
from builder.tensorrt import building, find_host, prove_profile, read_formats, running

MODELS = Path(__file__).parent / "models"

Arrays = Mapping[str, np.ndarray[Any, Any]]
Run = Callable[[Arrays], Arrays]


def has_host() -> bool:
    try:
        find_host()
    except HostError:
        return False
    return True


HAS_HOST = has_host()
WEIGHTS = "float[4, 3] w = {0.5, -0.25, 1.0, 0.75, 0.5, -0.5, -1.0, 0.25, 0.5, 0.1, 0.2, 0.3}"


def small(folder: Path) -> BatchedModel:
    return add_batch_axis(original(folder, f"g (float[1, 4] x) => (float[1, 3] y) <{WEIGHTS}> {{ y = MatMul (x, w) }}"))


def long(folder: Path) -> BatchedModel:
    """Return a model of `x: float[batch, length, 2]`, where the original has length 6."""
    text = "g (float[1, 6, 2] x) => (float[1, 6, 2] y) { y = Softmax <axis = 1> (x) }"
    return free_axes(add_batch_axis(original(folder, text)), {"x": {1: "length"}})


def ask(*texts: str) -> tuple[tuple[str, Shapes], ...]:
    return tuple(map(parse, texts))


# ---------------------------------------------------------------- profiles


def test_a_profile_is_three_shapes() -> None:
    assert parse("a=b=1x16:8x128:32x512") == ("a=b", Shapes((1, 16), (8, 128), (32, 512)))
    assert str(parse("x=1:2:3")[1]) == "1:2:3"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x=1x4:8x4", "not of the form"),
        ("x", "not of the form"),
        ("=1:2:3", "not of the form"),
        ("x=1xN:2xN:3xN", "not of the form"),
        ("x=1x4:8x4x1:16x4", "different numbers of dimensions"),
        ("x=1x4:32x4:16x4", "is not in ascending order from 1 up: on axis 0 it has 1, 32 and 16"),
        ("x=0x4:8x4:16x4", "on axis 0 it has 0, 8 and 16"),
    ],
)
def test_a_profile_that_contradicts_itself_is_a_usage_error(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "m.onnx"), "--format", "tensorrt", "--profile", text])
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())


def test_the_profile_goes_from_one_through_the_preferred_size_to_the_largest(tmp_path: Path) -> None:
    (profile,) = make_profiles(small(tmp_path), (), max_batch_size=32, preferred=(4, 16))
    assert profile == {"x": Shapes((1, 4), (16, 4), (32, 4))}
    (profile,) = make_profiles(small(tmp_path), (), max_batch_size=32)
    assert profile["x"].opt == (32, 4)


def test_a_model_that_is_kept_static_has_one_shape(tmp_path: Path) -> None:
    static = keep_static(small(tmp_path).original)
    assert make_profiles(static, (), max_batch_size=32) == ({"x": Shapes((1, 4), (1, 4), (1, 4))},)


def test_the_second_shapes_of_an_input_are_another_profile(tmp_path: Path) -> None:
    profiles = make_profiles(small(tmp_path), ask("x=1x4:1x4:1x4", "x=2x4:8x4:16x4"), max_batch_size=16)
    assert [str(profile["x"]) for profile in profiles] == ["1x4:1x4:1x4", "2x4:8x4:16x4"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (["z=1x4:8x4:16x4"], "'z', but there is no such input"),
        (["x=1x4x1:8x4x1:16x4x1"], "has 3 dimensions"),
        (["x=1x3:8x4:16x5"], r"has the sizes \[3, 4, 5\] on axis 1, which is always 4"),
        (["x=2x4:8x4:16x4"], "no profile covers batch size 1"),
        (["x=1x4:8x4:12x4"], "no profile covers batch size 13"),
        (["x=1x4:2x4:4x4", "x=6x4:8x4:16x4"], "no profile covers batch size 5"),
    ],
)
def test_a_profile_that_does_not_suit_the_model_is_refused(asked: list[str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=reason):
        make_profiles(small(tmp_path), ask(*asked), max_batch_size=16)


def test_inputs_of_one_profile_have_one_batch(tmp_path: Path) -> None:
    text = "g (float[1, 2] a, float[1, 2] b) => (float[1, 2] y) { y = Add (a, b) }"
    batched = add_batch_axis(original(tmp_path, text))
    with pytest.raises(ModelError, match="different batch sizes"):
        make_profiles(batched, ask("a=1x2:8x2:16x2", "b=1x2:4x2:16x2"), max_batch_size=16)


def test_an_axis_that_varies_needs_bounds_that_hold_the_size_of_the_proof(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"dynamic sizes \(length\)"):
        make_profiles(long(tmp_path), (), max_batch_size=4)
    with pytest.raises(ModelError, match="no profile covers size 6 on axis 1"):
        make_profiles(long(tmp_path), ask("x=1x7x2:2x8x2:4x9x2"), max_batch_size=4)
    assert len(make_profiles(long(tmp_path), ask("x=1x2x2:2x6x2:4x9x2"), max_batch_size=4)) == 1


# ---------------------------------------------------------------- the proof, with ONNX Runtime instead of TensorRT


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


def test_the_precision_is_read_from_the_layers_of_the_engine() -> None:
    """The layers are printed as the engine inspectors of several releases do."""
    layers: list[dict[str, Any]] = [
        {
            "Name": "a",
            "Outputs": [{"Name": "t", "Dimensions": [1, 8], "Format/Datatype": "Row major linear FP16 format"}],
        },
        {"Name": "b", "Outputs": [{"Name": "u", "Format/Datatype": "Half"}, {"Name": "v", "Format/Datatype": "Float"}]},
        {"Name": "c", "Outputs": [{"Name": "w", "Format/Datatype": "BFloat16"}]},
        {"Name": "d", "Outputs": [{"Name": "w", "Format/Datatype": "N/A due to dynamic shapes"}]},
        {"Name": "e"},
    ]
    assert read_formats(layers) == {"FP16": 1, "Half": 1, "Float": 1, "BFloat16": 1, "other": 1}


# ---------------------------------------------------------------- without a GPU


@pytest.mark.skipif(HAS_HOST, reason="this machine can build plans")
def test_without_a_gpu_a_plan_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"(?s)missing: .*docker compose run --rm builder publish"):
        publish(tmp_path / "missing.onnx", tmp_path / "models", options=PublishOptions(format="tensorrt"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(HAS_HOST, reason="this machine can build plans")
def test_the_command_line_exits_with_6_without_a_gpu(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "missing.onnx"), "--format", "tensorrt"])
    assert isinstance(result.exception, HostError)
    assert result.exception.exit_code == 6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--profile", "x=1x4:2x4:4x4"], "--profile has no effect without TensorRT"),
        (["--timing-cache", "cache"], "--timing-cache is only for TensorRT plans"),
        (["--workspace-mb", "64", "--accelerator", "tensorrt"], "--workspace-mb is only for TensorRT plans"),
        (["--format", "tensorrt", "--accelerator", "tensorrt"], "--accelerator is for an ONNX file"),
    ],
)
def test_options_that_contradict_each_other_are_a_usage_error(options: list[str], reason: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "m.onnx"), *options])
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())


# ---------------------------------------------------------------- config.pbtxt


def config(manifest: Manifest, options: ConfigOptions) -> Config:
    return make_config(manifest, name="m", version=1, sample=first_row(scale().reference), options=options)


PROFILES: tuple[Profile, ...] = (
    {"x": Shapes((1, 3), (4, 3), (8, 3)), "n": Shapes((1,), (4,), (8,))},
    {"x": Shapes((2, 3), (4, 3), (8, 3)), "n": Shapes((2,), (4,), (8,))},
)
PLAN = Plan("11.1.0", "13.3", "NVIDIA H200", "580.1", "0" * 64, {"Half": 3}, ({"x": "1x3:4x3:8x3"},))


def test_the_accelerator_gets_explicit_shapes_and_a_gpu() -> None:
    text = config(scale().manifest, ConfigOptions(accelerator="tensorrt", profiles=PROFILES[:1])).text
    assert 'name: "tensorrt"' in text
    assert 'value: "x:1x3,n:1"' in text
    assert 'value: "x:8x3,n:8"' in text
    assert "kind: KIND_GPU" in text


def test_publishing_with_the_accelerator_again_changes_nothing(tmp_path: Path) -> None:
    options = PublishOptions(config=ConfigOptions(accelerator="tensorrt", max_batch_size=4))
    first = publish(MODELS / "encoder_layer_ts17.onnx", tmp_path / "models", options=options)
    again = publish(MODELS / "encoder_layer_ts17.onnx", tmp_path / "models", options=options)
    assert (first.version.created, again.version.created, again.version.config_changed) == (True, False, False)


@pytest.mark.parametrize(
    "options", [ConfigOptions(accelerator="tensorrt", kind="cpu"), ConfigOptions(cuda_graphs=True)]
)
def test_tensorrt_is_refused_where_it_cannot_run(options: ConfigOptions) -> None:
    with pytest.raises(RepositoryError, match="TensorRT"):
        config(scale().manifest, options)


def test_a_plan_gets_its_backend_profiles_and_cuda_graphs() -> None:
    served = replace(scale().manifest, model=ModelFile("model.plan", "0" * 64, 1), plan=PLAN)
    text = config(served, ConfigOptions(profiles=PROFILES, cuda_graphs=True)).text
    assert 'backend: "tensorrt"' in text
    assert re.search(r'profile: \[?"0"(, |]?\s+profile: )"1"', text)
    assert "kind: KIND_GPU" in text
    assert "graphs: true" in text


def test_the_manifest_of_a_plan_is_read_back_unchanged() -> None:
    manifest = replace(scale().manifest, plan=PLAN)
    assert Manifest.from_json(manifest.to_json(), where="test") == manifest


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOST, reason="requires an NVIDIA GPU, TensorRT 10 or 11, and Polygraphy")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["conv_view_ts11", "encoder_layer_ts17", "text_encoder_ts13"])
def test_a_plan_is_built_and_answers_as_the_original(name: str, precision: Any, tmp_path: Path) -> None:
    options = PublishOptions(format="tensorrt", precision=precision, config=ConfigOptions(max_batch_size=8))
    done = publish(MODELS / f"{name}.onnx", tmp_path / "models", options=options)
    assert (done.version.path / "model.plan").stat().st_size == done.manifest.model.bytes
    assert done.manifest.plan is not None
    assert done.manifest.plan.tensorrt
    if precision == "fp16":
        assert done.manifest.plan.layers.keys() & {"Half", "FP16"}


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOST, reason="requires an NVIDIA GPU, TensorRT 10 or 11, and Polygraphy")
def test_the_timing_cache_is_kept(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    batched = rename(add_batch_axis(load(MODELS / "conv_view_ts11.onnx")))
    options = PublishOptions(format="tensorrt", config=ConfigOptions(max_batch_size=4))
    publish(
        batched.original.path,
        tmp_path / "m",
        options=replace(options, build=replace(options.build, timing_cache=cache)),
    )
    assert cache.stat().st_size > 0


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
