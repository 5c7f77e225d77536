"""The shapes that TensorRT builds for."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.by_hand import original
from support.plans import ask, long, small

from builder.batching import add_batch_axis, keep_static
from builder.cli import cli
from builder.config import Shapes, make_profiles
from builder.config.profiles import parse
from builder.errors import ModelError


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
