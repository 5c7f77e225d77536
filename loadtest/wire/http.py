"""KServe v2 inference over HTTP/1.1, with the binary tensor extension if the server has it.

A request is encoded once, headers included, and sent many times. The JSON heading of an answer repeats from request
to request, so it is parsed once and then looked up by its bytes.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from loadtest.wire.exchange import MEMO_LIMIT, Address, ExchangeError
from loadtest.wire.http1 import Http1Connection, Response
from loadtest.wire.messages import Answer, InferRequest, Layout, Slot
from loadtest.wire.tensors import DTYPES, to_wire

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
            description = _describe(tensors, request.outputs, [len(blob) for blob in blobs])
            content_type = f"application/octet-stream\r\n{_JSON_BYTES}: {len(description)}"
        else:
            blobs = []
            for described, tensor in zip(tensors, request.inputs, strict=True):
                described["data"] = tensor.array.ravel().tolist()
            description = _to_json({"inputs": tensors, "outputs": [{"name": name} for name in request.outputs]})
            content_type = "application/json"
        head = (
            f"POST {model_path(request.model, request.version)}/infer HTTP/1.1\r\nHost: {self.address}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(description) + sum(map(len, blobs))}\r\n\r\n"
        )
        return b"".join((head.encode(), description, *blobs))

    def connect(self) -> "HttpConnection":
        """Return a connection for one user; it opens with the first request."""
        return HttpConnection(self)


def _describe(tensors: Sequence[dict[str, Any]], outputs: Sequence[str], sizes: Sequence[int]) -> bytes:
    """Return the JSON of a request whose tensors follow it as raw bytes, of these sizes."""
    for tensor, size in zip(tensors, sizes, strict=True):
        tensor["parameters"] = {"binary_data_size": size}
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    return _to_json({"inputs": tensors, "outputs": wanted})


def _to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


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
        json_bytes = self._json_bytes(response)
        if json_bytes is None:
            return _read_json(response.body)
        return Answer(self._layout(response.body, json_bytes), response.body)

    def _json_bytes(self, response: Response) -> int | None:
        """Return how many bytes of JSON the body begins with; None if it is all JSON."""
        try:
            return response.number(_JSON_BYTES_KEY)
        except ExchangeError:
            self.close()
            raise

    def _layout(self, body: bytes, json_bytes: int) -> Layout:
        key = (body[:json_bytes], len(body))
        found = self._layouts.get(key)
        if found is None:
            if len(self._layouts) >= MEMO_LIMIT:
                self._layouts.clear()
            found = self._layouts[key] = _parse_layout(body, json_bytes)
        return found


def _parse_layout(body: bytes, json_bytes: int) -> Layout:
    """Read the JSON that describes an answer's binary outputs, which follow it in the order described."""
    try:
        description: dict[str, Any] = json.loads(body[:json_bytes])
        slots, start = [], json_bytes
        for output in description["outputs"]:
            stop = start + int(output["parameters"]["binary_data_size"])
            slots.append(Slot(output["name"], output["datatype"], tuple(output["shape"]), start, stop))
            start = stop
        layout = Layout(description["model_name"], str(description.get("model_version", "")), tuple(slots))
    except (ValueError, KeyError, TypeError) as error:
        raise _not_kserve(body[:json_bytes]) from error
    if start != len(body):
        raise ExchangeError("malformed", f"the answer announced {start} bytes but has {len(body)}", usable=True)
    return layout


def _read_json(body: bytes) -> Answer:
    """Read an answer whose outputs are written out in its JSON."""
    try:
        description: dict[str, Any] = json.loads(body)
        slots, data = [], b""
        for output in description["outputs"]:
            datatype, shape = output["datatype"], tuple(output["shape"])
            array = np.array(output.get("data", []), DTYPES.get(datatype, np.str_)).reshape(shape)
            start, data = len(data), data + to_wire(array, datatype)
            slots.append(Slot(output["name"], datatype, shape, start, len(data)))
        layout = Layout(description["model_name"], str(description.get("model_version") or ""), tuple(slots))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise _not_kserve(body) from error
    return Answer(layout, data)


def _not_kserve(body: bytes) -> ExchangeError:
    return ExchangeError("malformed", f"not a KServe v2 answer: {body[:120]!r}", usable=True)


def error_text(body: bytes) -> str:
    """Return the message in the body of an error response: KServe's `{"error": …}`, or else its beginning."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
