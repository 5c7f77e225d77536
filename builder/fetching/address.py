"""The URL of a model file, and how it is shown: without user, password and query, where secrets are."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from builder.errors import ModelError

BUCKETS = ("s3", "gs", "az")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(text: str) -> bool:
    """Return whether a model is named by a URL, of whatever kind."""
    return _URL.match(text) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file is.

    Attributes:
        url: The URL as it was given, secrets included. It is never shown.
        shown: The URL without user, password, query and fragment.
        file: The name of the file.
    """

    url: str
    shown: str
    file: str

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read a URL.

        Raises:
            ModelError: It is not one of a file that can be fetched safely.
        """
        scheme = url.partition("://")[0].lower()
        if scheme in BUCKETS:
            return cls._checked(url, url, url.rpartition("/")[2])
        if scheme not in ("https", "http"):
            fix = f"use https://, {', '.join(f'{each}://' for each in BUCKETS)}, or a file on this machine"
            raise ModelError(f"{scheme}://…", "models are not fetched by this protocol", fix)
        shown = _shown(url)
        if not url.isascii() or not url.isprintable() or " " in url:
            fix = "write other characters than ASCII letters, digits and signs as %XX"
            raise ModelError(shown, "the URL has characters that no URL may have", fix)
        parts = urlsplit(url)
        if scheme == "http" and not is_loopback(parts.hostname or ""):
            fix = "use https://, or download the file yourself and publish it from this machine"
            raise ModelError(shown, "http:// lets anybody on the way read and change what is sent", fix)
        return cls._checked(url, shown, unquote(parts.path).rpartition("/")[2])

    @classmethod
    def _checked(cls, url: str, shown: str, file: str) -> "Address":
        if not file or file in (".", "..") or "\0" in file or len(file.encode()) > 200:
            raise ModelError(shown, "the URL does not end in the name of a file", "add the file: …/model.onnx")
        return cls(url, shown, file)


def _shown(url: str) -> str:
    """Return an http URL without what may be secret.

    Raises:
        ModelError: It cannot be read; what is wrong is not told in the words of the parser, which would repeat it.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError as error:
        fix = "write it as https://HOST/PATH/model.onnx"
        raise ModelError("https://…", "the host or the port of this URL cannot be read", fix) from error
    if not parts.hostname:
        raise ModelError("https://…", "the URL names no host", "write it as https://HOST/PATH/model.onnx")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
