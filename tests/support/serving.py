"""Hand-written models for a real Triton, and a client for them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnx
import onnx.parser
import tritonclient.grpc as grpc
from onnx import numpy_helper
from tritonclient.utils import np_to_triton_dtype

from builder.server import Server

Array = np.ndarray[Any, Any]

DOUBLE = "(float[n,2] X) => (float[n,2] Y) { Y = Add(X, X) }"
DOUBLE_CONFIG = """
max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: 2 }
output { name: "Y" data_type: TYPE_FP32 dims: 2 }
"""


def parse(graph: str, **initializers: Array) -> onnx.ModelProto:
    """A model from the text of its graph, e.g. `(float[n] X) => (float[n] Y) { Y = Add(X, X) }`."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 17]> g {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
    onnx.checker.check_model(model)
    return model


def eventually(condition: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def write_model(repository: Path, name: str, config: str, model: onnx.ModelProto | None, version: int = 1) -> Path:
    """Write one version of a model, on one CPU instance unless `config` says otherwise; return its directory."""
    if "instance_group" not in config:
        config += "instance_group { kind: KIND_CPU count: 1 }"
    directory = repository / name / str(version)
    directory.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(f'name: "{name}" backend: "onnxruntime"\n{config}')
    if model is not None:
        onnx.save(model, directory / "model.onnx")
    return directory


@contextmanager
def client(server: Server) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc_address) as connection:
        yield connection


def load(server: Server, name: str) -> None:
    with client(server) as connection:
        connection.load_model(name, headers=server.admin.grpc_headers)


def unload(server: Server, name: str) -> None:
    with client(server) as connection:
        connection.unload_model(name, headers=server.admin.grpc_headers)


def serve_model(server: Server, name: str, config: str, graph: str) -> str:
    """Write a model into the server's repository and load it; return its name."""
    write_model(server.repository, name, config, parse(graph))
    load(server, name)
    return name


def grpc_inputs(arrays: Mapping[str, Array]) -> list[grpc.InferInput]:
    inputs = []
    for name, array in arrays.items():
        inputs.append(grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def infer(
    server: Server, model: str, arrays: Mapping[str, Array], *, outputs: Sequence[str] = (), version: str = ""
) -> dict[str, Array]:
    """Ask over gRPC and return every output that came back."""
    wanted = [grpc.InferRequestedOutput(name) for name in outputs] or None
    with client(server) as connection:
        answer = connection.infer(model, grpc_inputs(arrays), outputs=wanted, model_version=version)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def infer_together(server: Server, model: str, requests: Sequence[Mapping[str, Array]], output: str) -> list[Any]:
    """Ask all at once; return for each request its output, or the error it got."""
    answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()

    def keep(position: int, result: Any, error: Any) -> None:
        answers.put((position, error or result.as_numpy(output)))

    with client(server) as connection:
        for position, request in enumerate(requests):
            connection.async_infer(model, grpc_inputs(request), partial(keep, position), client_timeout=250)
        arrived = dict(answers.get(timeout=250) for _ in requests)
    return [arrived[position] for position in range(len(requests))]


def executed_batches(server: Server, model: str, *, rows: int) -> dict[int, int]:
    """How often each batch size was executed, by the server's own count, once it has counted `rows` rows.

    Triton counts after it has answered.
    """
    counts: dict[int, int] = {}

    def counted() -> bool:
        with client(server) as connection:
            statistics = connection.get_inference_statistics(model).model_stats[0]
        counts.update({int(batch.batch_size): int(batch.compute_infer.count) for batch in statistics.batch_stats})
        return sum(size * count for size, count in counts.items()) >= rows

    assert eventually(counted)
    return counts


def processes_of(session: int) -> dict[int, list[str]]:
    """The living processes of a session (a server's pid is its session's), with their command lines."""
    found = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                state, _, _, in_session = (directory / "stat").read_text().rpartition(")")[2].split()[:4]
                command = (directory / "cmdline").read_text().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(in_session) == session and state != "Z":
                found[int(directory.name)] = command
    return found


def triton_of(process: int) -> int:
    """The process id of the tritonserver that a process has started."""
    children = "".join(task.read_text() for task in Path(f"/proc/{process}/task").glob("*/children")).split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in children}
    (triton,) = (pid for pid, command in commands.items() if command[0].endswith("/tritonserver"))
    return triton


def folder_of(server: Server) -> Path:
    """The folder a running server works in."""
    return Path(f"/proc/{server.pid}/cwd").readlink()


def shared_memory_of(folder: Path) -> list[Path]:
    """The shared memory regions of the server that works, or worked, in `folder`."""
    return list(Path("/dev/shm").glob(f"{folder.name}-*"))
