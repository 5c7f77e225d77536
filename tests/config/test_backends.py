"""Which backend a model has."""

import pytest

from builder.config import backends, pbtxt


@pytest.mark.parametrize(
    ("config", "files", "name", "backend"),
    [
        ('backend: "python"', (), "m", "python"),
        ('platform: "onnxruntime_onnx"', (), "m", "onnxruntime"),
        ('platform: "ensemble"', (), "m", "ensemble"),
        ("ensemble_scheduling { step { model_name: 'a' } }", (), "m", "ensemble"),
        ('platform: "tensorflow_graphdef"', (), "m", "tensorflow"),
        ('platform: "something_else"', ("model.onnx",), "m", ""),
        ('default_model_filename: "model.pt"', ("model.onnx",), "m", "pytorch"),
        ('default_model_filename: "resnet.onnx"', ("model.onnx",), "m", ""),
        ("", ("model.onnx", "labels.txt"), "m", "onnxruntime"),
        ("", ("model.onnx", "model.plan"), "m", "tensorrt"),
        ("", ("model.py",), "m", "python"),
        ("", (), "masks.dali", "dali"),
        ("", (), "m", ""),
    ],
)
def test_the_backend_is_the_one_that_triton_would_choose(
    config: str, files: tuple[str, ...], name: str, backend: str
) -> None:
    assert backends.backend_of(pbtxt.parse(config, where="config.pbtxt"), files, name) == backend
