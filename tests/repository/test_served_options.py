"""What options of config.pbtxt do in a real Triton."""

import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from support.artifacts import scale
from support.load_server import serving
from support.serving import client, eventually, infer_together, load

from builder.config import ConfigOptions, InstanceGroup
from builder.publishing import install
from builder.repository import Repository
from builder.server import Server

pytestmark = pytest.mark.slow

REFERENCE = scale().reference
ONE = InstanceGroup("cpu", 1)


def inputs(protocol: Any, rows: slice) -> list[Any]:
    """Return the inputs of the model for some rows of its reference, for the client of a protocol."""
    arrays = {
        "x": ("FP32", REFERENCE["input:x"][rows]),
        "n": ("INT64", REFERENCE["input:n"][rows, np.newaxis]),
        "s": ("BYTES", REFERENCE["input:s"][rows].astype(np.object_)),
    }
    made = []
    for name, (kind, array) in arrays.items():
        made.append(protocol.InferInput(name, array.shape, kind))
        made[-1].set_data_from_numpy(array)
    return made


def classes(server: Server, model: str) -> tuple[list[list[str]], list[list[str]]]:
    """Ask for the two best classes of two rows, over HTTP and over gRPC."""
    with http.InferenceServerClient(server.http_address) as over_http:
        wanted = [http.InferRequestedOutput("y", class_count=2)]
        first = over_http.infer(model, inputs(http, slice(1, 3)), outputs=wanted).as_numpy("y")
    with client(server) as over_grpc:
        wanted = [grpc.InferRequestedOutput("y", class_count=2)]
        second = over_grpc.infer(model, inputs(grpc, slice(1, 3)), outputs=wanted).as_numpy("y")
    listed = [[[text.decode() for text in row] for row in found] for found in (first, second)]
    return listed[0], listed[1]


def labels(folder: Path, text: str) -> ConfigOptions:
    file = folder / "labels.txt"
    file.write_bytes(text.encode())
    return ConfigOptions(labels={"y": file}, instance_groups=(ONE,), intra_op_thread_count=1)


def test_a_client_that_asks_for_classes_gets_their_labels(triton: Server, tmp_path: Path) -> None:
    repository = Repository(triton.repository)

    install(repository, "labelled", scale(), labels(tmp_path, "\ufeffcat\r\ndog\r\na größer: dog\r\n\r\n"))
    load(triton, "labelled")

    expected = [["10.000000:2:a größer: dog", "8.000000:1:dog"], ["16.000000:2:a größer: dog", "14.000000:1:dog"]]
    assert classes(triton, "labelled") == (expected, expected)

    install(repository, "labelled", scale(), labels(tmp_path, "eins\nzwei\ndrei\n"))  # only the labels change
    install(repository, "labelled", scale(3.0))
    load(triton, "labelled")

    expected = [["15.000000:2:drei", "12.000000:1:zwei"], ["24.000000:2:drei", "21.000000:1:zwei"]]
    assert classes(triton, "labelled") == (expected, expected)


def test_metrics_have_the_labels_and_equal_requests_are_answered_from_the_cache(tmp_path: Path) -> None:
    options = ConfigOptions(
        metric_labels={"team": "vision"}, response_cache=True, instance_groups=(ONE,), warmup=False, max_queue_size=1000
    )
    install(Repository(tmp_path / "models"), "scale", scale(), options)
    with serving(tmp_path / "models", flags=["--cache-config=local,size=1048576"]) as server:
        with client(server) as connection:
            for _ in range(3):
                connection.infer("scale", inputs(grpc, slice(0, 1)))

            def hits() -> int:
                return int(connection.get_inference_statistics("scale").model_stats[0].inference_stats.cache_hit.count)

            assert eventually(lambda: hits() == 2)
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics") as answer:
            text = answer.read().decode()
    assert 'nv_inference_request_success{_team="vision",model="scale"' in text


def test_what_does_not_fit_into_the_queue_is_rejected(triton: Server) -> None:
    options = ConfigOptions(
        max_batch_size=1, max_queue_size=1, instance_groups=(ONE,), intra_op_thread_count=1, warmup=False
    )
    install(Repository(triton.repository), "bounded", scale(), options)
    load(triton, "bounded")
    row = {
        "x": REFERENCE["input:x"][:1],
        "n": REFERENCE["input:n"][:1, np.newaxis],
        "s": REFERENCE["input:s"][:1].astype(np.object_),
    }

    answers = infer_together(triton, "bounded", [row] * 200, "y")

    errors = [str(answer) for answer in answers if isinstance(answer, Exception)]
    assert 0 < len(errors) < len(answers)
    assert all("Exceeds maximum queue size" in error for error in errors)
