"""The onnxruntime backend inside a real Triton: its answers, the settings it follows, and the models it refuses."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.http as http
from onnx import TensorProto, external_data_helper, helper
from support.serving import (
    DOUBLE,
    DOUBLE_CONFIG,
    eventually,
    executed_batches,
    infer,
    infer_together,
    load,
    parse,
    processes_of,
    serve_model,
    write_model,
)
from tritonclient.utils import InferenceServerException

from builder.server import Server

pytestmark = pytest.mark.slow

UNBATCHED = """max_batch_size: 0
input { name: "X" data_type: TYPE_FP32 dims: %s }
output { name: "Y" data_type: TYPE_FP32 dims: %s }
"""


def rows(count: int) -> np.ndarray[Any, Any]:
    """Return float32[count, 2], with every number different."""
    return np.arange(count * 2, dtype=np.float32).reshape(count, 2)


@pytest.fixture(scope="module")
def double(triton: Server) -> str:
    return serve_model(triton, "double", DOUBLE_CONFIG, DOUBLE)


# ---- answers


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_batch_is_answered_over_grpc_and_http(triton: Server, double: str, batch_size: int) -> None:
    sent = rows(batch_size)
    np.testing.assert_array_equal(infer(triton, double, {"X": sent})["Y"], sent * 2)
    with http.InferenceServerClient(triton.http_address) as connection:
        tensor = http.InferInput("X", sent.shape, "FP32").set_data_from_numpy(sent)
        np.testing.assert_array_equal(connection.infer(double, [tensor]).as_numpy("Y"), sent * 2)


DATA_TYPES = {
    "BOOL": (TensorProto.BOOL, np.array([[True], [False]])),
    "UINT8": (TensorProto.UINT8, np.array([[0], [255]], np.uint8)),
    "UINT16": (TensorProto.UINT16, np.array([[0], [65535]], np.uint16)),
    "UINT32": (TensorProto.UINT32, np.array([[0], [2**32 - 1]], np.uint32)),
    "UINT64": (TensorProto.UINT64, np.array([[0], [2**64 - 1]], np.uint64)),
    "INT8": (TensorProto.INT8, np.array([[-128], [127]], np.int8)),
    "INT16": (TensorProto.INT16, np.array([[-(2**15)], [2**15 - 1]], np.int16)),
    "INT32": (TensorProto.INT32, np.array([[-(2**31)], [2**31 - 1]], np.int32)),
    "INT64": (TensorProto.INT64, np.array([[-(2**63)], [2**63 - 1]], np.int64)),
    "FP16": (TensorProto.FLOAT16, np.array([[np.nan], [65504]], np.float16)),
    "FP32": (TensorProto.FLOAT, np.array([[np.nan], [-np.inf]], np.float32)),
    "FP64": (TensorProto.DOUBLE, np.array([[np.nan], [1e308]], np.float64)),
    "STRING": (TensorProto.STRING, np.array([["grüße".encode()], [b""]], np.object_)),
}


@pytest.fixture(scope="module")
def identity(triton: Server) -> str:
    """A model that returns an input of every type as it came."""
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{role}_{name}", kind, ["n", 1]) for name, (kind, _) in DATA_TYPES.items()]
        for role in "XY"
    )
    nodes = [helper.make_node("Identity", [f"X_{name}"], [f"Y_{name}"]) for name in DATA_TYPES]
    graph = helper.make_graph(nodes, "identity", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    config = "max_batch_size: 8\n" + "\n".join(
        f'{side} {{ name: "{role}_{name}" data_type: TYPE_{name} dims: 1 }}'
        for side, role in (("input", "X"), ("output", "Y"))
        for name in DATA_TYPES
    )
    write_model(triton.repository, "identity", config, model)
    load(triton, "identity")
    return "identity"


def test_every_data_type_arrives_and_returns_bit_by_bit(triton: Server, identity: str) -> None:
    sent = {f"X_{name}": array for name, (_, array) in DATA_TYPES.items()}
    answer = infer(triton, identity, sent)
    for name, (_, array) in DATA_TYPES.items():
        assert answer[f"Y_{name}"].dtype == array.dtype
        assert answer[f"Y_{name}"].tolist() == array.tolist() or answer[f"Y_{name}"].tobytes() == array.tobytes()


def test_only_the_outputs_asked_for_are_returned(triton: Server, identity: str) -> None:
    sent = {f"X_{name}": array for name, (_, array) in DATA_TYPES.items()}
    assert set(infer(triton, identity, sent, outputs=["Y_INT8", "Y_STRING"])) == {"Y_INT8", "Y_STRING"}


def test_a_string_that_is_not_utf8_is_refused_and_not_altered(triton: Server, identity: str) -> None:
    sent = {f"X_{name}": array for name, (_, array) in DATA_TYPES.items()}
    sent["X_STRING"] = np.array([[b"\xff"], [b""]], np.object_)
    with pytest.raises(InferenceServerException, match="utf-8"):
        infer(triton, identity, sent)


def test_an_unbatched_model_takes_its_whole_shape(triton: Server) -> None:
    graph = "(float[2,k] X) => (float[k] Y) { Y = ReduceMax<axes=[0], keepdims=0>(X) }"
    model = serve_model(triton, "whole", UNBATCHED % ("[2, -1]", "[-1]"), graph)
    np.testing.assert_array_equal(infer(triton, model, {"X": rows(2)})["Y"], [2, 3])


def test_a_scalar_is_one_number_to_the_client(triton: Server) -> None:
    model = serve_model(triton, "scalar", UNBATCHED % ("[1]", "[1]"), "(float X) => (float Y) { Y = Add(X, X) }")
    assert infer(triton, model, {"X": np.array([3], np.float32)})["Y"].tolist() == [6]


def test_a_batch_only_tensor_is_reshaped(triton: Server) -> None:
    config = """max_batch_size: 8
        input { name: "X" data_type: TYPE_FP32 dims: 1 reshape { shape: [] } }
        output { name: "Y" data_type: TYPE_FP32 dims: 1 reshape { shape: [] } }"""
    model = serve_model(triton, "reshaped", config, "(float[n] X) => (float[n] Y) { Y = Add(X, X) }")
    assert infer(triton, model, {"X": np.array([[1], [2]], np.float32)})["Y"].tolist() == [[2], [4]]


def test_an_initializer_that_is_also_an_input_may_be_left_out(triton: Server) -> None:
    default = np.array([10, 20], np.float32)
    model = parse("(float[2] X, float[2] bias) => (float[2] Y) { Y = Add(X, bias) }", bias=default)
    config = UNBATCHED % ("[2]", "[2]") + 'input { name: "bias" data_type: TYPE_FP32 dims: 2 optional: true }'
    write_model(triton.repository, "optional", config, model)
    load(triton, "optional")
    ones = np.ones(2, np.float32)
    assert infer(triton, "optional", {"X": ones})["Y"].tolist() == [11, 21]
    assert infer(triton, "optional", {"X": ones, "bias": ones})["Y"].tolist() == [2, 2]


# ---- dynamic batching

TOGETHER = "dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 250000000 }"
"""A batch of 4 is executed at once, and nothing else for longer than any machine needs to send 4 rows."""


def test_concurrent_requests_are_executed_as_one_batch(triton: Server) -> None:
    model = serve_model(triton, "together", DOUBLE_CONFIG + TOGETHER, DOUBLE)
    requests = [{"X": rows(size) + 100 * size} for size in (1, 2, 1)]
    for request, answer in zip(requests, infer_together(triton, model, requests, "Y"), strict=True):
        np.testing.assert_array_equal(answer, request["X"] * 2)
    assert executed_batches(triton, model, rows=4) == {4: 1}


LOOKUP = """max_batch_size: 8
    input { name: "index" data_type: TYPE_INT64 dims: 1 }
    output { name: "Y" data_type: TYPE_FP32 dims: [ 1, 2 ] }"""


def test_one_bad_request_of_a_batch_fails_alone(triton: Server) -> None:
    model = parse("(int64[n,1] index) => (float[n,1,2] Y) { Y = Gather(table, index) }", table=rows(3))
    write_model(triton.repository, "lookup", LOOKUP + TOGETHER, model)
    load(triton, "lookup")
    requests = [{"index": np.array([[index]])} for index in (0, 99, 2, 1)]
    first, bad, third, fourth = infer_together(triton, "lookup", requests, "Y")
    assert isinstance(bad, InferenceServerException)
    assert re.search("idx=99 must be within the inclusive range", str(bad))
    assert [answer.tolist() for answer in (first, third, fourth)] == [[[[0, 1]]], [[[4, 5]]], [[[2, 3]]]]


WARMUP = """model_warmup { name: "first" batch_size: 2 count: 3 inputs { key: "index" value {
    data_type: TYPE_INT64 dims: 1 input_data_file: "index" } } }"""


def test_a_model_is_warmed_up_before_it_is_ready(triton: Server) -> None:
    model = parse("(int64[n,1] index) => (float[n,1,2] Y) { Y = Gather(table, index) }", table=rows(3))
    write_model(triton.repository, "warm", LOOKUP + WARMUP, model)
    (triton.repository / "warm" / "warmup").mkdir()
    (triton.repository / "warm" / "warmup" / "index").write_bytes(np.array([2, 1]).tobytes())
    load(triton, "warm")
    assert executed_batches(triton, "warm", rows=6) == {2: 3}


def test_requests_of_different_shape_are_never_joined(triton: Server) -> None:
    config = """max_batch_size: 8
        input { name: "X" data_type: TYPE_FP32 dims: -1 } output { name: "Y" data_type: TYPE_FP32 dims: 1 }
        dynamic_batching { max_queue_delay_microseconds: 200000 }"""
    model = serve_model(triton, "sums", config, "(float[n,k] X) => (float[n,1] Y) { Y = ReduceMax<axes=[1]>(X) }")
    requests = [{"X": np.full((1, width), width, np.float32)} for width in (1, 2, 3, 2)]
    assert [answer.tolist() for answer in infer_together(triton, model, requests, "Y")] == [[[1]], [[2]], [[3]], [[2]]]


def test_a_model_that_drops_rows_is_an_error_and_not_a_wrong_answer(triton: Server) -> None:
    graph = "(float[n,2] X) => (float[m,2] Y) { Y = Slice(X, start, end) }"
    model = parse(graph, start=np.array([0]), end=np.array([1]))
    write_model(triton.repository, "swallows", DOUBLE_CONFIG, model)
    load(triton, "swallows")
    with pytest.raises(InferenceServerException, match=r"output 'Y' has shape \[1, 2\] for a batch of 3"):
        infer(triton, "swallows", {"X": rows(3)})


# ---- what the configuration and the repository ask for


def test_the_version_policy_chooses_the_version(triton: Server) -> None:
    config = DOUBLE_CONFIG + "version_policy { specific { versions: 2 } }"
    for version, factor in ((1, "X"), (2, "Z"), (3, "X")):
        graph = f"(float[n,2] X) => (float[n,2] Y) {{ Z = Add(X, X) Y = Add(Z, {factor}) }}"
        directory = write_model(triton.repository, f"of{version}", config, parse(graph), version)
        if version > 1:
            directory.rename(triton.repository / "of1" / str(version))
    load(triton, "of1")
    assert infer(triton, "of1", {"X": np.ones((1, 2), np.float32)})["Y"].tolist() == [[4, 4]]
    with pytest.raises(InferenceServerException, match="version 3 is not found"):
        infer(triton, "of1", {"X": rows(1)}, version="3")


def test_weights_in_external_files_are_found(triton: Server) -> None:
    swap = np.array([[0, 1], [1, 0]], np.float32)
    model = parse("(float[n,2] X) => (float[n,2] Y) { Y = MatMul(X, weights) }", weights=swap)
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    folder = write_model(triton.repository, "external", DOUBLE_CONFIG, None) / "model.onnx"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    assert (folder / "weights.bin").stat().st_size > 0
    load(triton, "external")
    assert infer(triton, "external", {"X": rows(1)})["Y"].tolist() == [[1, 0]]


def test_the_default_model_filename_is_opened(triton: Server) -> None:
    config = DOUBLE_CONFIG + 'default_model_filename: "other.onnx"'
    directory = write_model(triton.repository, "renamed", config, parse(DOUBLE))
    (directory / "model.onnx").rename(directory / "other.onnx")
    load(triton, "renamed")
    np.testing.assert_array_equal(infer(triton, "renamed", {"X": rows(2)})["Y"], rows(2) * 2)


def stubs_of(server: Server, model: str) -> list[int]:
    """Return the processes that run the instances of a model."""
    return [pid for pid, command in processes_of(server.pid).items() if f"/{model}/" in "".join(command[1:2])]


def threads_of(server: Server, model: str) -> int:
    (stub,) = stubs_of(server, model)
    return len(list(Path(f"/proc/{stub}/task").iterdir()))


def test_each_instance_has_its_own_process(triton: Server) -> None:
    serve_model(triton, "twins", DOUBLE_CONFIG + "instance_group { kind: KIND_CPU count: 2 }", DOUBLE)
    assert len(stubs_of(triton, "twins")) == 2


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def test_thread_counts_and_execution_mode_are_followed_and_default_to_all_cores(triton: Server, double: str) -> None:
    one = parameter("intra_op_thread_count", "1")
    serve_model(triton, "one_thread", DOUBLE_CONFIG + one, DOUBLE)
    serve_model(triton, "four_threads", DOUBLE_CONFIG + parameter("intra_op_thread_count", "4"), DOUBLE)
    parallel = one + parameter("inter_op_thread_count", "3") + parameter("execution_mode", "1")
    serve_model(triton, "parallel", DOUBLE_CONFIG + parallel, DOUBLE)
    more = {"one_thread": 0, "four_threads": 3, "parallel": 2, double: len(os.sched_getaffinity(0)) - 1}

    def has_threads() -> bool:
        alone = threads_of(triton, "one_thread")
        return {name: threads_of(triton, name) - alone for name in more} == more

    assert eventually(has_threads)  # a process that has just started may have some more


@pytest.mark.parametrize(("level", "product"), [("", 1e20), ("optimization { graph { level: 2 } }", np.inf)])
def test_the_graph_level_is_followed(triton: Server, level: str, product: float) -> None:
    """Level 2 does not fold the factor into the weights, which would avoid the overflow."""
    weights, factor = (np.full((1, 1, 1, 1), value, np.float32) for value in (1e30, 1e-30))
    graph = "(float[n,1,1,1] X) => (float[n,1,1,1] Y) { big = Conv(X, weights) Y = Mul(big, factor) }"
    model = parse(graph, weights=weights, factor=factor)
    config = DOUBLE_CONFIG.replace("dims: 2", "dims: [ 1, 1, 1 ]") + level
    name = f"graph_level{len(level)}"
    write_model(triton.repository, name, config, model)
    load(triton, name)
    answer = infer(triton, name, {"X": np.full((1, 1, 1, 1), 1e20, np.float32)})["Y"]
    np.testing.assert_allclose(answer.item(), product, rtol=1e-5)


# ---- refusals

TWO_INPUTS = "(float[n,2] X, float[n,2] Z) => (float[n,2] Y) { Y = Add(X, Z) }"
SEQUENCE = "(float[n,2] X) => (float[n,2] Y, seq(float[n,2]) S) { Y = Identity(X) S = SequenceConstruct(X) }"
Z_INPUT = 'input { name: "Z" data_type: TYPE_FP32 dims: 2 }'
Z_OUTPUT = 'output { name: "Z" data_type: TYPE_FP32 dims: 2 }'
SPACE = re.compile(r"\s+")


def changed(old: str, new: str) -> str:
    assert old in DOUBLE_CONFIG
    return DOUBLE_CONFIG.replace(old, new)


REFUSALS: dict[str, tuple[str, str, str]] = {
    "an input left out": (TWO_INPUTS, DOUBLE_CONFIG, "configuration expects 1 inputs, model provides 2"),
    "an input twice": (
        TWO_INPUTS,
        DOUBLE_CONFIG + 'input { name: "X" data_type: TYPE_FP32 dims: 2 }',
        "configuration expects 1 inputs, model provides 2",
    ),
    "an input too many": (DOUBLE, DOUBLE_CONFIG + Z_INPUT, "configuration expects 2 inputs, model provides 1"),
    "an unknown input": (DOUBLE, changed('"X"', '"Z"'), "unexpected inference input 'Z', allowed inputs are: X"),
    "an unknown output": (DOUBLE, DOUBLE_CONFIG + Z_OUTPUT, "unexpected inference output 'Z', allowed outputs are: Y"),
    "an input's type": (
        DOUBLE,
        changed('"X" data_type: TYPE_FP32', '"X" data_type: TYPE_FP64'),
        "configuration expects datatype TYPE_FP64 for input 'X', model provides TYPE_FP32",
    ),
    "an output's type": (
        DOUBLE,
        changed('"Y" data_type: TYPE_FP32', '"Y" data_type: TYPE_INT64'),
        "configuration expects datatype TYPE_INT64 for output 'Y', model provides TYPE_FP32",
    ),
    "a type that Triton's ONNX Runtime does not have": (
        DOUBLE,
        changed('"X" data_type: TYPE_FP32', '"X" data_type: TYPE_BF16'),
        "unsupported datatype TYPE_BF16 for input 'X'",
    ),
    "a fixed input dim": (
        DOUBLE,
        changed('name: "X" data_type: TYPE_FP32 dims: 2', 'name: "X" data_type: TYPE_FP32 dims: 3'),
        r"tensor 'X': the model expects 2 dimensions (shape [-1,2]) but the model configuration specifies 2 dimensions "
        "(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete "
        "shape [-1,3])",
    ),
    "an input's rank": (
        DOUBLE,
        changed('name: "X" data_type: TYPE_FP32 dims: 2', 'name: "X" data_type: TYPE_FP32 dims: [ 2, 1 ]'),
        "tensor 'X': the model expects 2 dimensions (shape [-1,2]) but the model configuration specifies 3 dimensions",
    ),
    "a free dim where the output's is fixed": (
        DOUBLE,
        changed('name: "Y" data_type: TYPE_FP32 dims: 2', 'name: "Y" data_type: TYPE_FP32 dims: -1'),
        "tensor 'Y': the model expects 2 dimensions (shape [-1,2])",
    ),
    "a fixed dim where the output's is free": (
        "(float[n,k] X) => (float[n,k] Y) { Y = Add(X, X) }",
        DOUBLE_CONFIG,
        "tensor 'Y': the model expects 2 dimensions (shape [-1,-1])",
    ),
    "a batch on a static model": (
        "(float[1,2] X) => (float[1,2] Y) { Y = Add(X, X) }",
        DOUBLE_CONFIG,
        "tensor 'X': for the model to support batching the shape should have at least 1 dimension and the first "
        "dimension must be -1; but shape expected by the model is [1,2]",
    ),
    "a batch on a scalar": (
        "(float X) => (float Y) { Y = Add(X, X) }",
        DOUBLE_CONFIG,
        "but shape expected by the model is []",
    ),
    "an unbatched shape": (
        "(float[3,2] X) => (float[3,2] Y) { Y = Add(X, X) }",
        UNBATCHED % ("[3]", "[3, 2]"),
        "the model expects 2 dimensions (shape [3,2]) but the model configuration specifies 1 dimensions (shape [3])",
    ),
    "two numbers for a scalar": (
        "(float X) => (float Y) { Y = Add(X, X) }",
        UNBATCHED % ("[2]", "[1]"),
        "scalar tensor 'X', should only provide 1 in the model configuration when the model doesn't support batching. "
        "Model configuration provided: [2].",
    ),
    "an output that is no tensor": (
        SEQUENCE,
        DOUBLE_CONFIG,
        "Unsupported ONNX Type 'ONNX_TYPE_SEQUENCE' for I/O 'S', expected 'ONNX_TYPE_TENSOR'.",
    ),
    "an optional input with batching": (
        DOUBLE,
        DOUBLE_CONFIG + Z_INPUT.replace("dims: 2", "dims: 2 optional: true"),
        "optional input 'Z' is not supported for models that support batching",
    ),
    "an execution mode": (
        DOUBLE,
        DOUBLE_CONFIG + parameter("execution_mode", "7"),
        "Expected values for execution_mode are 0 or 1 but got 7",
    ),
    "a thread count": (DOUBLE, DOUBLE_CONFIG + parameter("intra_op_thread_count", "many"), "failed to convert 'many'"),
    "a switch": (DOUBLE, DOUBLE_CONFIG + parameter("enable_mem_arena", "perhaps"), "failed to convert 'perhaps'"),
    "sequences": (DOUBLE, DOUBLE_CONFIG + "sequence_batching { }", "'sequence_batching' is not supported by"),
    "ragged batches": (
        DOUBLE,
        changed('dims: 2 }\noutput', 'dims: 2 allow_ragged_batch: true }\noutput'),
        "ragged input 'X' is not supported by",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_a_configuration_that_contradicts_the_model_does_not_load(triton: Server, what: str) -> None:
    graph, config, reason = REFUSALS[what]
    name = SPACE.sub("_", what).replace("'", "")
    write_model(triton.repository, name, config, parse(graph))
    with pytest.raises(InferenceServerException, match=re.escape(reason)):
        load(triton, name)


def no_file(directory: Path) -> None:
    (directory / "model.onnx").unlink()


def no_onnx(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"not ONNX")


def newer_opset(directory: Path) -> None:
    model = parse(DOUBLE)
    model.opset_import[0].version = 999
    onnx.save(model, directory / "model.onnx")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_file, "unable to find 'repository/no_file/1/model.onnx'"),
        (no_onnx, "Protobuf parsing failed"),
        (newer_opset, "Opset 999 is under development"),
    ],
)
def test_a_file_that_onnxruntime_cannot_open_does_not_load(
    triton: Server, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(write_model(triton.repository, spoil.__name__, DOUBLE_CONFIG, parse(DOUBLE)))
    with pytest.raises(InferenceServerException, match=reason):
        load(triton, spoil.__name__)


def test_a_refused_model_leaves_no_process(triton: Server) -> None:
    write_model(triton.repository, "refused", changed("dims: 2", "dims: 5"), parse(DOUBLE))
    with pytest.raises(InferenceServerException, match="refused"):
        load(triton, "refused")
    assert eventually(lambda: stubs_of(triton, "refused") == [])
