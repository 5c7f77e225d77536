"""Operators that ONNX defines by other operators need no rule of their own."""

from pathlib import Path

import onnx
import pytest
from support.batched import Case, proofs, prove

from builder.batching import rules

DEFINED = [
    Case("Gelu", "float[B, 3] x", "y = Gelu(x)", opset=20, rtol=1e-4),
    Case("Mish", "float[B, 3] x", "y = Mish(x)", opset=18, rtol=1e-4),
    Case("HardSwish", "float[B, 3] x", "y = HardSwish(x)", rtol=1e-4),
    Case("Celu", "float[B, 3] x", "y = Celu <alpha = 2.0> (x)", rtol=1e-4),
    Case("ThresholdedRelu", "float[B, 3] x", "y = ThresholdedRelu <alpha = 0.5> (x)", opset=22, rtol=1e-4),
    Case("LayerNormalization", "float[B, 4, 6] x", "y = LayerNormalization <axis = -1> (x, w)", "float[6] w",
         rtol=1e-4),
    Case("GroupNormalization", "float[B, 4, 6] x", "y = GroupNormalization <num_groups = 2> (x, w, w)", "float[4] w",
         opset=21, rtol=1e-4),
    Case("MeanVarianceNormalization", "float[B, 4, 6] x", "y = MeanVarianceNormalization <axes = [1, 2]> (x)",
         rtol=1e-4),
    Case("SoftmaxCrossEntropyLoss", "float[B, 5] x; int64[B] t",
         'y = SoftmaxCrossEntropyLoss <reduction = "none"> (x, t)', below={"t": 5}, rtol=1e-4, opset=13),
    Case("RMSNormalization", "float[B, 4, 6] x", "y = RMSNormalization(x, w)", "float[6] w", opset=23, rtol=1e-4),
    Case("Attention", "float[B, 2, 4, 6] q; float[B, 2, 5, 6] k; float[B, 2, 5, 6] v", "y = Attention(q, k, v)",
         opset=23, rtol=1e-4),
    Case("Clip", "float[B, 3] x", 'y = Clip(x, "", h)', "float h"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "static_batch"), proofs(DEFINED))
def test_an_operator_without_a_rule_is_carried_by_its_definition_in_onnx(
    case: Case, static_batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert onnx.defs.get_schema(case.name, case.opset).all_function_opset_versions  # type: ignore[attr-defined]
    monkeypatch.delitem(rules.OPERATORS, ("", case.name))
    prove(case, static_batch, tmp_path)
