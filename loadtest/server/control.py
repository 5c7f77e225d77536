"""Control requests to the server, over plain HTTP whatever protocol the load uses.

Source: https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from loadtest.errors import reason
from loadtest.wire import error_text, model_path

TIMEOUT_S = 5.0
_ERROR_BYTES = 10_000


class ControlError(Exception):
    """A control request got no usable answer.

    Args:
        message: What the server or the operating system said.
        status: The HTTP status; 0 if the answer was not HTTP, None if there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def fetch(url: str, timeout_s: float = TIMEOUT_S, *, post: bytes | None = None) -> bytes:
    """GET `url`, or POST a body to it, and return the body of the answer.

    Raises:
        ControlError: There was no answer, or its status is not 200.
    """
    try:
        with urllib.request.urlopen(url, post, timeout_s) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise ControlError(error_text(error.read(_ERROR_BYTES)) or error.reason, error.code) from error
    except http.client.HTTPException as error:
        raise ControlError("the answer is not HTTP", 0) from error
    except OSError as error:
        cause = getattr(error, "reason", error)
        raise ControlError(reason(cause) if isinstance(cause, OSError) else str(cause)) from error


def fetch_json(url: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """GET a JSON object.

    Raises:
        ControlError: There was no answer, or it is something else.
    """
    try:
        value = json.loads(fetch(url, timeout_s))
    except ValueError as error:
        raise ControlError("the answer is not JSON", 200) from error
    if not isinstance(value, dict):
        raise ControlError("the answer is not a JSON object", 200)
    return value


def model_url(host: str, name: str, version: str = "") -> str:
    """Return the URL of a model, or of one of its versions."""
    return host + model_path(name, version)
