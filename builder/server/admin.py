"""The key to a Triton's administrative APIs, and the header that it is sent in."""

import os
import re
import secrets
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder import files
from builder.errors import HostError

HEADER = "admin-key"
"""The header, unless another one is given."""

KEY_VARIABLE = "TRITON_ADMIN_KEY"
"""The environment variable that holds the key, if the user sets one."""

CLOSED_APIS = ("model-repository", "shared-memory", "trace", "logging")
"""The APIs that need the key. Triton's names for them are the same over HTTP and gRPC.

Source: https://github.com/triton-inference-server/server/blob/r24.10/src/restricted_features.h
"""

_GRPC_PREFIX = "triton-grpc-protocol-"
"""What Triton puts before the header's name over gRPC.

Source: https://github.com/triton-inference-server/server/blob/main/docs/customization_guide/inference_protocols.md
"""

_LONGEST = 4096
"""The longest key, characters: gRPC allows 8 kB for all headers of a request."""

_HEADER_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*(?<!-bin)")
"""A name that both protocols allow. Values of gRPC's `-bin` headers are encoded."""


def read_header(text: str) -> str:
    """Return the name of a header in the form in which Triton's options take it: in lower case, without gRPC's prefix.

    Raises:
        ValueError: It is not a name that both HTTP and gRPC allow.
    """
    name = text.lower().removeprefix(_GRPC_PREFIX)
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{text!r} is not the name of a header")
    return name


@dataclass(frozen=True, slots=True)
class AdminAccess:
    """What a client needs to load and unload models, and to use the other APIs that `serve` closes.

    Attributes:
        key: The secret: printable ASCII, without spaces at its ends. Default: a random one.
        header: The name of the header, as in Triton's options `--http-restricted-api` and
            `--grpc-restricted-protocol`.

    Raises:
        ValueError: No header can carry this key, or the header has no valid name.
    """

    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    header: str = HEADER

    def __post_init__(self) -> None:
        if fault := _fault_of(self.key):
            raise ValueError(fault)
        object.__setattr__(self, "header", read_header(self.header))

    @property
    def http_headers(self) -> dict[str, str]:
        """What a client sends over HTTP."""
        return {self.header: self.key}

    @property
    def grpc_headers(self) -> dict[str, str]:
        """What a client sends over gRPC."""
        return {f"{_GRPC_PREFIX}{self.header}": self.key}

    def options(self) -> list[str]:
        """Return the options of `tritonserver` that close the APIs. They hold the key."""
        closed = f"{','.join(CLOSED_APIS)}:{self.header}={self.key}"
        return [f"--http-restricted-api={closed}", f"--grpc-restricted-protocol={closed}"]


def given_access(
    key_file: Path | None, header: str, *, variables: Mapping[str, str] = os.environ
) -> AdminAccess | None:
    """Return the access that the user gave: in a file, or else in the variable TRITON_ADMIN_KEY; None if in neither.

    Raises:
        HostError: The file is not this user's, others may read it, or no header can carry the key.
    """
    if key_file is not None:
        where, key = str(key_file), _read(key_file)
        fix = "write a key into it that consists of letters, digits and other ASCII characters"
    elif key := variables.get(KEY_VARIABLE, ""):
        where = KEY_VARIABLE
        fix = "set it to a key that consists of letters, digits and other ASCII characters"
    else:
        return None
    if fault := _fault_of(key):
        raise HostError(where, fault, f"{fix}, for example {secrets.token_urlsafe(32)}")
    return AdminAccess(key, header)


def _fault_of(key: str) -> str | None:
    """Return why no header can carry a key, without quoting it; None if one can."""
    if not key:
        return "the admin key is empty"
    if key != key.strip():
        return "the admin key begins or ends with a space or a line break, which a header loses"
    if not (key.isascii() and key.isprintable()):
        return "the admin key has characters that a header cannot carry"
    if len(key) > _LONGEST:
        return f"the admin key has more than {_LONGEST:,} characters, the most that a header can carry"
    return None


def _read(path: Path) -> str:
    """Return the text of a file that holds a key, without the line break at its end."""
    try:
        with files.open_file(path) as file:
            _check_private(path, os.fstat(file.fileno()))
            content = file.read(_LONGEST + 3)
    except OSError as error:
        what = f"the admin key cannot be read: {files.reason(error)}"
        raise HostError(path, what, "name a file that you can read") from error
    return content.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        what = "the file with the admin key belongs to another user"
        raise HostError(path, what, f"copy it to a file of your own with mode 600, or set {KEY_VARIABLE}")
    if status.st_mode & 0o077:
        what = f"others may read or change the file with the admin key (mode {stat.S_IMODE(status.st_mode):o})"
        raise HostError(path, what, f"run chmod 600 {shlex.quote(str(path))}")
