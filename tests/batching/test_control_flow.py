"""Control flow that no runtime would run, and what is reported about it."""

from pathlib import Path

import onnx
import pytest

from builder.batching import add_batch_axis
from builder.errors import ModelError
from builder.model import load


def refusal(folder: Path, body: str) -> str:
    """Return why a model that ONNX Runtime need not be able to run is refused."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3] x) => (float[1, 3] y) {{ {body} }}'
    )
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ModelError) as error:
        add_batch_axis(load(folder / "model.onnx"))
    return error.value.what


@pytest.mark.parametrize(
    "operator", ["t = SequenceAt(s, p)", "e = SequenceErase(s, p) t = ConcatFromSequence <axis = 0> (e)"]
)
def test_a_position_that_a_sequence_does_not_have_is_refused(operator: str, tmp_path: Path) -> None:
    body = f"s = SequenceConstruct(x, x) p = Constant <value = int64 {{2}}> () {operator} y = Identity(t)"
    assert "position 2 is outside the sequence of 2" in refusal(tmp_path, body)


def test_what_depends_on_a_refused_node_is_not_reported_as_well(tmp_path: Path) -> None:
    loop = (
        "n = Constant <value = int64 {2}> () c = Constant <value = bool {1}> () "
        "z = Loop (n, c, x) <body = step (int64 i, bool k, float[1, 3] h) => (bool g, float[1, 3] o) "
        "{ g = Identity(k) m = ReduceMean <axes = [0]> (h) o = Sub(h, m) }> y = Relu(z)"
    )
    _, *problems = refusal(tmp_path, loop).splitlines()
    assert len(problems) == 1
