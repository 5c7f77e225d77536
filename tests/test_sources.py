"""The checks that test_architecture.py uses find what they should find."""

import pytest
from support.sources import (
    FrontDoor,
    asserts,
    front_door,
    imported,
    in_circles,
    module_graph,
    says_not_none,
    side_entrances,
    users,
)


def test_the_reader_sees_imports_wherever_they_are() -> None:
    source = (
        "from __future__ import annotations\n"
        "import onnx.helper as h\n"
        "from . import rules\n"
        "from ..model import load\n"
        "def f():\n    from onnxruntime import InferenceSession\n"
        "if TYPE_CHECKING:\n    import locust\n"
    )
    assert set(imported(source, "builder.batching.walk")) == {
        "__future__.annotations", "onnx.helper", "builder.batching.rules", "builder.model.load",
        "onnxruntime.InferenceSession", "locust",
    }  # fmt: skip
    assert set(imported("from .walk import Walk", "builder.batching", is_package=True)) == {
        "builder.batching.walk.Walk"
    }


def test_a_library_used_where_it_should_not_be_is_found() -> None:
    assert users(
        {"builder.a": {"onnxruntime.InferenceSession"}, "builder.b": {"onnxruntime_tools"}}, "onnxruntime"
    ) == {"builder.a"}


def test_a_circle_of_modules_is_found() -> None:
    imports = {
        "builder.batching": {"builder.batching.walk.Walk"},
        "builder.batching.walk": {"builder.batching.sizes.free"},
        "builder.batching.sizes": {"builder.batching.walk.Walk"},
        "builder.batching.rule": {"typing.Any"},
    }
    circle = {"builder.batching.walk", "builder.batching.sizes"}
    assert in_circles(module_graph(imports, {"builder.batching"})) == circle


def test_a_module_that_imports_the_front_door_of_its_own_package_is_in_a_circle() -> None:
    imports = {"builder.model": {"builder.model.loading.load"}, "builder.model.loading": {"builder.model.Model"}}
    assert in_circles(module_graph(imports, {"builder.model"})) == {"builder.model", "builder.model.loading"}


def test_a_module_that_a_front_door_runs_first_is_in_a_circle_with_what_it_enters() -> None:
    imports = {
        "builder.batching": set[str](),
        "builder.batching.statics": {"builder.batching.rules.axes.on_axes"},
        "builder.batching.rules": {"builder.batching.rules.axes", "builder.batching.rules.shape"},
        "builder.batching.rules.axes": set[str](),
        "builder.batching.rules.shape": {"builder.batching.statics.infer"},
    }
    circle = {"builder.batching.statics", "builder.batching.rules", "builder.batching.rules.shape"}
    assert in_circles(module_graph(imports, {"builder.batching", "builder.batching.rules"})) == circle


def test_modules_that_import_one_another_in_one_direction_are_in_no_circle() -> None:
    imports = {
        "builder.model": {"builder.model.loading.load"},
        "builder.model.loading": {"builder.model.types.Dim", "builder.errors.ModelError"},
        "builder.model.types": {"typing.Any"},
        "builder.errors": set[str](),
    }
    assert in_circles(module_graph(imports, {"builder.model"})) == set()


@pytest.mark.parametrize(
    ("name", "passes_by"),
    [
        ("builder.proof.verify", False),
        ("builder.proof.comparison.compare", False),
        ("builder.proof.comparison", False),
        ("builder.proof.comparison.verify", True),
        ("builder.proof.session.open_original", True),
        ("builder.proof.Prover", True),
    ],
)
def test_an_import_that_bypasses_the_front_door_is_found(name: str, passes_by: bool) -> None:
    modules = ("builder.proof", "builder.proof.comparison", "builder.proof.session")
    imports = {"builder.cli.commands": {name}, **{module: set[str]() for module in modules}}
    doors = {"builder.proof": FrontDoor("Prove it; `comparison` says when answers are equal.", ("verify",))}
    assert side_entrances(imports, doors) == ({("builder.cli.commands", name)} if passes_by else set())


def test_inside_a_package_its_modules_import_each_other_directly() -> None:
    imports = {"builder.proof.prover": {"builder.proof.session.run"}, "builder.proof.session": set[str]()}
    assert side_entrances(imports, {"builder.proof": FrontDoor("", ())}) == set()


def test_the_reader_of_front_doors_sees_what_is_offered() -> None:
    assert front_door('"""Read `files`."""\n__all__ = ["load"]\n') == FrontDoor("Read `files`.", ("load",))
    assert front_door("__all__: list[str] = []\n") == FrontDoor("", ())
    assert front_door("from .loading import load\n").offered is None


def test_an_assert_that_something_is_not_none_is_found() -> None:
    source = "assert a is not None and b\nassert c > 0\nassert isinstance(d, int)\n"
    assert [says_not_none(node) for node in asserts(source)] == [True, False, False]
