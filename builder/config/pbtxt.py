"""config.pbtxt as text: read it, and edit it in place.

Only what changes is written anew, so comments, layout and fields of a newer Triton survive.
"""

import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format
from google.protobuf.message import Message

from builder.errors import RepositoryError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_FIRST = ("name", "backend", "version_policy", "max_batch_size", "input", "output")
_MEND = "correct it by hand so that Triton accepts it, then publish again"


@functools.cache
def messages() -> ModuleType:
    """`tritonclient.grpc.model_config_pb2`, without the gRPC stack its package imports (0.3 s)."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("tritonclient.grpc.model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(text: str, *, where: object) -> "ModelConfig":
    """Read a config; a field this release does not know is passed over.

    Raises:
        RepositoryError: It is not the text form of a ModelConfig.
    """
    try:
        return text_format.Parse(text, messages().ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise RepositoryError(where, f"it is not a model configuration: {error}", _MEND) from error


def render(config: "ModelConfig") -> str:
    """The text of a whole config, what matters most first; equal messages give equal text."""
    first = {name: i for i, name in enumerate(_FIRST)}
    fields = sorted(config.DESCRIPTOR.fields, key=lambda field: first.get(field.name, len(first)))
    return "".join(_render_elements(field, _elements(config, field)) for field in fields)


def edit(text: str, config: "ModelConfig", *, where: object) -> str:
    """Change `text` until it says `config`, touching only the top-level entries that differ.

    Raises:
        RepositoryError: An entry that has to change holds a field this release does not know.
    """
    before = parse(text, where=where)
    for field in config.DESCRIPTOR.fields:
        if _elements(before, field) != _elements(config, field):
            text = _edit_field(text, field, config, where)
    return text


def unknown_fields(text: str) -> str | None:
    """What a strict reading complains of, or None. Triton reads strictly."""
    try:
        text_format.Parse(text, messages().ModelConfig())
    except text_format.ParseError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One top-level `name: value` or `name { … }` and where it stands in the text."""

    name: str
    start: int
    end: int


_TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+) | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | (?P<open>[{<\[])
      | (?P<close>[}>\]]) | (?P<mark>[:;,]) | (?P<word>[^\s\#"'{}<>\[\]:;,]+)""",
    re.VERBOSE | re.DOTALL,
)


def _entries(text: str) -> Iterator[_Entry]:
    """The top-level entries of a text that parses, each up to and with its separator."""
    tokens = [match for match in _TOKEN.finditer(text) if match.lastgroup != "space"]
    names = [i for i, depth in enumerate(_depths(tokens)) if depth == 0 and _is_name(tokens, i)]
    for i, following in zip(names, [*names, len(tokens)][1:], strict=True):
        yield _Entry(tokens[i].group(), tokens[i].start(), tokens[following - 1].end())


def _depths(tokens: list[re.Match[str]]) -> Iterator[int]:
    depth = 0
    for token in tokens:
        yield depth
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")


def _is_name(tokens: list[re.Match[str]], i: int) -> bool:
    """A word that opens an entry: what follows is `:` or a bracket."""
    following = tokens[i + 1].group() if i + 1 < len(tokens) else ""
    return tokens[i].lastgroup == "word" and following in (":", "{", "<", "[")


def _edit_field(text: str, field: Any, config: "ModelConfig", where: object) -> str:
    """Keep the entries of `field` that still hold, drop the others, and put in what is missing."""
    missing = _elements(config, field)
    dropped: list[_Entry] = []
    for entry in (entry for entry in _entries(text) if entry.name == field.name):
        span = text[entry.start : entry.end]
        if (unknown := unknown_fields(span)) is not None:
            what = f"{field.name} has to change, but {unknown}"
            raise RepositoryError(where, what, "change it by hand, or update tritonclient")
        held = _elements(parse(span, where=where), field)
        if all(element in missing for element in held):
            for element in held:
                missing.remove(element)
        else:
            dropped.append(entry)
    return _splice(text, dropped, _render_elements(field, missing))


def _splice(text: str, dropped: list[_Entry], added: str) -> str:
    """Put `added` where the first dropped entry stood, or at the end, and cut the dropped ones out."""
    if not dropped:
        return f"{text.rstrip()}\n{added}" if added else text
    for entry in reversed(dropped[1:] if added else dropped):
        text = _cut(text, entry)
    if added:
        before, after = text[: dropped[0].start], text[dropped[0].end :]
        text = before + (added.rstrip("\n") if after[:1].isspace() else added) + after
    return text


def _cut(text: str, entry: _Entry) -> str:
    """Take an entry out, and its line when it stands there alone."""
    before, after = text[: entry.start], text[entry.end :]
    line_start = before.rstrip(" \t")
    if after.startswith("\n") and line_start[-1:] in ("", "\n"):
        return line_start + after[1:]
    return before + after


def _elements(config: "ModelConfig", field: Any) -> list[Any]:
    """What the field holds: nothing, one value, or one for each repetition (of a map, key and value)."""
    value = getattr(config, field.name)
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, MutableSequence):
        return list(value)
    is_set = config.HasField(field.name) if field.has_presence else value != field.default_value
    return [value] if is_set else []


def _render_elements(field: Any, elements: list[Any]) -> str:
    config = messages().ModelConfig()
    target = getattr(config, field.name)
    for element in elements:
        if isinstance(target, Mapping):
            _set(target, *element)
        elif isinstance(target, MutableSequence):
            target.append(element)
        elif field.message_type is not None:
            target.CopyFrom(element)
            target.SetInParent()
        else:
            setattr(config, field.name, element)
    return text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)


def _set(target: Any, key: Any, value: Any) -> None:
    if isinstance(value, Message):
        target[key].CopyFrom(value)
    else:
        target[key] = value
