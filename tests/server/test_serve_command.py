"""`serve` from end to end: published models give the answers of their originals over HTTP and gRPC."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import numpy_helper
from support.real_models import BATCHABLE, REFUSED, Array, RealModel, session
from support.serving import eventually, processes_of, triton_of
from tritonclient.utils import InferenceServerException

from builder.publishing import PublishOptions, publish
from builder.record import Manifest, ServedTensor
from builder.repository import Repository
from builder.server import AdminAccess, find_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROTOCOLS = (tritonclient.http, tritonclient.grpc)
LINEAR = "(float[1, 4] x) => (float[1, 3] y) { y = MatMul (x, w) }"
TYPES = ["float", "float16", "double", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@dataclass(frozen=True, slots=True)
class Serving:
    """A `python -m builder serve` that is ready.

    Attributes:
        repository: The repository that it serves.
        process: The command.
        addresses: The address for each protocol.
    """

    repository: Path
    process: "subprocess.Popen[str]"
    addresses: Mapping[ModuleType, str]

    @property
    def triton_pid(self) -> int:
        """The process id of the tritonserver that it started."""
        return triton_of(self.process.pid)

    @property
    def admin(self) -> AdminAccess:
        """The key to it, as other commands of the same user find it."""
        found = find_server(self.addresses[tritonclient.grpc])
        assert found is not None
        return found.admin

    @contextmanager
    def client(self, protocol: ModuleType) -> Iterator[Any]:
        """Connect a client of one protocol."""
        with protocol.InferenceServerClient(self.addresses[protocol]) as connection:
            yield connection

    def ask(self, protocol: ModuleType, name: str, manifest: Manifest, inputs: list[Array]) -> list[Array]:
        """Send the inputs, and return every output in the order of the manifest."""
        feeds = [_feed(protocol, tensor, array) for tensor, array in zip(manifest.inputs, inputs, strict=True)]
        wanted = [protocol.InferRequestedOutput(tensor.name) for tensor in manifest.outputs]
        with self.client(protocol) as connection:
            answer = connection.infer(name, feeds, outputs=wanted)
        return [answer.as_numpy(tensor.name) for tensor in manifest.outputs]


def _feed(protocol: ModuleType, tensor: ServedTensor, array: Array) -> Any:
    datatype = tensor.data_type.removeprefix("TYPE_").replace("STRING", "BYTES")
    feed = protocol.InferInput(tensor.name, array.shape, datatype)
    feed.set_data_from_numpy(array.astype(object) if array.dtype.kind == "U" else array)
    return feed


@contextmanager
def serve(repository: Path, *options: str) -> Iterator[Serving]:
    """Run `python -m builder serve` on free ports, and end it when the block is left."""
    ports = [part for front in ("http", "grpc", "metrics") for part in (f"--{front}-port", "0")]
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", "serve", "--repository", str(repository), *ports, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        printed = []
        for line in process.stderr:
            printed.append(line)
            if line.startswith("serve "):
                break
        found = re.fullmatch(r"serve +HTTP (\S+), gRPC (\S+), metrics \S+\n", printed[-1])
        assert found, "".join(printed)
        yield Serving(repository, process, dict(zip(PROTOCOLS, found.groups(), strict=True)))
    finally:
        process.terminate()
        process.communicate(timeout=120)


def write_model(path: Path, graph: str, *, opset: int = 17, **weights: Array) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    path.write_bytes(model.SerializeToString())
    return path


def published(root: Path, name: str) -> Manifest:
    model = Repository(root).model(name)
    return model.read_manifest(model.served_version())


def as_text(array: Array) -> Array:
    """Decode strings, which are sent as bytes."""
    return np.vectorize(bytes.decode, otypes=[object])(array) if array.dtype == object else array


# ---------------------------------------------------------------- one server for all kinds of models


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Everything that can be published, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("serve")
    root = folder / "my models"
    for model in BATCHABLE:
        publish(model.path, root, options=PublishOptions())
    for model in REFUSED[:1]:
        publish(model.path, root, name="kept_static", options=PublishOptions(is_static=True))
    for name, graph in GRAPHS.items():
        publish(write_model(folder / f"{name}.onnx", graph), root, options=PublishOptions())
    with serve(root) as serving:
        yield serving


GRAPHS = {
    "every_type": (
        f"({', '.join(f'{dtype}[1, 3] x_{dtype}' for dtype in TYPES)}) => "
        f"({', '.join(f'{dtype}[1, 3] y_{dtype}' for dtype in TYPES)}) "
        f"{{ {' '.join(f'y_{dtype} = Identity (x_{dtype})' for dtype in TYPES)} }}"
    ),
    "strings": "(string[1, 2] words) => (string[1, 2] same) { same = Identity (words) }",
    "scalars": "(float[1] x, int64[1] n) => (float[1] y, int64[1] m) { y = Neg (x)  m = Identity (n) }",
    "handed_on": "(float[1, 4] x) => (float[1, 4] x, float[1, 4] y) { y = Relu (x) }",
    "listed_twice": "(float[1, 4] x) => (float[1, 4] y, float[1, 4] y) { y = Relu (x) }",
    "rows": "(float[1, 6] x) => (float[3, 2] y) { s = Constant <value = int64[2] {3, 2}> ()  y = Reshape (x, s) }",
    "open": '(float["N", "width"] x) => (float["N", "width"] y) { y = Relu (x) }',
    "quoted": "(float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }",
}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["http", "grpc"])
@pytest.mark.parametrize("model", BATCHABLE, ids=lambda model: str(model.stem))
def test_a_real_model_answers_as_its_original_at_every_batch_size(
    server: Serving, protocol: ModuleType, model: RealModel
) -> None:
    manifest = published(server.repository, model.stem)
    for rows in (1, 2, 5, 32):
        inputs = model.draw(rows, seed=1)
        model.check(server.ask(protocol, model.stem, manifest, inputs), inputs)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["http", "grpc"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_served_model_gives_the_stored_reference(server: Serving, protocol: ModuleType, name: str) -> None:
    model = Repository(server.repository).model(name)
    manifest, reference = model.read_manifest(1), model.read_reference(1)
    for rows in ([0], [3, 1], [2, 2, 0, 1, 3]):
        inputs = [reference[f"input:{tensor.name}"][rows] for tensor in manifest.inputs]
        shaped = [array if array.ndim > 1 else array[:, np.newaxis] for array in inputs]
        answers = server.ask(protocol, name, manifest, shaped)
        for tensor, answer in zip(manifest.outputs, answers, strict=True):
            wanted = reference[f"output:{tensor.name}"][rows]
            assert answer.dtype == wanted.dtype or wanted.dtype.kind == "U"
            np.testing.assert_array_equal(as_text(answer), wanted if wanted.ndim > 1 else wanted[:, np.newaxis])


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["http", "grpc"])
def test_a_model_kept_static_answers_as_its_original(server: Serving, protocol: ModuleType) -> None:
    model, manifest = REFUSED[0], published(server.repository, "kept_static")
    inputs = model.draw(model.static_batch)
    feeds = dict(zip((entry["name"] for entry in model.inputs), inputs, strict=True))
    answers = server.ask(protocol, "kept_static", manifest, inputs)
    for answer, wanted in zip(answers, session(model.path).run(None, feeds), strict=True):
        np.testing.assert_allclose(answer, wanted, rtol=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["http", "grpc"])
def test_a_request_that_does_not_fit_the_model_is_refused_and_the_next_is_answered(
    server: Serving, protocol: ModuleType
) -> None:
    model, manifest = BATCHABLE[0], published(server.repository, BATCHABLE[0].stem)
    for wrong in (np.zeros((33, 3, 10, 10), np.float32), np.zeros((1, 3, 10, 9), np.float32)):
        with pytest.raises(InferenceServerException, match=r"batch-size must be <= 32|unexpected shape"):
            server.ask(protocol, model.stem, manifest, [wrong])
    model.check(server.ask(protocol, model.stem, manifest, model.draw(2)), model.draw(2))


def test_verify_and_list_agree_with_what_is_served(server: Serving) -> None:
    listed = builder("list", "--repository", server.repository, "--json")
    names = {model["name"] for model in json.loads(listed) if model["problem"] is None}
    with server.client(tritonclient.grpc) as connection:
        models = connection.get_model_repository_index(headers=server.admin.grpc_headers).models
    ready = {model.name for model in models if model.state == "READY"}
    assert names == ready
    assert len(names) == len(BATCHABLE) + 1 + len(GRAPHS)


# ---------------------------------------------------------------- versions under a running server


def builder(*arguments: object) -> str:
    """Run a command that must succeed, and return what it prints."""
    command = [sys.executable, "-m", "builder", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_answers_switch_with_a_publish_and_back_with_a_rollback(server: Serving, tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    weights = [np.full((4, 3), factor, np.float32) for factor in (1, 2)]

    def answer() -> Array:
        with server.client(tritonclient.grpc) as connection:
            connection.load_model("switched", headers=server.admin.grpc_headers)
        manifest = published(server.repository, "switched")
        over_http, over_grpc = (server.ask(protocol, "switched", manifest, [x])[0] for protocol in PROTOCOLS)
        np.testing.assert_array_equal(over_http, over_grpc)
        return over_http

    for version, w in enumerate(weights, 1):
        path = write_model(tmp_path / "switched.onnx", LINEAR, w=w)
        assert builder("publish", path, "--repository", server.repository).endswith(f"/switched/{version}\n")
        np.testing.assert_array_equal(answer(), x @ w)
    builder("rollback", "switched", "--repository", server.repository)
    np.testing.assert_array_equal(answer(), x @ weights[0])
    builder("rollback", "switched", "--to", 2, "--repository", server.repository)
    np.testing.assert_array_equal(answer(), x @ weights[1])


def test_a_published_version_is_not_served_before_it_is_loaded(server: Serving, tmp_path: Path) -> None:
    path = write_model(tmp_path / "waiting.onnx", LINEAR, w=np.ones((4, 3), np.float32))
    builder("publish", path, "--repository", server.repository)
    with server.client(tritonclient.grpc) as connection:
        assert not connection.is_model_ready("waiting")
        connection.load_model("waiting", headers=server.admin.grpc_headers)
        assert connection.is_model_ready("waiting")


# ---------------------------------------------------------------- how it ends


@pytest.fixture
def small(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    path = write_model(tmp_path / "linear.onnx", LINEAR, w=np.ones((4, 3), np.float32))
    publish(path, root, options=PublishOptions())
    return root


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_serve_with_0_and_leaves_no_process(small: Path, signum: signal.Signals) -> None:
    with serve(small) as serving:
        triton = serving.triton_pid
        assert processes_of(triton)
        serving.process.send_signal(signum)
        out, printed = serving.process.communicate(timeout=120)
        assert (serving.process.returncode, out) == (0, "")
        assert "Traceback" not in printed
        assert eventually(lambda: processes_of(triton) == {})


def test_a_config_that_contradicts_its_model_ends_serve_with_6_and_names_it(small: Path) -> None:
    config = small / "linear" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_FP64"))
    ports = [part for front in ("http", "grpc", "metrics") for part in (f"--{front}-port", "0")]
    command = [sys.executable, "-m", "builder", "serve", "--repository", str(small), *ports]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 6
    assert re.search(rf"error: {small}: model 'linear' version 1: .*TYPE_FP64", ended.stderr)
