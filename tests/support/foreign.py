"""Models of the kinds that repositories of Triton have: written by hand, with and without a config."""

from pathlib import Path

import onnx
from onnx import parser

SCALE = """
<ir_version: 8, opset_import: ["": 17]>
scale (float[batch, 3] x) => (float[batch, 3] y) {
    factor = Constant <value = float {FACTOR}> ()
    y = Mul (x, factor)
}
"""
"""Each row times a factor; the batch is dynamic."""

BATCH_MEAN = """
<ir_version: 8, opset_import: ["": 17]>
g (float[batch, 3] x) => (float[batch, 3] y) {
    mean = ReduceMean <axes = [0]> (x)
    y = Sub (x, mean)
}
"""
"""The samples of a batch change each other's answers."""

SCALE_CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
instance_group { kind: KIND_CPU count: 1 }
"""

PYTHON_CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
"""

PYTHON_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "x") for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", tensor.as_numpy())]) for tensor in tensors]
"""

ENSEMBLE_CONFIG = """
platform: "ensemble"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
ensemble_scheduling {
  step { model_name: "FIRST" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "m" } }
  step { model_name: "SECOND" model_version: -1 input_map { key: "x" value: "m" } output_map { key: "y" value: "y" } }
}
"""


def scale(factor: float = 2.0) -> onnx.ModelProto:
    """`y = factor * x`."""
    return parser.parse_model(SCALE.replace("FACTOR", str(factor)))


def write_onnx(root: Path, name: str, config: str | None, *models: onnx.ModelProto, file: str = "model.onnx") -> Path:
    """Write a model with the versions 1, 2, …; return its folder."""
    for version, model in enumerate(models, 1):
        path = root / name / str(version) / file
        path.parent.mkdir(parents=True)
        onnx.save(model, path)
    return _configured(root / name, config)


def write_python(root: Path, name: str) -> Path:
    """Write a model of the Python backend, which answers `y = x`; return its folder."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.py").write_text(PYTHON_MODEL)
    return _configured(root / name, PYTHON_CONFIG)


def write_ensemble(root: Path, name: str, first: str, second: str) -> Path:
    """Write an ensemble of two models, one after the other; return its folder."""
    (root / name / "1").mkdir(parents=True)
    return _configured(root / name, ENSEMBLE_CONFIG.replace("FIRST", first).replace("SECOND", second))


def _configured(folder: Path, config: str | None) -> Path:
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder
