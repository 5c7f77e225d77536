"""Only a model that was quantized just now may differ as much as quantizing allows."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.by_hand import original

from builder.proof.comparison import coarsest_precision, mean_limit, tolerance_for


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("g (float[1, 4] x) => (float[1, 4] y) <int8[4] z = {1, 2, 3, 4}> { w = Cast <to = 1> (z) y = Mul (x, w) }",
         "FLOAT"),
        ("g (float[1, 4] x) => (float[1, 4] y) <float s = {0.1}, int8 z = {0}> "
         "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }", "QUANTIZED"),
    ],
)  # fmt: skip
def test_a_model_that_came_with_int8_tensors_gets_no_tolerance_of_quantizing(
    tmp_path: Path, text: str, precision: str
) -> None:
    graph = original(tmp_path, text).ir.graph
    assert any(value.dtype == ir.DataType.INT8 for value in graph.initializers.values())
    assert coarsest_precision(graph) == precision
    answers = np.ones(4, np.float32)
    assert tolerance_for(answers, precision).rtol < 0.1
    assert mean_limit(answers, precision) is None
