"""On a GPU, ONNX Runtime gives the answers that were proven on a CPU, in every precision."""

from pathlib import Path
from typing import Any

import pytest
from support.on_gpu import inputs_of, int8_options, largest_error, missing_cuda_provider, open_onnx, outputs_of

from builder.config import ConfigOptions
from builder.proof import verify_published
from builder.publishing import Publication, PublishOptions, publish
from builder.repository import Repository
from builder.tensors import Arrays

MODELS = Path(__file__).parents[1] / "models"


def published(name: str, precision: Any, root: Path) -> tuple[Publication, Arrays]:
    """Publish a model in a precision; return its samples and answers, too."""
    quantized = int8_options(MODELS / f"{name}.onnx", root.parent, "tensorrt") if precision == "int8" else {}
    options = PublishOptions(precision=precision, config=ConfigOptions(max_batch_size=8), **quantized)
    done = publish(MODELS / f"{name}.onnx", root, options=options)
    return done, Repository(root).model(done.name).read_reference(done.version.version)


@pytest.mark.gpu
@pytest.mark.skipif(bool(missing_cuda_provider()), reason=missing_cuda_provider())
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("name", ["encoder_layer_ts17", "text_encoder_ts13", "class_token_dynamo18"])
def test_a_published_file_passes_its_proof_on_a_gpu(name: str, precision: str, tmp_path: Path) -> None:
    done, reference = published(name, precision, tmp_path / "models")
    run, where = open_onnx(done.version.path / done.manifest.model.file, on_gpu=True)
    assert where.startswith("GPU")
    verify_published(done.version.path, done.manifest, reference, run=run, failure_dir=tmp_path)


def test_the_same_goes_on_a_cpu(tmp_path: Path) -> None:
    """So that the test above works when a GPU is there."""
    done, reference = published("encoder_layer_ts17", "fp16", tmp_path / "models")
    run, where = open_onnx(done.version.path / done.manifest.model.file, on_gpu=False)
    assert where == "CPU"
    verify_published(done.version.path, done.manifest, reference, run=run, failure_dir=tmp_path)
    right = outputs_of(reference, 5)
    assert 0 < largest_error(run(inputs_of(reference, 5)), right) < 0.01
    assert largest_error({name: 2 * array for name, array in right.items()}, right) == 1
