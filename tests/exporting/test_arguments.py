"""Tensors and constants arrive where `forward` expects them, in the containers that it declares."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional, TypedDict, Union

import pytest

from builder.errors import ModelError
from builder.exporting.arguments import arguments_of, signature_of
from builder.exporting.inputs import check
from builder.exporting.options import ExportOptions, InputSpec


class Point(NamedTuple):
    x: str
    y: str = "none"


@dataclasses.dataclass
class Query:
    point: Point
    power: int = 1


class Batch(TypedDict):
    image: str


def call(forward: Callable[..., Any], *tensors: str, **constants: object) -> Any:
    """Call a function with the names of the tensors as their values."""
    paths = [tuple(name.split(".")) for name in tensors]
    fixed = {tuple(name.split("__")): value for name, value in constants.items()}
    arguments, named = arguments_of("nets:make", signature_of(forward), paths, fixed).fill(tensors)
    return forward(*arguments, **named)


def test_a_name_goes_to_its_parameter_whatever_the_order() -> None:
    assert call(lambda x, y=None, z=3: (x, y, z), "y", "x") == ("x", "y", 3)
    assert call(lambda x, z=3: (x, z), "x", z="fixed") == ("x", "fixed")


def positional_only(x: object, y: object = "default", /, z: object = None) -> tuple[object, ...]:
    return x, y, z


def several(first: object, second: object = "default", *rest: object, scale: object = 1) -> tuple[object, ...]:
    return first, second, rest, scale


def test_positional_parameters_and_any_number_of_them_are_filled_in_order() -> None:
    assert call(positional_only, "x", z=1) == ("x", "default", 1)
    assert call(positional_only, "x", "y") == ("x", "y", None)
    assert call(several, "first", "rest.1", "rest.0", scale=2) == ("first", "default", ("rest.0", "rest.1"), 2)
    assert call(several, "first") == ("first", "default", (), 1)


def test_names_that_no_parameter_has_go_into_kwargs() -> None:
    assert call(lambda **batch: batch, "image", "mask") == {"image": "image", "mask": "mask"}
    assert call(lambda **batch: batch, "batch.image", "batch.mask") == {"image": "batch.image", "mask": "batch.mask"}
    assert call(lambda x, **more: (x, more), "x", "state.0") == ("x", {"state": ("state.0",)})


def dictionary(batch: dict[str, Any]) -> Any: ...
def mapping(batch: Mapping[str, Any] | None = None) -> Any: ...
def ordered(batch: collections.OrderedDict[str, Any]) -> Any: ...
def typed(batch: Batch) -> Any: ...
def by_number(batch: dict[int, Any]) -> Any: ...
def by_name(batch: dict[str, Any]) -> Any: ...
def anything(batch): ...  # type: ignore[no-untyped-def]
def a_tuple(batch: tuple[Any, Any]) -> Any: ...
def a_list(batch: list[Any]) -> Any: ...
def sequence(batch: Sequence[Any] | None = None) -> Any: ...
def optional(batch: Optional[list[Any]] = None) -> Any: ...  # noqa: UP045
def either(batch: Union[str, list[Any], None] = None) -> Any: ...  # noqa: UP007
def listed(batch=[]): ...  # type: ignore[no-untyped-def]  # noqa: B006
def unknown(batch: "NoSuchType") -> Any: ...  # type: ignore[name-defined]  # noqa: F821
def named_tuple(batch: Point) -> Any: ...
def record(batch: Query | None = None) -> Any: ...
def pairs(batch: list[Point]) -> Any: ...
def nested(batch: dict[str, list[Any]]) -> Any: ...


T0, T1 = "batch.0", "batch.1"


@pytest.mark.parametrize(
    ("forward", "tensors", "expected"),
    [
        (dictionary, ["batch.a"], {"a": "batch.a"}),
        (mapping, ["batch.a"], {"a": "batch.a"}),
        (ordered, ["batch.a"], collections.OrderedDict(a="batch.a")),
        (typed, ["batch.image"], {"image": "batch.image"}),
        (by_number, [T0, T1], {0: T0, 1: T1}),
        (by_name, [T0], {"0": T0}),
        (anything, ["batch.a"], {"a": "batch.a"}),
        (anything, [T1, T0], (T0, T1)),
        (unknown, [T0], (T0,)),
        (a_tuple, [T0, T1], (T0, T1)),
        (a_list, [f"batch.{n}" for n in range(12)], [f"batch.{n}" for n in range(12)]),
        (sequence, [T0], [T0]),
        (optional, [T0], [T0]),
        (either, [T0], [T0]),
        (listed, [T0], [T0]),
        (named_tuple, ["batch.x", "batch.y"], Point("batch.x", "batch.y")),
        (named_tuple, [T0, T1], Point(T0, T1)),
        (record, ["batch.point.x"], Query(Point("batch.point.x"))),
        (pairs, ["batch.0.x", "batch.1.x"], [Point("batch.0.x"), Point("batch.1.x")]),
        (nested, ["batch.a.0"], {"a": ["batch.a.0"]}),
        (anything, ["batch.0.a", "batch.1"], ({"a": "batch.0.a"}, T1)),
    ],
)
def test_tensors_are_put_into_the_container_that_the_parameter_declares(
    forward: Callable[..., Any], tensors: list[str], expected: object
) -> None:
    arguments = arguments_of("nets:make", signature_of(forward), [tuple(t.split(".")) for t in tensors], {})
    (value,) = arguments.fill(tensors)[1].values()
    assert value == expected
    assert type(value) is type(expected)


def test_constants_stand_beside_tensors_in_a_container() -> None:
    assert call(lambda batch: batch, "batch.image", batch__flag=True) == {"image": "batch.image", "flag": True}
    assert call(lambda state: state, "state.0", state__1=None) == ("state.0", None)


def record_required(batch: Query) -> None: ...


@pytest.mark.parametrize(
    ("forward", "tensors", "constants", "said"),
    [
        (several, ["firs"], {}, r"no parameter 'firs'\nfix: .*--input: first, second, rest\.0, scale"),
        (several, ["first"], {"scal": 1}, r"no parameter 'scal'\nfix: .*--constant: first, second, rest\.0, scale"),
        (positional_only, ["z"], {}, r"also requires x\n"),
        (several, ["first", "rest"], {}, r"any number of arguments as \*rest\nfix: number them: --input 'rest\.0="),
        (several, ["first", "rest.1"], {}, r"rest\.0 is missing beside rest\.1"),
        (anything, ["batch.0", "batch.2"], {}, r"batch\.1 is missing beside batch\.0, batch\.2"),
        (record_required, ["batch.power"], {}, r"batch is a Query: .*'point'\nfix: .*batch\.point, batch\.power"),
        (named_tuple, ["batch.z"], {}, r"batch is a Point: "),
    ],
)
def test_what_does_not_fit_the_parameters_is_named(
    forward: Callable[..., Any], tensors: list[str], constants: dict[str, object], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        call(forward, *tensors, **constants)


# ---- names on the command line


def options(*inputs: str, **others: Any) -> ExportOptions:
    return ExportOptions(tuple(map(InputSpec.parse, inputs)), **others)


def test_a_tensor_inside_a_container_has_a_plain_name_in_the_model() -> None:
    spec = InputSpec.parse("batch.image-0=float32[1,3]")
    assert (spec.name, spec.path, spec.given) == ("batch_image_0", ("batch", "image-0"), "batch.image-0")
    assert InputSpec("batch.a", spec.dtype, (1,)) == InputSpec("batch_a", spec.dtype, (1,), ("batch", "a"))
    asked = options("state.0=float32[1,4]", dynamic={"state.0": {1: "n"}}, batch_axes={"state.0": 0})
    assert (asked.dynamic, asked.batch_axes) == ({"state_0": {1: "n"}}, {"state_0": 0})
    check("nets:make", asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (options("x=float32[1,4]", constants={"x": 1}), "--input and --constant both name 'x'"),
        (options("a.b=float32[1,4]", "a=float32[1,4]"), r"--input a\.b is a part of --input a\n"),
        (options("a.b=float32[1,4]", constants={"a.b.c": 1}), r"--constant a\.b\.c is a part of --input a\.b\n"),
        (options("a.b=float32[1,4]", "a_b=float32[1,4]"), r"the inputs a\.b and a_b would both be called 'a_b'"),
        (options("x=float32[2,4]", "w=float32[4]", batch_axes={"w": None}), "the batch has to be 1"),
    ],
)
def test_names_that_contradict_each_other_are_refused(asked: ExportOptions, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        check("nets:make", asked)
