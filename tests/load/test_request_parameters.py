"""The parameters of a request, as each protocol writes them."""

import json

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from loadtest.wire import Address, GrpcClient, HttpClient, InferRequest, Input, Parameters

ADDRESS = Address("127.0.0.1", 8000)
PARAMETERS: Parameters = {"yes": True, "text": "ä", "whole": -7, "half": 0.5}


def request(parameters: Parameters, *, binary: bool = True) -> InferRequest:
    one = Input("x", "FP32", np.ones(1, np.float32))
    return InferRequest("m", "", (one,), ("y",), binary, parameters)


def http_body(parameters: Parameters, *, binary: bool) -> bytes:
    encoded = HttpClient(ADDRESS, 1.0).encode(request(parameters, binary=binary))
    return encoded.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("binary", [True, False])
def test_http_writes_them_into_the_json(binary: bool) -> None:
    body = http_body(PARAMETERS, binary=binary)
    description = json.loads(body[:-4] if binary else body)
    assert description["parameters"] == PARAMETERS
    assert description["inputs"][0]["name"] == "x"
    assert b'"parameters":{}' not in http_body({}, binary=binary)


def test_grpc_gives_each_the_field_of_its_type() -> None:
    encoded = GrpcClient(ADDRESS, 1.0).encode(request({**PARAMETERS, "huge": 1 << 63}))
    sent = service_pb2.ModelInferRequest.FromString(encoded[5:]).parameters
    fields = {name: (value.WhichOneof("parameter_choice"), *value.ListFields()[0][1:]) for name, value in sent.items()}
    assert fields == {
        "yes": ("bool_param", True),
        "text": ("string_param", "ä"),
        "whole": ("int64_param", -7),
        "half": ("double_param", 0.5),
        "huge": ("uint64_param", 1 << 63),
    }
