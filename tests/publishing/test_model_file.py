"""The name of a version's model file, which config.pbtxt may give (`default_model_filename`)."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.serving import infer, load, parse, write_model

import builder
from builder.errors import RepositoryError
from builder.server import Server

GRAPH = "(float[n, 2] x) => (float[n, 2] y) { y = Mul (x, factor) }"
CONFIG = """
max_batch_size: 8
default_model_filename: "FILE"
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
"""


def model(factor: float) -> onnx.ModelProto:
    return parse(GRAPH, factor=np.float32(factor).reshape(()))


def foreign(repository: Path, name: str, file: str) -> Path:
    """A model whose version 1 somebody else put there; returns the file to publish as the next version."""
    folder = write_model(repository, name, CONFIG.replace("FILE", file), None)
    (folder / file).parent.mkdir(exist_ok=True)
    onnx.save(model(2), folder / file)
    path = repository.parent / f"{name}.onnx"
    onnx.save(model(3), path)
    return path


@pytest.mark.slow
def test_a_new_version_has_the_model_file_that_the_config_names(triton: Server) -> None:
    path = foreign(triton.repository, "named", "resnet.onnx")
    x = np.ones((1, 2), np.float32)

    done = builder.publish(path, triton.repository)

    assert (done.version.version, done.manifest.model.file) == (2, "resnet.onnx")
    assert (done.version.path / "resnet.onnx").is_file()
    load(triton, "named")
    assert infer(triton, "named", {"x": x})["y"].tolist() == [[3, 3]]
    assert builder.verify("named", triton.repository).version == 2
    assert not builder.publish(path, triton.repository).version.created
    builder.rollback("named", triton.repository, to=1)
    load(triton, "named")
    assert infer(triton, "named", {"x": x})["y"].tolist() == [[2, 2]]


@pytest.mark.parametrize("file", ["manifest.json", "sub/net.onnx", "model.plan"])
def test_a_name_that_no_version_can_have_is_refused(tmp_path: Path, file: str) -> None:
    path = foreign(tmp_path / "models", "named", file)
    with pytest.raises(RepositoryError, match=f"default_model_filename is '{file}'"):
        builder.publish(path, tmp_path / "models")
    assert not (tmp_path / "models" / "named" / "2").exists()
