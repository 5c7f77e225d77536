"""KServe v2 inference over HTTP/1.1, with the binary tensor extension where the server has it.

Requests are whole byte strings, headers included, encoded once; heads of answers repeat and are parsed once.
Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

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


def infer_path(model: str, version: str) -> str:
    """The URL path that a model's requests go to."""
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{version}/infer" if version else f"{path}/infer"


@dataclass(frozen=True, slots=True)
class _Head:
    """A parsed head: its status and where its body ends; `content_bytes` None is when the server hangs up."""

    status: int
    chunked: bool
    content_bytes: int | None
    json_bytes: int | None
    closes: bool


class HttpWire:
    """Encodes requests and opens connections to one server.

    Args:
        address: The server's HTTP port.
        timeout_s: How long an answer may take.
    """

    name = "http"

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.heads: dict[bytes, _Head] = {}
        self.layouts: dict[tuple[bytes, int], Layout] = {}

    def encode(self, samples: Samples, inputs: Mapping[str, Array]) -> bytes:
        """One POST: request line, headers, the JSON that describes the tensors, the tensors."""
        tensors: list[dict[str, Any]] = [
            {"name": tensor.name, "shape": list(inputs[tensor.name].shape), "datatype": tensor.datatype}
            for tensor in samples.inputs
        ]
        outputs: list[dict[str, Any]] = [{"name": name} for name in samples.outputs]
        blobs: list[bytes] = []
        if samples.binary:
            blobs = [to_wire(inputs[tensor.name], tensor.datatype) for tensor in samples.inputs]
            for tensor, blob in zip(tensors, blobs, strict=True):
                tensor["parameters"] = {"binary_data_size": len(blob)}
            for output in outputs:
                output["parameters"] = {"binary_data": True}
        else:
            for tensor in tensors:
                tensor["data"] = inputs[tensor["name"]].ravel().tolist()
        description = json.dumps({"inputs": tensors, "outputs": outputs}, separators=(",", ":")).encode()
        size = len(description) + sum(map(len, blobs))
        kind = "application/json"
        if samples.binary:
            kind = f"application/octet-stream\r\nInference-Header-Content-Length: {len(description)}"
        head = (
            f"POST {infer_path(samples.model, samples.version)} HTTP/1.1\r\nHost: {self.address}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
        )
        return b"".join((head.encode(), description, *blobs))

    def connect(self) -> "HttpConnection":
        """A connection for one user; it opens with the first request."""
        return HttpConnection(self)


class HttpConnection:
    """One user's kept connection."""

    def __init__(self, wire: HttpWire) -> None:
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
        try:
            return self._ask(wire)
        except OSError as error:
            self.close()
            raise to_exchange_error(error) from error
        except ExchangeError as error:
            if not error.usable:
                self.close()
            raise

    def _ask(self, wire: bytes) -> Answer:
        link, now = self._socket, time.perf_counter()
        if link is not None and now - self._asked_at > IDLE_S and poll(link) is not None:
            self.close()
            link = None
        if link is None:
            link = self._socket = self._wire.address.connect(self._wire.timeout_s)
        self._asked_at = now
        send_all(link, wire)
        data = link.recv(RECEIVE_BYTES)
        while True:
            while (split := data.find(b"\r\n\r\n")) < 0:
                data += self._more()
            head = self._head(data[:split])
            if head.status >= 200:
                break
            data = data[split + 4 :]
        content = self._content(data, split + 4, head)
        if head.closes:
            self.close()
        if head.status != 200:
            raise ExchangeError(f"http_{head.status}", _error_text(content), usable=not head.closes)
        if head.json_bytes is None:
            return _read_json(content)
        return Answer(self._layout(content, head.json_bytes), content)

    def _more(self) -> bytes:
        data = self._receive()
        if not data:
            raise ExchangeError("cut", "the server closed the connection before its answer was complete")
        return data

    def _receive(self) -> bytes:
        assert self._socket is not None
        if time.perf_counter() - self._asked_at > self._wire.timeout_s:
            raise TimeoutError
        return self._socket.recv(RECEIVE_BYTES)

    def _head(self, head: bytes) -> _Head:
        heads = self._wire.heads
        found = heads.get(head)
        if found is None:
            if len(heads) >= MEMO_LIMIT:
                heads.clear()
            found = heads[head] = _parse_head(head)
        return found

    def _content(self, data: bytes, start: int, head: _Head) -> bytes:
        if head.chunked:
            return self._chunks(data[start:])
        if head.content_bytes is None:
            return self._rest(data[start:])
        missing = start + head.content_bytes - len(data)
        if missing <= 0:
            return data[start : start + head.content_bytes]
        pieces = [data[start:]]
        while missing > 0:
            piece = self._more()
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)[: head.content_bytes]

    def _rest(self, data: bytes) -> bytes:
        while more := self._receive():
            data += more
        return data

    def _chunks(self, data: bytes) -> bytes:
        content = b""
        while True:
            while (split := data.find(b"\r\n")) < 0:
                data += self._more()
            try:
                size = int(data[:split].split(b";")[0], 16)
            except ValueError as error:
                raise ExchangeError("malformed", "a chunk's size is not a number") from error
            if size == 0:
                while b"\r\n\r\n" not in data[split:]:  # trailers may stand before the empty line
                    data += self._more()
                return content
            data = data[split + 2 :]
            while len(data) < size + 2:
                data += self._more()
            content += data[:size]
            data = data[size + 2 :]

    def _layout(self, content: bytes, json_bytes: int) -> Layout:
        layouts = self._wire.layouts
        key = (content[:json_bytes], len(content))
        found = layouts.get(key)
        if found is None:
            if len(layouts) >= MEMO_LIMIT:
                layouts.clear()
            found = layouts[key] = _parse_layout(*key)
        return found


def _parse_head(head: bytes) -> _Head:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    chunked = "chunked" in fields.get("transfer-encoding", "").lower()
    try:
        protocol, status = status_line.split(" ")[:2]
        content_bytes, json_bytes = (
            int(fields[name]) if name in fields else None
            for name in ("content-length", "inference-header-content-length")
        )
        ends_with_connection = not chunked and content_bytes is None
        return _Head(
            status=int(status),
            chunked=chunked,
            content_bytes=content_bytes,
            json_bytes=json_bytes,
            closes=ends_with_connection or "close" in fields.get("connection", "").lower() or protocol == "HTTP/1.0",
        )
    except ValueError as error:
        raise ExchangeError("malformed", f"not an HTTP answer: {status_line[:80]!r}") from error


def _parse_layout(head: bytes, total_bytes: int) -> Layout:
    """Read the JSON that describes an answer's binary outputs, which follow it in order."""
    try:
        description: dict[str, Any] = json.loads(head)
        slots, start = [], len(head)
        for output in description["outputs"]:
            stop = start + int(output["parameters"]["binary_data_size"])
            slots.append(Slot(output["name"], output["datatype"], tuple(output["shape"]), start, stop))
            start = stop
        layout = Layout(description["model_name"], str(description.get("model_version", "")), tuple(slots))
    except (ValueError, KeyError, TypeError) as error:
        raise _not_kserve(head) from error
    if start != total_bytes:
        raise ExchangeError("malformed", f"{start} bytes were announced, {total_bytes} came", usable=True)
    return layout


def _read_json(content: bytes) -> Answer:
    """Read an answer whose outputs stand in its JSON."""
    try:
        description: dict[str, Any] = json.loads(content)
        slots, body = [], b""
        for output in description["outputs"]:
            datatype, shape = output["datatype"], tuple(output["shape"])
            data = to_wire(np.array(output.get("data", []), DTYPES.get(datatype, np.str_)).reshape(shape), datatype)
            slots.append(Slot(output["name"], datatype, shape, len(body), len(body) + len(data)))
            body += data
        layout = Layout(description["model_name"], str(description.get("model_version") or ""), tuple(slots))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise _not_kserve(content) from error
    return Answer(layout, body)


def _not_kserve(content: bytes) -> ExchangeError:
    return ExchangeError("malformed", f"not a KServe v2 answer: {content[:120]!r}", usable=True)


def _error_text(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace")
