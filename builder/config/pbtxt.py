"""Read config.pbtxt, write it, and edit its text in place."""

import difflib
import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from google.protobuf import text_format

from builder import files
from builder.config.editing import edit_message, elements, render_elements
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
    return "".join(render_elements(config, field, elements(config, field)) for field in fields)


def edit(text: str, config: "ModelConfig", *, where: object) -> str:
    """Change `text` so that it says what `config` says; only the entries that differ are changed, at every depth.

    Raises:
        RepositoryError: An entry that has to change contains a field that this release does not know.
    """
    return edit_message(text, parse(text, where=where), config, "", where)


@functools.lru_cache(maxsize=4)
def unknown_fields(text: str) -> str | None:
    """Return the complaint about the first unknown field, or None; Triton refuses unknown fields."""
    try:
        text_format.Parse(text, messages().ModelConfig())
    except text_format.ParseError as error:
        return str(error)
    return None
