"""The main job end to end: publish the example, serve it with the real Triton, check and load it, show the result."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import HostError, VerificationError
from builder.progress import Report
from builder.proof.session import open_original
from builder.publishing import PublishOptions, publish
from builder.record import ServedTensor
from builder.server import Server
from builder.tensors import Array

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
NAME = "digits"
CLIENTS = 16
"""Requests under way at once."""
ROWS_PER_REQUEST = (1, 2, 5, 8)
SECONDS = 1.5
"""How long each protocol is driven with each number of rows."""
RTOL, ATOL = 1e-4, 1e-5
"""Scores are of the order of ten, in float32."""

Ask = Callable[[Array], Array]
"""From rows to answers, over one client."""

Connect = Callable[[], AbstractContextManager[Ask]]


@dataclass(frozen=True, slots=True)
class Drive:
    """What one protocol and number of rows per request gave.

    Attributes:
        executed: Batch sizes that Triton ran, and how often.
        largest_difference: Between any answer and the original's.
    """

    protocol: str
    rows_per_request: int
    requests: int
    rows_per_s: float
    executed: Mapping[int, int]
    largest_difference: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The example's accuracy as ONNX Runtime and as Triton give it, and what each drive gave."""

    images: int
    accuracy_original: float
    accuracy_triton: float
    drives: tuple[Drive, ...]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def run(repository: Path, *, report: Report) -> DemoResult:
    """Publish, serve, drive and check.

    Raises:
        HostError: The example is not there, or the server does not start.
        VerificationError: An answer differs from the original's.
    """
    model = EXAMPLE / "digits.onnx"
    if not model.is_file():
        raise HostError(model, "the example is not there", "run the demo from a clone of the project")
    published = publish(model, repository, name=NAME, options=PublishOptions(), report=report)
    images, labels = _test_images()
    answers = _answers_of_original(model, images)
    (fed,), (given,) = published.manifest.inputs, published.manifest.outputs
    report("serve", "starting Triton on 127.0.0.1")
    with Server.start(
        repository, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", load_models=[NAME]
    ) as server:
        report("serve", f"HTTP {server.http_address}, gRPC {server.grpc_address}")
        with _grpc(server, fed, given) as ask:
            scores = np.concatenate([ask(images[i : i + 30]) for i in range(0, len(images), 30)])
        _check(scores, answers)
        drives = tuple(_drive_all(server, fed, given, images, answers, report))
    return DemoResult(
        images=len(images),
        accuracy_original=float((answers.argmax(1) == labels).mean()),
        accuracy_triton=float((scores.argmax(1) == labels).mean()),
        drives=drives,
    )


def show(result: DemoResult) -> None:
    """Print the result as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.width = max(console.width, 100)
    table = Table(
        "protocol", "rows per request", "requests", "rows/s", "batch sizes Triton executed", "largest difference"
    )
    for drive in result.drives:
        sizes = ", ".join(f"{size}: {count}" for size, count in _most(drive.executed))
        table.add_row(
            drive.protocol,
            str(drive.rows_per_request),
            str(drive.requests),
            f"{drive.rows_per_s:,.0f}",
            sizes,
            f"{drive.largest_difference:.1e}",
        )
    console.print(table)
    console.print(
        f"accuracy on {result.images} test images: {result.accuracy_triton:.2%} through Triton, "
        f"{result.accuracy_original:.2%} by the original; every answer equal"
    )


def _most(executed: Mapping[int, int], limit: int = 5) -> Iterator[tuple[int, int]]:
    """The batch sizes run most often, in order of size."""
    common = sorted(executed, key=lambda size: -executed[size])[:limit]
    return ((size, executed[size]) for size in sorted(common))


def _test_images() -> tuple[Array, Array]:
    with np.load(EXAMPLE / "test_images.npz") as arrays:
        return arrays["images"], arrays["labels"]


def _answers_of_original(model: Path, images: Array) -> Array:
    """The original's scores, one image at a time: `float32[images, 10]`."""
    session = open_original(model)
    (name,) = session.types.keys() - set(session.outputs)
    return np.concatenate([session.run({name: image[np.newaxis]})[session.outputs[0]] for image in images])


def _drive_all(
    server: Server, fed: ServedTensor, given: ServedTensor, images: Array, answers: Array, report: Report
) -> Iterator[Drive]:
    for protocol, client in (("HTTP", _http), ("gRPC", _grpc)):
        for rows in ROWS_PER_REQUEST:
            report("drive", f"{protocol}, {CLIENTS} clients, {rows} rows per request")
            yield _drive(server, protocol, partial(client, server, fed, given), rows, images, answers)


def _drive(server: Server, protocol: str, connect: Connect, rows: int, images: Array, answers: Array) -> Drive:
    """Keep `CLIENTS` requests under way for `SECONDS`, every answer checked."""
    before = _executed(server)
    started = time.perf_counter()

    def client(seed: int) -> tuple[int, float]:
        rng = np.random.default_rng(seed)
        requests, worst = 0, 0.0
        with connect() as ask:
            while time.perf_counter() - started < SECONDS:
                chosen = rng.integers(0, len(images), rows)
                worst = max(worst, _check(ask(images[chosen]), answers[chosen]))
                requests += 1
        return requests, worst

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(client, range(CLIENTS)))
    seconds = time.perf_counter() - started
    requests = sum(count for count, _ in done)
    executed = {size: count - before.get(size, 0) for size, count in _executed(server).items()}
    return Drive(
        protocol,
        rows,
        requests,
        requests * rows / seconds,
        {size: count for size, count in sorted(executed.items()) if count},
        max(worst for _, worst in done),
    )


def _check(scores: Array, expected: Array) -> float:
    """The largest difference.

    Raises:
        VerificationError: An answer is wrong.
    """
    if scores.shape != expected.shape or not np.allclose(scores, expected, RTOL, ATOL):
        raise VerificationError(NAME, "Triton's answer differs from the original's", "report this as a bug")
    return float(np.abs(scores - expected).max())


def _executed(server: Server) -> dict[int, int]:
    """How often each batch size was executed since the start."""
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
