"""Where the server listens and how it is reached: addresses, and TLS."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.errors import SettingsError, reason
from loadtest.files import open_file
from loadtest.settings.headers import read_headers
from loadtest.wire import Address

_HTTP = {"http": False, "https": True}
_SCHEMES = {"http": _HTTP, "grpc": {"grpc": False, "grpcs": True, **_HTTP}}
"""By protocol, the schemes of a URL, and whether they mean TLS."""

_ALPN = {"http": "http/1.1", "grpc": "h2"}
_DEFAULT_PORTS = {False: 80, True: 443}
_LAST_PORT = (1 << 16) - 1
_TLS_OPTIONS = {
    "ca_file": "--ca-file",
    "client_cert": "--client-cert",
    "client_key": "--client-key",
    "insecure": "--insecure",
}


@dataclass(frozen=True, slots=True)
class Place:
    """What an address says: whether TLS is spoken there, the host, the port if there is one, and the base path."""

    tls: bool
    host: str
    port: int | None
    path: str


def read_addresses(text: Mapping[str, str]) -> tuple[str, Address, Address]:
    """Return the server's URL, its HTTP port and its gRPC port.

    Args:
        text: The options, as `options.to_text` gives them.

    Raises:
        SettingsError: One of them cannot be used.
    """
    http = read_place("--host", text["host"])
    grpc = _find_grpc(http, text)
    _check_tls([http, grpc, *_read_metrics(text)], text)
    url = f"{'https' if http.tls else 'http'}://{_netloc(http)}{http.path}"
    return url, reach(http, "http", text), reach(grpc, "grpc", text)


def read_metrics(text: Mapping[str, str]) -> tuple[Address, ...] | None:
    """Return where the metrics are; empty if that was not said, None if they are to be left out.

    No headers are sent there: they are meant for the server, which may be reached by another way.

    Raises:
        SettingsError: One of them is no address.
    """
    if text["server_metrics"] == "none":
        return None
    return tuple(
        replace(reach(place, "http", text), path=place.path or "/metrics", headers=())
        for place in dict.fromkeys(_read_metrics(text))
    )


def _read_metrics(text: Mapping[str, str]) -> list[Place]:
    given = text["server_metrics"]
    parts = [] if given in ("", "none") else given.split(",")
    return [read_place("--server-metrics", part.strip()) for part in parts]


def read_address(option: str, address: str, protocol: str, text: Mapping[str, str]) -> Address:
    """Return one port of a server; the arguments are those of `read_place` and of `reach`.

    Raises:
        SettingsError: An option cannot be used.
    """
    place = read_place(option, address, protocol)
    _check_tls([place], text)
    return reach(place, protocol, text)


def _find_grpc(http: Place, text: Mapping[str, str]) -> Place:
    """Return the place that was given, or else the port after that of HTTP."""
    if text["grpc_address"]:
        return read_place("--grpc-address", text["grpc_address"], "grpc", tls=http.tls)
    has_next = http.port is not None and http.port < _LAST_PORT
    if text["protocol"] == "grpc" and not has_next:
        what = f"this option is missing, and no gRPC port follows from --host {text['host']}"
        raise SettingsError("--grpc-address", what, _example("--grpc-address"))
    return Place(http.tls, http.host, (http.port or 0) + 1 if has_next else None, "")


def read_place(option: str, text: str, protocol: str = "http", *, tls: bool = False) -> Place:
    """Read `HOST:PORT` or a URL.

    Args:
        option: The option it is from.
        text: What was given. gRPC needs a port, and has no path.
        protocol: `http` or `grpc`.
        tls: Whether TLS is meant where there is no scheme.

    Raises:
        SettingsError: It is something else.
    """
    if not text:
        raise SettingsError(option, "this option is missing", _example(option))
    if "@" in text:
        fix = "leave it out, and put a line Authorization: Basic … into a file for --header-file"
        raise SettingsError(option, "the address holds a user name or a password, which everybody would see", fix)
    url = text if "://" in text else f"{'https' if tls else 'http'}://{text}"
    try:
        place = _split(url, _SCHEMES[protocol])
    except ValueError as error:
        raise SettingsError(option, f"{text!r} is not an address: {error}", _example(option)) from error
    if protocol == "grpc" and (place.port is None or place.path):
        raise SettingsError(option, f"{text!r} is not HOST:PORT", _example(option))
    return place


def _split(url: str, schemes: Mapping[str, bool]) -> Place:
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        raise ValueError(f"it does not begin with {'://, '.join(schemes)}://")
    if not parts.hostname or parts.port == 0:
        raise ValueError("it has no host" if parts.port != 0 else "no server listens on port 0")
    if parts.query or parts.fragment:
        raise ValueError("it has a query or a fragment")
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError("it has characters that do not belong into a URL")
    return Place(schemes[parts.scheme], parts.hostname, parts.port, parts.path.rstrip("/"))


def _example(option: str) -> str:
    if option == "--host":
        return "give the server's HTTP address, as in --host http://127.0.0.1:8000"
    return f"give a host and a port, as in {option} 127.0.0.1:8001"


def _netloc(place: Place) -> str:
    host = f"[{place.host}]" if ":" in place.host else place.host
    return host if place.port is None else f"{host}:{place.port}"


# ---- TLS


def reach(place: Place, protocol: str, text: Mapping[str, str]) -> Address:
    """Return the address of a place, with the headers and certificates of the options.

    Raises:
        SettingsError: A header or a certificate cannot be used.
    """
    context = _read_context(protocol, text) if place.tls else None
    return Address(place.host, place.port or _DEFAULT_PORTS[place.tls], context, place.path, read_headers(text))


def _check_tls(places: list[Place], text: Mapping[str, str]) -> None:
    """Refuse options of TLS that would not be used, or that contradict each other."""
    given = [option for key, option in _TLS_OPTIONS.items() if text.get(key, "") not in ("", "no")]
    if given and not any(place.tls for place in places):
        what = "no address has TLS, so this option would not be used"
        raise SettingsError(given[0], what, f"begin the address with https://, or leave {given[0]} out")
    if {"--insecure", "--ca-file"} <= {*given}:
        raise SettingsError("--insecure", "with this option, --ca-file would not be used", "leave one of them out")
    if "--client-key" in given and "--client-cert" not in given:
        raise SettingsError("--client-key", "there is no certificate for this key", "add --client-cert")


def _read_context(protocol: str, text: Mapping[str, str]) -> ssl.SSLContext:
    ca_file, cert, key = (_check_file(_TLS_OPTIONS[name], text.get(name, "")) for name in (*_TLS_OPTIONS,)[:3])
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        what = f"{ca_file} has no certificate that can be read: {reason(error)}"
        raise SettingsError(
            "--ca-file", what, "name a PEM file, which has lines -----BEGIN CERTIFICATE-----"
        ) from error
    if text.get("insecure") == "yes":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        _load_client(context, cert, key)
    context.set_alpn_protocols([_ALPN[protocol]])
    return context


def _load_client(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    try:
        context.load_cert_chain(cert, key, password="")  # without a password, OpenSSL would ask for one
    except (OSError, ValueError) as error:
        what = f"the certificate in {cert} and the key in {key or cert} cannot be used: {reason(error)}"
        fix = "give PEM files of a certificate and its key, which must not be encrypted"
        raise SettingsError("--client-cert", what, fix) from error


def _check_file(option: str, path: str) -> str | None:
    """Return the path of a file that can be read; None for no file."""
    if not path:
        return None
    try:
        open_file(Path(path)).close()
    except OSError as error:
        raise SettingsError(
            option, f"{path} cannot be read: {reason(error)}", "name a file that you can read"
        ) from error
    return path
