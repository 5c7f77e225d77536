"""Read config.pbtxt, and edit its text in place.

Only the entries that change are written again, so comments, layout and fields of a newer Triton survive.
"""

import difflib
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

from builder import files
from builder.config.spelling import meant_in
from builder.errors import RepositoryError
from builder.progress import format_bytes

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

FILE = "config.pbtxt"

_MAX_BYTES = 500_000
"""A config of a thousand inputs and outputs has a fifth of that; one of this size takes 0.3 s to parse."""

_FIRST = ("name", "backend", "version_policy", "max_batch_size", "input", "output")


@functools.cache
def messages() -> ModuleType:
    """Import `tritonclient.grpc.model_config_pb2`, without the gRPC stack that its package imports (0.3 s)."""
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
    """Read a config; fields that this release does not know are skipped.

    Raises:
        RepositoryError: The text is not a ModelConfig, or has numbers where no Triton knows any.
    """
    config: ModelConfig = messages().ModelConfig()
    try:
        config.CopyFrom(_parsed(text))
    except RecursionError as error:
        raise RepositoryError(where, "it is nested too deeply", "restore this file, or write it again") from error
    except text_format.ParseError as error:
        complaint = unknown_fields(text) or str(
            error
        )  # the first one: an unknown field may be what confuses the parser
        meant = meant_in(complaint)
        what = f"it is not a valid model configuration: {complaint}" + (f" Did you mean {meant}?" if meant else "")
        raise RepositoryError(where, what, "correct this file at the line and column given") from error
    if config.max_batch_size < 0:
        raise RepositoryError(where, f"max_batch_size is {config.max_batch_size}", "set it to 0 or more in this file")
    for tensor in (*config.input, *config.output):
        if tensor.data_type not in messages().DataType.values():
            what = f"{tensor.name!r} has the data_type {tensor.data_type}, which does not exist"
            raise RepositoryError(where, what, "name its type in this file, such as TYPE_FP32")
    return config


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> "ModelConfig":
    """Parse a text once, because one command asks for the same one ten times; the result is not to be changed."""
    return text_format.Parse(text, messages().ModelConfig(), allow_unknown_field=True)


def check_length(text: str, *, where: object) -> None:
    """Refuse a text that `read` would refuse once it is written.

    Raises:
        RepositoryError: It is too long.
    """
    if (size := len(text.encode())) > _MAX_BYTES:
        what = f"it would have {format_bytes(size)}, and only {format_bytes(_MAX_BYTES)} are read"
        fix = "shorten this file by hand, or export the model with fewer inputs and outputs, or with shorter names"
        raise RepositoryError(where, what, fix)


def read(path: Path) -> str:
    """Return the text of a config, with the line ends of Unix. It may be a link within its folder.

    Raises:
        OSError: There is no such file, or it is too large, not a regular one, or outside the folder.
        UnicodeDecodeError: It is not UTF-8.
    """
    return decode(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """Return the content of a config as it is. It may be a link within its folder.

    Raises:
        OSError: There is no such file, or it is too large, not a regular one, or outside the folder.
    """
    return files.read(path, limit=_MAX_BYTES, inside=files.real_path(path.parent))


def decode(content: bytes) -> str:
    """Return the text of a config, with the line ends of Unix.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
    """
    return content.decode().replace("\r\n", "\n").replace("\r", "\n")


def diff(before: str | None, after: str, *, path: str) -> str:
    """Return what changed in a config, as a unified diff; the empty string when nothing did.

    Args:
        before: The text before; None when there was no config.
        after: The text afterwards.
        path: The file's path in the repository, for the first lines of the diff.
    """
    source = "/dev/null" if before is None else path
    lines = difflib.unified_diff((before or "").splitlines(), after.splitlines(), source, path, lineterm="")
    return "\n".join(lines)


def render(config: "ModelConfig") -> str:
    """Return the text of a whole config, the most important fields first; equal configs give equal text."""
    first = {name: i for i, name in enumerate(_FIRST)}
    fields = sorted(config.DESCRIPTOR.fields, key=lambda field: first.get(field.name, len(first)))
    return "".join(_render_elements(field, _elements(config, field)) for field in fields)


def edit(text: str, config: "ModelConfig", *, where: object) -> str:
    """Change `text` so that it says what `config` says; only the top-level entries that differ are changed.

    Raises:
        RepositoryError: An entry that has to change contains a field that this release does not know.
    """
    before = parse(text, where=where)
    for field in config.DESCRIPTOR.fields:
        if _elements(before, field) != _elements(config, field):
            text = _edit_field(text, field, config, where)
    return text


@functools.lru_cache(maxsize=4)
def unknown_fields(text: str) -> str | None:
    """Return the complaint about the first unknown field, or None; Triton refuses unknown fields."""
    try:
        text_format.Parse(text, messages().ModelConfig())
    except text_format.ParseError as error:
        return str(error)
    return None


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


def _edit_field(text: str, field: Any, config: "ModelConfig", where: object) -> str:
    """Keep the entries of `field` that are still right, remove the others, and add what is missing."""
    missing = _elements(config, field)
    dropped: list[_Entry] = []
    for entry in (entry for entry in _entries(text) if entry.name == field.name):
        span = text[entry.start : entry.end]
        if (unknown := unknown_fields(span)) is not None:
            what = f"{field.name} has to change, but it has a field that this release does not know: {unknown}"
            raise RepositoryError(where, what, "upgrade tritonclient, or remove that field from this file")
        held = _elements(parse(span, where=where), field)
        if all(element in missing for element in held):
            for element in held:
                missing.remove(element)
        else:
            dropped.append(entry)
    return _splice(text, dropped, _render_elements(field, missing))


def _splice(text: str, dropped: list[_Entry], added: str) -> str:
    """Put `added` in place of the first dropped entry, or at the end, and cut the other dropped ones out."""
    if not dropped:
        return f"{text.rstrip()}\n{added}" if added else text
    for entry in reversed(dropped[1:] if added else dropped):
        text = _cut(text, entry)
    if added:
        before, after = text[: dropped[0].start], text[dropped[0].end :]
        text = before + (added.rstrip("\n") if after[:1].isspace() else added) + after
    return text


def _cut(text: str, entry: _Entry) -> str:
    """Cut an entry out, and its line too when nothing else is on it."""
    before, after = text[: entry.start], text[entry.end :]
    line_start = before.rstrip(" \t")
    if after.startswith("\n") and line_start[-1:] in ("", "\n"):
        return line_start + after[1:]
    return before + after


def _elements(config: "ModelConfig", field: Any) -> list[Any]:
    """Return the values of a field: none, one, or one for each repetition; of a map, pairs of key and value."""
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
