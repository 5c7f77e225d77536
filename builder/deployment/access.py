"""What a client needs to reach a server, besides the admin key: headers and certificates."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from builder import files
from builder.errors import HostError

_MOST_BYTES = 1 << 16
_MOST_PEM_BYTES = 1 << 20
_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_EXAMPLE = "write a header as a name and a value, as in authorization: Bearer TOKEN"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates for connections with TLS, in PEM. What is None is as gRPC has it.

    Attributes:
        authority: The root certificates that the server's certificate must be signed by. Default: the system's.
        certificate: The client's own certificate, for a server that asks for one, and the chain up to its root.
        key: The key of that certificate.
    """

    authority: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def read(cls, ca_file: Path | None, client_cert: Path | None, client_key: Path | None) -> "Certificates":
        """Read the files.

        Raises:
            HostError: A file cannot be read or is not in the PEM format, or a certificate has no key.
        """
        if (client_cert is None) != (client_key is None):
            given, missing = (
                ("--client-cert", "--client-key") if client_key is None else ("--client-key", "--client-cert")
            )
            raise HostError(client_cert or client_key, f"{given} needs {missing}", f"give the file with {missing}, too")
        return cls(_pem(ca_file), _pem(client_cert), _pem(client_key))


def read_headers(path: Path) -> dict[str, str]:
    """Read a file of headers: one on each line, as in `authorization: Bearer TOKEN`; `#` begins a comment line.

    This is the format of the load test's --header-file. No error quotes a value: it may be secret.

    Raises:
        HostError: The file cannot be read, or a line is not a header that gRPC can send.
    """
    try:
        lines = files.read(path, limit=_MOST_BYTES).decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise HostError(path, "the headers are not ASCII text", _EXAMPLE) from None
    except OSError as error:
        what = f"the headers cannot be read: {files.reason(error)}"
        raise HostError(path, what, "name a text file of headers that you can read") from error
    return dict(_read_lines(path, lines))


def _read_lines(path: Path, lines: list[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            name, _, value = line.partition(":")
            yield _checked(f"{path}, line {number}", name.strip().lower(), value.strip())


def _checked(where: str, name: str, value: str) -> tuple[str, str]:
    if not _NAME.fullmatch(name):
        raise HostError(where, "this is not a header that gRPC can send", _EXAMPLE)
    if name.endswith("-bin") or name.startswith("grpc-") or name in ("te", "content-type", "user-agent"):
        raise HostError(where, f"gRPC itself sets the header {name}, or sends it in another form", "leave it out")
    if not _VALUE.fullmatch(value):
        what = f"the value of header {name} is empty, or has characters that are not printable ASCII"
        raise HostError(where, what, _EXAMPLE)
    return name, value


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = files.read(path, limit=_MOST_PEM_BYTES)
    except OSError as error:
        what = f"this file cannot be read: {files.reason(error)}"
        raise HostError(path, what, "name a file that you can read") from error
    if b"-----BEGIN " not in content:
        raise HostError(
            path, "this file is not in the PEM format", "convert it with openssl, for example x509 -outform pem"
        )
    return content
