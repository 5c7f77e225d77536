"""A stateful model for a real Triton: the running sum of what each sequence sent."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 4
input [ {{ name: "x" data_type: TYPE_INT32 dims: [ 1 ] }} ]
output [ {{ name: "sum" data_type: TYPE_INT32 dims: [ 1 ] }}, {{ name: "id" data_type: {corrid} dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
sequence_batching {{
  max_sequence_idle_microseconds: {idle_us}
  direct {{ }}
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "END" control [ {{ kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: {corrid} }} ] }}
  ]
}}
"""

_MODEL = '''
import json
import pathlib

import numpy as np
import triton_python_backend_utils as pb_utils

LOG = pathlib.Path({log!r})


class TritonPythonModel:
    """Adds up x for each correlation id. The log says which sequences began and ended, and what is left open."""

    def initialize(self, args):
        self.sums, self.begun, self.ended = {{}}, 0, 0

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x, start, end, corrid = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("x", "START", "END", "CORRID")
        )
        key = corrid.item()
        if start.item():
            self.sums[key], self.begun = 0, self.begun + 1
        elif key not in self.sums:
            error = pb_utils.TritonError(f"the sequence {{key}} did not begin")
            return pb_utils.InferenceResponse(error=error)
        self.sums[key] += x.item() + {off}
        total = np.array([[self.sums[key]]], np.int32)
        if end.item():
            del self.sums[key]
            self.ended += 1
        if start.item() or end.item():
            LOG.write_text(json.dumps({{"begun": self.begun, "ended": self.ended, "open": len(self.sums)}}))
        if x.item() == {refused}:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("this number is refused"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("sum", total), pb_utils.Tensor("id", corrid.reshape(1, 1))])
'''


def write_running_sum(
    repository: Path,
    name: str,
    *,
    corrid: str = "TYPE_UINT64",
    off: int = 0,
    refused: int = -1,
    idle_us: int = 20_000_000,
) -> Path:
    """Write the model, which adds `off` to every number and refuses one; return where it logs its sequences."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    log = repository.parent / f"{name}.json"
    (folder / "model.py").write_text(_MODEL.format(log=str(log), off=off, refused=refused))
    (repository / name / "config.pbtxt").write_text(_CONFIG.format(name=name, corrid=corrid, idle_us=idle_us))
    return log


def write_streams(path: Path, streams: Sequence[Sequence[int]]) -> Path:
    """Write streams of numbers with their running sums in perf_analyzer's format."""
    data = [[{"x": [number]} for number in stream] for stream in streams]
    sums = [[{"sum": [sum(stream[: step + 1])]} for step in range(len(stream))] for stream in streams]
    path.write_text(json.dumps({"data": data, "validation_data": sums}))
    return path


def read_log(log: Path) -> dict[str, Any]:
    """Return how many sequences the model saw begin and end, and how many are open."""
    counts: dict[str, Any] = json.loads(log.read_text())
    return counts
