"""The HTTP client against servers that frame their responses in odd and in wrong ways."""

import gzip
import json
import math
import socket
import struct
import time
import zlib

import pytest
from support.load_run import PATIENCE_S
from support.scripted_server import Behaviour, be_silent, connect, failure, floats, reset, say, scripted

from loadtest.wire import Address, ExchangeError
from loadtest.wire.values import flatten

PROTOCOLS = ("http", "grpc")

OK = b"HTTP/1.1 200 OK\r\n"
JSON = (
    b'{"model_name":"m","model_version":"3","outputs":[{"name":"y","datatype":"FP32","shape":[1],'
    b'"parameters":{"binary_data_size":4}}]}'
)
BODY = JSON + struct.pack("<f", 1.5)
JSON_BYTES = b"Inference-Header-Content-Length: %d\r\n" % len(JSON)
CONTENT_LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
WHOLE = OK + JSON_BYTES + CONTENT_LENGTH + b"\r\n" + BODY
IN_CHUNKS = [b"a;ext=1\r\n" + BODY[:10], b"\r\n", b"%X\r\n" % (len(BODY) - 10), BODY[10:] + b"\r\n0\r\n\r\n"]


def compressed(way: bytes, body: bytes) -> bytes:
    """Return a response whose body is compressed, or says that it is."""
    return OK + JSON_BYTES + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (way, len(body)) + body


ONE_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("behave", "kind"), [(be_silent, "timeout"), (reset, "cut"), (say(), "cut")])
def test_a_server_that_does_not_answer_is_counted_by_kind(protocol: str, behave: Behaviour, kind: str) -> None:
    timeout_s = 0.4 if kind == "timeout" else PATIENCE_S
    assert failure(protocol, behave, timeout_s).kind == kind


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_port_without_a_server_refuses(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ExchangeError) as caught:
        connect(protocol, Address("127.0.0.1", port)).infer(b"x")
    assert caught.value.kind == "refused"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([WHOLE], id="in one piece"),
        pytest.param([WHOLE[:7], WHOLE[7:90], WHOLE[90:]], id="in three pieces"),
        pytest.param([bytes([byte]) for byte in WHOLE], id="byte by byte"),
        pytest.param(
            [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", WHOLE],
            id="after others",
        ),
        pytest.param([OK + JSON_BYTES + b"\r\n" + BODY], id="until the server closes"),
        pytest.param([OK + JSON_BYTES + b"Connection: close\r\n" + CONTENT_LENGTH + b"\r\n" + BODY], id="the last one"),
        pytest.param([WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0")], id="HTTP/1.0"),
        pytest.param([OK + JSON_BYTES + CHUNKED + b"\r\n" + ONE_CHUNK], id="in a chunk"),
        pytest.param([compressed(b"gzip", gzip.compress(BODY))], id="compressed by gzip"),
        pytest.param([compressed(b"Deflate", zlib.compress(BODY))], id="compressed by deflate"),
        pytest.param([compressed(b"identity", BODY)], id="not compressed"),
        pytest.param([OK + JSON_BYTES + CHUNKED + b"\r\n", *IN_CHUNKS], id="in chunks"),
    ],
)
def test_a_well_formed_response_is_read(said: list[bytes]) -> None:
    with scripted(say(*said)) as server:
        connection = connect("http", server.address)
        for _ in range(2):
            answer = connection.infer(b"x")
            assert (answer.layout.version, floats(answer)["y"].tolist()) == ("3", [1.5])
            connection.close()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="no status line"),
        pytest.param(b"HTTP/1.1 2x0 OK\r\n\r\n", id="a status that is not a number"),
        pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", id="a status of two digits"),
        pytest.param(WHOLE.replace(b"HTTP/1.1", b"HTTP/9.7"), id="a version that does not exist"),
        pytest.param(OK + JSON_BYTES + b"Content-Length: 3_1\r\n\r\n" + BODY, id="an underscore in the length"),
        pytest.param(OK + JSON_BYTES + b"Content-Length: -5\r\n\r\n" + BODY, id="a negative length"),
        pytest.param(OK + JSON_BYTES + b"Content-Length: +31\r\n\r\n" + BODY, id="a plus in the length"),
        pytest.param(OK + JSON_BYTES + CONTENT_LENGTH + b"Content-Length: 7\r\n\r\n" + BODY, id="two lengths"),
        pytest.param(OK + JSON_BYTES + CONTENT_LENGTH + CHUNKED + b"\r\n" + ONE_CHUNK, id="a length and chunks"),
        pytest.param(OK + JSON_BYTES + CHUNKED + CONTENT_LENGTH + b"\r\n" + ONE_CHUNK, id="chunks and a length"),
        pytest.param(OK + JSON_BYTES + CHUNKED + b"\r\n0x1f\r\n" + BODY, id="0x before a chunk's size"),
        pytest.param(OK + JSON_BYTES + CHUNKED + b"\r\n-5\r\n" + BODY, id="a negative chunk"),
        pytest.param(OK + JSON_BYTES + CHUNKED + b"\r\nzz\r\n", id="a chunk's size that is not a number"),
        pytest.param(OK + JSON_BYTES + CHUNKED + b"\r\n2\r\nabc\r\n0\r\n\r\n", id="a chunk longer than its size"),
        pytest.param(OK + b"Inference-Header-Content-Length: 1_2\r\n" + CONTENT_LENGTH + b"\r\n" + BODY, id="JSON 1_2"),
        pytest.param(
            OK + b"Inference-Header-Content-Length: %s\r\n" % (b"1" * 5000) + CONTENT_LENGTH + b"\r\n" + BODY,
            id="5000 digits",
        ),
        pytest.param(OK + JSON_BYTES * 2 + CONTENT_LENGTH + b"\r\n" + BODY, id="two JSON lengths"),
        pytest.param(
            OK + JSON_BYTES[:-4] + b"\r\n " + JSON_BYTES[-4:] + CONTENT_LENGTH + b"\r\n" + BODY, id="a folded field"
        ),
        pytest.param(OK + b"X: a\0b\r\n" + JSON_BYTES + CONTENT_LENGTH + b"\r\n" + BODY, id="NUL in a field"),
        pytest.param(
            OK + b"Content-Length: 99999999999999999999\r\n" + JSON_BYTES + b"\r\n", id="a length above 2**64"
        ),
        pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", id="a 204 with a body"),
        pytest.param(b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello" + WHOLE, id="a 100 with a body"),
        pytest.param(WHOLE.replace(b"\r\n", b"\n"), id="lines without a carriage return"),
        pytest.param(WHOLE + WHOLE, id="two responses to one request"),
        pytest.param(WHOLE + b"more", id="bytes after the end"),
        pytest.param(WHOLE + b"HTTP/1.1 100 Continue\r\n\r\n", id="an interim response after the end"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="an upgrade"),
        pytest.param(WHOLE.replace(b"HTTP/1.1", b"HTTP/2.0"), id="another version"),
        pytest.param(compressed(b"gzip", BODY), id="not compressed as it says"),
        pytest.param(compressed(b"gzip", gzip.compress(BODY)[:-4]), id="compressed and cut"),
        pytest.param(compressed(b"gzip", gzip.compress(BODY) + b"x"), id="compressed with bytes behind"),
        pytest.param(compressed(b"br", BODY), id="compressed in another way"),
        pytest.param(compressed(b"gzip, gzip", gzip.compress(gzip.compress(BODY))), id="compressed twice"),
        pytest.param(OK + b"\r\n", id="nothing"),
        pytest.param(OK + b"Content-Length: 5\r\n\r\nhello", id="no JSON"),
        pytest.param(OK + b'Content-Length: 29\r\n\r\n{"model_name":"m","outputs":1}'[:-1], id="half of the JSON"),
        pytest.param(OK + b"Inference-Header-Content-Length: 900\r\n" + CONTENT_LENGTH + b"\r\n" + BODY, id="short"),
    ],
)
def test_a_malformed_response_is_refused(said: bytes) -> None:
    error = failure("http", say(said))
    assert error.kind == "malformed"
    assert error.message


def described(**changes: object) -> bytes:
    """Return a response of one binary output, with these changes to its description."""
    output = {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}, **changes}
    return with_binary(json.dumps({"model_name": "m", "model_version": "3", "outputs": [output]}).encode())


def with_binary(text: bytes) -> bytes:
    """Return a response with this description and four bytes of outputs."""
    head = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(text), len(text) + 4)
    return OK + head + text + struct.pack("<f", 1.5)


@pytest.mark.parametrize(
    "said",
    [
        *(described(parameters={"binary_data_size": size}) for size in (4.9, "4", "0_4", True, None, math.inf)),
        *(described(name=value) for value in (["y"], None, 7, "\ud800")),
        *(described(shape=shape) for shape in ("1", [[1]], {"a": 1}, [1.0], [True], 1, None)),
        described(datatype=[]),
        with_binary(
            b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":-4}},'
            b'{"name":"z","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}}]}'
        ),
        with_binary(b'{"model_name":[],"outputs":[]}'),
        with_binary(b"[" * 100_000),
        with_binary(b'{"a":' * 100_000),
        OK + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000,
    ],
)
def test_a_description_of_another_kind_is_refused(said: bytes) -> None:
    assert failure("http", say(said)).kind == "malformed"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(JSON.replace(b'"3"', b'"7","model_version":"3"'), id="two versions"),
        pytest.param(JSON.replace(b'"shape":[1]', b'"shape":[2],"shape":[1]'), id="two shapes"),
        pytest.param(JSON.replace(b'"3"', b'"3","error":"out of memory"'), id="an error beside the outputs"),
        pytest.param(JSON.replace(b'"3"', b'"3","error":["\\ud800"]'), id="an error that is no text"),
        pytest.param(JSON.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf" + JSON, id="a byte order mark"),
    ],
)
def test_an_answer_that_readers_may_take_for_another_is_refused(text: bytes) -> None:
    in_json = text.replace(b'"parameters":{"binary_data_size":4}', b'"data":[1.5]')
    for said in (with_binary(text), OK + b"Content-Length: %d\r\n\r\n" % len(in_json) + in_json):
        error = failure("http", say(said))
        assert error.kind == "malformed"
        assert error.message.encode()


def test_an_answer_may_say_that_there_was_no_error() -> None:
    with scripted(say(with_binary(JSON.replace(b'"3"', b'"3","error":null')))) as server:
        connection = connect("http", server.address)
        assert floats(connection.infer(b"x"))["y"].tolist() == [1.5]
        connection.close()


def in_json(datatype: str, data: object) -> bytes:
    """Return a response whose one value is written out in its JSON."""
    output = {"name": "y", "datatype": datatype, "shape": [1], "data": data}
    text = json.dumps({"model_name": "m", "model_version": "3", "outputs": [output]}).encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(text) + text


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        *[("INT32", [1.9]), ("INT32", ["1"]), ("INT32", ["1_5"]), ("INT32", [None]), ("INT64", [2**70])],
        *[("UINT8", [300]), ("UINT8", [-1]), ("UINT8", [256.0]), ("BF16", [1.5])],
        *[("FP32", ["1.5"]), ("FP32", "1.5"), ("FP32", [[1], [1, 2]]), ("FP8", [1.5])],
        *[("BOOL", [2]), ("BOOL", ["false"]), ("BOOL", [0.5]), ("BOOL", [None])],
        *[("BYTES", [15]), ("BYTES", [None]), ("BYTES", ["\ud800"]), ("BYTES", {"a": 1})],
        *[("INT32", [True]), ("INT32", [math.nan]), ("INT32", [math.inf]), ("FP32", [False]), ("FP64", [10**400])],
        *[("FP16", [1e9]), ("FP32", [-1e39]), ("FP32", [10**39]), ("FP16", [65520])],
        *[("INT32", []), ("INT32", [1, 2]), ("INT32", None)],
    ],
)
def test_a_value_in_json_that_its_type_cannot_hold_is_not_changed_into_another(datatype: str, data: object) -> None:
    """It is an answer all the same: the value as it was written, and what is wrong with it."""
    with scripted(say(in_json(datatype, data))) as server:
        connection = connect("http", server.address)
        answer = connection.infer(b"x")
        connection.close()
    assert answer.layout.slots[0].unreadable
    assert answer.body == json.dumps(data).encode()


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("INT32", [-7], struct.pack("<i", -7)),
        ("UINT64", [2**64 - 1], struct.pack("<Q", 2**64 - 1)),
        ("INT32", [2.0], struct.pack("<i", 2)),
        ("BOOL", [True], b"\1"),
        ("BOOL", [0], b"\0"),
        ("FP32", [0.1], struct.pack("<f", 0.1)),
        ("FP32", [7], struct.pack("<f", 7)),
        ("FP16", [65504.0], struct.pack("<e", 65504.0)),
        ("FP16", [-math.inf], struct.pack("<e", -math.inf)),
        ("FP32", [3.4028235e38], struct.pack("<f", 3.4028234663852886e38)),
        ("FP32", [None], struct.pack("<f", math.nan)),
        ("BYTES", [["größer"]], struct.pack("<I", 8) + "größer".encode()),
        ("BYTES", ["a\0\0"], struct.pack("<I", 3) + b"a\0\0"),
    ],
)
def test_a_value_in_json_that_its_type_holds_is_read(datatype: str, data: object, expected: bytes) -> None:
    with scripted(say(in_json(datatype, data))) as server:
        connection = connect("http", server.address)
        answer = connection.infer(b"x")
        connection.close()
    assert (answer.body, answer.layout.slots[0].unreadable) == (expected, "")


def test_values_that_are_nested_in_another_shape_are_not_read() -> None:
    assert flatten([[1, 2, 3], [4, 5, 6]], [2, 3]) == flatten([1, 2, 3, 4, 5, 6], [2, 3]) == [1, 2, 3, 4, 5, 6]
    assert flatten([[[1], [2], [3]]], [3]) == flatten([1, 2, 3], [1, 3]) == [1, 2, 3]
    with pytest.raises(ValueError, match=r"nested as \[3, 2\], but the shape is \[2, 3\]"):
        flatten([[1, 2], [3, 4], [5, 6]], [2, 3])


def test_the_text_of_an_error_can_be_printed_whatever_the_server_sent() -> None:
    for text in (b'{"error":"\\ud800"}', b"[" * 100_000, b"\xff"):
        said = b"HTTP/1.1 500 Oops\r\nContent-Length: %d\r\n\r\n" % len(text) + text
        error = failure("http", say(said))
        assert error.kind == "http_500"
        assert error.message.encode()


def test_a_body_that_comes_after_a_204_is_not_taken_for_the_next_response() -> None:
    def behave(link: socket.socket) -> None:
        link.sendall(b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n" % len(WHOLE))
        link.recv(1 << 16)
        link.sendall(WHOLE)

    with scripted(behave) as server:
        connection = connect("http", server.address)
        for _ in range(2):
            with pytest.raises(ExchangeError) as caught:
                connection.infer(b"x")
            assert caught.value.kind == "http_204"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"HTTP/1.1 20", id="in the status line"),
        pytest.param(OK + JSON_BYTES[:9], id="in the headers"),
        pytest.param(OK + JSON_BYTES + CONTENT_LENGTH + b"\r\n" + BODY[:-1], id="in the body"),
        pytest.param(OK + JSON_BYTES + CHUNKED + b"\r\n" + ONE_CHUNK[:20], id="in a chunk"),
        pytest.param(OK + JSON_BYTES + CHUNKED + b"\r\n" + ONE_CHUNK[:-5], id="before the last chunk"),
        pytest.param(OK + JSON_BYTES + CHUNKED + b"\r\n" + ONE_CHUNK[:-2], id="before the end of the last chunk"),
    ],
)
def test_a_response_that_breaks_off_is_cut(said: bytes) -> None:
    assert failure("http", say(said)).kind == "cut"


def test_an_error_of_the_server_is_counted_by_status_and_the_connection_goes_on() -> None:
    def behave(link: socket.socket) -> None:
        link.sendall(b'HTTP/1.1 503 Busy\r\nContent-Length: 16\r\n\r\n{"error":"busy"}')
        link.recv(1 << 16)
        link.sendall(WHOLE)

    with scripted(behave) as server:
        connection = connect("http", server.address)
        with pytest.raises(ExchangeError) as caught:
            connection.infer(b"x")
        assert (caught.value.kind, caught.value.message, caught.value.usable) == ("http_503", "busy", True)
        assert floats(connection.infer(b"x"))["y"].tolist() == [1.5]
        connection.close()
        assert server.received == b"x", "both requests used one connection"


def test_after_a_malformed_response_the_next_request_gets_a_new_connection() -> None:
    answers = iter([OK + b"Content-Length: -5\r\n\r\n", WHOLE])
    with scripted(lambda link: link.sendall(next(answers))) as server:
        connection = connect("http", server.address)
        with pytest.raises(ExchangeError):
            connection.infer(b"x")
        assert floats(connection.infer(b"y"))["y"].tolist() == [1.5]
        connection.close()
    assert server.received == b"xy"


def test_the_rest_of_a_body_that_is_too_long_is_not_taken_for_the_next_response() -> None:
    shorter = OK + JSON_BYTES + b"Content-Length: %d\r\n\r\n" % (len(BODY) - 3)
    answers = iter([[shorter + BODY[:-3], BODY[-3:]], [WHOLE]])

    def behave(link: socket.socket) -> None:
        for said in next(answers):
            link.sendall(said)
            link.recv(1 << 16)

    with scripted(behave) as server:
        connection = connect("http", server.address)
        with pytest.raises(ExchangeError, match="announced"):
            connection.infer(b"x")
        assert floats(connection.infer(b"y"))["y"].tolist() == [1.5]
        connection.close()


def test_the_trailers_of_a_chunked_response_are_not_taken_for_the_next_response() -> None:
    chunked = OK + JSON_BYTES + CHUNKED + b"\r\n" + ONE_CHUNK[:-2]

    def behave(link: socket.socket) -> None:
        for _ in range(2):
            link.sendall(chunked)
            time.sleep(0.05)
            link.sendall(b"Checksum: 7\r\n")
            time.sleep(0.05)
            link.sendall(b"\r\n")
            link.recv(1 << 16)

    with scripted(behave) as server:
        connection = connect("http", server.address)
        for _ in range(2):
            assert floats(connection.infer(b"x"))["y"].tolist() == [1.5]
        connection.close()


def test_bytes_that_come_one_by_one_buy_no_more_time() -> None:
    def behave(link: socket.socket) -> None:
        for byte in WHOLE:
            link.sendall(bytes([byte]))
            time.sleep(0.05)

    assert failure("http", behave, 0.4).kind == "timeout"


def test_a_connection_that_the_server_closed_while_idle_is_not_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loadtest.wire.http1.IDLE_S", 0.0)
    with scripted(say(WHOLE)) as server:
        connection = connect("http", server.address)
        for _ in range(2):
            connection.infer(b"x")
            assert server.closed.acquire(timeout=PATIENCE_S)
        connection.close()
