"""What `demo` does: publish the example, serve it with the real Triton, and check every answer under load."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builder.cli.output import print_result, print_table
from builder.errors import HostError, VerificationError
from builder.printable import counted
from builder.progress import Report
from builder.proof import open_original
from builder.publishing import PublishOptions, publish
from builder.record import ServedTensor
from builder.server import Server
from builder.tensors import Array

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
NAME = "digits"
CLIENTS = 16
"""How many clients send requests at the same time."""
ROWS_PER_REQUEST = (1, 2, 5, 8)
SECONDS = 1.5
"""How long the load lasts for each protocol and number of rows."""
RTOL, ATOL = 1e-4, 1e-5
"""The allowed difference: scores are float32 numbers around ten."""

Ask = Callable[[Array], Array]
"""From rows to the server's answers, over one client."""

Connect = Callable[[], AbstractContextManager[Ask]]


@dataclass(frozen=True, slots=True)
class Drive:
    """The result of one load: one protocol, and one number of rows per request.

    Attributes:
        executed: The batch sizes that Triton ran, and how often it ran each.
        largest_difference: The largest difference between an answer and the original model's.
    """

    protocol: str
    rows_per_request: int
    requests: int
    rows_per_s: float
    executed: Mapping[int, int]
    largest_difference: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """How many test images ONNX Runtime and Triton read correctly, and the result of each load."""

    images: int
    accuracy_original: float
    accuracy_triton: float
    drives: tuple[Drive, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result for scripts."""
        return asdict(self)


def run(repository: Path, *, report: Report) -> DemoResult:
    """Publish the example, serve it, load it and check every answer.

    Raises:
        HostError: The example's files are missing, or the server does not start.
        VerificationError: An answer differs from the original model's.
    """
    model = EXAMPLE / "digits.onnx"
    if not model.is_file():
        what = "the example model is missing; it comes with the project's source, not with the package"
        raise HostError(model, what, "clone the project and run the demo from there")
    published = publish(model, repository, name=NAME, options=PublishOptions(), report=report)
    images, labels = _test_images()
    expected = _answers_of_original(model, images)
    (fed,), (given,) = published.manifest.inputs, published.manifest.outputs
    report("serve", "starting Triton on 127.0.0.1")
    with Server.start(
        repository, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", load_models=[NAME]
    ) as server:
        report("serve", f"HTTP {server.http_address}, gRPC {server.grpc_address}")
        with _grpc(server, fed, given) as ask:
            scores = np.concatenate([ask(images[i : i + 30]) for i in range(0, len(images), 30)])
        _check(scores, expected)
        drives = tuple(_drive_all(server, fed, given, images, expected, report))
    return DemoResult(
        images=len(images),
        accuracy_original=float((expected.argmax(1) == labels).mean()),
        accuracy_triton=float((scores.argmax(1) == labels).mean()),
        drives=drives,
    )


def show(result: DemoResult) -> None:
    """Print the result as a table."""
    heads = (
        "protocol",
        "rows per request",
        "requests",
        "rows/s",
        "most frequent batch sizes (times run)",
        "largest difference",
    )
    print_table(heads, [_columns(drive) for drive in result.drives])
    print_result(
        f"Accuracy on {result.images} test images: {result.accuracy_triton:.2%} with Triton, "
        f"{result.accuracy_original:.2%} with the original model. Every answer matched the original's."
    )


def _columns(drive: Drive) -> tuple[object, ...]:
    sizes = ", ".join(f"{size} ({count})" for size, count in _most_frequent(drive.executed))
    speed, difference = f"{drive.rows_per_s:,.0f}", f"{drive.largest_difference:.1e}"
    return drive.protocol, drive.rows_per_request, drive.requests, speed, sizes, difference


def _most_frequent(executed: Mapping[int, int], limit: int = 5) -> Iterator[tuple[int, int]]:
    """The batch sizes that ran most often, in order of size."""
    common = sorted(executed, key=lambda size: -executed[size])[:limit]
    return ((size, executed[size]) for size in sorted(common))


def _test_images() -> tuple[Array, Array]:
    with np.load(EXAMPLE / "test_images.npz") as arrays:
        return arrays["images"], arrays["labels"]


def _answers_of_original(model: Path, images: Array) -> Array:
    """The original model's scores, one image at a time: `float32[images, 10]`."""
    session = open_original(model)
    (name,) = session.types.keys() - set(session.outputs)
    return np.concatenate([session.run({name: image[np.newaxis]})[session.outputs[0]] for image in images])


def _drive_all(
    server: Server, fed: ServedTensor, given: ServedTensor, images: Array, expected: Array, report: Report
) -> Iterator[Drive]:
    for protocol, client in (("HTTP", _http), ("gRPC", _grpc)):
        for rows in ROWS_PER_REQUEST:
            report("drive", f"{protocol}, {CLIENTS} clients, {counted(rows, 'row')} per request")
            yield _drive(server, protocol, partial(client, server, fed, given), rows, images, expected)


def _drive(server: Server, protocol: str, connect: Connect, rows: int, images: Array, expected: Array) -> Drive:
    """Let every client send one request after the other for `SECONDS`, and check every answer."""
    before = _executed(server)
    started = time.perf_counter()

    def client(seed: int) -> tuple[int, float]:
        rng = np.random.default_rng(seed)
        requests, worst = 0, 0.0
        with connect() as ask:
            while not requests or time.perf_counter() - started < SECONDS:  # one at least, however busy the machine is
                chosen = rng.integers(0, len(images), rows)
                worst = max(worst, _check(ask(images[chosen]), expected[chosen]))
                requests += 1
        return requests, worst

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(client, range(CLIENTS)))
    seconds = time.perf_counter() - started
    requests = sum(count for count, _ in done)
    executed = {size: count - before.get(size, 0) for size, count in _executed(server).items()}
    return Drive(
        protocol=protocol,
        rows_per_request=rows,
        requests=requests,
        rows_per_s=requests * rows / seconds,
        executed={size: count for size, count in sorted(executed.items()) if count},
        largest_difference=max(worst for _, worst in done),
    )


def _check(scores: Array, expected: Array) -> float:
    """Return the largest difference.

    Raises:
        VerificationError: An answer is wrong.
    """
    if scores.shape != expected.shape or not np.allclose(scores, expected, RTOL, ATOL):
        what = "an answer from Triton differs from the original model's"
        raise VerificationError(NAME, what, "report this as a bug, with the output of the demo")
    return float(np.abs(scores - expected).max())


def _executed(server: Server) -> dict[int, int]:
    """How often Triton has run each batch size since it started."""
    import tritonclient.grpc as triton

    with triton.InferenceServerClient(server.grpc_address) as client:
        (statistics,) = client.get_inference_statistics(NAME).model_stats
    return {int(batch.batch_size): int(batch.compute_infer.count) for batch in statistics.batch_stats}


@contextmanager
def _grpc(server: Server, fed: ServedTensor, given: ServedTensor) -> Iterator[Ask]:
    import tritonclient.grpc as triton

    def ask(rows: Array) -> Array:
        tensor = triton.InferInput(fed.name, rows.shape, fed.data_type.removeprefix("TYPE_"))
        tensor.set_data_from_numpy(rows)
        return _array(client.infer(NAME, [tensor]), given)

    with triton.InferenceServerClient(server.grpc_address) as client:
        yield ask


@contextmanager
def _http(server: Server, fed: ServedTensor, given: ServedTensor) -> Iterator[Ask]:
    import tritonclient.http as triton

    wanted = [triton.InferRequestedOutput(given.name, binary_data=True)]

    def ask(rows: Array) -> Array:
        tensor = triton.InferInput(fed.name, rows.shape, fed.data_type.removeprefix("TYPE_"))
        tensor.set_data_from_numpy(rows)
        return _array(client.infer(NAME, [tensor], outputs=wanted), given)

    with triton.InferenceServerClient(server.http_address) as client:
        yield ask


def _array(answer: Any, given: ServedTensor) -> Array:
    array: Array = answer.as_numpy(given.name)
    return array
