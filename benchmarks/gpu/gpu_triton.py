"""A real Triton with an instance on the CPU, and with one on the GPU.

The embedded Triton runs models on the CPU in either case. So this shows that Triton finds the GPU, and places and
counts instances there, with our config.pbtxt.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import tritonclient.grpc
from gpu_onnx import LARGEST, published
from gpu_table import PROJECT, Asked, Row, failed, reason
from support.bare_triton import REPOSITORY, running
from support.on_gpu import inputs_of, largest_error, outputs_of
from support.serving import grpc_inputs

from builder import ConfigOptions
from builder.server.log import last_error

RIGHT = 1e-4
"""The largest error of a right answer in fp32, as a part of the largest value."""


def rows(asked: Asked) -> Iterator[Row]:
    """Serve the first model with each kind of instance."""
    for kind in ("cpu", "gpu") if asked.has_gpu else ("cpu",):
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield _row(asked.models[0], kind, Path(folder))
            except AssertionError as error:  # it did not become ready, and this is its log
                told = last_error(str(error).splitlines()) or reason(error)
                yield Row(f"KIND_{kind.upper()}", told, is_fine=False)
            except Exception as error:
                yield failed(f"KIND_{kind.upper()}", error)


def _row(model: str, kind: str, folder: Path) -> Row:
    config = ConfigOptions(max_batch_size=LARGEST, kind="gpu" if kind == "gpu" else "cpu")
    made = published(PROJECT / "tests" / "models" / f"{model}.onnx", folder, config=config)
    # `serve` hides GPUs from its Triton, so that this starts one without it.
    seen = {"CUDA_VISIBLE_DEVICES": "0" if kind == "gpu" else "-1"}
    command = ["tritonserver", f"--model-repository={REPOSITORY}"]
    with (
        running(command, repository=folder, environment=seen) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc_address) as client,
    ):
        answer = client.infer(made.done.name, grpc_inputs(inputs_of(made.reference, LARGEST)))
    right = outputs_of(made.reference, LARGEST)
    error = largest_error({name: answer.as_numpy(name) for name in right}, right)
    is_right = error < RIGHT
    told = "answers right" if is_right else "answers WRONG"
    return Row(f"KIND_{kind.upper()} {made.done.name}", told, is_fine=is_right, details={"error": f"{error:.1e}"})
