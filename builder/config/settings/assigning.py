"""Set and remove any field of a config by its path; the message itself says which values a field takes."""

import math
import re
from collections.abc import Callable, Mapping, MutableSequence
from typing import Any, cast

from google.protobuf import text_format
from google.protobuf.message_factory import GetMessageClass

from builder.config.pbtxt import messages
from builder.config.settings import paths
from builder.config.settings.paths import PathError, Step


def assign(config: Any, path: str, value: str, *, is_free: bool = False) -> None:
    """Set the field at a path.

    A plain field takes a number, `true` or `false`, the name of an enum's value, or text, with or without quotes. A
    message takes text format in braces, a list or a map text format in brackets: `{ priority_levels: 2 }`, `[4, 8]`.

    Args:
        config: The config, or a part of it.
        path: The path from there.
        value: The value, as text.
        is_free: Whether every position in a list exists, to check a path and a value without a config.

    Raises:
        PathError: There is no such field, or it does not take this value.
    """
    *before, last = paths.parse(path)
    for step in before:
        config = paths.descend(config, step, is_free=is_free)
    field = paths.find_field(config, last)
    paths.refuse_other_choice(config, field, last)
    place = getattr(config, last.name)
    if last.key is None:
        _assign_whole(config, field, last, value)
    elif isinstance(place, Mapping):
        _assign_entry(place, field, last, value)
    elif isinstance(place, MutableSequence):
        _assign_position(config, field, last, value, is_free=is_free)
    else:
        paths.refuse_key(last)


def remove(config: Any, path: str) -> None:
    """Remove the field or the entry at a path.

    Raises:
        PathError: There is no such field, or it is not set.
    """
    *before, last = paths.parse(path)
    for step in before:
        config = paths.descend(config, step, is_new=False)
    field = paths.find_field(config, last)
    place: Any = getattr(config, last.name)
    if last.key is None:
        if all(found.name != last.name for found, _ in config.ListFields()):
            raise PathError(f"{last.text} is not set", "leave this out")
        config.ClearField(last.name)
    elif isinstance(place, Mapping):
        key = paths.map_key(field, last)
        if key not in place:
            there = ", ".join(map(str, sorted(place))) or "none"
            raise PathError(f"{last.text} is not there", f"use one of the keys that are there: {there}")
        cast(Any, place).pop(key)
    elif isinstance(place, MutableSequence):
        paths.is_append(last, is_new=False)
        cast(Any, place).pop(paths.position(place, last))
    else:
        paths.refuse_key(last)


def _assign_whole(message: Any, field: Any, step: Step, value: str) -> None:
    place = getattr(message, field.name)
    if isinstance(place, Mapping | MutableSequence):
        found = _parsed(type(message), field, step, value, "[", "a list in brackets")
        message.ClearField(field.name)
        getattr(message, field.name).MergeFrom(getattr(found, field.name))
    elif field.message_type is not None:
        found = _parsed(type(message), field, step, value, "{", "text in braces")
        place.CopyFrom(getattr(found, field.name))
        place.SetInParent()
    else:
        _store(lambda plain: setattr(message, field.name, plain), field, step, value)


def _assign_entry(place: Any, field: Any, step: Step, value: str) -> None:
    key = paths.map_key(field, step)
    inner = field.message_type.fields_by_name["value"]
    if inner.message_type is None:
        _store(lambda plain: place.__setitem__(key, plain), inner, step, value)
        return
    found = _parsed(_class_of(field), inner, step, value, "{", "text in braces")
    place[key].CopyFrom(found.value)


def _class_of(field: Any) -> Any:
    return GetMessageClass(field.message_type)


def _assign_position(message: Any, field: Any, step: Step, value: str, *, is_free: bool) -> None:
    place = getattr(message, field.name)
    index = None if paths.is_append(step) else paths.position(place, step, is_free=is_free)
    if field.message_type is None:
        _store(place.append if index is None else lambda plain: place.__setitem__(index, plain), field, step, value)
        return
    found = _parsed(type(message), field, step, value, "{", "text in braces")
    target = place.add() if index is None else place[index]
    target.CopyFrom(getattr(found, field.name)[0])


def _parsed(kind: Callable[[], Any], field: Any, step: Step, value: str, opening: str, form: str) -> Any:
    """Read the text format of one field into a new message.

    Raises:
        PathError: It is not the text format of this field, or sets others, too.
    """
    example = f"{step.text}=" + ("[...]" if opening == "[" else "{...}")
    if not value.lstrip().startswith(opening):
        raise PathError(f"{step.text} takes {form}, not {value!r}", f"write {example}, or the path of a single field")
    try:
        found = text_format.Parse(f"{field.name}: {value}", kind())
    except (text_format.ParseError, UnicodeError) as error:
        raise PathError(f"{value!r} is not a value of {step.text}: {error}", _fix_of(error, example)) from error
    if any(other.name != field.name for other, _ in found.ListFields()):
        raise PathError(
            f"{value!r} sets other fields than {step.text}", f"write {example}, with a --set for each field"
        )
    return found


def _fix_of(error: Exception, example: str) -> str:
    """Return what to do about text that cannot be parsed; a misspelled name is completed."""
    if match := re.search(r'Message type "inference\.([\w.]+)" has no field named "(\w+)"', str(error)):
        kind: Any = messages()
        for name in match[1].split("."):
            kind = getattr(kind, name)
        return paths.suggestion(match[2], [field.name for field in kind.DESCRIPTOR.fields])
    return f"write it in Protobuf's text format, as in {example}"


def _store(store: Callable[[Any], object], field: Any, step: Step, value: str) -> None:
    """Store a text as the value of a plain field.

    Raises:
        PathError: The field does not take it.
    """
    readers = {
        field.CPPTYPE_BOOL: _bool,
        field.CPPTYPE_ENUM: _enum,
        field.CPPTYPE_FLOAT: _float,
        field.CPPTYPE_DOUBLE: _float,
        field.CPPTYPE_STRING: _text,
    }
    plain = readers.get(field.cpp_type, _integer)(field, step, value)
    try:
        store(plain)
    except (ValueError, TypeError) as error:  # a number out of range, or text that is not UTF-8
        fix = _range_of(field) if isinstance(plain, int) else "use text in UTF-8"
        raise PathError(f"{step.text} cannot be {value}", fix) from error


def _range_of(field: Any) -> str:
    bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    is_unsigned = field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
    least, most = (0, 2**bits - 1) if is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return f"use a whole number from {least} to {most}"


def _integer(field: Any, step: Step, value: str) -> int:
    if not re.fullmatch(r"[-+]?\d{1,25}", value, re.ASCII):
        raise PathError(f"{step.text} is a number, and {value!r} is none", _range_of(field))
    return int(value)


def _bool(_field: Any, step: Step, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise PathError(f"{step.text} is either true or false, not {value!r}", "use true or false")
    return value.lower() == "true"


def _enum(field: Any, step: Step, value: str) -> int:
    names = field.enum_type.values_by_name
    if value.upper() not in names:
        what = f"{step.text} has no value {value!r}"
        raise PathError(what, paths.suggestion(value.upper(), names))
    return int(names[value.upper()].number)


def _float(_field: Any, step: Step, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise PathError(f"{step.text} is a number, and {value!r} is none", "use a number such as 0.5")
    return number


def _text(_field: Any, _step: Step, value: str) -> str:
    return paths.unquoted(value)
