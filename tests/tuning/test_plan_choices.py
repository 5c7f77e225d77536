"""What is searched for a TensorRT plan. Nothing of it runs here: no machine of the tests has a GPU."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from support.artifacts import scale
from support.plan_versions import plan_of, with_plan

from builder.config import pbtxt
from builder.errors import RepositoryError
from builder.record import Manifest
from builder.tuning.configuring import read_configuration
from builder.tuning.plan_choices import Engine, PlanChoices

SMALL_AND_ALL = ({"x": "1x3:1x3:2x3"}, {"x": "1x3:4x3:8x3"})
"""A profile for batches of up to 2, and one for all."""

APART = ({"x": "1x3:2x3:4x3"}, {"x": "5x3:8x3:8x3"})
"""Two profiles of which neither takes all batches."""


def served(*profiles: Mapping[str, str]) -> Manifest:
    manifest = with_plan(has_onnx=False).manifest
    assert manifest.plan is not None
    return replace(manifest, plan=replace(manifest.plan, profiles=profiles))


def engines(manifest: Manifest, text: str) -> tuple[Engine, ...]:
    config = pbtxt.parse(text, where="config.pbtxt")
    choices = PlanChoices.of(config, manifest, where="m")
    assert choices is not None
    return choices.engines(read_configuration(config, where="m"))


def config(profiles: str, *, max_batch_size: int = 8, graphs: bool = False) -> str:
    cuda = "optimization { cuda { graphs: true } }" if graphs else ""
    group = f"instance_group {{ kind: KIND_GPU count: 1 profile: [{profiles}] }}"
    return f'backend: "tensorrt" max_batch_size: {max_batch_size} dynamic_batching {{}} {group} {cuda}'


def test_one_profile_is_tried_with_and_without_graphs() -> None:
    assert engines(served({"x": "1x3:4x3:8x3"}), config('"0"')) == (
        Engine((0,), False, 8, (4,)),
        Engine((0,), True, 8, (4,)),
    )


def test_the_current_way_comes_first() -> None:
    found = engines(served(*SMALL_AND_ALL), config('"1"', graphs=True))
    assert found[0] == Engine((1,), True, 8, (4,))
    assert len(set(found)) == len(found) == 4


def test_a_profile_stands_alone_only_if_it_takes_every_batch() -> None:
    found = {engine.profiles for engine in engines(served(*SMALL_AND_ALL), config('"0", "1"'))}
    assert found == {(0, 1), (1,)}
    assert {engine.profiles for engine in engines(served(*APART), config('"0", "1"'))} == {(0, 1)}


def test_a_smaller_largest_batch_lets_a_smaller_profile_stand_alone() -> None:
    found = {engine.profiles for engine in engines(served(*SMALL_AND_ALL), config('"0", "1"', max_batch_size=2))}
    assert found == {(0, 1), (0,), (1,)}


def test_a_profile_does_not_stand_alone_for_shapes_that_another_one_takes() -> None:
    lengths = ({"x": "1x16:4x16:8x32"}, {"x": "1x32:4x64:8x128"})
    assert {engine.profiles for engine in engines(served(*lengths), config('"0", "1"'))} == {(0, 1)}


def test_no_profile_in_the_config_means_the_first_one() -> None:
    found = engines(served(*SMALL_AND_ALL), config(""))
    assert found[0] == Engine((), False, 2, (1,))


def test_the_batch_is_limited_by_the_config_as_well() -> None:
    found = engines(served(*SMALL_AND_ALL), config('"1"', max_batch_size=4))
    assert (found[0].largest, found[0].usual) == (4, ())


def test_a_plan_without_a_batch_has_no_sizes() -> None:
    found = engines(served({"x": "3:3:3"}), config('"0"', max_batch_size=0))
    assert {(engine.largest, engine.usual) for engine in found} == {(0, ())}


@pytest.mark.parametrize("manifest", [scale().manifest, with_plan().manifest])
def test_an_onnx_file_has_no_choices_even_beside_a_plan(manifest: Manifest) -> None:
    assert PlanChoices.of(pbtxt.parse("max_batch_size: 8", where=""), manifest, where="m") is None


def test_plans_with_other_profiles_cannot_be_searched_together() -> None:
    other = replace(plan_of(b"x", kind="8.0"), profiles=SMALL_AND_ALL)
    with pytest.raises(RepositoryError, match="different profiles"):
        engines(replace(served({"x": "1x3:4x3:8x3"}), other_plans=(other,)), config('"0"'))


@pytest.mark.parametrize(
    "profiles",
    [
        ({"x": "8x3:4x3:1x3"},),
        ({"x": "huge"},),
        ({},),
        (),
        ({"x": "1:1:1"}, {"y": "1:1:1"}),
        ({"x": "1:1:1"}, {"x": "1x3:1x3:1x3"}),
    ],
)
def test_a_manifest_with_impossible_profiles_is_refused(profiles: tuple[Mapping[str, str], ...]) -> None:
    with pytest.raises(RepositoryError, match="cannot be read from the manifest"):
        engines(served(*profiles), config('"0"'))
