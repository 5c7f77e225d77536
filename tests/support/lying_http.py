"""A proxy in front of a healthy server that spoils some of its answers to HTTP requests, and counts exactly which.

Each lie says what a load test must count the spoilt answer as: a kind of wrong answer, a kind of failure, or nothing if
the answer is right, only sent in an unusual way.
"""

import gzip
import json
import socket
import socketserver
import struct
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any

FAR_PAST_ANY_TIMEOUT_S = 30.0


@dataclass
class Reply:
    """A right answer: the JSON that describes it, and the outputs' bytes behind it (none: all is in the JSON)."""

    description: dict[str, Any]
    blobs: list[bytes]
    other: "Reply | None" = None
    """The answer to another request."""

    @classmethod
    def read(cls, body: bytes, json_bytes: int | None) -> "Reply":
        description = json.loads(body[:json_bytes])
        blobs, start = [], json_bytes or len(body)
        for output in description["outputs"] if json_bytes else ():
            size = output["parameters"]["binary_data_size"]
            blobs.append(body[start : start + size])
            start += size
        return cls(description, blobs)

    def copy(self) -> "Reply":
        return Reply(json.loads(json.dumps(self.description)), list(self.blobs), self.other)

    def encode(
        self, *, protocol: str = "HTTP/1.1", fields: str = "", wrong_by: int = 0, has_length: bool = True
    ) -> bytes:
        """Return the response; `wrong_by` is added to its length."""
        for output, blob in zip(self.description["outputs"], self.blobs, strict=bool(self.blobs)):
            output["parameters"] = {"binary_data_size": len(blob)}
        text = json.dumps(self.description).encode()
        body = text + b"".join(self.blobs)
        head = f"{protocol} 200 OK\r\n"
        head += f"Inference-Header-Content-Length: {len(text)}\r\n" if self.blobs else ""
        head += f"Content-Length: {len(body) + wrong_by}\r\n" if has_length else ""
        return f"{head}{fields}\r\n".encode() + body


Tell = Callable[[Reply, socket.socket], bool]
"""Answers a request, and returns whether the connection can carry the next one."""


@dataclass(frozen=True)
class Lie:
    """One way to spoil an answer.

    Attributes:
        name: What it is called.
        counted_as: The kind of wrong answer or failure that it must be counted as; empty if the answer is right.
        tell: Sends it.
        is_wrong: Whether it is a wrong answer rather than a failure.
    """

    name: str
    counted_as: str
    tell: Tell
    is_wrong: bool = True


@dataclass
class Proxy:
    """Where a proxy listens, and what it told: answers to infer requests by the name of the lie, or as `right`."""

    http_address: str
    grpc_address: str = ""
    metrics_address: str = ""
    told: Counter[str] = field(default_factory=Counter)

    def counts(self, lies: Sequence[Any]) -> tuple[Counter[str], Counter[str]]:
        """Return the wrong answers and the failures that a load test must have counted."""
        wrong: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        for lie in lies:
            if lie.counted_as and self.told[lie.name]:
                (wrong if lie.is_wrong else failures)[lie.counted_as] += self.told[lie.name]
        return wrong, failures


# ---- lies in what an answer says


def edited(edit: Callable[[Reply], object]) -> Tell:
    def tell(reply: Reply, link: socket.socket) -> bool:
        mine = reply.copy()
        edit(mine)
        link.sendall(mine.encode())
        return True

    return tell


def replace_bytes(index: int, start: int, new: bytes) -> Callable[[Reply], None]:
    """Put bytes into the place of others in the output with this index."""

    def edit(reply: Reply) -> None:
        blob = reply.blobs[index]
        reply.blobs[index] = blob[:start] + new + blob[start + len(new) :]

    return edit


def flip(index: int, at: int, bits: int) -> Callable[[Reply], None]:
    def edit(reply: Reply) -> None:
        blob = bytearray(reply.blobs[index])
        blob[at] ^= bits
        reply.blobs[index] = bytes(blob)

    return edit


def swap(reply: Reply) -> None:
    assert reply.other is not None
    reply.blobs[:] = reply.other.blobs


def describe(**said: object) -> Callable[[Reply], None]:
    return lambda reply: reply.description.update(said)


def describe_first(**said: object) -> Callable[[Reply], None]:
    return lambda reply: reply.description["outputs"][0].update(said)


def turn_shape(reply: Reply) -> None:
    output = reply.description["outputs"][0]
    output["shape"] = output["shape"][::-1]


def drop_output(reply: Reply) -> None:
    reply.description["outputs"].pop()
    reply.blobs.pop()


def turn_order(reply: Reply) -> None:
    reply.description["outputs"].reverse()
    reply.blobs.reverse()


def repeat_output(reply: Reply) -> None:
    reply.description["outputs"].append(dict(reply.description["outputs"][0]))
    reply.blobs.append(reply.blobs[0])


def add_output(reply: Reply) -> None:
    reply.description["outputs"].append({**reply.description["outputs"][0], "name": "more"})
    reply.blobs.append(reply.blobs[0])


def cut_tensor(reply: Reply) -> None:
    reply.blobs[0] = reply.blobs[0][:-4]


NUMBERS = (
    Lie("flipped bit", "tolerance", edited(flip(0, 3, 0x40))),
    Lie("NaN", "nan", edited(replace_bytes(0, 0, struct.pack("<f", float("nan"))))),
    Lie("answer to another row", "rows_mixed_up", edited(swap)),
    Lie("shape turned", "shape_or_type", edited(turn_shape)),
    Lie("other datatype", "shape_or_type", edited(describe_first(datatype="INT32"))),
    Lie("output left out", "shape_or_type", edited(drop_output)),
    Lie("tensor too short", "unreadable", edited(cut_tensor)),
    Lie("version 7", "wrong_version", edited(describe(model_version="7"))),
    Lie("version v1", "wrong_version", edited(describe(model_version="v1"))),
    Lie("version 0 as a number", "wrong_version", edited(describe(model_version=0))),
    Lie("version 1 as a number", "", edited(describe(model_version=1))),
    Lie("other model", "wrong_model", edited(describe(model_name="other"))),
    Lie("no model", "malformed", edited(describe(model_name="")), is_wrong=False),
    Lie("outputs in another order", "", edited(turn_order)),
    Lie("output twice", "shape_or_type", edited(repeat_output)),
    Lie("output not asked for", "shape_or_type", edited(add_output)),
    Lie("another class", "tolerance", edited(flip(1, 0, 0x01))),
    Lie("error beside the outputs", "malformed", edited(describe(error="oops")), is_wrong=False),
    Lie("name twice in the JSON", "malformed", edited(describe(parameters={1: 0, "1": 1})), is_wrong=False),
)
"""Lies about a classifier of `load_server`: its first output is FP32."""


def add_nul(reply: Reply) -> None:
    (size,) = struct.unpack("<I", reply.blobs[0][:4])
    text = reply.blobs[0][4 : 4 + size] + b"\0"
    reply.blobs[0] = struct.pack("<I", len(text)) + text + reply.blobs[0][4 + size :]


STRINGS = (
    Lie("NUL after a text", "tolerance", edited(add_nul)),
    Lie("flipped bit in a text", "tolerance", edited(flip(0, 4, 0x01))),
    Lie("flipped bit in a length", "unreadable", edited(flip(0, 0, 0x40))),
    Lie("text that is not UTF-8", "unreadable", edited(replace_bytes(0, 4, b"\xff"))),
    Lie("TRUE as 255", "unreadable", edited(replace_bytes(1, 0, b"\xff"))),
    Lie("TRUE as FALSE", "tolerance", edited(flip(1, 0, 0x01))),
)
"""Lies about the model `words` of `load_server`: its outputs are BYTES and BOOL."""


def change_values(index: int, change: Callable[[Any], Any]) -> Tell:
    def edit(reply: Reply) -> None:
        output = reply.description["outputs"][index]
        output["data"] = [change(value) for value in output["data"]]

    return edited(edit)


JSON_NUMBERS = (
    Lie("0.9 added to an integer", "unreadable", change_values(1, lambda value: value + 0.9)),
    Lie("integer as text", "unreadable", change_values(1, str)),
    Lie("integer as null", "unreadable", change_values(1, lambda _: None)),
    Lie("integer too large", "unreadable", change_values(1, lambda value: value + 2**64)),
    Lie("float as text", "unreadable", change_values(0, str)),
    Lie("float as null", "nan", change_values(0, lambda _: None)),
    Lie("float changed", "tolerance", change_values(0, lambda value: value + 0.1)),
    Lie("version 7 in JSON", "wrong_version", edited(describe(model_version="7"))),
    Lie("other model in JSON", "wrong_model", edited(describe(model_name="other"))),
    Lie("integer as true", "unreadable", change_values(1, bool)),
    Lie("error beside JSON outputs", "malformed", edited(describe(error={"code": 7})), is_wrong=False),
    Lie("integer as 2.0", "", change_values(1, float)),
)
JSON_STRINGS = (
    Lie("NULs after a text in JSON", "tolerance", change_values(0, lambda text: f"{text}\0\0")),
    Lie("text as a number", "unreadable", change_values(0, lambda _: 5)),
    Lie("TRUE as a text", "unreadable", change_values(1, lambda value: str(value).lower())),
    Lie("TRUE as 1", "", change_values(1, int)),
)


# ---- lies in how an answer is sent


def say(data: Callable[[Reply], bytes], *, closes: bool = False) -> Tell:
    def tell(reply: Reply, link: socket.socket) -> bool:
        link.sendall(data(reply))
        return not closes

    return tell


def respond(status: str, body: bytes) -> Tell:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return say(lambda _: head + body)


def close(_reply: Reply, _link: socket.socket) -> bool:
    return False


def reset(_reply: Reply, link: socket.socket) -> bool:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
    return False


def hang(_reply: Reply, link: socket.socket) -> bool:
    link.settimeout(FAR_PAST_ANY_TIMEOUT_S)
    link.recv(1)  # until the client gives up
    return False


def too_short_then_rest(reply: Reply, link: socket.socket) -> bool:
    """Announce a length that is 10 bytes too small, and send these bytes with the next request's answer."""
    data = reply.encode(wrong_by=-10)
    link.sendall(data[:-10])
    link.recv(1, socket.MSG_PEEK)
    with suppress(OSError):
        link.sendall(data[-10:])
    return False


def in_chunks(reply: Reply) -> bytes:
    head, _, body = reply.encode(fields="Transfer-Encoding: chunked\r\n", has_length=False).partition(b"\r\n\r\n")
    chunks = [body[start : start + 7] for start in range(0, len(body), 7)]
    written = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + b"\r\n\r\n" + written + b"0\r\nX-Trailer: 1\r\n\r\n"


def without_last_chunk(reply: Reply) -> bytes:
    return in_chunks(reply).partition(b"0\r\nX-Trailer")[0]


def compressed(reply: Reply) -> bytes:
    """Compress the body although the client did not say that it can read that."""
    head, _, body = reply.encode(fields="Content-Encoding: gzip\r\n", has_length=False).partition(b"\r\n\r\n")
    body = gzip.compress(body)
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def edited_field(field: str) -> Tell:
    return say(lambda reply: reply.encode(fields=f"{field}\r\n"))


def less_json(reply: Reply) -> bytes:
    """Say that the JSON ends one byte before its end."""
    name, start, rest = reply.encode().partition(b"Inference-Header-Content-Length: ")
    size, end, rest = rest.partition(b"\r\n")
    return name + start + b"%d" % (int(size) - 1) + end + rest


def repeat_later(reply: Reply, link: socket.socket) -> bool:
    """Send the answer again when the client has sent its next request, so that it is taken for the answer to that."""
    link.sendall(reply.encode())
    link.recv(1 << 16)
    link.sendall(reply.encode())
    return False


def drip(reply: Reply, link: socket.socket) -> bool:
    for byte in reply.encode():
        link.sendall(bytes([byte]))
    return True


NEXT = Lie("answer again to the next request", "rows_mixed_up", repeat_later)
"""It spoils the next answer, so the last one on each connection is never noticed."""

TRANSPORT = (
    Lie("status 503", "http_503", respond("503 Busy", b'{"error":"overloaded"}'), is_wrong=False),
    Lie("status 204", "http_204", respond("204 No Content", b""), is_wrong=False),
    Lie("status 206", "http_206", say(lambda reply: reply.encode().replace(b"200 OK", b"206 Part")), is_wrong=False),
    Lie("status 301", "http_301", respond("301 Moved", b""), is_wrong=False),
    Lie("empty body", "malformed", respond("200 OK", b""), is_wrong=False),
    Lie("error with status 200", "malformed", respond("200 OK", b'{"error":"oops"}'), is_wrong=False),
    Lie("no answer", "cut", close, is_wrong=False),
    Lie("connection reset", "cut", reset, is_wrong=False),
    Lie("half an answer", "cut", say(lambda reply: reply.encode()[:-20], closes=True), is_wrong=False),
    Lie("half a header", "cut", say(lambda _: b"HTTP/1.1 200 OK\r\nCon", closes=True), is_wrong=False),
    Lie("length too large", "cut", say(lambda reply: reply.encode(wrong_by=10), closes=True), is_wrong=False),
    Lie("length too small", "malformed", say(lambda reply: reply.encode(wrong_by=-10)), is_wrong=False),
    Lie("length too small, the rest later", "malformed", too_short_then_rest, is_wrong=False),
    Lie("bytes after the outputs", "malformed", say(lambda one: one.encode(wrong_by=4) + b"more"), is_wrong=False),
    Lie("length of the JSON too small", "malformed", say(less_json), is_wrong=False),
    Lie("said to be compressed", "malformed", edited_field("Content-Encoding: gzip"), is_wrong=False),
    Lie("HTTP/2.0", "malformed", say(lambda reply: reply.encode(protocol="HTTP/2.0")), is_wrong=False),
    Lie("no last chunk", "cut", say(without_last_chunk, closes=True), is_wrong=False),
    Lie("answer twice", "malformed", say(lambda reply: reply.encode() * 2), is_wrong=False),
    NEXT,
    Lie("timeout", "timeout", hang, is_wrong=False),
    Lie("in chunks", "", say(in_chunks)),
    Lie("compressed", "", say(compressed)),
    Lie("until the end", "", say(lambda reply: reply.encode(has_length=False), closes=True)),
    Lie("HTTP/1.0", "", say(lambda reply: reply.encode(protocol="HTTP/1.0"), closes=True)),
    Lie("100 Continue first", "", say(lambda reply: b"HTTP/1.1 100 Continue\r\n\r\n" + reply.encode())),
    Lie("byte by byte", "", drip),
)


# ---- the proxy


class _Upstream:
    """The healthy server; each of its answers is kept, so that a lie can be told at once."""

    def __init__(self, address: str, *, binary: bool) -> None:
        self._address = address
        self._binary = binary
        self._replies: dict[tuple[str, bytes], Reply] = {}
        self._lock = threading.Lock()

    def fetch(self, path: str, head: bytes, body: bytes | None) -> tuple[bytes, int | None]:
        """Return a body, and how many bytes of JSON it begins with (None: all)."""
        request = urllib.request.Request(f"http://{self._address}{path}", body)
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.decode().partition(": ")
            if name.lower() in ("content-type", "inference-header-content-length"):
                request.add_header(name, value)
        with urllib.request.urlopen(request) as answer:
            data, json_bytes = answer.read(), answer.headers["Inference-Header-Content-Length"]
        if path == "/v2" and not self._binary:
            data = json.dumps({**json.loads(data), "extensions": []}).encode()
        return data, None if json_bytes is None else int(json_bytes)

    def reply(self, path: str, head: bytes, body: bytes) -> Reply:
        with self._lock:
            key = (path, body)
            if key not in self._replies:
                made = self._replies[key] = Reply.read(*self.fetch(path, head, body))
                others = [one for one in self._replies.values() if one.blobs != made.blobs and one.blobs]
                for one in others:
                    one.other, made.other = made, one
            return self._replies[key]


@contextmanager
def lying(
    address: str, lies: Sequence[Lie], *, every: int = 3, binary: bool = True, grpc_address: str = ""
) -> Iterator[Proxy]:
    """Tell the lies in turn, one in each `every` answers of the server at this address.

    With `binary=False`, the server has no binary tensor extension: it answers in JSON.
    """
    upstream, answers, told = _Upstream(address, binary=binary), count(1), cycle(lies)
    lock = threading.Lock()

    def choose(reply: Reply) -> Lie | None:
        with lock:
            is_due = next(answers) % every == 0 and (reply.other is not None or not reply.blobs)
            lie = next(told) if is_due and lies else None
            proxy.told[lie.name if lie else "right"] += 1
            return lie

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self.answer():
                    pass

        def answer(self) -> bool:
            asked = self.receive()
            if asked is None:
                return False
            path, head, body = asked
            if not path.endswith("/infer"):
                data, _ = upstream.fetch(path, head, body or None)
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
                return True
            reply = upstream.reply(path, head, body)
            lie = choose(reply)
            if lie is not None:
                return lie.tell(reply, self.request)
            self.request.sendall(reply.copy().encode())
            return True

        def receive(self) -> tuple[str, bytes, bytes] | None:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = self.request.recv(1 << 16)
                if not piece:
                    return None
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            lines = [line.lower().partition(b":") for line in head.split(b"\r\n")]
            length = sum(int(value) for name, _, value in lines if name == b"content-length")
            while len(body) < length:
                body += self.request.recv(1 << 16)
            return head.split(b" ")[1].decode(), head, body

    class Listener(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 64

    with Listener(("127.0.0.1", 0), Handler) as listener:
        proxy = Proxy(f"127.0.0.1:{listener.server_address[1]}", grpc_address)
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown()
            thread.join()
