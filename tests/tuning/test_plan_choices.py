"""What is searched for a TensorRT plan. Nothing of it runs here: no machine of the tests has a GPU."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from support.artifacts import scale
from support.plan_versions import plan_of, with_plan

from builder.config import pbtxt
from builder.errors import RepositoryError
from builder.record import Manifest
from builder.tuning.bench.configuring import read_configuration
from builder.tuning.plan_choices import PlanChoices, PlanUse
from builder.tuning.search.space import Space

SMALL_AND_ALL = ({"x": "1x3:1x3:2x3"}, {"x": "1x3:4x3:8x3"})
"""A profile for batches of up to 2, and one for all."""

APART = ({"x": "1x3:2x3:4x3"}, {"x": "5x3:8x3:8x3"})
"""Two profiles of which neither takes all batches."""


def served(*profiles: Mapping[str, str]) -> Manifest:
    manifest = with_plan(has_onnx=False).manifest
    assert manifest.plan is not None
    return replace(manifest, plan=replace(manifest.plan, profiles=profiles))


def uses(manifest: Manifest, text: str) -> tuple[PlanUse, ...]:
    config = pbtxt.parse(text, where="config.pbtxt")
    choices = PlanChoices.of(config, manifest, where="m")
    assert choices is not None
    return choices.uses(read_configuration(config, where="m"))


def config(profiles: str, *, max_batch_size: int = 8, graphs: bool = False) -> str:
    cuda = "optimization { cuda { graphs: true } }" if graphs else ""
    group = f"instance_group {{ kind: KIND_GPU count: 1 profile: [{profiles}] }}"
    return f'backend: "tensorrt" max_batch_size: {max_batch_size} dynamic_batching {{}} {group} {cuda}'


def test_one_profile_is_tried_with_and_without_graphs() -> None:
    assert uses(served({"x": "1x3:4x3:8x3"}), config('"0"')) == (
        PlanUse((0,), False, 8, (4,)),
        PlanUse((0,), True, 8, (4,)),
    )


def test_the_current_way_comes_first() -> None:
    found = uses(served(*SMALL_AND_ALL), config('"1"', graphs=True))
    assert found[0] == PlanUse((1,), True, 8, (4,))
    assert len(set(found)) == len(found) == 4


def test_a_profile_stands_alone_only_if_it_takes_every_batch() -> None:
    found = {use.profiles for use in uses(served(*SMALL_AND_ALL), config('"0", "1"'))}
    assert found == {(0, 1), (1,)}
    assert {use.profiles for use in uses(served(*APART), config('"0", "1"'))} == {(0, 1)}


def test_a_smaller_largest_batch_lets_a_smaller_profile_stand_alone() -> None:
    found = {use.profiles for use in uses(served(*SMALL_AND_ALL), config('"0", "1"', max_batch_size=2))}
    assert found == {(0, 1), (0,), (1,)}


def test_a_profile_does_not_stand_alone_for_shapes_that_another_one_takes() -> None:
    lengths = ({"x": "1x16:4x16:8x32"}, {"x": "1x32:4x64:8x128"})
    assert {use.profiles for use in uses(served(*lengths), config('"0", "1"'))} == {(0, 1)}


def test_no_profile_in_the_config_means_the_first_one() -> None:
    found = uses(served(*SMALL_AND_ALL), config(""))
    assert found[0] == PlanUse((), False, 2, (1,))


def test_the_batch_is_limited_by_the_proof_and_not_by_the_config() -> None:
    assert uses(served({"x": "1x3:4x3:16x3"}), config('"0"', max_batch_size=4))[0] == PlanUse((0,), False, 8, (4,))


def test_a_plan_without_a_batch_has_no_sizes() -> None:
    found = uses(served({"x": "3:3:3"}), config('"0"', max_batch_size=0))
    assert {(use.largest, use.usual) for use in found} == {(0, ())}


@pytest.mark.parametrize("manifest", [scale().manifest, with_plan().manifest])
def test_an_onnx_file_has_no_choices_even_beside_a_plan(manifest: Manifest) -> None:
    assert PlanChoices.of(pbtxt.parse("max_batch_size: 8", where=""), manifest, where="m") is None


def test_plans_with_other_profiles_cannot_be_searched_together() -> None:
    other = replace(plan_of(b"x", kind="8.0"), profiles=SMALL_AND_ALL)
    with pytest.raises(RepositoryError, match="different profiles"):
        uses(replace(served({"x": "1x3:4x3:8x3"}), other_plans=(other,)), config('"0"'))


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
        uses(served(*profiles), config('"0"'))


def test_the_space_has_every_way_to_run_a_plan() -> None:
    text = config('"0", "1"')
    current = read_configuration(pbtxt.parse(text, where=""), where="")
    manifest = served({"x": "1x3:1x3:2x3"}, {"x": "1x3:6x3:8x3"})
    space = Space.of(current, cores=2, proven_max_batch=8, kind="tensorrt", plan=uses(manifest, text))
    assert space.configurations[0] == current
    found = set(space.configurations)
    assert {(each.profiles, each.cuda_graphs) for each in found} == {
        ((0, 1), False), ((0, 1), True), ((1,), False), ((1,), True)
    }  # fmt: skip
    assert {each.threads for each in found} == {None}
    assert {each.preferred for each in found} == {(), (1,), (2,), (4,), (6,)}
    assert {each.max_batch_size for each in found} == {8}
    assert len(found) == len(space.configurations)
