"""The two clients against a real Triton, and against servers that behave badly in ways no real one can be told to."""

import random
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hpack
import numpy as np
import pytest
import tritonclient.http
from support.load_server import serving, write_version
from tritonclient.grpc import service_pb2

from builder.server import Server
from loadtest.checking.answers import Answer, Expected
from loadtest.checking.reference import Tensor, read_reference
from loadtest.checking.samples import Samples, from_reference, make_pool
from loadtest.wire.exchange import IDLE_S, Address, Connection, ExchangeError
from loadtest.wire.grpc import GrpcConnection, GrpcWire, frame
from loadtest.wire.http import HttpWire
from loadtest.wire.tensors import Array

PROTOCOLS = ("http", "grpc")
BIG = 3_000_000


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("repository")
    write_version(path)
    write_echo(path)
    return path


def write_echo(repository: Path) -> None:
    """`echo` answers what it was asked, of any length."""
    import onnx
    from onnx import helper

    folder = repository / "echo" / "1"
    folder.mkdir(parents=True)
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", "m"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "echo", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (repository / "echo" / "config.pbtxt").write_text(
        'name: "echo" backend: "onnxruntime" max_batch_size: 8 '
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ] '
        'output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]'
    )


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository) as running:
        yield running


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def wire_to(server: Server, protocol: str) -> HttpWire | GrpcWire:
    if protocol == "http":
        return HttpWire(address(server.http_address), 10.0)
    return GrpcWire(address(server.grpc_address), 10.0)


def outputs(answer: Answer) -> dict[str, Array]:
    return {
        slot.name: np.frombuffer(answer.body[slot.start : slot.stop], np.float32).reshape(slot.shape)
        for slot in answer.layout.slots
        if slot.datatype == "FP32"
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_are_what_tritons_own_client_gets(server: Server, repository: Path, protocol: str) -> None:
    reference = read_reference(repository, "classifier", 1)
    wire = wire_to(server, protocol)
    connection = wire.connect()
    with tritonclient.http.InferenceServerClient(server.http_address) as theirs:
        for request in make_pool(from_reference(reference, "1"), 3, wire.encode, random.Random(1))[:20]:
            answer = connection.ask(request.wire)
            image = request.inputs()["image"]
            tensor = tritonclient.http.InferInput("image", image.shape, "FP32")
            tensor.set_data_from_numpy(image)
            expected = theirs.infer("classifier", [tensor]).as_numpy("scores")
            np.testing.assert_allclose(outputs(answer)["scores"], expected, rtol=1e-5)
            assert Expected(reference, request.group).is_right(answer)
            assert answer.layout.version == "1"
    connection.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_megabytes_go_both_ways_through_flow_control(server: Server, protocol: str) -> None:
    wire = wire_to(server, protocol)
    connection = wire.connect()
    array = np.random.default_rng(1).standard_normal((1, BIG // 4)).astype(np.float32)
    samples = Samples("echo", "", 8, (Tensor("x", "FP32", (-1,)),), ("y",), {"x": array}, None)
    request = wire.encode(samples, {"x": array})
    for _ in range(30):
        answer = connection.ask(request)
        assert outputs(answer)["y"].tobytes() == array.tobytes()
    connection.close()


@pytest.mark.parametrize(("protocol", "kind"), [("http", "http_404"), ("grpc", "grpc_NOT_FOUND")])
def test_a_refused_request_names_its_kind_and_the_connection_goes_on(server: Server, protocol: str, kind: str) -> None:
    wire = wire_to(server, protocol)
    connection = wire.connect()
    array = np.ones((1, 2), np.float32)
    good = Samples("echo", "", 8, (Tensor("x", "FP32", (-1,)),), ("y",), {"x": array}, None)
    bad = Samples("nothing", "", 8, good.inputs, good.outputs, good.arrays, None)
    with pytest.raises(ExchangeError) as caught:
        connection.ask(wire.encode(bad, {"x": array}))
    assert (caught.value.usable, "nothing" in caught.value.message) == (True, True)
    assert caught.value.kind in (kind, "http_400", "grpc_UNAVAILABLE", "grpc_INVALID_ARGUMENT")
    assert outputs(connection.ask(wire.encode(good, {"x": array})))["y"].tolist() == [[1.0, 1.0]]
    connection.close()


Behaviour = Callable[[socket.socket], None]


@contextmanager
def misbehaving(behave: Behaviour, got: bytearray | None = None) -> Iterator[Address]:
    """A server that waits for the first bytes of a request, kept in `got`, and then does what it is told."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            first = self.request.recv(1 << 16)
            if got is not None:
                got.extend(first)
            behave(self.request)
            hang_up(self.request)

    class Listener(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Listener(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Address("127.0.0.1", listener.server_address[1])
        finally:
            listener.shutdown()
            thread.join()


def hang_up(link: socket.socket) -> None:
    """Close after everything was read: bytes left unread would make the system reset the connection."""
    if link.fileno() >= 0:
        link.shutdown(socket.SHUT_WR)
        while link.recv(1 << 16):
            pass


def connect(protocol: str, to: Address, timeout_s: float = 0.4) -> Connection:
    wire = HttpWire(to, timeout_s) if protocol == "http" else GrpcWire(to, timeout_s)
    return wire.connect()


def failure(protocol: str, behave: Behaviour) -> str:
    with misbehaving(behave) as to:
        connection = connect(protocol, to)
        with pytest.raises(ExchangeError) as caught:
            connection.ask(b"x" * 20)
        connection.close()
    return caught.value.kind


def say(*parts: bytes) -> Behaviour:
    def behave(link: socket.socket) -> None:
        for part in parts:
            link.sendall(part)

    return behave


def be_silent(link: socket.socket) -> None:
    threading.Event().wait(1.0)


def slam(link: socket.socket) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("behave", "kind"), [(be_silent, "timeout"), (slam, "cut"), (say(), "cut")])
def test_a_server_that_hangs_or_hangs_up_is_counted_by_kind(protocol: str, behave: Behaviour, kind: str) -> None:
    assert failure(protocol, behave) == kind


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_port_without_a_server_refuses(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ExchangeError) as caught:
        connect(protocol, Address("127.0.0.1", port)).ask(b"x")
    assert caught.value.kind == "refused"


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (OK + b"Content-Length: 100\r\n\r\nhalf an ans", "cut"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "malformed"),
        (OK + b"\r\n", "malformed"),
        (OK + b"Content-Length: 5\r\n\r\nhello", "malformed"),
        (OK + b'Content-Length: 29\r\n\r\n{"model_name":"m","outputs":1}', "malformed"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed"),
        (b'HTTP/1.1 503 Busy\r\nContent-Length: 16\r\n\r\n{"error":"busy"}', "http_503"),
    ],
)
def test_http_answers_that_cannot_be_read_are_counted_by_kind(said: bytes, kind: str) -> None:
    assert failure("http", say(said)) == kind


def test_a_chunked_http_answer_is_put_together() -> None:
    head = b'{"model_name":"m","model_version":"3","outputs":[{"name":"y","datatype":"FP32","shape":[1],'
    head += b'"parameters":{"binary_data_size":4}}]}'
    data = struct.pack("<f", 1.5)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (head[:10], head[10:], data)) + b"0\r\n\r\n"
    fields = b"Transfer-Encoding: chunked\r\nInference-Header-Content-Length: %d\r\n\r\n" % len(head)
    with misbehaving(say(OK + fields + chunks[:30], chunks[30:])) as to:
        connection = connect("http", to)
        answer = connection.ask(b"x")
        connection.close()
    assert (answer.layout.version, outputs(answer)["y"].tolist()) == ("3", [1.5])


ANSWER_HEAD = (
    b'{"model_name":"m","model_version":"3","outputs":[{"name":"y","datatype":"FP32","shape":[1],'
    b'"parameters":{"binary_data_size":4}}]}'
)
ANSWER = ANSWER_HEAD + struct.pack("<f", 1.5)
LENGTHS = b"Inference-Header-Content-Length: %d\r\n" % len(ANSWER_HEAD)
WHOLE = OK + LENGTHS + b"Content-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER


@pytest.mark.parametrize(
    "said",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", WHOLE],
        [WHOLE[:7], WHOLE[7:90], WHOLE[90:]],
        [OK + LENGTHS + b"\r\n" + ANSWER],
        [OK + LENGTHS + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER],
    ],
)
def test_http_answers_of_every_framing_are_read(said: list[bytes]) -> None:
    with misbehaving(say(*said)) as to:
        connection = connect("http", to)
        for _ in range(2):
            assert outputs(connection.ask(b"x"))["y"].tolist() == [1.5]
            connection.close()


def test_the_trailers_of_a_chunked_answer_are_not_taken_for_the_next_answer() -> None:
    chunked = OK + LENGTHS + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(ANSWER), ANSWER)

    def behave(link: socket.socket) -> None:
        for _ in range(2):
            link.sendall(chunked)
            time.sleep(0.05)
            link.sendall(b"Checksum: 7\r\n")
            time.sleep(0.05)
            link.sendall(b"\r\n")
            link.recv(1 << 16)

    with misbehaving(behave) as to:
        connection = connect("http", to)
        for _ in range(2):
            assert outputs(connection.ask(b"x"))["y"].tolist() == [1.5]
        connection.close()


def test_an_answer_that_drips_is_a_timeout() -> None:
    def behave(link: socket.socket) -> None:
        with suppress(OSError):
            for byte in WHOLE:
                link.sendall(bytes([byte]))
                time.sleep(0.05)

    assert failure("http", behave) == "timeout"


SETTINGS = frame(4, 0, 0, b"")


def headers(stream: int, *fields: tuple[str, str], end: bool = False) -> bytes:
    encoder = hpack.Encoder()
    return frame(1, 4 | end, stream, bytes(encoder.encode([*fields])))


def data(stream: int, payload: bytes) -> bytes:
    return frame(0, 0, stream, payload)


STARTED = headers(1, (":status", "200"), ("content-type", "application/grpc"))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            STARTED + headers(1, ("grpc-status", "8"), ("grpc-message", "full%20up"), end=True),
            "grpc_RESOURCE_EXHAUSTED",
        ),
        (STARTED + headers(1, ("grpc-status", "0"), end=True), "malformed"),
        (STARTED + data(1, b"\0\0\0\0\x09short") + headers(1, ("grpc-status", "0"), end=True), "malformed"),
        (STARTED + data(1, b"\0\0\0\0\x04\xff\xff\xff\xff") + headers(1, ("grpc-status", "0"), end=True), "malformed"),
        (STARTED + headers(1, ("other", "field"), end=True), "malformed"),
        (headers(1, (":status", "404"), end=True), "http_404"),
        (frame(3, 0, 1, struct.pack(">I", 7)), "grpc_reset"),
        (frame(7, 0, 0, struct.pack(">II", 0, 0)), "cut"),
        (STARTED + data(1, b"\0\0\0\0\x09sho"), "cut"),
        (frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"), "malformed"),
    ],
)
def test_grpc_answers_that_cannot_be_read_are_counted_by_kind(said: bytes, kind: str) -> None:
    assert failure("grpc", say(SETTINGS + said)) == kind


def finish(stream: int) -> bytes:
    """The answer to a call: an empty message."""
    trailers = headers(stream, ("grpc-status", "0"), end=True)
    return headers(stream, (":status", "200")) + data(stream, b"\0\0\0\0\0") + trailers


@pytest.mark.parametrize(("protocol", "said"), [("http", WHOLE), ("grpc", SETTINGS + finish(1))])
def test_a_connection_that_the_server_hung_up_while_it_idled_is_no_failure(protocol: str, said: bytes) -> None:
    with misbehaving(say(said)) as to:
        connection = connect(protocol, to)
        for _ in range(2):
            if isinstance(connection, GrpcConnection):
                assert connection.call(b"x") == b""
            else:
                connection.ask(b"x")
            time.sleep(IDLE_S + 0.1)
        connection.close()


def test_a_call_that_the_server_went_away_from_unseen_is_sent_again() -> None:
    accepted = []

    def behave(link: socket.socket) -> None:
        accepted.append(link)
        link.sendall(SETTINGS + finish(1))
        if len(accepted) == 1:
            read = b""
            while b"two" not in read:
                read += link.recv(1 << 16)
            link.sendall(frame(7, 0, 0, struct.pack(">II", 1, 0)))

    with misbehaving(behave) as to:
        connection = GrpcWire(to, 5.0).connect()
        assert [connection.call(b"one"), connection.call(b"two")] == [b"", b""]
        connection.close()
    assert len(accepted) == 2


def test_after_the_last_call_that_a_server_takes_the_next_goes_to_a_new_connection() -> None:
    goaway = frame(7, 0, 0, struct.pack(">II", 1, 0))
    with misbehaving(say(SETTINGS + goaway + finish(1))) as to:
        connection = GrpcWire(to, 5.0).connect()
        assert [connection.call(b"one"), connection.call(b"two")] == [b"", b""]
        connection.close()


def test_a_large_request_keeps_to_the_room_that_the_server_gives_it() -> None:
    request, got = bytes(range(256)) * 800, bytearray()
    rooms = []

    def read_until(link: socket.socket, size: int) -> None:
        """Read until so many bytes of DATA came, and note when no more follow."""
        while sum(map(len, payloads(got))) < size:
            got.extend(link.recv(1 << 16))
        link.settimeout(0.1)
        with suppress(TimeoutError):
            got.extend(link.recv(1 << 16))
        link.settimeout(5)
        rooms.append(sum(map(len, payloads(got))))

    def behave(link: socket.socket) -> None:
        read_until(link, 65535)
        link.sendall(frame(4, 0, 0, struct.pack(">HI", 4, 70_000)) + frame(8, 0, 0, struct.pack(">I", 200_000)))
        read_until(link, 70_000)
        link.sendall(frame(4, 0, 0, struct.pack(">HI", 4, 60_000)) + frame(8, 0, 1, struct.pack(">I", 10_000)))
        read_until(link, 70_000)
        link.sendall(frame(8, 0, 1, struct.pack(">I", 200_000)))
        read_until(link, len(request))
        link.sendall(finish(1))

    with misbehaving(behave, got) as to:
        connection = GrpcWire(to, 5.0).connect()
        assert connection.call(request) == b""
        connection.close()
    assert rooms == [65535, 70_000, 70_000, len(request)]
    assert b"".join(payloads(got)) == request
    assert max(map(len, payloads(got))) <= 16384


def payloads(got: bytearray) -> list[bytes]:
    """The payloads of the DATA frames behind a client's preface, as far as they came."""
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
    said += padded + headers(1, ("grpc-status", "0"), end=True)
    with misbehaving(say(SETTINGS + said[:11], said[11:])) as to:
        connection = GrpcWire(to, 5.0).connect()
        assert connection.call(b"x") == b"ok"
        connection.close()


def test_heads_that_never_repeat_do_not_fill_the_memory() -> None:
    wire = GrpcWire(Address("127.0.0.1", 1), 1.0)
    connection = wire.connect()
    for turn in range(1000):
        message = service_pb2.ModelInferResponse(model_name="m", model_version="1", id=f"{turn:04}")
        message.outputs.add(name="y", datatype="FP32", shape=[1])
        message.raw_output_contents.append(struct.pack("<f", turn))
        assert connection._read(message.SerializeToString()).layout.version == "1"
    assert sum(map(len, wire.layouts.values())) < 100


def test_a_kept_grpc_connection_answers_pings_and_ignores_tails_of_old_calls() -> None:
    ping = frame(6, 0, 0, b"12345678")
    empty = b"\0\0\0\0\0"
    first = STARTED + data(1, empty) + headers(1, ("grpc-status", "0"), end=True) + frame(3, 0, 1, b"\0\0\0\0")
    second = headers(3, (":status", "200")) + data(3, empty) + headers(3, ("grpc-status", "0"), end=True)
    got = bytearray()

    def behave(link: socket.socket) -> None:
        link.sendall(SETTINGS + ping + first)
        link.settimeout(5)
        while got.count(b"12345678") < 1 or got.count(frame(1, 4, 3, b"")[3:9]) < 1:
            got.extend(link.recv(1 << 16))
        link.sendall(second)

    with misbehaving(behave) as to:
        wire = GrpcWire(to, 5.0)
        connection = wire.connect()
        assert [connection.call(b"one"), connection.call(b"two")] == [b"", b""]
        connection.close()
    assert frame(6, 1, 0, b"12345678") in bytes(got)
