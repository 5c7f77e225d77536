"""HTTP/1.1 on one kept connection: bytes of a request out, one response in.

Responses are parsed by httptools, which wraps llhttp, the parser of Node.js. It refuses what a lenient
parser would guess at: `Content-Length: 3_1` or `-5`, a second Content-Length, Content-Length together with
Transfer-Encoding, and a chunk size of `0x1f`. It does no I/O, so it works under gevent.

Source: https://www.rfc-editor.org/rfc/rfc9112
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from loadtest.wire.exchange import (
    IDLE_S,
    RECEIVE_BYTES,
    Address,
    ExchangeError,
    closed_early,
    inflate,
    limit_wait,
    poll,
    send_all,
    to_exchange_error,
)

_SHOWN_BYTES = 80
_VERSIONS = ("1.1", "1.0")
_MOST_DIGITS = 19
"""Every count of bytes below 2**63 has at most this many digits."""


def encode_request(address: Address, request: str, fields: Mapping[str, str], *body: bytes) -> bytes:
    """Return one request: its line, as in `GET /v2`, its header fields with those of the address, and its body.

    A field of the address, such as `Host`, replaces one of the same name.
    """
    method, _, path = request.partition(" ")
    given = dict(address.headers)
    replaced = {name.lower() for name in given}
    ours = {name: value for name, value in {"Host": str(address), **fields}.items() if name.lower() not in replaced}
    lines = [f"{method} {address.path}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in (ours | given).items())]
    return b"".join(("\r\n".join([*lines, "", ""]).encode(), *body))


@dataclass(frozen=True, slots=True)
class Response:
    """One response.

    Attributes:
        status: The status code.
        fields: The header fields, names in lower case, repeated ones as often as they came.
        body: The body, chunks already joined, and not compressed any more.
        keeps_alive: Whether the connection can carry the next request.
    """

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    keeps_alive: bool

    def number(self, name: bytes) -> int | None:
        """Return the value of a header field that holds a count; None if the field is missing.

        Raises:
            ExchangeError: The field is repeated, or its value is not made of digits.
        """
        values = [value.strip() for key, value in self.fields if key == name]
        if not values:
            return None
        # For bytes, isdigit accepts only 0 to 9; int() would accept 3_1, and refuses more than 4300 digits.
        is_number = len(values) == 1 and values[0].isdigit() and len(values[0]) <= _MOST_DIGITS
        if not is_number:
            raise ExchangeError("malformed", f"{name.decode()}: {b', '.join(values)[:_SHOWN_BYTES]!r} is not a number")
        return int(values[0])


class _Reader:
    """Collects one response from the parser's callbacks; interim responses (1xx) are skipped."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """Get ready for the next response."""
        self.complete = False
        self._surplus = False
        self._in_body = False
        self._status = 0
        self._fields: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._keeps_alive = False
        self._encoding = b""

    def feed(self, data: bytes) -> None:
        """Parse received bytes.

        Raises:
            ExchangeError: They are not HTTP, or go on after the end of the response.
        """
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise ExchangeError("malformed", f"not an HTTP/1.1 response ({error}): {data[:_SHOWN_BYTES]!r}") from error
        if self._surplus:
            raise ExchangeError("malformed", "more bytes came after the end of the response")

    def end_of_stream(self) -> None:
        """Finish the response because the server closed the connection, which is how a response without a length ends.

        Raises:
            ExchangeError: The response was not complete.
        """
        names = {name for name, _ in self._fields}
        if not self._in_body or b"content-length" in names or b"transfer-encoding" in names:
            raise closed_early()
        self.complete = True

    def response(self) -> Response:
        """Return the complete response.

        Raises:
            ExchangeError: Its body is not compressed as it says.
        """
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if self._encoding and body:
            body = inflate(body, self._encoding.decode("latin-1").lower())
        return Response(self._status, self._fields, body, self._keeps_alive)

    # ---- called by httptools; what it reports of surplus bytes does not matter, because `feed` refuses them

    def on_message_begin(self) -> None:
        self._surplus = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._fields.append((name, value))
        if name == b"content-encoding" and value.lower() != b"identity":
            self._encoding = b"%b, %b" % (self._encoding, value) if self._encoding else value

    def on_headers_complete(self) -> None:
        if self._parser.get_http_version() not in _VERSIONS:
            raise ValueError("this is not HTTP/1")
        self._status = self._parser.get_status_code()
        # These have no body. If a server sends one all the same, it must not be read as the next response.
        has_body = self._status not in (204, 304)
        self._keeps_alive = has_body and self._parser.should_keep_alive()
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._status >= 200:
            self.complete = True
        elif not self._surplus:
            self.begin()


@dataclass(frozen=True, slots=True)
class _Link:
    """An open connection, and the parser of what comes over it."""

    socket: socket.socket
    reader: _Reader


class Http1Connection:
    """A kept connection for one request at a time; it opens with the first request."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._link: _Link | None = None
        self._sent_at = 0.0

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._link is not None:
            self._link.socket.close()
            self._link = None

    def exchange(self, request: bytes) -> Response:
        """Send an encoded request and return the response to it.

        Raises:
            ExchangeError: There was none. The connection is closed then.
        """
        try:
            response = self._exchange(request)
        except OSError as error:
            self.close()
            raise to_exchange_error(error) from error
        except ExchangeError:
            self.close()
            raise
        if not response.keeps_alive:
            self.close()
        return response

    def _exchange(self, request: bytes) -> Response:
        link, now = self._link, time.perf_counter()
        if link is not None and now - self._sent_at > IDLE_S and poll(link.socket) is not None:
            self.close()
            link = None
        if link is None:
            link = self._link = _Link(self._address.connect(self._timeout_s), _Reader())
        self._sent_at = now
        reader = link.reader
        reader.begin()
        limit_wait(link.socket, now + self._timeout_s)
        send_all(link.socket, request)
        while True:
            limit_wait(link.socket, now + self._timeout_s)
            data = link.socket.recv(RECEIVE_BYTES)
            if data:
                reader.feed(data)
            else:
                reader.end_of_stream()
            if reader.complete:
                return reader.response()
