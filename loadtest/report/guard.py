"""Refuse what other web pages send to Locust's page or read from it.

A browser sends requests to 127.0.0.1 for every page that it shows. Each of these pages could start a run against any
server, or read the figures, because Locust does not look where a request comes from, and lets every origin read its
answers. Programs that are no browsers, such as curl, do not send these headers, and are answered.

Source: https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_CHANGE_NOTHING = {"GET", "HEAD"}


def find_names(web_host: str, allowed: str) -> frozenset[str] | None:
    """Return the names under which the page may be reached, besides IP addresses; None if it may be any name.

    Args:
        web_host: Where Locust's page listens. On a loopback address, only this machine can reach it.
        allowed: More names, separated by commas, such as that of a reverse proxy.
    """
    more = {name.strip().lower() for name in allowed.split(",")} - {""}
    return frozenset({"localhost", *more}) if more or _is_loopback(web_host) else None


def find_reason(method: str, headers: Mapping[str, str], names: frozenset[str] | None) -> str | None:
    """Return why a request is refused; None if it is not.

    Args:
        method: Its method.
        headers: Its headers, with names as in `Sec-Fetch-Site`.
        names: What `find_names` returned. Somebody can have a name of theirs point to 127.0.0.1, so that a page of
            theirs has the same origin as this one (DNS rebinding). An IP address cannot be used for that.
    """
    host = headers.get("Host")
    if host is None:
        return None
    name = (_place(f"http://{host}") or ("", 0))[0]
    if names is not None and name not in names and not _is_address(name):
        return f"{host} is not a name of this page; if it should be, start Locust with --web-allowed-hosts {name}"
    origin = headers.get("Origin") or ("" if method in _CHANGE_NOTHING else headers.get("Referer"))
    if not origin or headers.get("Sec-Fetch-Site") == "same-origin" or _is_own(origin, host):
        return None
    return f"it was made by the web page {origin}, and this is {host}; a reverse proxy must leave the Host header as is"


def _is_own(origin: str, host: str) -> bool:
    """Return whether an origin is that of the page; its scheme may be another one behind a reverse proxy with TLS."""
    place = _place(origin)
    return place is not None and place == _place(f"{urlsplit(origin).scheme}://{host}")


def _place(url: str) -> tuple[str, int | None] | None:
    """Return the host and the port of a URL; None if it has none, such as the origin `null`."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or _PORTS.get(parts.scheme)) if parts.hostname else None
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
