"""Requests and answers of the KServe v2 protocol, over HTTP/1.1 and gRPC.

A client (`HttpClient` or `GrpcClient`) encodes each `InferRequest` once into the bytes to send. Each user keeps a
connection of it, sends such bytes with `infer`, and gets an `Answer`: the body as it was received, and a `Layout` that
says where each output is in it. When there is no answer, `ExchangeError` names the kind of failure.

From the bottom up: `tensors` (types and their bytes), `values` (values written one by one), `messages` (request and
answer), `exchange` (sockets and errors), `http1` and `http2` (the transport protocols), `http` and `grpc` (KServe v2
on top of them), `client`.
"""

from loadtest.wire.client import CLIENTS, Client, Connection, make_client
from loadtest.wire.exchange import Address, ExchangeError
from loadtest.wire.grpc import GrpcClient, is_model_ready
from loadtest.wire.http import HttpClient, error_text, model_path
from loadtest.wire.http1 import Http1Connection, encode_request
from loadtest.wire.messages import Answer, InferRequest, Input, Layout, Parameters, Slot, is_version
from loadtest.wire.tensors import DTYPES, FLOATS, Array, TensorSpec, from_wire, to_wire, widen

__all__ = [
    "CLIENTS",
    "DTYPES",
    "FLOATS",
    "Address",
    "Answer",
    "Array",
    "Client",
    "Connection",
    "ExchangeError",
    "GrpcClient",
    "Http1Connection",
    "HttpClient",
    "InferRequest",
    "Input",
    "Layout",
    "Parameters",
    "Slot",
    "TensorSpec",
    "encode_request",
    "error_text",
    "from_wire",
    "is_model_ready",
    "is_version",
    "make_client",
    "model_path",
    "to_wire",
    "widen",
]
