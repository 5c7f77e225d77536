"""Which backend a model has, also where its config leaves that to Triton.

Source: AutoCompleteBackendFields in
https://github.com/triton-inference-server/core/blob/main/src/model_config_utils.cc
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

ENSEMBLE = "ensemble"
ONNX = "onnxruntime"
ONNX_FILE = "model.onnx"

PLATFORM_BACKENDS = {
    ENSEMBLE: ENSEMBLE,
    "onnxruntime_onnx": ONNX,
    "tensorrt_plan": "tensorrt",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "pytorch_libtorch": "pytorch",
    "pytorch_aoti": "pytorch_aoti",
}
"""The backend of each platform, which is the older field."""

_FILE_BACKENDS = {
    "model.savedmodel": "tensorflow",
    "model.graphdef": "tensorflow",
    "model.plan": "tensorrt",
    ONNX_FILE: ONNX,
    "model.xml": "openvino",
    "model.pt": "pytorch",
    "model.pt2": "pytorch_aoti",
    "model.py": "python",
}
"""The backend of each name of a model file, in the order in which Triton looks for them."""


def backend_of(config: "ModelConfig", files: Collection[str], name: str) -> str:
    """Return the backend that Triton would load a model with; empty when nothing tells.

    Args:
        config: The model's config; an empty one when there is none.
        files: The names in the model's first version directory.
        name: The model's name: that of a custom backend may follow its dot, as in `masks.dali`.
    """
    if config.HasField("ensemble_scheduling"):
        return ENSEMBLE
    if config.backend or config.platform:
        return config.backend or PLATFORM_BACKENDS.get(config.platform, "")
    if config.default_model_filename:
        return _FILE_BACKENDS.get(config.default_model_filename, "")
    found = (backend for file, backend in _FILE_BACKENDS.items() if file in files)
    return next(found, name.partition(".")[2])
