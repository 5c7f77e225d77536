"""Both clients against a real Triton."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from support.answers import check_answers
from support.load_run import PATIENCE_S
from support.load_server import serving, write_version
from support.scripted_server import floats

from builder.server import Server
from loadtest.checking import Expected, Wrong, from_reference, make_pool, read_reference
from loadtest.errors import SettingsError
from loadtest.wire import Address, Array, Client, ExchangeError, InferRequest, Input, Parameters, from_wire, make_client

pytestmark = pytest.mark.slow

PROTOCOLS = ("http", "grpc")
BIG = 3_000_000
ECHO = ("--model", "echo")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("repository")
    write_version(path)
    write_echo(path)
    write_told(path)
    return path


TOLD = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        told = [np.array([request.parameters().encode()], object) for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("told", text)]) for text in told]
"""


def write_told(repository: Path) -> None:
    """`told` answers the parameters of the request, as JSON."""
    (repository / "told" / "1").mkdir(parents=True)
    (repository / "told" / "1" / "model.py").write_text(TOLD)
    (repository / "told" / "config.pbtxt").write_text(
        'name: "told" backend: "python" instance_group [ { kind: KIND_CPU } ] '
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ] '
        'output [ { name: "told" data_type: TYPE_STRING dims: [ 1 ] } ]'
    )


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


def echo(array: Array, model: str = "echo") -> InferRequest:
    return InferRequest(model, "", (Input("x", "FP32", array),), ("y",))


def client_of(server: Server, protocol: str) -> Client:
    addresses = {"http": server.http_address, "grpc": server.grpc_address}
    return make_client(protocol, address(addresses[protocol]), PATIENCE_S)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_are_what_tritons_own_client_gets(server: Server, repository: Path, protocol: str) -> None:
    reference = read_reference(repository, "classifier", 1)
    client = client_of(server, protocol)
    connection = client.connect()
    with tritonclient.http.InferenceServerClient(server.http_address) as theirs:
        for request in make_pool(from_reference(reference, "1"), 3, client.encode, random.Random(1))[:20]:
            answer = connection.infer(request.encoded)
            image = request.inputs()["image"]
            tensor = tritonclient.http.InferInput("image", image.shape, "FP32")
            tensor.set_data_from_numpy(image)
            expected = theirs.infer("classifier", [tensor]).as_numpy("scores")
            np.testing.assert_allclose(floats(answer)["scores"], expected, rtol=1e-5)
            assert Expected(reference, request.group).is_right(answer)
            assert answer.layout.version == "1"
    connection.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_megabytes_go_both_ways_through_flow_control(server: Server, protocol: str) -> None:
    client = client_of(server, protocol)
    connection = client.connect()
    array = np.random.default_rng(1).standard_normal((1, BIG // 4)).astype(np.float32)
    request = client.encode(echo(array))
    for _ in range(30):
        answer = connection.infer(request)
        assert floats(answer)["y"].tobytes() == array.tobytes()
    connection.close()


@pytest.mark.parametrize(("protocol", "kind"), [("http", "http_404"), ("grpc", "grpc_NOT_FOUND")])
def test_a_refused_request_names_its_kind_and_the_connection_goes_on(server: Server, protocol: str, kind: str) -> None:
    client = client_of(server, protocol)
    connection = client.connect()
    array = np.ones((1, 2), np.float32)
    with pytest.raises(ExchangeError) as caught:
        connection.infer(client.encode(echo(array, model="nothing")))
    assert (caught.value.usable, "nothing" in caught.value.message) == (True, True)
    assert caught.value.kind in (kind, "http_400", "grpc_UNAVAILABLE", "grpc_INVALID_ARGUMENT")
    assert floats(connection.infer(client.encode(echo(array))))["y"].tolist() == [[1.0, 1.0]]
    connection.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_to_a_files_inputs_are_compared_with_the_files_answers(
    server: Server, tmp_path: Path, protocol: str
) -> None:
    inputs = [[0.5, 1.0], [2.0], [3.0, 4.0]]
    answers = [[0.5, 1.0], [2.0001], [3.0, 4.1]]
    document = {"data": [{"x": one} for one in inputs], "validation_data": [{"y": one} for one in answers]}
    path = tmp_path / "inputs.json"
    path.write_text(json.dumps(document))
    options = (*ECHO, "--input-data", str(path))
    # Rows of equal shape come together: the first, the third, the second.
    assert check_answers(server, protocol, *options) == [True, Wrong.TOLERANCE, True]
    assert check_answers(server, protocol, *options, "--tolerance", "0.1,0") == [True] * 3
    path.write_text(json.dumps({"data": document["data"]}))
    assert check_answers(server, protocol, *options) == [None] * 3
    rows = np.ones((5, 3), np.float32)
    np.savez(tmp_path / "inputs.npz", x=rows, **{"output:y": rows})
    assert check_answers(server, protocol, *ECHO, "--input-data", str(tmp_path / "inputs.npz")) == [True] * 5


def test_generated_inputs_need_a_shape_where_the_model_leaves_it_open(server: Server) -> None:
    assert check_answers(server, "http", *ECHO, "--shape", "x:7") == [None] * 32
    assert check_answers(server, "http", *ECHO, "--shape", "x:7", "--input-data", "zero") == [None]
    for options, said in (((), "the dims of input x are [N]"), (("--shape", "x:7 z:7"), "no model has an input z")):
        with pytest.raises(SettingsError) as caught:
            check_answers(server, "http", *ECHO, *options)
        assert said in str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_parameters_of_a_request_arrive_with_their_types(server: Server, protocol: str) -> None:
    client = client_of(server, protocol)
    parameters: Parameters = {"yes": True, "text": "ä", "whole": -7, "large": 1 << 40, "half": 0.5}
    one = Input("x", "FP32", np.ones(1, np.float32))
    connection = client.connect()
    answer = connection.infer(client.encode(InferRequest("told", "", (one,), ("told",), parameters=parameters)))
    connection.close()
    (told,) = (from_wire(answer.body[slot.start : slot.stop], "BYTES", slot.shape) for slot in answer.layout.slots)
    assert json.loads(told[0]) == parameters
