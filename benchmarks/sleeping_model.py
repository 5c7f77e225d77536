"""A model whose latency does not come from the processor: it sleeps."""

import json
from pathlib import Path

_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {max_batch_size}
input [ {{ name: "x" data_type: TYPE_INT32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_INT32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 2 }} ]
dynamic_batching {{ }}
"""

_MODEL = """
import random
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep((0.020 + 0.002 * len(requests)) * random.uniform(0.9, 1.1))
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x)]) for x in inputs]
"""


def write_sleeping_model(repository: Path, name: str, *, max_batch_size: int) -> Path:
    """Write a model that answers every number with itself; return a file with requests and their answers.

    Each of its two instances sleeps for 20 ms, and for 2 ms more per request of the batch, give or take 10 %. With
    batches of 4 they answer 8 / 28 ms = 286 requests/s, with batches of 32 64 / 84 ms = 762 requests/s. Without the
    10 %, the instances would keep in step in one of several ways, and p99 would depend on which one it was.
    """
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(_MODEL)
    (folder / "config.pbtxt").write_text(_CONFIG.format(name=name, max_batch_size=max_batch_size))
    requests = repository / f"{name}.json"
    numbers = range(16)
    answers = {"data": [{"x": [one]} for one in numbers], "validation_data": [{"y": [one]} for one in numbers]}
    requests.write_text(json.dumps(answers))
    return requests
