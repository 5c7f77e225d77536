"""Decode JSON that anybody may have written into dataclasses, strictly by the types of their fields."""

import functools
import json
import math
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_DEPTH = 32
_MAX_VALUES = 100_000
_LARGEST_INT = 2**63 - 1
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character in UTF-16, which JSON can spell but no text contains."""


class MisreadError(Exception):
    """The document is not what it should be; the message says where, as a clause."""


def parse(text: str) -> Any:
    """Parse a document.

    Raises:
        MisreadError: It is not JSON, is nested too deeply, or has a key twice, or a number that JSON does not have.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError as error:
        raise MisreadError("it is nested too deeply") from error
    except ValueError as error:  # not JSON, or an integer of more digits than Python reads
        raise MisreadError(str(error)) from error


def decode(kind: type[T], document: Any, at: str) -> T:
    """Turn a parsed document into a dataclass; keys that it has no field for are skipped.

    Args:
        kind: The dataclass. Its fields may be dataclasses, `tuple[X, ...]`, `tuple[X, Y]`, `Mapping[str, X]`,
            `Mapping[int, X]` with the keys as text, scalars, `X | None` and `Any`, which stands for any JSON.
        document: What `parse` returned.
        at: What messages call the document.

    Raises:
        MisreadError: A value is missing or has another type, a number is too large, or text is not Unicode.
    """
    return typing.cast(T, _decode(kind, document, at))


def _refuse_constant(name: str) -> None:
    raise MisreadError(f"it has the number {name}, which JSON does not have")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise MisreadError("it has the same key twice in one place")
    return found


def _decode(kind: Any, value: Any, at: str) -> Any:
    if kind is Any:
        _check_plain(value, at)
        return value
    if is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), _expect(dict, value, at), at)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _decode(arguments[0], value, at)
    if origin is tuple:
        return _decode_tuple(arguments, _expect(list, value, at), at)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        entries = _expect(dict, value, at)
        return {
            _key(arguments[0], key, at): _decode(arguments[1], item, f"{at}.{key[:200]}")
            for key, item in entries.items()
        }
    if kind is float and type(value) is int:
        value = float(_scalar(int, value, at))
    return _scalar(kind, value, at)


def _decode_tuple(kinds: tuple[Any, ...], items: list[Any], at: str) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    if len(items) != len(kinds):
        raise MisreadError(f"{at} has {len(items)} values instead of {len(kinds)}")
    return tuple(_decode(kind, item, f"{at}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items, strict=True)))


def _key(kind: type, key: str, at: str) -> Any:
    """Return a key, which JSON has as text: a number has one spelling, so that no two keys are the same."""
    if kind is str:
        return _scalar(str, key, at)
    if not _WHOLE.fullmatch(key):
        raise MisreadError(f"{at} has the key {reprlib.repr(key)}, which is no whole number")
    return int(key)


def _decode_dataclass(kind: type, document: dict[str, Any], at: str) -> Any:
    hints = _hints(kind)
    values = {}
    for field in fields(kind):
        if field.name not in document:
            if field.default is MISSING and field.default_factory is MISSING:
                raise MisreadError(f"{at}.{field.name} is missing")
            continue
        values[field.name] = _decode(hints[field.name], document[field.name], f"{at}.{field.name}")
    return kind(**values)


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields, which takes longer to find out than a document takes to decode."""
    return typing.get_type_hints(kind)


def _check_plain(value: Any, at: str) -> None:
    """Check JSON of any structure, one level after the other."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif item is not None:
                _scalar(type(item), item, at)
        if len(below) > _MAX_VALUES:
            raise MisreadError(f"{at} has more than {_MAX_VALUES:,} values")
        level = below
    if level:
        raise MisreadError(f"{at} is nested too deeply")


def _scalar(kind: type, value: Any, at: str) -> Any:
    """Return a scalar that every later step can work with."""
    _expect(kind, value, at)
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        raise MisreadError(f"{at} is a number of more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise MisreadError(f"{at} is too large")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise MisreadError(f"{at} is text that is not Unicode")
    return value


def _expect(kind: type, value: Any, at: str) -> Any:
    if type(value) is not kind:
        raise MisreadError(f"{at} is {reprlib.repr(value)} instead of a value of type {kind.__name__}")
    return value
