"""KServe v2 inference over gRPC, on a small HTTP/2 client made for one unary call at a time.

grpcio's channels cost several times the CPU of the call itself under gevent, and can hang at exit when one is
left open. A unary call needs little of HTTP/2: a request is HEADERS and DATA, its bytes encoded once; an
answer is HEADERS, DATA, HEADERS. We tell the server to keep no dynamic header table, so every header block
is independent of those before it and equal blocks are decoded once.

Sources: https://www.rfc-editor.org/rfc/rfc9113 (HTTP/2), https://www.rfc-editor.org/rfc/rfc7541 (HPACK),
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import socket
import struct
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import hpack
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from loadtest.checking.answers import Answer, Layout, Slot
from loadtest.checking.samples import Samples
from loadtest.wire.exchange import (
    IDLE_S,
    MEMO_LIMIT,
    RECEIVE_BYTES,
    Address,
    ExchangeError,
    poll,
    send_all,
    to_exchange_error,
)
from loadtest.wire.tensors import DTYPES, Array, to_wire

_SERVICE = "/inference.GRPCInferenceService"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_WINDOW = (1 << 31) - 1
_LARGEST_FRAME = (1 << 24) - 1
_REFILL = 1 << 29
_HEADS_LIMIT = 16
_LAST_STREAM = (1 << 31) - 3

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_STATUS = {
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    size = len(payload)
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


class _UnseenError(ExchangeError):
    """The server closes a kept connection and said that it did not look at the call, so that it may be sent again.

    Source: https://www.rfc-editor.org/rfc/rfc9113#section-6.8
    """


class GrpcWire:
    """Encodes requests and opens connections to one server.

    Args:
        address: The server's gRPC port.
        timeout_s: How long an answer may take.
        method: The unary method called.
    """

    name = "grpc"

    def __init__(self, address: Address, timeout_s: float, method: str = "ModelInfer") -> None:
        self.address = address
        self.timeout_s = timeout_s
        headers = [
            (":method", "POST"),
            (":scheme", "https" if address.tls else "http"),
            (":path", f"{_SERVICE}/{method}"),
            (":authority", str(address)),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "triton-loadtest"),
        ]
        encoder = hpack.Encoder()
        encoder.header_table_size = 0
        encoder.table_size_changes.clear()
        self.headers = bytes(encoder.encode(headers))
        self.blocks: dict[bytes, dict[str, str]] = {}
        self.layouts: dict[int, list[tuple[bytes, Layout]]] = {}

    def encode(self, samples: Samples, inputs: Mapping[str, Array]) -> bytes:
        """One length-prefixed ModelInferRequest."""
        request = service_pb2.ModelInferRequest(model_name=samples.model, model_version=samples.version)
        for tensor in samples.inputs:
            array = inputs[tensor.name]
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
            request.raw_input_contents.append(to_wire(array, tensor.datatype))
        for name in samples.outputs:
            request.outputs.add(name=name)
        return prefix(request.SerializeToString())

    def connect(self) -> "GrpcConnection":
        """A connection for one user; it opens with the first request."""
        return GrpcConnection(self)


def is_model_ready(address: Address, timeout_s: float, model: str, version: str) -> bool:
    """Ask whether the server can infer with a model.

    Raises:
        ExchangeError: No answer came, or none that can be read.
    """
    connection = GrpcWire(address, timeout_s, "ModelReady").connect()
    request = service_pb2.ModelReadyRequest(name=model, version=version)
    try:
        answer = connection.call(prefix(request.SerializeToString()))
        return bool(service_pb2.ModelReadyResponse.FromString(answer).ready)
    except DecodeError as error:
        raise ExchangeError("malformed", f"not a ModelReadyResponse: {error}") from error
    finally:
        connection.close()


def prefix(message: bytes) -> bytes:
    """A gRPC message as it is framed inside DATA: uncompressed, its length in four bytes."""
    return struct.pack(">BI", 0, len(message)) + message


class GrpcConnection:
    """One user's kept connection, one call at a time."""

    def __init__(self, wire: GrpcWire) -> None:
        self._wire = wire
        self._socket: socket.socket | None = None
        self._asked_at = 0.0

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, wire: bytes) -> Answer:
        """Send an encoded request and wait for its answer.

        Raises:
            ExchangeError: It failed.
        """
        return self._read(self.call(wire))

    def call(self, wire: bytes) -> bytes:
        """Send a prefixed message and return the message that answers it.

        Raises:
            ExchangeError: It failed.
        """
        now = time.perf_counter()
        try:
            if self._socket is not None and now - self._asked_at > IDLE_S:
                self._catch_up()
            self._asked_at = now
            try:
                return self._exchange(wire)
            except _UnseenError:
                return self._exchange(wire)
        except OSError as error:
            self.close()
            raise to_exchange_error(error) from error
        except ExchangeError as error:
            if not error.usable:
                self.close()
            raise

    def _exchange(self, wire: bytes) -> bytes:
        if self._socket is None:
            self._open()
        self._send(wire)
        return self._receive()

    def _catch_up(self) -> None:
        """Take in what the server said while nobody asked; hang up when it did."""
        assert self._socket is not None
        while (more := poll(self._socket)) is not None:
            if not more:
                return self.close()
            self._buffer += more

    def _open(self) -> None:
        self._socket = self._wire.address.connect(self._wire.timeout_s, alpn="h2")
        self._buffer = b""
        self._stream = -1
        self._leaving = False
        self._received = 0
        self._window = self._initial_window = 65535
        self._stream_window = 0
        self._max_frame = 16384
        ours = {_HEADER_TABLE_SIZE: 0, _ENABLE_PUSH: 0, _INITIAL_WINDOW_SIZE: _WINDOW, _MAX_FRAME_SIZE: _LARGEST_FRAME}
        settings = b"".join(struct.pack(">HI", *setting) for setting in ours.items())
        refill = struct.pack(">I", _WINDOW - 65535)
        self._socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW_UPDATE, 0, 0, refill))

    def _send(self, wire: bytes) -> None:
        """Send HEADERS and DATA, in one write when the server's flow control lets it."""
        assert self._socket is not None
        self._stream += 2
        self._stream_window = self._initial_window
        self._fields: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._ended = False
        size = len(wire)
        headers = frame(_HEADERS, _END_HEADERS, self._stream, self._wire.headers)
        if size <= self._max_frame and size <= self._window and size <= self._stream_window:
            self._window -= size
            send_all(self._socket, headers + frame(_DATA, _END_STREAM, self._stream, wire))
        else:
            self._socket.sendall(headers)
            self._send_in_pieces(wire)

    def _send_in_pieces(self, wire: bytes) -> None:
        """Send as many frames at a time as the server's flow control has room for."""
        assert self._socket is not None
        start = 0
        while start < len(wire):
            stop = min(start + min(self._window, self._stream_window), len(wire))
            if stop <= start:
                self._take_frame()
                if self._ended:
                    self._leaving = True  # the rest of the request is never sent on this connection
                    return
                continue
            cuts = [*range(start, stop, self._max_frame), stop]
            self._socket.sendall(
                b"".join(
                    frame(_DATA, _END_STREAM * (end == len(wire)), self._stream, wire[begin:end])
                    for begin, end in pairwise(cuts)
                )
            )
            self._window -= stop - start
            self._stream_window -= stop - start
            start = stop

    def _receive(self) -> bytes:
        while not self._ended:
            self._take_frame()
        if self._received > _REFILL:
            self._send_frame(_WINDOW_UPDATE, 0, struct.pack(">I", self._received))
            self._received = 0
        if self._leaving or self._stream >= _LAST_STREAM:
            self.close()
        status = self._fields.get("grpc-status")
        if status != "0":
            raise _status_error(self._fields, status)
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if len(data) < 5 or data[0] or int.from_bytes(data[1:5], "big") != len(data) - 5:
            raise ExchangeError("malformed", "the answer is not one uncompressed gRPC message")
        return data[5:]

    def _next_frame(self) -> tuple[int, int, int, bytes]:
        buffer = self._buffer
        while len(buffer) < 9:
            buffer += self._more()
        size = int.from_bytes(buffer[:3], "big")
        missing = 9 + size - len(buffer)
        if missing > 0:
            pieces = [buffer]
            while missing > 0:
                pieces.append(self._more())
                missing -= len(pieces[-1])
            buffer = b"".join(pieces)
        self._buffer = buffer[9 + size :]
        return buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big") & _WINDOW, buffer[9 : 9 + size]

    def _more(self) -> bytes:
        assert self._socket is not None
        if time.perf_counter() - self._asked_at > self._wire.timeout_s:
            raise TimeoutError
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ExchangeError("cut", "the server closed the connection before its answer was complete")
        return data

    def _take_frame(self) -> None:
        """Take in one frame: of the call under way, of the connection, or the tail of a call long over."""
        kind, flags, stream, payload = self._next_frame()
        if kind == _DATA:
            self._received += len(payload)
        if kind not in (_DATA, _HEADERS, _RST_STREAM):
            self._control(kind, flags, stream, payload)
        elif stream == self._stream:
            self._take_answer(kind, flags, payload)

    def _take_answer(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _DATA:
            self._pieces.append(_unpadded(flags, payload))
        elif kind == _HEADERS:
            block = _unpadded(flags, payload)[5 if flags & _PRIORITY else 0 :]
            while not flags & _END_HEADERS:
                _, flags_after, _, more = self._next_frame()
                block += more
                flags |= flags_after & _END_HEADERS
            self._fields.update(self._decode(block))
        else:
            raise ExchangeError("grpc_reset", f"the server reset the stream, code {_number(payload)}", usable=True)
        self._ended = bool(flags & _END_STREAM)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._apply_settings(payload)
            self._send_frame(_SETTINGS, _ACK, b"")
        elif kind == _PING and not flags & _ACK:
            self._send_frame(_PING, _ACK, payload)
        elif kind == _WINDOW_UPDATE:
            if stream == 0:
                self._window += _number(payload)
            elif stream == self._stream:
                self._stream_window += _number(payload)
        elif kind == _GOAWAY:
            self._go_away(_number(payload))

    def _go_away(self, last_stream: int) -> None:
        """Hang up after the call under way; one that the server will not look at goes to a new connection."""
        self._leaving = True
        if last_stream < self._stream:
            self.close()
            error = _UnseenError if self._stream > 1 else ExchangeError
            raise error("cut", "the server said that it goes away")

    def _apply_settings(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == _INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif key == _MAX_FRAME_SIZE:
                self._max_frame = value

    def _send_frame(self, kind: int, flags: int, payload: bytes) -> None:
        assert self._socket is not None
        self._socket.sendall(frame(kind, flags, 0, payload))

    def _decode(self, block: bytes) -> dict[str, str]:
        blocks = self._wire.blocks
        found = blocks.get(block)
        if found is None:
            if len(blocks) >= MEMO_LIMIT:
                blocks.clear()
            found = blocks[block] = _decode_fields(block)
        return found

    def _read(self, message: bytes) -> Answer:
        layouts = self._wire.layouts
        for head, layout in layouts.get(len(message), ()):
            if message.startswith(head):
                return Answer(layout, message)
        head_bytes, answer = _parse(message)
        if len(layouts) >= MEMO_LIMIT:
            layouts.clear()
        if head_bytes:
            known = layouts.setdefault(len(message), [])
            del known[_HEADS_LIMIT - 1 :]  # a server that names each answer differently must not fill the memory
            known.insert(0, (message[:head_bytes], answer.layout))
        return answer


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload


def _number(payload: bytes) -> int:
    return int.from_bytes(payload[:4], "big") & _WINDOW


def _decode_fields(block: bytes) -> dict[str, str]:
    decoder = hpack.Decoder()
    try:
        return {str(name): str(value) for name, value in decoder.decode(block)}
    except hpack.HPACKError as error:
        raise ExchangeError("malformed", f"the headers cannot be read: {error}") from error


def _status_error(fields: Mapping[str, str], status: str | None) -> ExchangeError:
    if status is None:
        http_status = fields.get(":status", "no status")
        if http_status == "200":
            return ExchangeError("malformed", "the answer carries no grpc-status")
        return ExchangeError(f"http_{http_status}", "the server does not speak gRPC here")
    name = _STATUS.get(int(status), status) if status.isdecimal() else status
    return ExchangeError(f"grpc_{name}", unquote(fields.get("grpc-message", "")), usable=True)


def _parse(message: bytes) -> tuple[int, Answer]:
    """Read a ModelInferResponse; also where its raw outputs begin, 0 when that cannot be reused.

    The raw outputs are the message's last field, so they lie at its end, each behind a tag and a length. With
    outputs of fixed size, equal heads of equally long messages have their outputs at equal places.
    """
    try:
        response = service_pb2.ModelInferResponse.FromString(message)
    except DecodeError as error:
        raise ExchangeError("malformed", f"not a ModelInferResponse: {error}", usable=True) from error
    raw = response.raw_output_contents
    if not raw:
        return 0, _read_contents(response)
    if len(raw) != len(response.outputs):
        raise ExchangeError("malformed", f"{len(response.outputs)} outputs, {len(raw)} raw contents", usable=True)
    slots: list[Slot] = []
    stop = len(message)
    for output, content in zip(reversed(response.outputs), reversed(raw), strict=True):
        start = stop - len(content)
        if message[start:stop] != content:
            raise ExchangeError("malformed", "the raw outputs are not at the message's end", usable=True)
        slots.insert(0, Slot(output.name, output.datatype, tuple(output.shape), start, stop))
        stop = start - 1 - _varint_bytes(len(content))
    layout = Layout(response.model_name, response.model_version, tuple(slots))
    fixed = all(slot.datatype != "BYTES" for slot in slots)
    return (stop if fixed else 0), Answer(layout, message)


def _read_contents(response: Any) -> Answer:
    """Read an answer whose outputs stand element by element in fields of their type, as not only Triton may answer."""
    slots, body = [], b""
    for output in response.outputs:
        field = _CONTENTS.get(output.datatype)
        if field is None:
            raise ExchangeError("malformed", f"output {output.name} came without its {output.datatype}", usable=True)
        values = getattr(output.contents, field)
        if output.datatype == "BYTES":
            data = b"".join(struct.pack("<I", len(value)) + value for value in values)
        else:
            data = np.array(values).astype(DTYPES[output.datatype]).tobytes()
        slots.append(Slot(output.name, output.datatype, tuple(output.shape), len(body), len(body) + len(data)))
        body += data
    return Answer(Layout(response.model_name, response.model_version, tuple(slots)), body)


def _varint_bytes(value: int) -> int:
    return max((value.bit_length() + 6) // 7, 1)
