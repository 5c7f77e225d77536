"""The gRPC client against servers that use HTTP/2 in odd and in wrong ways."""

import gzip
import socket
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

import hpack
import pytest
from support.load_run import PATIENCE_S
from support.scripted_server import ScriptedServer, failure, say, scripted
from tritonclient.grpc import service_pb2

from loadtest.wire import Address, ExchangeError, GrpcClient
from loadtest.wire.grpc import GrpcConnection, KnownLayouts
from loadtest.wire.http2 import frame

SETTINGS = frame(4, 0, 0, b"")
GOAWAY_AFTER_1 = frame(7, 0, 0, struct.pack(">II", 1, 0))


def headers(stream: int, *fields: tuple[str, str], end: bool = False) -> bytes:
    return frame(1, 4 | end, stream, bytes(hpack.Encoder().encode([*fields])))


def data(stream: int, payload: bytes) -> bytes:
    return frame(0, 0, stream, payload)


def finish(stream: int) -> bytes:
    """The answer to a call: an empty message."""
    trailers = headers(stream, ("grpc-status", "0"), end=True)
    return headers(stream, (":status", "200")) + data(stream, b"\0\0\0\0\0") + trailers


def connect(server: ScriptedServer) -> GrpcConnection:
    return GrpcClient(server.address, PATIENCE_S).connect()


STARTED = headers(1, (":status", "200"), ("content-type", "application/grpc"))
OK = headers(1, ("grpc-status", "0"), end=True)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        pytest.param(
            STARTED + headers(1, ("grpc-status", "8"), ("grpc-message", "full%20up"), end=True),
            "grpc_RESOURCE_EXHAUSTED",
            id="an error status",
        ),
        pytest.param(STARTED + OK, "malformed", id="no message"),
        pytest.param(STARTED + data(1, b"\0\0\0\0\x09short") + OK, "malformed", id="a message shorter than announced"),
        pytest.param(STARTED + data(1, b"\0\0\0\0\x04\xff\xff\xff\xff") + OK, "malformed", id="not protobuf"),
        pytest.param(STARTED + data(1, b"\x01\0\0\0\0") + OK, "malformed", id="compressed in no known way"),
        pytest.param(
            headers(1, (":status", "200"), ("grpc-encoding", "gzip")) + data(1, b"\x01\0\0\0\x02no") + OK,
            "malformed",
            id="not compressed as it says",
        ),
        pytest.param(STARTED + data(1, b"\x02\0\0\0\0") + OK, "malformed", id="an unknown flag"),
        pytest.param(STARTED + headers(1, ("other", "field"), end=True), "malformed", id="no status"),
        pytest.param(
            headers(1, (":status", "200"), ("grpc-status", "0")) + frame(0, 1, 1, b"\0\0\0\0\0"),
            "malformed",
            id="a status before the message",
        ),
        pytest.param(
            STARTED + data(1, b"\0\0\0\0\0") + headers(1, ("grpc-status", "13"), ("grpc-status", "0"), end=True),
            "malformed",
            id="two statuses",
        ),
        pytest.param(
            headers(1, (":status", "503")) + data(1, b"\0\0\0\0\0") + OK, "http_503", id="OK, but with HTTP status 503"
        ),
        pytest.param(headers(1, ("x", "y")) + data(1, b"\0\0\0\0\0") + OK, "malformed", id="OK without HTTP status"),
        pytest.param(
            headers(1, (":status", "200"), ("content-type", "text/html")) + data(1, b"\0\0\0\0\0") + OK,
            "malformed",
            id="HTML",
        ),
        pytest.param(data(1, b"\0\0\0\0\0") + STARTED + OK, "malformed", id="a message before the headers"),
        pytest.param(STARTED + headers(1, ("grpc-status", "9" * 5000), end=True), "malformed", id="no such status"),
        pytest.param(headers(1, (":status", "<b>404"), end=True), "malformed", id="no HTTP status"),
        pytest.param(headers(1, (":status", "404"), end=True), "http_404", id="HTTP, but not gRPC"),
        pytest.param(frame(3, 0, 1, struct.pack(">I", 7)), "grpc_reset", id="a reset stream"),
        pytest.param(frame(7, 0, 0, struct.pack(">II", 0, 0)), "cut", id="GOAWAY before the first call"),
        pytest.param(STARTED + data(1, b"\0\0\0\0\x09sho"), "cut", id="broken off"),
        pytest.param(frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"), "malformed", id="not HPACK"),
        pytest.param(frame(4, 0, 0, b"\0\x04\0"), "malformed", id="half a setting"),
    ],
)
def test_answers_that_cannot_be_read_are_counted_by_kind(said: bytes, kind: str) -> None:
    assert failure("grpc", say(SETTINGS + said)).kind == kind


def test_a_connection_that_the_server_closed_while_idle_is_not_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loadtest.wire.http2.IDLE_S", 0.0)
    with scripted(say(SETTINGS + finish(1))) as server:
        connection = connect(server)
        for _ in range(2):
            assert connection.call(b"x") == b""
            assert server.closed.acquire(timeout=PATIENCE_S)
        connection.close()


def test_frames_that_come_one_by_one_buy_no_more_time() -> None:
    def behave(link: socket.socket) -> None:
        for _ in range(100):
            link.sendall(SETTINGS)
            time.sleep(0.05)
        link.sendall(finish(1))

    assert failure("grpc", behave, 0.4).kind == "timeout"


def test_a_call_that_the_server_did_not_process_before_it_went_away_is_sent_again() -> None:
    accepted = []

    def behave(link: socket.socket) -> None:
        accepted.append(link)
        link.sendall(SETTINGS + finish(1))
        if len(accepted) == 1:
            read = b""
            while b"two" not in read:
                read += link.recv(1 << 16)
            link.sendall(GOAWAY_AFTER_1)

    with scripted(behave) as server:
        connection = connect(server)
        assert [connection.call(b"one"), connection.call(b"two")] == [b"", b""]
        connection.close()
    assert len(accepted) == 2


def test_after_the_last_call_that_a_server_accepts_the_next_goes_to_a_new_connection() -> None:
    with scripted(say(SETTINGS + GOAWAY_AFTER_1 + finish(1))) as server:
        connection = connect(server)
        assert [connection.call(b"one"), connection.call(b"two")] == [b"", b""]
        connection.close()


def test_a_large_request_keeps_within_the_windows_that_the_server_gives_it() -> None:
    request = bytes(range(256)) * 800
    sent: list[int] = []

    def behave(link: socket.socket) -> None:
        got = server.received

        def read_until(size: int) -> None:
            """Read until that many bytes of DATA came, and note how many there are once no more follow."""
            while sum(map(len, payloads(got))) < size:
                got.extend(link.recv(1 << 16))
            link.settimeout(0.1)
            with suppress(TimeoutError):
                got.extend(link.recv(1 << 16))
            link.settimeout(PATIENCE_S)
            sent.append(sum(map(len, payloads(got))))

        read_until(65_535)
        link.sendall(frame(4, 0, 0, struct.pack(">HI", 4, 70_000)) + frame(8, 0, 0, struct.pack(">I", 200_000)))
        read_until(70_000)
        link.sendall(frame(4, 0, 0, struct.pack(">HI", 4, 60_000)) + frame(8, 0, 1, struct.pack(">I", 10_000)))
        read_until(70_000)
        link.sendall(frame(8, 0, 1, struct.pack(">I", 200_000)))
        read_until(len(request))
        link.sendall(finish(1))

    with scripted(behave) as server:
        connection = connect(server)
        assert connection.call(request) == b""
        connection.close()
    assert sent == [65_535, 70_000, 70_000, len(request)]
    assert b"".join(payloads(server.received)) == request
    assert max(map(len, payloads(server.received))) <= 16_384


def payloads(got: bytearray) -> list[bytes]:
    """The payloads of the DATA frames after a client's preface, as far as they came."""
    found, start = [], len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    while len(got) >= start + 9 + (size := int.from_bytes(got[start : start + 3], "big")):
        if got[start + 3] == 0:
            found.append(bytes(got[start + 9 : start + 9 + size]))
        start += 9 + size
    return found


def test_headers_in_pieces_padding_and_a_smaller_table_are_read() -> None:
    block = b"\x20" + bytes(hpack.Encoder().encode([(":status", "200"), ("content-type", "application/grpc")]))
    padded = frame(0, 8, 1, b"\x03" + b"\0\0\0\0\x02ok" + b"\0\0\0")
    said = frame(1, 0x20, 1, b"\0\0\0\0\x10" + block[:4]) + frame(9, 0, 1, block[4:9]) + frame(9, 4, 1, block[9:])
    said += padded + OK
    with scripted(say(SETTINGS + said[:11], said[11:])) as server:
        connection = connect(server)
        assert connection.call(b"x") == b"ok"
        connection.close()


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_message_that_the_server_compressed_is_read(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    packed = compress(b"ok")
    head = headers(1, (":status", "200"), ("grpc-encoding", encoding))
    with scripted(say(SETTINGS + head + data(1, struct.pack(">BI", 1, len(packed)) + packed) + OK)) as server:
        connection = connect(server)
        assert connection.call(b"x") == b"ok"
        connection.close()


def test_headings_that_never_repeat_do_not_fill_the_memory() -> None:
    layouts = KnownLayouts()
    for turn in range(1000):
        message = service_pb2.ModelInferResponse(model_name="m", model_version="1", id=f"{turn:04}")
        message.outputs.add(name="y", datatype="FP32", shape=[1])
        message.raw_output_contents.append(struct.pack("<f", turn))
        assert layouts.read(message.SerializeToString()).layout.version == "1"
    assert len(layouts) < 100


def test_a_heading_that_repeats_is_parsed_once() -> None:
    layouts = KnownLayouts()
    message = service_pb2.ModelInferResponse(model_name="m", model_version="1")
    for name, values in (("y", 3), ("z", 2)):
        message.outputs.add(name=name, datatype="FP32", shape=[values])
        message.raw_output_contents.append(bytes(4 * values))
    first = layouts.read(message.SerializeToString())
    message.raw_output_contents[1] = b"\xff" * 8
    second = layouts.read(message.SerializeToString())
    assert second.layout is first.layout
    slot = second.layout.slots[1]
    assert second.body[slot.start : slot.stop] == b"\xff" * 8


def test_an_answer_that_differs_between_its_outputs_is_not_taken_for_one_that_repeats() -> None:
    layouts = KnownLayouts()
    message = service_pb2.ModelInferResponse(model_name="m", model_version="1")
    for name in ("y", "z"):
        message.outputs.add(name=name, datatype="FP32", shape=[1])
        message.raw_output_contents.append(b"1234")
    right = message.SerializeToString()
    layouts.read(right)
    for place in range(len(right) - 6, len(right) - 4):  # the tag and the length of the second output
        with pytest.raises(ExchangeError, match="malformed"):
            layouts.read(right[:place] + bytes([right[place] ^ 0x10]) + right[place + 1 :])


def test_an_output_that_is_given_twice_in_different_ways_is_refused() -> None:
    message = service_pb2.ModelInferResponse(model_name="m", model_version="1")
    message.outputs.add(name="y", datatype="FP32", shape=[1]).contents.fp32_contents.append(7.0)
    message.raw_output_contents.append(struct.pack("<f", 1.5))
    with pytest.raises(ExchangeError, match="both raw and in typed fields"):
        KnownLayouts().read(message.SerializeToString())


def test_typed_fields_without_an_element_may_stand_beside_a_raw_output() -> None:
    message = service_pb2.ModelInferResponse(model_name="m", model_version="1")
    message.outputs.add(name="y", datatype="FP32", shape=[1]).contents.SetInParent()
    message.raw_output_contents.append(struct.pack("<f", 1.5))
    answer = KnownLayouts().read(message.SerializeToString())
    assert answer.body[answer.layout.slots[0].start :] == struct.pack("<f", 1.5)


def test_a_kept_connection_answers_pings_and_ignores_late_frames_of_earlier_calls() -> None:
    ping = frame(6, 0, 0, b"12345678")
    late = frame(3, 0, 1, b"\0\0\0\0")

    def behave(link: socket.socket) -> None:
        got = server.received
        link.sendall(SETTINGS + ping + finish(1) + late)
        link.settimeout(PATIENCE_S)
        while got.count(b"12345678") < 1 or got.count(frame(1, 4, 3, b"")[3:9]) < 1:
            got.extend(link.recv(1 << 16))
        link.sendall(finish(3))

    with scripted(behave) as server:
        connection = connect(server)
        assert [connection.call(b"one"), connection.call(b"two")] == [b"", b""]
        connection.close()
    assert frame(6, 1, 0, b"12345678") in bytes(server.received)


def test_our_own_headers_are_the_same_bytes_for_every_call() -> None:
    block = GrpcClient(Address("localhost", 8001), 1.0).headers
    decoder = hpack.Decoder()
    for _ in range(2):
        fields = {str(name): str(value) for name, value in decoder.decode(block)}
        assert fields[":path"] == "/inference.GRPCInferenceService/ModelInfer"
        assert fields[":authority"] == "localhost:8001"
