"""A proxy in front of a healthy server that spoils some of its answers over gRPC, and counts exactly which."""

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from support.lying_http import FAR_PAST_ANY_TIMEOUT_S, Proxy

Spoil = Callable[[Any, "Call"], bytes]
"""Makes the message to answer with, from a ModelInferResponse that may be changed."""


@dataclass(frozen=True)
class Call:
    """What a lie may need: the call, the answer to another request, and an event that ends all waiting."""

    context: grpc.ServicerContext
    other: Any
    ended: threading.Event


@dataclass(frozen=True)
class GrpcLie:
    """One way to spoil an answer; see `lying_http.Lie`."""

    name: str
    counted_as: str
    spoil: Spoil
    is_wrong: bool = True


def edited(edit: Callable[[Any], object]) -> Spoil:
    def spoil(response: Any, _: Call) -> bytes:
        edit(response)
        return bytes(response.SerializeToString())

    return spoil


def set_raw(change: Callable[[bytes], bytes], index: int = 0) -> Spoil:
    """Change the bytes of the output with this index."""

    def edit(response: Any) -> None:
        response.raw_output_contents[index] = change(response.raw_output_contents[index])

    return edited(edit)


def say(**said: str) -> Spoil:
    return edited(lambda response: response.MergeFrom(service_pb2.ModelInferResponse(**said)))


def add_output(name: str) -> Spoil:
    """Give the first output once more, under this name."""

    def edit(response: Any) -> None:
        response.outputs.add().CopyFrom(response.outputs[0])
        response.outputs[-1].name = name
        response.raw_output_contents.append(response.raw_output_contents[0])

    return edited(edit)


def swap(response: Any, call: Call) -> bytes:
    del response.raw_output_contents[:]
    response.raw_output_contents.extend(call.other.raw_output_contents)
    return bytes(response.SerializeToString())


def fail(code: grpc.StatusCode, details: str) -> Spoil:
    def spoil(_: Any, call: Call) -> bytes:
        call.context.abort(code, details)
        raise AssertionError("abort raises")

    return spoil


def crash(_response: Any, _call: Call) -> bytes:
    raise ValueError("boom")


def hang(_response: Any, call: Call) -> bytes:
    call.ended.wait(FAR_PAST_ANY_TIMEOUT_S)
    return b""


def typed(change: Callable[[int], int] = int) -> Spoil:
    """Write the outputs of a classifier into typed fields, as servers other than Triton do."""

    def edit(response: Any) -> None:
        scores, labels = response.raw_output_contents
        response.outputs[0].contents.fp32_contents.extend(struct.unpack(f"<{len(scores) // 4}f", scores))
        values = [change(value) for value in struct.unpack(f"<{len(labels) // 8}q", labels)]
        response.outputs[1].contents.int64_contents.extend(values)
        del response.raw_output_contents[:]

    return edited(edit)


def typed_elsewhere(response: Any, call: Call) -> bytes:
    """Write the labels into the field of another type."""
    response = service_pb2.ModelInferResponse.FromString(typed()(response, call))
    labels = response.outputs[1].contents
    labels.int_contents.extend(labels.int64_contents)
    del labels.int64_contents[:]
    return bytes(response.SerializeToString())


GRPC_LIES = (
    GrpcLie("UNAVAILABLE", "grpc_UNAVAILABLE", fail(grpc.StatusCode.UNAVAILABLE, "läd % \n done"), is_wrong=False),
    GrpcLie("queue full", "grpc_RESOURCE_EXHAUSTED", fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full"), is_wrong=False),
    GrpcLie("server crashes", "grpc_UNKNOWN", crash, is_wrong=False),
    GrpcLie("no message", "malformed", lambda *_: b"\xff\xff\xff\xff", is_wrong=False),
    GrpcLie("timeout", "timeout", hang, is_wrong=False),
    GrpcLie("empty message", "shape_or_type", lambda *_: b""),
    GrpcLie("flipped bit", "tolerance", set_raw(lambda raw: raw[:3] + bytes([raw[3] ^ 0x40]) + raw[4:])),
    GrpcLie("NaN", "nan", set_raw(lambda raw: struct.pack("<f", float("nan")) + raw[4:])),
    GrpcLie("tensor too short", "unreadable", set_raw(lambda raw: raw[:-4])),
    GrpcLie("answer to another row", "rows_mixed_up", swap),
    GrpcLie("version 7", "wrong_version", say(model_version="7")),
    GrpcLie("other model", "wrong_model", say(model_name="other")),
    GrpcLie("another class", "tolerance", set_raw(lambda raw: bytes([raw[0] ^ 1]) + raw[1:], 1)),
    GrpcLie("shape turned", "shape_or_type", edited(lambda response: response.outputs[0].shape.reverse())),
    GrpcLie("other datatype", "shape_or_type", edited(lambda one: setattr(one.outputs[0], "datatype", "INT32"))),
    GrpcLie("output twice", "shape_or_type", add_output("scores")),
    GrpcLie("output not asked for", "shape_or_type", add_output("more")),
    GrpcLie("tensor left out", "malformed", edited(lambda one: one.raw_output_contents.pop()), is_wrong=False),
    GrpcLie(
        "outputs raw and typed",
        "malformed",
        edited(lambda response: response.outputs[0].contents.fp32_contents.append(1)),
        is_wrong=False,
    ),
    GrpcLie("typed fields", "", typed()),
    GrpcLie("typed fields, 7 added", "tolerance", typed(lambda value: value + 7)),
    GrpcLie("typed field of another type", "unreadable", typed_elsewhere),
)


@contextmanager
def lying_grpc(
    address: str, lies: Sequence[GrpcLie], *, every: int = 3, http_address: str = "", age_ms: int = 0
) -> Iterator[Proxy]:
    """Tell the lies in turn, one in each `every` answers. With `age_ms`, connections end when they are so old."""
    answers, told, lock, ended = count(1), cycle(lies), threading.Lock(), threading.Event()
    kept: dict[bytes, bytes] = {}
    method = "/inference.GRPCInferenceService/"

    def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request not in kept:
            kept[request] = channel.unary_unary(f"{method}ModelInfer")(request)
        answer = kept[request]
        responses = [service_pb2.ModelInferResponse.FromString(one) for one in list(kept.values())]
        mine = service_pb2.ModelInferResponse.FromString(answer)
        others = [one for one in responses if one.raw_output_contents[0] != mine.raw_output_contents[0]]
        with lock:
            lie = next(told) if next(answers) % every == 0 and others and lies else None
            proxy.told[lie.name if lie else "right"] += 1
        return lie.spoil(mine, Call(context, others[0], ended)) if lie else answer

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            other = channel.unary_unary(details.method)
            serve = infer if details.method.endswith("ModelInfer") else lambda request, _: other(request)
            return grpc.unary_unary_rpc_method_handler(serve)

    options = [("grpc.max_connection_age_ms", age_ms)] if age_ms else []
    with grpc.insecure_channel(address) as channel:
        server = grpc.server(futures.ThreadPoolExecutor(32), compression=grpc.Compression.Gzip, options=options)
        server.add_generic_rpc_handlers((Handler(),))
        proxy = Proxy(http_address, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        try:
            yield proxy
        finally:
            ended.set()
            server.stop(None).wait()
