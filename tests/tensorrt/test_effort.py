"""Levels and build routes, where the compiler has them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from support.plans import MODELS

from builder.cli import cli
from builder.errors import HostError
from builder.tensorrt import BuildOptions, check_build_options
from builder.tensorrt.building import _take_route
from builder.tensorrt.effort import check_effort
from builder.tensorrt.library import Library, need_library

KNOBS = {
    "tuner_version": "1",
    "tuner_options": [
        {"option": "-fuse", "allowed_values": "[on|off]", "default_value": "on", "help": "Fuse."},
        {"option": "-depth", "allowed_values": "[1...8]", "default_value": "2", "help": "Depth."},
    ],
}


def compiler(routes: str | None) -> Library:
    """Return a compiler with the build routes that it lists; None has no build routes in its interface at all."""
    config: dict[str, Any] = {} if routes is None else {"all_build_routes": routes}
    module = SimpleNamespace(
        IBuilderConfig=SimpleNamespace(**config, builder_optimization_level=3),
        Logger=SimpleNamespace(ERROR=1),
        Builder=lambda _: SimpleNamespace(create_builder_config=lambda: SimpleNamespace(all_build_routes=routes)),
    )
    module.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, _: None})
    return Library("TensorRT", "11.1.0", module)


def check(library: Library, route: str) -> None:
    check_effort(library, level=None, tiling=None, route=route)


@pytest.mark.parametrize("route", ["-fuse=off", "-fuse=on -depth=7"])
def test_a_route_of_the_compilers_own_knobs_is_taken(route: str) -> None:
    check(compiler(json.dumps(KNOBS)), route)


@pytest.mark.parametrize(
    ("routes", "route", "what", "fix"),
    [
        (None, "-fuse=on", "does not have IBuilderConfig.all_build_routes", "leave out --build-route"),
        ("", "-fuse=on", "its IBuilderConfig.all_build_routes is empty", "leave out --build-route"),
        ("no JSON", "-fuse=on", "its IBuilderConfig.all_build_routes is empty", "leave out --build-route"),
        (json.dumps(KNOBS), "-fuse", "'-fuse' is not of the form KNOB=VALUE", "write it as -fuse=on"),
        (json.dumps(KNOBS), "-fast=on", "has no knob '-fast'", "use one of its own: -fuse, -depth"),
        (json.dumps(KNOBS), "-fuse=maybe", "-fuse does not take 'maybe'", "use one of on, off"),
    ],
)
def test_a_route_that_the_compiler_does_not_have_is_refused(
    routes: str | None, route: str, what: str, fix: str
) -> None:
    with pytest.raises(HostError) as caught:
        check(compiler(routes), route)
    assert what in caught.value.what
    assert caught.value.fix == fix


def test_without_a_driver_the_first_build_says_what_is_missing() -> None:
    def create(_: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library = compiler("")
    library.module.Builder = create
    check(library, "-fuse=on")


def test_a_level_that_the_compiler_does_not_have_is_refused() -> None:
    with pytest.raises(HostError, match=r"TensorRT 11\.1\.0 does not have IBuilderConfig\.tiling"):
        check_effort(compiler(""), level=3, tiling="fast", route=None)


def test_a_route_that_the_compiler_drops_is_an_error() -> None:
    class Deaf:
        build_route = property(lambda _: "", lambda _, route: None)

    with pytest.raises(HostError, match="did not take this build route"):
        _take_route(compiler(""), "-fuse=on", Deaf())


@pytest.mark.rtx
def test_tensorrt_for_rtx_has_levels_but_no_build_routes() -> None:
    check_build_options(BuildOptions(builder_optimization_level=0, tiling_optimization_level="full"))
    if need_library().is_rtx:
        with pytest.raises(HostError, match=r"TensorRT for RTX .* offers no build routes here"):
            check_build_options(BuildOptions(build_route="-fuse=on"))


@pytest.mark.rtx
def test_inspect_refuses_what_the_compiler_does_not_have_before_it_proves_the_model() -> None:
    if not need_library().is_rtx:
        pytest.skip("TensorRT has build routes")
    arguments = ["inspect", str(MODELS / "conv_view_ts11.onnx"), "--format", "tensorrt", "--build-route", "-fuse=on"]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, HostError)
    assert "offers no build routes here" in result.exception.what
    assert "verify" not in result.output
