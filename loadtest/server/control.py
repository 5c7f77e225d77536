"""Control requests to the server, over HTTP whatever protocol the load uses.

They go the same way as the load: straight to the server, whatever proxy the environment names, with the same headers
and the same TLS, and a redirect is not followed.

Source: https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

import json
from types import TracebackType
from typing import Any
from urllib.request import getproxies, proxy_bypass

from loadtest.wire import Address, ExchangeError, Http1Connection, encode_request, error_text

TIMEOUT_S = 5.0
_ERROR_BYTES = 10_000
_REDIRECTS = (301, 302, 303, 307, 308)


def ignored_proxy(address: Address) -> str:
    """Return the name of the variable that names a proxy for this address, as in `http_proxy`; empty if none does."""
    scheme = "http" if address.tls is None else "https"
    if proxy_bypass(address.host):
        return ""
    return next((f"{name}_proxy" for name in (scheme, "all") if name in getproxies()), "")


class ControlError(Exception):
    """A control request got no usable answer.

    Args:
        message: What the server or the operating system said.
        status: The HTTP status; 0 if the answer was not HTTP, None if there was no answer.
        kind: The kind of failure, as in `refused` or `tls`; empty if there was an answer.
    """

    def __init__(self, message: str, status: int | None = None, *, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class Control:
    """A kept connection for control requests, which opens with the first of them.

    Args:
        address: The server's HTTP port.
        timeout_s: How long an answer may take.
    """

    def __init__(self, address: Address, timeout_s: float = TIMEOUT_S) -> None:
        self._address = address
        self._connection = Http1Connection(address, timeout_s)

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._connection.close()

    def fetch(self, path: str) -> bytes:
        """GET a path and return the body of the answer.

        Raises:
            ControlError: There was no answer, or its status is not 200.
        """
        try:
            answer = self._connection.exchange(encode_request(self._address, f"GET {path}", {}))
        except ExchangeError as error:
            if error.kind == "malformed":
                raise ControlError("the answer is not HTTP", 0) from error
            raise ControlError(error.message, kind=error.kind) from error
        if answer.status in _REDIRECTS:
            place = b"".join(value for name, value in answer.fields if name == b"location").decode("utf-8", "replace")
            raise ControlError(f"the server redirects to {self._address.conceal(place)}", answer.status)
        if answer.status != 200:
            said = error_text(answer.body[:_ERROR_BYTES])
            raise ControlError(self._address.conceal(said) or f"status {answer.status}", answer.status)
        return answer.body

    def fetch_json(self, path: str) -> dict[str, Any]:
        """GET a JSON object.

        Raises:
            ControlError: There was no answer, or it is something else.
        """
        try:
            value = json.loads(self.fetch(path))
        except (ValueError, RecursionError) as error:
            raise ControlError("the answer is not JSON", 200) from error
        if not isinstance(value, dict):
            raise ControlError("the answer is not a JSON object", 200)
        return value
