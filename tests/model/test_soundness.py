"""Checks of the imported operator sets."""

from pathlib import Path

import onnx
import onnx.parser
import pytest

from builder.errors import ModelError
from builder.model import load


def save(path: Path, *versions: int) -> Path:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,2] x) => (float[1,2] y) { y = Relu(x) }'
    )
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid("", version) for version in versions)
    onnx.save(model, path)
    return path


def test_an_operator_set_listed_twice_in_one_version_is_that_version(tmp_path: Path) -> None:
    assert load(save(tmp_path / "m.onnx", 17, 17)).ir.opset_imports[""] == 17


def test_an_operator_set_in_two_versions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="imported in two versions"):
        load(save(tmp_path / "m.onnx", 17, 13))
