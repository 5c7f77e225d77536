"""KServe v2 inference over HTTP/1.1, with the binary tensor extension if the server has it.

A request is encoded once, headers included, and sent many times. The JSON heading of an answer repeats from request
to request, so it is parsed once and then looked up by its bytes.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from loadtest.printable import counted
from loadtest.wire.exchange import MEMO_LIMIT, Address, ExchangeError
from loadtest.wire.http1 import Http1Connection, Response, encode_request
from loadtest.wire.messages import Answer, InferRequest, Layout, Parameters, Slot
from loadtest.wire.tensors import to_wire
from loadtest.wire.values import flatten, pack_values

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a JSON document raises when it is not one, is nested too deeply, or says something else."""

_SHOWN = 120
_JSON_BYTES = "Inference-Header-Content-Length"
_JSON_BYTES_KEY = _JSON_BYTES.lower().encode()


def model_path(model: str, version: str = "") -> str:
    """Return the URL path of a model, or of one of its versions."""
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{version}" if version else path


class HttpClient:
    """Encodes requests and opens connections to one server.

    Args:
        address: The server's HTTP port.
        timeout_s: How long an answer may take.
    """

    protocol = "http"

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.layouts: dict[tuple[bytes, int], Layout] = {}

    def encode(self, request: InferRequest) -> bytes:
        """Return one POST: request line, headers, the JSON that describes the tensors, and the tensors."""
        tensors = [
            {"name": tensor.name, "shape": list(tensor.array.shape), "datatype": tensor.datatype}
            for tensor in request.inputs
        ]
        if request.binary:
            blobs = [to_wire(tensor.array, tensor.datatype) for tensor in request.inputs]
            description = _describe(tensors, request, [len(blob) for blob in blobs])
            fields = {"Content-Type": "application/octet-stream", _JSON_BYTES: str(len(description))}
        else:
            blobs = []
            for described, tensor in zip(tensors, request.inputs, strict=True):
                described["data"] = tensor.array.ravel().tolist()
            description = _to_json(tensors, [{"name": name} for name in request.outputs], request.parameters)
            fields = {"Content-Type": "application/json"}
        fields["Content-Length"] = str(len(description) + sum(map(len, blobs)))
        line = f"POST {model_path(request.model, request.version)}/infer"
        return encode_request(self.address, line, fields, description, *blobs)

    @staticmethod
    def write_number(number: int) -> bytes:
        """Write a number of up to 63 bits as it stands in a request, in 19 bytes; JSON allows blanks before it."""
        return b"%19d" % number

    def connect(self) -> "HttpConnection":
        """Return a connection for one user; it opens with the first request."""
        return HttpConnection(self)


def _describe(tensors: Sequence[dict[str, Any]], request: InferRequest, sizes: Sequence[int]) -> bytes:
    """Return the JSON of a request whose tensors follow it as raw bytes, of these sizes."""
    for tensor, size in zip(tensors, sizes, strict=True):
        tensor["parameters"] = {"binary_data_size": size}
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in request.outputs]
    return _to_json(tensors, wanted, request.parameters)


def _to_json(tensors: Sequence[Any], outputs: Sequence[Any], parameters: Parameters) -> bytes:
    described = {"parameters": dict(parameters)} if parameters else {}
    return json.dumps({**described, "inputs": tensors, "outputs": outputs}, separators=(",", ":")).encode()


class HttpConnection:
    """One user's kept connection."""

    def __init__(self, client: HttpClient) -> None:
        self._layouts = client.layouts
        self._connection = Http1Connection(client.address, client.timeout_s)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._connection.close()

    def infer(self, encoded: bytes) -> Answer:
        """Send an encoded request and return the answer to it.

        Raises:
            ExchangeError: There was none, or one that cannot be read.
        """
        response = self._connection.exchange(encoded)
        if response.status != 200:
            raise ExchangeError(f"http_{response.status}", error_text(response.body), usable=response.keeps_alive)
        try:
            return self._read(response)
        except ExchangeError:
            # A body of the wrong length may go on: the rest of it must not be read as the next response.
            self.close()
            raise

    def _read(self, response: Response) -> Answer:
        json_bytes = response.number(_JSON_BYTES_KEY)
        if json_bytes is None:
            return _read_json(response.body)
        return Answer(self._layout(response.body, json_bytes), response.body)

    def _layout(self, body: bytes, json_bytes: int) -> Layout:
        key = (body[:json_bytes], len(body))
        found = self._layouts.get(key)
        if found is None:
            if len(self._layouts) >= MEMO_LIMIT:
                self._layouts.clear()
            found = self._layouts[key] = _parse_layout(body, json_bytes)
        return found


def _read_document(text: bytes) -> Any:
    """Read a JSON document in UTF-8; one that names something twice is none, because readers choose one or the other.

    Raises:
        ValueError: It is no such document.
    """
    return _DECODER.decode(text.decode())


def _to_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_to_object)


def _parse_layout(body: bytes, json_bytes: int) -> Layout:
    """Read the JSON that describes an answer's binary outputs, which follow it in the order described."""
    try:
        description: dict[str, Any] = _read_document(body[:json_bytes])
        slots, start = [], json_bytes
        for output in description["outputs"]:
            stop = start + _size(output["parameters"]["binary_data_size"])
            slots.append(_slot(output, start, stop))
            start = stop
        layout = _describe_answer(description, slots)
    except _UNREADABLE as error:
        raise _not_kserve(body[:json_bytes]) from error
    if start != len(body):
        raise ExchangeError("malformed", f"the answer announced {counted(start, 'byte')} but has {len(body):,}")
    return layout


def _read_json(body: bytes) -> Answer:
    """Read an answer whose outputs are written out in its JSON."""
    try:
        description: dict[str, Any] = _read_document(body)
        slots, data = [], b""
        for output in description["outputs"]:
            packed, unreadable = _pack(output.get("data"), output["datatype"], output["shape"])
            slots.append(replace(_slot(output, len(data), len(data) + len(packed)), unreadable=unreadable))
            data += packed
        layout = _describe_answer(description, slots)
    except _UNREADABLE as error:
        raise _not_kserve(body) from error
    return Answer(layout, data)


def _pack(values: Any, datatype: str, shape: Sequence[int]) -> tuple[bytes, str]:
    """Return the values' bytes, or their JSON and why they are not of this type and shape."""
    try:
        return pack_values(flatten(values, shape), datatype), ""
    except ValueError as error:
        return json.dumps(values).encode(), str(error)


def _slot(output: dict[str, Any], start: int, stop: int) -> Slot:
    """Return where an output is; its name, type and shape must be what JSON calls strings and whole numbers."""
    name, datatype, shape = output["name"], output["datatype"], tuple(output["shape"])
    is_well_formed = isinstance(name, str) and isinstance(datatype, str) and all(type(size) is int for size in shape)
    if not is_well_formed:
        raise TypeError("an output without a usable name, datatype or shape")
    name.encode()  # JSON can write half of a character, as in "\ud800", which nothing could print
    return Slot(name, datatype, shape, start, stop)


def _size(value: object) -> int:
    """Return a number of bytes, which int() would also read from 4.9 and from "0_4"."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number of bytes")
    return value


def _describe_answer(description: dict[str, Any], slots: Sequence[Slot]) -> Layout:
    model, version = description["model_name"], description.get("model_version")
    if not isinstance(model, str) or not model:
        raise TypeError("an answer without the name of a model")
    if error := description.get("error"):
        raise ExchangeError("malformed", f"the answer has outputs, but an error too: {str(error)[:_SHOWN]!r}")
    return Layout(model, "" if version is None else str(version), tuple(slots))


def _not_kserve(body: bytes) -> ExchangeError:
    return ExchangeError("malformed", f"not a KServe v2 answer: {body[:_SHOWN]!r}")


def error_text(body: bytes) -> str:
    """Return the message in the body of an error response: KServe's `{"error": …}`, or else its beginning."""
    try:
        return str(json.loads(body)["error"]).encode("utf-8", "replace").decode()
    except _UNREADABLE:
        return body[:200].decode("utf-8", "replace")
