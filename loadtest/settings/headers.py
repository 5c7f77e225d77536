"""The headers that are sent with every request, as users give them. No error shows a value: it may be secret."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from loadtest.errors import SettingsError, reason
from loadtest.files import open_file

VARIABLE = "TRITON_HEADERS"
"""The environment variable that may have headers, one on each line."""

_MOST_BYTES = 1 << 16
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_OURS = {
    *("accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "keep-alive"),
    *("inference-header-content-length", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
}
"""What the client itself says about its requests, or what would change how they are answered."""

_EXAMPLE = "write a header as a name and a value, as in Authorization: Bearer TOKEN"


def read_headers(text: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the headers of the environment, the file and the options; where two have a name, the last one counts.

    Args:
        text: The options, as `options.to_text` gives them.

    Raises:
        SettingsError: One of them is not a header, or one that cannot be sent.
    """
    sources = {
        VARIABLE: os.environ.get(VARIABLE, ""),
        "--header-file": _read_file(text.get("header_file", "")),
        "--header": text.get("header", ""),
    }
    found = {}
    for where, lines in sources.items():
        for name, value in _read_lines(where, lines):
            found[name.lower()] = (name, value)
    return tuple(found.values())


def _read_file(path: str) -> str:
    if not path:
        return ""
    try:
        with open_file(Path(path)) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        return data.decode("ascii")
    except (OSError, ValueError) as error:
        said = "it is not ASCII text" if isinstance(error, UnicodeDecodeError) else reason(error)
        raise SettingsError("--header-file", f"{path} cannot be read: {said}", "name a text file of headers") from error


def _read_lines(where: str, lines: str) -> Iterator[tuple[str, str]]:
    """Yield the name and value in each line that is neither empty nor a comment."""
    for number, line in enumerate(lines.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            name, _, value = line.partition(":")
            yield _check(f"{where}, line {number}" if where != "--header" else where, name.strip(), value.strip())


def _check(where: str, name: str, value: str) -> tuple[str, str]:
    if not _NAME.fullmatch(name):
        raise SettingsError(where, "this is not a header", _EXAMPLE)
    if not value:
        raise SettingsError(where, f"header {name} has no value", _EXAMPLE)
    if not _VALUE.fullmatch(value):
        raise SettingsError(where, f"the value of header {name} has characters that are not printable ASCII", _EXAMPLE)
    if name.lower() in _OURS or name.lower().startswith("grpc-"):
        raise SettingsError(where, f"the load generator sets header {name} itself", "leave this header out")
    return name, value
