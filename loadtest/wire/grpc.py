"""KServe v2 inference over gRPC, on the HTTP/2 client of `http2`.

Requests are encoded once and sent many times; the heading of an answer repeats and is parsed once.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import unquote

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from loadtest.wire.exchange import MEMO_LIMIT, Address, ExchangeError, inflate
from loadtest.wire.http2 import Call, HeaderBlocks, Http2Connection, encode_headers
from loadtest.wire.messages import Answer, InferRequest, Layout, Slot
from loadtest.wire.tensors import pack_strings, to_wire
from loadtest.wire.values import pack_values

_SERVICE = "/inference.GRPCInferenceService"
_CONTENT_TYPE = "application/grpc"
_HEADINGS_LIMIT = 16
_PREFIX_BYTES = 5
_SHOWN = 80
_HTTP_STATUS_DIGITS = 3

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
    "1": "CANCELLED",
    "2": "UNKNOWN",
    "3": "INVALID_ARGUMENT",
    "4": "DEADLINE_EXCEEDED",
    "5": "NOT_FOUND",
    "6": "ALREADY_EXISTS",
    "7": "PERMISSION_DENIED",
    "8": "RESOURCE_EXHAUSTED",
    "9": "FAILED_PRECONDITION",
    "10": "ABORTED",
    "11": "OUT_OF_RANGE",
    "12": "UNIMPLEMENTED",
    "13": "INTERNAL",
    "14": "UNAVAILABLE",
    "15": "DATA_LOSS",
    "16": "UNAUTHENTICATED",
}


class GrpcClient:
    """Encodes requests and opens connections to one server.

    Args:
        address: The server's gRPC port.
        timeout_s: How long an answer may take.
        method: The unary method to call.
    """

    protocol = "grpc"

    def __init__(self, address: Address, timeout_s: float, method: str = "ModelInfer") -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.fields = _fields(address, method)
        self.headers = encode_headers(self.fields)
        self.blocks = HeaderBlocks()
        self.layouts = KnownLayouts()

    def encode(self, request: InferRequest) -> bytes:
        """Return one length-prefixed ModelInferRequest."""
        message = service_pb2.ModelInferRequest(model_name=request.model, model_version=request.version)
        for tensor in request.inputs:
            message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
            message.raw_input_contents.append(to_wire(tensor.array, tensor.datatype))
        for name in request.outputs:
            message.outputs.add(name=name)
        for name, value in request.parameters.items():
            setattr(message.parameters[name], _parameter_field(value), value)
        return prefix(message.SerializeToString())

    @staticmethod
    def write_number(number: int) -> bytes:
        """Write a number of up to 63 bits as it stands in a request, as a varint of nine bytes.

        Each byte has 7 bits, the lowest first, and a bit that says that another one follows: 300 = 2 * 128 + 44 is
        AC 82 80 80 80 80 80 80 00, which every reader takes for the AC 02 that it could be.
        """
        sevens = [number >> shift & 0x7F for shift in range(0, 63, 7)]
        return bytes([*(seven | 0x80 for seven in sevens[:-1]), sevens[-1]])

    def connect(self) -> "GrpcConnection":
        """Return a connection for one user; it opens with the first request."""
        return GrpcConnection(self)


def _parameter_field(value: str | int | float | bool) -> str:
    """Return the field of an InferParameter that holds a value of this type; large whole numbers have their own."""
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "int64_param" if value < 1 << 63 else "uint64_param"
    return "string_param" if isinstance(value, str) else "double_param"


def _fields(address: Address, method: str) -> list[tuple[str, str]]:
    """Return the header fields of every call; in HTTP/2, names are in lower case, and `:authority` is the host."""
    given = [(name.lower(), value) for name, value in address.headers]
    named = dict(given)
    return [
        (":method", "POST"),
        (":scheme", "http" if address.tls is None else "https"),
        (":path", f"{_SERVICE}/{method}"),
        (":authority", named.get("host", str(address))),
        ("te", "trailers"),
        ("content-type", _CONTENT_TYPE),
        *([] if "user-agent" in named else [("user-agent", "triton-loadtest")]),
        *((name, value) for name, value in given if name != "host"),
    ]


def is_model_ready(address: Address, timeout_s: float, model: str, version: str) -> bool:
    """Ask the server whether a model is ready for inference.

    Raises:
        ExchangeError: There was no answer, or one that cannot be read.
    """
    connection = GrpcClient(address, timeout_s, "ModelReady").connect()
    request = service_pb2.ModelReadyRequest(name=model, version=version)
    try:
        answer = connection.call(prefix(request.SerializeToString()))
        return bool(service_pb2.ModelReadyResponse.FromString(answer).ready)
    except DecodeError as error:
        raise ExchangeError("malformed", f"not a ModelReadyResponse: {error}") from error
    finally:
        connection.close()


def prefix(message: bytes) -> bytes:
    """Return a gRPC message as it travels in DATA: a byte for "not compressed", four bytes of length, the message."""
    return struct.pack(">BI", 0, len(message)) + message


class GrpcConnection:
    """One user's kept connection, one call at a time."""

    def __init__(self, client: GrpcClient) -> None:
        self._layouts = client.layouts
        self._connection = Http2Connection(client.address, client.timeout_s, client.headers, client.blocks)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._connection.close()

    def infer(self, encoded: bytes) -> Answer:
        """Send an encoded request and return the answer to it.

        Raises:
            ExchangeError: There was none, or one that cannot be read.
        """
        return self._layouts.read(self.call(encoded))

    def call(self, encoded: bytes) -> bytes:
        """Send a prefixed message and return the message that answers it.

        Raises:
            ExchangeError: There was none, or its status is not OK.
        """
        call = self._connection.call(encoded)
        try:
            return _unwrap(call)
        except ExchangeError as error:
            if not error.usable:
                self.close()
            raise


def _unwrap(call: Call) -> bytes:
    """Return the one message in the body of a call whose status is OK.

    The status ends the response: without it, nobody knows whether the message is complete. A gateway may answer with an
    HTTP status and a page of its own, whatever stands behind it.

    Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses
    """
    status, head, data = call.trailers.get("grpc-status"), call.head, call.data
    if status != "0" or head.get(":status") != "200":
        raise _status_error(call.trailers, status, head.get(":status", ""))
    if not head.get("content-type", _CONTENT_TYPE).startswith(_CONTENT_TYPE):
        raise ExchangeError("malformed", f"the answer is {head['content-type'][:_SHOWN]!r} instead of {_CONTENT_TYPE}")
    announced = int.from_bytes(data[1:_PREFIX_BYTES], "big")
    is_one_message = len(data) >= _PREFIX_BYTES and announced == len(data) - _PREFIX_BYTES
    if not is_one_message or data[0] > 1:
        raise ExchangeError("malformed", "the answer is not one gRPC message")
    message = data[_PREFIX_BYTES:]
    return inflate(message, head.get("grpc-encoding", "")) if data[0] else message


def _status_error(trailers: Mapping[str, str], status: str | None, http_status: str) -> ExchangeError:
    if status in (None, "0"):
        if not http_status.isdecimal() or len(http_status) != _HTTP_STATUS_DIGITS or http_status == "200":
            return ExchangeError("malformed", f"the answer has no {'HTTP status' if status else 'grpc-status'}")
        return ExchangeError(f"http_{http_status}", "the server does not speak gRPC on this port")
    name = _STATUS.get(status)
    if name is None:
        return ExchangeError("malformed", f"{status[:_SHOWN]!r} is not a grpc-status")
    return ExchangeError(f"grpc_{name}", unquote(trailers.get("grpc-message", "")), usable=True)


_Frame: TypeAlias = tuple[tuple[int, bytes], ...]
"""What stands around the outputs of an answer: pieces of it, each with the place where it begins."""


class KnownLayouts:
    """Reads answers; one with the same bytes around its outputs as an earlier answer has that answer's layout."""

    def __init__(self) -> None:
        self._by_length: dict[int, list[tuple[_Frame, Layout]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_length.values()))

    def read(self, message: bytes) -> Answer:
        """Read a ModelInferResponse.

        Raises:
            ExchangeError: It cannot be read.
        """
        for frame, layout in self._by_length.get(len(message), ()):
            for start, piece in frame:
                if not message.startswith(piece, start):
                    break
            else:
                return Answer(layout, message)
        frame, answer = _parse(message)
        if frame:
            self._remember(frame, len(message), answer.layout)
        return answer

    def _remember(self, frame: _Frame, length: int, layout: Layout) -> None:
        if len(self._by_length) >= MEMO_LIMIT:
            self._by_length.clear()
        known = self._by_length.setdefault(length, [])
        del known[_HEADINGS_LIMIT - 1 :]  # a server that gives every answer a new id must not fill the memory
        known.insert(0, (frame, layout))


def _parse(message: bytes) -> tuple[_Frame, Answer]:
    """Read a ModelInferResponse, and return what stands around its outputs as well.

    The raw outputs are the message's last field, so they are at its end, each behind a tag byte and its length as a
    varint. With outputs of 12 and 8 bytes in a message of 100 bytes, the last one is at 92:100, its tag and length at
    90:92, the first one at 78:90. Around them are message[:78] and message[90:92]. As long as every output has a fixed
    size, another message of 100 bytes with the same bytes there has its outputs in the same places. Strings have no
    fixed size: what is around them is empty here, and not reused.
    """
    try:
        response = service_pb2.ModelInferResponse.FromString(message)
    except DecodeError as error:
        raise ExchangeError("malformed", f"not a ModelInferResponse: {error}", usable=True) from error
    raw = response.raw_output_contents
    if not raw:
        return (), _read_contents(response)
    if len(raw) != len(response.outputs):
        what = f"the answer describes {len(response.outputs)} outputs but carries {len(raw)}"
        raise ExchangeError("malformed", what, usable=True)
    if any(output.contents.ByteSize() for output in response.outputs):  # MLServer sends them empty beside raw outputs
        raise ExchangeError("malformed", "the answer has an output both raw and in typed fields", usable=True)
    slots: list[Slot] = []
    stop = len(message)
    for output, content in zip(reversed(response.outputs), reversed(raw), strict=True):
        start = stop - len(content)
        if message[start:stop] != content:
            raise ExchangeError("malformed", "the raw outputs are not at the end of the message", usable=True)
        slots.insert(0, Slot(output.name, output.datatype, tuple(output.shape), start, stop))
        stop = start - 1 - _varint_bytes(len(content))
    layout = Layout(response.model_name, response.model_version, tuple(slots))
    fixed = all(slot.datatype != "BYTES" for slot in slots)
    return (_find_frame(message, slots) if fixed else ()), Answer(layout, message)


def _find_frame(message: bytes, slots: Sequence[Slot]) -> _Frame:
    starts = [0, *(slot.stop for slot in slots[:-1])]
    return tuple((start, message[start : slot.start]) for start, slot in zip(starts, slots, strict=True))


def _read_contents(response: Any) -> Answer:
    """Read an answer with its outputs in typed fields, element by element; servers other than Triton do this."""
    slots, body = [], b""
    for output in response.outputs:
        packed, unreadable = _pack(output)
        stop = len(body) + len(packed)
        slots.append(Slot(output.name, output.datatype, tuple(output.shape), len(body), stop, unreadable))
        body += packed
    return Answer(Layout(response.model_name, response.model_version, tuple(slots)), body)


def _pack(output: Any) -> tuple[bytes, str]:
    """Return the bytes of an output's values, or its typed fields as they came and why they are not of its type."""
    try:
        field = _CONTENTS.get(output.datatype)
        if field is None:
            raise ValueError(f"there is no typed field for {output.datatype}")
        values = getattr(output.contents, field)
        return (pack_strings(values) if field == "bytes_contents" else pack_values(values, output.datatype)), ""
    except ValueError as error:
        return output.contents.SerializeToString(), str(error)


def _varint_bytes(value: int) -> int:
    """Return how many bytes a varint takes, 7 bits in each: 1 up to 127, 2 up to 16,383."""
    return max((value.bit_length() + 6) // 7, 1)
