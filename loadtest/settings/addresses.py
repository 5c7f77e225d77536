"""Where the server listens."""

from dataclasses import replace
from urllib.parse import urlsplit

from loadtest.errors import SettingsError
from loadtest.wire import Address


def read_host(text: str) -> tuple[str, Address]:
    """Return the server's URL, and the same as an address.

    Raises:
        SettingsError: It is no HTTP address.
    """
    url = text.rstrip("/")
    if url and "//" not in url:
        url = f"http://{url}"
    fix = "give the server's HTTP address, as in --host http://127.0.0.1:8000"
    if not url:
        raise SettingsError("--host", "this option is missing", fix)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError("--host", f"{url!r} is not an address: {error}", fix) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise SettingsError("--host", f"{url!r} is not an HTTP address", fix)
    tls = parts.scheme == "https"
    return url, Address(parts.hostname, port or (443 if tls else 80), tls)


def read_grpc_address(text: str, http: Address) -> Address:
    """Return the gRPC port: the one given, or else the port after that of HTTP.

    Raises:
        SettingsError: It is something else.
    """
    if not text:
        return Address(http.host, http.port + 1, http.tls)
    return replace(read_address("--grpc-address", text), tls=http.tls)


def read_address(option: str, text: str) -> Address:
    """Read `HOST:PORT`.

    Raises:
        SettingsError: It is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise SettingsError(
            option, f"{text!r} is not HOST:PORT", f"give a host and a port, as in {option} 127.0.0.1:8001"
        )
    return Address(host.strip("[]"), int(port))
