"""Paths of fields in Triton's ModelConfig, such as `dynamic_batching.priority_levels` or `instance_group[0].count`.

A path is names joined by dots. After a name, brackets hold the position of an entry in a list, counted from 0 (-1 is
the last one, + a new one), or the key of an entry in a map: `parameters["execution_mode"].string_value`.

What a path may be is read from the message itself, so every field that this release of tritonclient knows can be set.
"""

import re
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

from google.protobuf import text_format

from builder.config.pbtxt import messages
from builder.config.spelling import closest

_STEP = re.compile(r"""(?P<name>\w+)(?:\[(?P<key>\+|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\]"']+)\])?""", re.ASCII)


class PathError(ValueError):
    """A path or a value that does not fit the message.

    Args:
        what: What is wrong, as a clause without a full stop.
        fix: What to do about it, starting with a verb.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Step:
    """One name of a path.

    Attributes:
        name: The field's name.
        key: What its brackets hold, without quotes; None if it has none.
        text: The path up to here.
    """

    name: str
    key: str | None
    text: str


def parse(path: str) -> tuple[Step, ...]:
    """Split a path into its steps.

    Raises:
        PathError: It is not written like one.
    """
    steps: list[Step] = []
    position = 0
    while match := _STEP.match(path, position):
        key = match["key"]
        steps.append(Step(match["name"], None if key is None else unquoted(key), path[: match.end()]))
        position = match.end()
        if position == len(path):
            return tuple(steps)
        if path[position] != ".":
            break
        position += 1
    fix = "join names with dots, as in dynamic_batching.priority_levels or instance_group[0].count"
    raise PathError(f"{path!r} is not the path of a field", fix)


def unquoted(text: str) -> str:
    """Return a text without its quotes and escapes; a text that is not in quotes stays as it is.

    Raises:
        PathError: The text in the quotes is not valid.
    """
    if len(text) < 2 or text[0] not in "\"'" or text[-1] != text[0]:
        return text
    try:
        found: str = text_format.Parse(f"name: {text}", messages().ModelConfig()).name
    except (text_format.ParseError, UnicodeError) as error:
        raise PathError(f"{text} is not a valid text in quotes", "leave the quotes out") from error
    return found


def find_field(message: Any, step: Step) -> Any:
    """Return the descriptor of the field that a step names.

    Raises:
        PathError: The message has no such field.
    """
    field = message.DESCRIPTOR.fields_by_name.get(step.name)
    if field is None:
        names = [field.name for field in message.DESCRIPTOR.fields]
        what = f"{message.DESCRIPTOR.name} has no field {step.name!r}"
        raise PathError(what, f"{suggestion(step.name, names)}; for a field of a newer Triton, edit config.pbtxt")
    return field


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the fix for a name that does not exist: the most similar ones, or all."""
    every = list(names)
    meant = closest(name, every)
    close = [meant] if meant is not None else get_close_matches(name, every, 3, 0.6)
    return f"use {' or '.join(close or every)}"


def descend(message: Any, step: Step, *, is_free: bool = False, is_new: bool = True) -> Any:
    """Return the message that a step leads to.

    Args:
        message: The message that has the field.
        step: The step.
        is_free: Whether every position in a list exists, to check a path without a config.
        is_new: Whether what is not there is made.

    Raises:
        PathError: The step does not lead to a message, or to one that is not there.
    """
    field = find_field(message, step)
    place: Any = getattr(message, step.name)
    if field.message_type is None or (is_map(place) and value_type(field) is None):
        what = f"{step.text} has no fields of its own"
        raise PathError(what, f"set it by itself, as in {step.text}=VALUE")
    if isinstance(place, Mapping):
        key = map_key(field, step)
        _refuse_absent(is_new or key in place, step)
        return place[key]
    if isinstance(place, MutableSequence):
        index = None if is_append(step, is_new=is_new) else position(place, step, is_free=is_free)
        return cast(Any, place).add() if index is None else place[index]
    refuse_key(step)
    _refuse_absent(is_new or message.HasField(step.name), step)
    refuse_other_choice(message, field, step)
    return place


def _refuse_absent(is_there: bool, step: Step) -> None:
    if not is_there:
        raise PathError(f"{step.text} is not set", "name a field that is set, or leave this out")


def is_map(place: object) -> bool:
    """Return whether a field's value is a map."""
    return isinstance(place, Mapping)


def value_type(field: Any) -> Any:
    """Return the type of message that the values of a map have; None if they are plain."""
    return field.message_type.fields_by_name["value"].message_type


def map_key(field: Any, step: Step) -> Any:
    """Return the key that a step names in a map, of the type that the map has.

    Raises:
        PathError: It names none, or one of another type.
    """
    example = f'{step.name}["NAME"]'
    if step.key is None:
        raise PathError(f"{step.text} is a map", f"name one of its entries, as in {example}")
    if field.message_type.fields_by_name["key"].cpp_type == field.CPPTYPE_STRING:
        return step.key
    if not re.fullmatch(r"\d{1,19}", step.key, re.ASCII):
        raise PathError(f"{step.key!r} is not a key of {step.name}", f"use a number, as in {step.name}[1]")
    return int(step.key)


def is_append(step: Step, *, is_new: bool = True) -> bool:
    """Return whether a step adds an entry to a list.

    Raises:
        PathError: Nothing is to be added here.
    """
    if step.key == "+" and not is_new:
        raise PathError(f"{step.text} is a new entry", f"name one that is there, as in {step.name}[0]")
    return step.key == "+"


def position(place: Sequence[Any], step: Step, *, is_free: bool = False) -> int | None:
    """Return the position in a list that a step names; None if every position exists, so that it is a new entry.

    Raises:
        PathError: It names none, or one that is not there.
    """
    if step.key is None:
        fix = f"name one of its entries, as in {step.name}[0], or {step.name}[+] for a new one"
        raise PathError(f"{step.text} is a list", fix)
    if not re.fullmatch(r"-?\d{1,9}", step.key, re.ASCII):
        raise PathError(f"{step.key!r} is not a position in {step.name}", f"use a number, as in {step.name}[0]")
    if is_free:
        return None
    index = int(step.key)
    if not -len(place) <= index < len(place):
        entries = "no entries" if not place else "1 entry" if len(place) == 1 else f"{len(place)} entries"
        there = f"use {step.name}[+] to add one" + (f", or {step.name}[{len(place) - 1}] for the last" if place else "")
        raise PathError(f"{step.text} is not there: the list has {entries}", there)
    return index


def refuse_key(step: Step) -> None:
    """Refuse brackets after a field that is neither a list nor a map.

    Raises:
        PathError: There are brackets.
    """
    if step.key is not None:
        what = f"{step.name} is neither a list nor a map"
        raise PathError(what, f"leave out the brackets of {step.text}")


def refuse_other_choice(message: Any, field: Any, step: Step) -> None:
    """Refuse a field that would silently replace another one, because only one of them can be set.

    Raises:
        PathError: The other one is set.
    """
    choice = field.containing_oneof
    other = None if choice is None else message.WhichOneof(choice.name)
    if other is not None and other != field.name:
        path = step.text[: len(step.text) - len(step.name)] + other
        what = f"only one of {field.name} and {other} can be set, and {other} is"
        raise PathError(what, f"add --unset {path}, or leave this out")
