"""How hard the compiler looks for a fast plan: its levels, and the build routes of the Global Performance Tuner.

Whether a compiler has one of these is decided by asking its module, not by its version.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/tuning.html
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

from builder.errors import HostError
from builder.tensorrt.library import Library

TilingLevel = Literal["none", "fast", "moderate", "full"]

_BOUNDED = re.compile(r"\[([^\]]*)\]")
_MOST_NAMED = 8


def check_effort(library: Library, *, level: int | None, tiling: TilingLevel | None, route: str | None) -> None:
    """Refuse what the compiler does not have, before anything is built.

    Raises:
        HostError: It has no such level, no build routes, or not this one.
    """
    builder_config = library.module.IBuilderConfig
    for option, value, attribute in (
        ("--builder-optimization-level", level, "builder_optimization_level"),
        ("--tiling-optimization-level", tiling, "tiling_optimization_level"),
        ("--build-route", route, "all_build_routes"),
    ):
        if value is not None and not hasattr(builder_config, attribute):
            raise HostError(option, f"{library} does not have IBuilderConfig.{attribute}", f"leave out {option}")
    if route is not None:
        _check_route(library, route)


def tiling_level(library: Library, level: TilingLevel) -> Any:
    """Return the compiler's own value for a level."""
    return getattr(library.module.TilingOptimizationLevel, level.upper())


def _check_route(library: Library, route: str) -> None:
    try:
        knobs = _knobs(library)
    except TypeError:  # pybind11's "factory function returned nullptr": there is no driver, as the first build says
        return
    if not knobs:
        what = f"{library} offers no build routes here: its IBuilderConfig.all_build_routes is empty"
        raise HostError("--build-route", what, "leave out --build-route")
    for part in route.split():
        name, equals, value = part.partition("=")
        if not equals:
            what = f"{part!r} is not of the form KNOB=VALUE"
            raise HostError("--build-route", what, f"write it as {_example(knobs)}")
        if name not in knobs:
            some = ", ".join([*knobs][:_MOST_NAMED]) + (", ..." if len(knobs) > _MOST_NAMED else "")
            raise HostError("--build-route", f"{library} has no knob {name!r}", f"use one of its own: {some}")
        if knobs[name] and value not in knobs[name]:
            what = f"{name} does not take {value!r}"
            raise HostError("--build-route", what, f"use one of {', '.join(knobs[name])}")


def _example(knobs: Mapping[str, tuple[str, ...]]) -> str:
    name, values = next(iter(knobs.items()))
    return f"{name}={values[0] if values else 'VALUE'}"


def _knobs(library: Library) -> dict[str, tuple[str, ...]]:
    """Return the values of each knob of the compiler; none for a knob whose values are not listed."""
    tensorrt = library.module
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    return dict(_read_knobs(builder.create_builder_config().all_build_routes))


def _read_knobs(document: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each knob and its values, as in `{"option": "-fuse", "allowed_values": "[on|off]"}`."""
    with suppress(ValueError, AttributeError, TypeError):
        for knob in json.loads(document or "{}").get("tuner_options", ()):
            found = _BOUNDED.search(str(knob.get("allowed_values", "")))
            listed = found[1].split("|") if found and "..." not in found[1] else []
            yield str(knob["option"]), tuple(value.strip() for value in listed if value.strip())
