"""Change the text of a protobuf message in place, entry by entry, at every depth.

Only what changes is written again, so comments, layout and fields of a newer Triton survive.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, MutableSequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from builder.errors import RepositoryError


def edit_message(text: str, before: Any, after: Any, indent: str, where: object) -> str:
    """Return the text of one message, changed so that it says what `after` says.

    Args:
        text: The text of the message, without its name and braces.
        before: What it says.
        after: What it is to say.
        indent: How far its entries are indented.
        where: The file, for errors.

    Raises:
        RepositoryError: An entry that has to be replaced contains a field that this release does not know.
    """
    for field in after.DESCRIPTOR.fields:
        if elements(before, field) != elements(after, field):
            text = _edit_field(text, field, after, indent, where)
    return text


@dataclass(frozen=True, slots=True)
class _Entry:
    """A top-level `name: value` or `name { … }`, and its place in the text."""

    name: str
    start: int
    end: int


TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+) | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | (?P<open>[{<\[])
      | (?P<close>[}>\]]) | (?P<mark>[:;,]) | (?P<word>[^\s\#"'{}<>\[\]:;,]+)""",
    re.VERBOSE | re.DOTALL,
)
"""A token of the text format; what lies between tokens is `space`."""

_BRACES = re.compile(r"(?P<head>\w+\s*(?::\s*)?\{)(?P<inside>.*?)(?P<tail>\}\s*[;,]?)", re.DOTALL)
"""An entry that is a message in braces. Spaces have one place each, so that long ones do not take long."""

_FIRST_INDENT = re.compile(r"\n([ \t]*)[^\s#]")
"""How far the first line inside a message is indented that is no comment."""


def _entries(text: str) -> Iterator[_Entry]:
    """Yield the top-level entries of a valid text, each with the separator that follows it."""
    tokens = [match for match in TOKEN.finditer(text) if match.lastgroup != "space"]
    names = [i for i, depth in enumerate(_depths(tokens)) if depth == 0 and _is_name(tokens, i)]
    for i, following in zip(names, [*names, len(tokens)][1:], strict=True):
        yield _Entry(tokens[i].group(), tokens[i].start(), tokens[following - 1].end())


def _depths(tokens: list[re.Match[str]]) -> Iterator[int]:
    depth = 0
    for token in tokens:
        yield depth
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")


def _is_name(tokens: list[re.Match[str]], i: int) -> bool:
    """Return whether a token is the name of an entry: a word followed by `:` or a bracket."""
    following = tokens[i + 1].group() if i + 1 < len(tokens) else ""
    return tokens[i].lastgroup == "word" and following in (":", "{", "<", "[")


def _edit_field(text: str, field: Any, message: Any, indent: str, where: object) -> str:
    """Keep the entries of `field` that are still right, change or remove the others, and add what is missing."""
    missing = elements(message, field)
    is_map_or_messages = isinstance(getattr(message, field.name), (Mapping, MutableSequence)) and field.message_type
    wrong: list[tuple[_Entry, list[Any]]] = []
    for entry in (entry for entry in _entries(text) if entry.name == field.name):
        held = elements(_parsed_as(message, text[entry.start : entry.end]), field)
        others = _without(missing, held) if is_map_or_messages else [] if held == missing else None
        if others is None:
            wrong.append((entry, held))
        else:
            missing = others
    if len(wrong) == len(missing) and all(len(held) < 2 for _, held in wrong):
        for (entry, held), new in reversed(list(zip(wrong, missing, strict=True))):
            text = _change(text, entry, field, held, new, message, indent, where)
        return text
    dropped = [entry for entry, _ in wrong]
    for entry in dropped:
        _refuse_unknown(text[entry.start : entry.end], field, message, where)
    return _splice(text, dropped, render_elements(message, field, missing), indent)


def _without(values: list[Any], some: list[Any]) -> list[Any] | None:
    """Return the values without some of them, each taken out once; None if not all of those are there."""
    left = list(values)
    for value in some:
        if value not in left:
            return None
        left.remove(value)
    return left


def _change(
    text: str, entry: _Entry, field: Any, held: list[Any], new: Any, message: Any, indent: str, where: object
) -> str:
    """Change an entry that has one value, or a default, into one that has another; in a message, only what differs."""
    span = text[entry.start : entry.end]
    parts = _BRACES.fullmatch(span)
    if parts is not None and isinstance(new, Message) and held:
        inside = parts["inside"].rstrip()
        tail = parts["inside"][len(inside) :] + parts["tail"]
        deeper = _FIRST_INDENT.search(inside)
        edited = edit_message(inside, held[0], new, deeper[1] if deeper else f"{indent}  ", where).rstrip()
        is_taller = "\n" in edited and "\n" not in tail
        changed = parts["head"] + edited + (f"\n{indent}}}" if is_taller else tail if edited else "}")
        if _says(changed, field, new, message):
            return text[: entry.start] + changed + text[entry.end :]
    _refuse_unknown(span, field, message, where)
    return _splice(text, [entry], render_elements(message, field, [new]), indent)


def _says(span: str, field: Any, value: Any, message: Any) -> bool:
    """Return whether an entry that was changed says this. One with a brace in a comment may say nothing any more."""
    try:
        return elements(_parsed_as(message, span), field) == [value]
    except text_format.ParseError:
        return False


def _refuse_unknown(span: str, field: Any, message: Any, where: object) -> None:
    """Refuse to replace an entry that has a field which this release does not know, because it would get lost.

    Raises:
        RepositoryError: It has one.
    """
    try:
        text_format.Parse(span, type(message)())
    except text_format.ParseError as unknown:
        what = f"{field.name} has to change, but it has a field that this release does not know: {unknown}"
        raise RepositoryError(where, what, "upgrade tritonclient, or remove that field from this file") from unknown


def _parsed_as(message: Any, text: str) -> Any:
    """Read the text of a message of the same type."""
    return text_format.Parse(text, type(message)(), allow_unknown_field=True)


def _splice(text: str, dropped: list[_Entry], added: str, indent: str) -> str:
    """Put `added` in place of the first dropped entry, or at the end, and cut the other dropped ones out."""
    added = textwrap.indent(added, indent)
    if not dropped:
        return f"{text.rstrip()}\n{added}" if added else text
    for entry in reversed(dropped[1:] if added else dropped):
        text = _cut(text, entry)
    if added:
        before, after = text[: dropped[0].start], text[dropped[0].end :]
        text = before + (added.strip("\n ") if after[:1].isspace() or not after else added.lstrip(" ")) + after
    return text


def _cut(text: str, entry: _Entry) -> str:
    """Cut an entry out, and its line too when nothing else is on it."""
    before, after = text[: entry.start], text[entry.end :]
    line_start = before.rstrip(" \t")
    if after.startswith("\n") and line_start[-1:] in ("", "\n"):
        return line_start + after[1:]
    return before + after


def elements(message: Any, field: Any) -> list[Any]:
    """Return the values of a field: none, one, or one for each repetition; of a map, pairs of key and value."""
    value = getattr(message, field.name)
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, MutableSequence):
        return list(value)
    is_set = message.HasField(field.name) if field.has_presence else value != field.default_value
    return [value] if is_set else []


def render_elements(message: Any, field: Any, values: list[Any]) -> str:
    """Return the text of a field with these values."""
    rendered = type(message)()
    target = getattr(rendered, field.name)
    for element in values:
        if isinstance(target, Mapping):
            _set(target, *element)
        elif isinstance(target, MutableSequence):
            target.append(element)
        elif field.message_type is not None:
            target.CopyFrom(element)
            target.SetInParent()
        else:
            setattr(rendered, field.name, element)
    return text_format.MessageToString(rendered, as_utf8=True, use_short_repeated_primitives=True)


def _set(target: Any, key: Any, value: Any) -> None:
    if isinstance(value, Message):
        target[key].CopyFrom(value)
    else:
        target[key] = value
