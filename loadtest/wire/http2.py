"""A small HTTP/2 client for one purpose: one unary gRPC call at a time over a connection that stays open.

The general libraries cost a load generator too much. On the same calls, h2 (the protocol in pure Python) used 4.2
times the CPU time of this client, and grpcio 5.1 times; under gevent, grpcio can also hang at exit when a channel is
left open. CPU time matters here because client and server often share a machine, and a busy client reports its own
delays as the server's.

A unary call needs little of HTTP/2. The request is one HEADERS frame and the DATA frames, its bytes encoded once.
The response is HEADERS, DATA, HEADERS. HPACK is used in one direction and one way only: we announce a header table
of size 0, so the server may not refer to headers of earlier responses. Every header block can then be decoded by
itself, and equal blocks are decoded once. Our own header block is encoded without the table, so it is the same bytes
for every call.

Sources: https://www.rfc-editor.org/rfc/rfc9113 (HTTP/2), https://www.rfc-editor.org/rfc/rfc7541 (HPACK)
"""

import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import hpack

from loadtest.printable import counted
from loadtest.wire.exchange import (
    IDLE_S,
    MEMO_LIMIT,
    RECEIVE_BYTES,
    Address,
    ExchangeError,
    closed_early,
    limit_wait,
    poll,
    send_all,
    to_exchange_error,
)

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_HEAD = struct.Struct(">BHBBI")
"""What a frame begins with: 3 bytes of length, in two parts, then kind, flags, and 4 bytes of stream number."""

_HEAD_BYTES = 9
_SETTING_BYTES = 6
_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME = 16_384
_LARGEST_WINDOW = (1 << 31) - 1
_LARGEST_FRAME = (1 << 24) - 1
_REFILL = 1 << 29
_LAST_STREAM = (1 << 31) - 3
_31_BITS = (1 << 31) - 1


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame."""
    size = len(payload)
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def encode_headers(fields: Sequence[tuple[str, str]]) -> bytes:
    """Return a header block that refers to no earlier one, so that the same bytes serve every call."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    encoder.table_size_changes.clear()
    return bytes(encoder.encode([*fields]))


class HeaderBlocks:
    """Decodes header blocks; one that was seen before is looked up by its bytes."""

    def __init__(self) -> None:
        self._decoded: dict[bytes, Mapping[str, str]] = {}

    def decode(self, block: bytes) -> Mapping[str, str]:
        """Return the fields of a header block that depends on no other; values of the same name are joined.

        Raises:
            ExchangeError: It is not HPACK.
        """
        found = self._decoded.get(block)
        if found is None:
            if len(self._decoded) >= MEMO_LIMIT:
                self._decoded.clear()
            found = self._decoded[block] = _decode(block)
        return found


def _decode(block: bytes) -> Mapping[str, str]:
    try:
        fields: dict[str, str] = {}
        for name, value in hpack.Decoder().decode(block):
            key, text = str(name), str(value)
            fields[key] = f"{fields[key]}, {text}" if key in fields else text
        return fields
    except hpack.HPACKError as error:
        raise ExchangeError("malformed", f"the response's headers cannot be read: {error}") from error


@dataclass(slots=True)
class Call:
    """A call in progress: its stream, how much the server lets it send, and what has come back.

    Attributes:
        stream: The stream's number: 1, 3, 5… on one connection.
        window: How many bytes of DATA the server still takes on this stream.
        head: The fields that come before the message, and the only ones if the response ends with them.
        trailers: The fields that end the response; empty if there were none.
        pieces: The payloads of the DATA frames so far.
        ended: Whether the server ended the stream.
    """

    stream: int
    window: int
    head: Mapping[str, str] = field(default_factory=dict)
    trailers: Mapping[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def data(self) -> bytes:
        """What the server sent, joined."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


class _UnseenError(ExchangeError):
    """The server is closing the connection and said that it did not process the call, so it can be sent again.

    Source: https://www.rfc-editor.org/rfc/rfc9113#section-6.8
    """


class _Session:
    """An open connection: the buffer of received bytes, and both sides' settings and flow control.

    Flow control, in numbers: the server starts with a window of 65,535 bytes for the whole connection and as much
    for each stream, and takes DATA frames of at most 16,384 bytes. A request of 100,000 bytes is cut into 16,384 x 3
    + 16,383 = 65,535 bytes. Both windows are then 0, and we read frames until WINDOW_UPDATE has raised both: if it
    adds 50,000 to the connection but 10,000 to the stream, the next 10,000 bytes may go. SETTINGS may change the
    starting window of streams in the middle of a call. From 65,535 to 70,000 it adds the difference of 4,465 to the
    stream in use. From there to 60,000 it takes 10,000 away, and the window may become negative.

    In the other direction we give the server the largest window, 2 GiB - 1, for every stream and for the connection.
    Only the connection's window can run out, so it is filled up whenever 512 MiB have come.
    """

    def __init__(self, address: Address, timeout_s: float, blocks: HeaderBlocks) -> None:
        self._timeout_s = timeout_s
        self._blocks = blocks
        self._buffer = b""
        self._unacknowledged = 0
        self._window = self._initial_window = _DEFAULT_WINDOW
        self._max_frame = _DEFAULT_FRAME
        self._call = Call(-1, 0)
        self._since = time.perf_counter()
        self.leaving = False
        self.socket = address.connect(timeout_s)
        try:
            self._greet()
        except OSError:
            self.socket.close()
            raise

    def _greet(self) -> None:
        ours = {
            _HEADER_TABLE_SIZE: 0,
            _ENABLE_PUSH: 0,
            _INITIAL_WINDOW_SIZE: _LARGEST_WINDOW,
            _MAX_FRAME_SIZE: _LARGEST_FRAME,
        }
        settings = b"".join(struct.pack(">HI", *setting) for setting in ours.items())
        more = struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW)
        self.socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW_UPDATE, 0, 0, more))

    def catch_up(self) -> bool:
        """Read what the server sent while the connection was idle; return whether it is still open."""
        while (more := poll(self.socket)) is not None:
            if not more:
                return False
            self._buffer += more
        return True

    def call(self, headers: bytes, data: bytes, since: float) -> Call:
        """Make one call, timed from `since`, and return it once the server has ended it.

        Raises:
            ExchangeError: It got no complete response.
            OSError: The connection failed, or the time is up.
        """
        self._since = since
        call = self._call = Call(self._call.stream + 2, self._initial_window)
        limit_wait(self.socket, since + self._timeout_s)
        self._send(call, headers, data)
        while not call.ended:
            self._take_frame()
        if self._unacknowledged > _REFILL:
            self._send_frame(_WINDOW_UPDATE, 0, struct.pack(">I", self._unacknowledged))
            self._unacknowledged = 0
        self.leaving |= call.stream >= _LAST_STREAM
        return call

    # ---- sending

    def _send(self, call: Call, headers: bytes, data: bytes) -> None:
        """Send HEADERS and DATA, in a single write when flow control allows."""
        size = len(data)
        head = frame(_HEADERS, _END_HEADERS, call.stream, headers)
        if size <= self._max_frame and size <= self._window and size <= call.window:
            self._window -= size
            send_all(self.socket, head + frame(_DATA, _END_STREAM, call.stream, data))
        else:
            self.socket.sendall(head)
            self._send_in_pieces(call, data)

    def _send_in_pieces(self, call: Call, data: bytes) -> None:
        """Send as many frames at a time as the server's windows have room for, and wait for more room in between."""
        start = 0
        while start < len(data):
            stop = min(start + min(self._window, call.window), len(data))
            if stop <= start:
                self._take_frame()
                if call.ended:
                    self.leaving = True  # the rest of the request will never be sent on this connection
                    return
                continue
            self.socket.sendall(self._cut(call.stream, data, start, stop))
            self._window -= stop - start
            call.window -= stop - start
            start = stop

    def _cut(self, stream: int, data: bytes, start: int, stop: int) -> bytes:
        """Return the DATA frames that carry `data[start:stop]`; the one with the last byte ends the stream."""
        cuts = [*range(start, stop, self._max_frame), stop]
        return b"".join(
            frame(_DATA, _END_STREAM if end == len(data) else 0, stream, data[begin:end])
            for begin, end in pairwise(cuts)
        )

    def _send_frame(self, kind: int, flags: int, payload: bytes) -> None:
        self.socket.sendall(frame(kind, flags, 0, payload))

    # ---- receiving

    def _next_frame(self) -> tuple[int, int, int, bytes]:
        """Return kind, flags, stream and payload of the next frame."""
        buffer = self._buffer
        while len(buffer) < _HEAD_BYTES:
            buffer += self._more()
        high, low, kind, flags, stream = _HEAD.unpack_from(buffer)
        end = _HEAD_BYTES + (high << 16 | low)
        missing = end - len(buffer)
        if missing > 0:
            pieces = [buffer]
            while missing > 0:
                pieces.append(self._more())
                missing -= len(pieces[-1])
            buffer = b"".join(pieces)
        self._buffer = buffer[end:]
        return kind, flags, stream & _31_BITS, buffer[_HEAD_BYTES:end]

    def _more(self) -> bytes:
        limit_wait(self.socket, self._since + self._timeout_s)
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise closed_early()
        return data

    def _take_frame(self) -> None:
        """Read one frame: of the current call, of the connection, or a late one of an earlier call."""
        kind, flags, stream, payload = self._next_frame()
        if kind == _DATA:
            self._unacknowledged += len(payload)
        if kind not in (_DATA, _HEADERS, _RST_STREAM):
            self._take_control(kind, flags, stream, payload)
        elif stream == self._call.stream:
            self._take_response(self._call, kind, flags, payload)

    def _take_response(self, call: Call, kind: int, flags: int, payload: bytes) -> None:
        if kind == _DATA:
            if not call.head:
                raise ExchangeError("malformed", "the response does not begin with headers")
            call.pieces.append(_without_padding(flags, payload))
        elif kind == _HEADERS:
            fields = self._blocks.decode(self._whole_block(flags, payload))
            if flags & _END_STREAM:
                call.trailers = fields
            if not (call.head and flags & _END_STREAM):
                call.head = fields
        else:
            raise ExchangeError("grpc_reset", f"the server reset the stream, code {_number(payload)}", usable=True)
        call.ended = bool(flags & _END_STREAM)

    def _whole_block(self, flags: int, payload: bytes) -> bytes:
        """Return a header block with the CONTINUATION frames that belong to it."""
        block = _without_padding(flags, payload)[5 if flags & _PRIORITY else 0 :]
        while not flags & _END_HEADERS:
            _, flags, _, more = self._next_frame()
            block += more
        return block

    def _take_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._apply_settings(payload)
            self._send_frame(_SETTINGS, _ACK, b"")
        elif kind == _PING and not flags & _ACK:
            self._send_frame(_PING, _ACK, payload)
        elif kind == _WINDOW_UPDATE:
            self._widen_window(stream, _number(payload))
        elif kind == _GOAWAY:
            self._go_away(_number(payload))

    def _widen_window(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
        elif stream == self._call.stream:
            self._call.window += more

    def _apply_settings(self, payload: bytes) -> None:
        if len(payload) % _SETTING_BYTES:
            raise ExchangeError("malformed", f"a SETTINGS frame of {counted(len(payload), 'byte')}")
        for key, value in struct.iter_unpack(">HI", payload):
            if key == _INITIAL_WINDOW_SIZE:
                self._call.window += value - self._initial_window
                self._initial_window = value
            elif key == _MAX_FRAME_SIZE:
                self._max_frame = max(value, _DEFAULT_FRAME)

    def _go_away(self, last_stream: int) -> None:
        """Leave after the current call; if the server will not process that call, send it on a new connection."""
        self.leaving = True
        if last_stream < self._call.stream:
            unseen = _UnseenError if self._call.stream > 1 else ExchangeError
            raise unseen("cut", "the server is closing the connection (GOAWAY)")


class Http2Connection:
    """A kept connection for one call at a time; it opens with the first call.

    Args:
        address: The server's port.
        timeout_s: How long a response may take.
        headers: The encoded header block of every call.
        blocks: Where decoded header blocks are remembered; connections to one server share it.
    """

    def __init__(self, address: Address, timeout_s: float, headers: bytes, blocks: HeaderBlocks) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._headers = headers
        self._blocks = blocks
        self._session: _Session | None = None
        self._called_at = 0.0

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._session is not None:
            self._session.socket.close()
            self._session = None

    def call(self, data: bytes) -> Call:
        """Send `data` as the body of one call and return the call, complete.

        Raises:
            ExchangeError: There was no complete response. Unless `usable`, the connection is closed then.
        """
        try:
            return self._call_or_repeat(data)
        except OSError as error:
            self.close()
            raise to_exchange_error(error) from error
        except ExchangeError as error:
            if not error.usable:
                self.close()
            raise

    def _call_or_repeat(self, data: bytes) -> Call:
        now = time.perf_counter()
        if self._session is not None and now - self._called_at > IDLE_S and not self._session.catch_up():
            self.close()
        self._called_at = now
        try:
            return self._call(data, now)
        except _UnseenError:
            self.close()
            return self._call(data, now)

    def _call(self, data: bytes, since: float) -> Call:
        session = self._session
        if session is None:
            session = self._session = _Session(self._address, self._timeout_s, self._blocks)
        call = session.call(self._headers, data, since)
        if session.leaving:
            self.close()
        return call


def _without_padding(flags: int, payload: bytes) -> bytes:
    """Return the payload of a frame whose first byte may say how many bytes of padding it ends with."""
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED and payload else payload


def _number(payload: bytes) -> int:
    return int.from_bytes(payload[:4], "big") & _31_BITS
