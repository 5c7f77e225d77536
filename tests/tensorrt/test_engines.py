"""Engines of whichever compiler is installed give the original's answers on a GPU, row by row."""

from pathlib import Path

import pytest
from support.engines import compiled, missing_engines

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.gpu
@pytest.mark.skipif(bool(missing_engines()), reason=missing_engines())
@pytest.mark.parametrize(
    ("precision", "names"), [("fp16", {"Half", "FP16"}), ("bf16", {"BFloat16", "BF16"}), ("int8", {"Int8"})]
)
def test_an_engine_answers_as_the_original_and_computes_in_its_precision(precision: str, names: set[str]) -> None:
    _, made = compiled(MODELS / "encoder_layer_ts17.onnx", precision, largest=8)
    assert set(made.facts.layers) & names
