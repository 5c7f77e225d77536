"""What ONNX Runtime or Triton has no type for is named in PyTorch's terms, with a fix that works."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import parser

from builder.errors import Listing, ModelError
from builder.exporting import ExportOptions, InputSpec, export

if importlib.util.find_spec("torch") is not None:
    from builder.exporting.unsupported import Unsupported, find_unsupported, fix_for

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(SUPPORT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exported(name: str, *specs: str, **others: Any) -> None:
    asked = ExportOptions(tuple(map(InputSpec.parse, specs)), **others)
    export(f"torch_verdicts:{name}", Path("m.onnx"), options=asked)


MESSAGES = {
    "no kernel": "cannot load it: Could not find an implementation for Erf(13) node with name 'n'",
    "no such type": "Type 'tensor(double)' of input parameter (x) of operator (Erf) in node (n) is invalid.",
    "no inference": "Erf 'n': shape inference fails: X typestr: T, has unsupported type: tensor(double)",
    "no kernel at run time": "running Erf node. Name:'n' Status Message: Erf operator does not support double yet",
}


@pytest.mark.torch
@pytest.mark.parametrize("case", MESSAGES)
def test_the_operator_the_type_and_the_line_are_found_in_the_exported_file(case: str) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (double[1, 4] x) => (double[1, 4] y) { y = Erf (x) }"""
    model = parser.parse_model(text)
    model.graph.node[0].name = "n"
    here, torch_file = Path("nets.py").resolve(), sys.modules["torch"].__file__
    stack = f'File "{here}", line 7, in forward\n  y\n  File "{torch_file}", line 9, in erf\n'
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=stack)
    onnx.save(model, "m.onnx")
    for what in (MESSAGES[case], Listing("it fails:", [MESSAGES[case]])):
        found = find_unsupported(ModelError("nets:make", what, "do something"), Path("m.onnx"))
        assert found is not None
        assert (found.operator, found.dtype) == ("Erf", "float64")
        assert str(found.line).startswith("nets.py:7"), "the innermost line of the user's code, not PyTorch's"
    assert find_unsupported(ModelError("nets:make", "something else", "do something"), Path("m.onnx")) is None


@pytest.mark.torch
def test_a_file_that_cannot_be_read_leaves_what_the_message_says() -> None:
    found = find_unsupported(ModelError("nets:make", MESSAGES["no such type"], "-"), Path("missing.onnx"))
    assert found == Unsupported("Erf", "float64", None)


@pytest.mark.slow
@pytest.mark.torch
def test_float32_is_named_as_the_way_out_after_trying_it() -> None:
    with pytest.raises(ModelError) as caught:
        exported("Double", "x=float64[1,6]", is_static=True)
    assert "ONNX Runtime has no Conv for float64 on the CPU" in caught.value.what
    assert "torch_verdicts.py:" in caught.value.what
    assert "`return self.layer(x[:, None]).mean(2)`" in caught.value.what
    fix = "return module.float() from the factory and give x as float32 with --input (tried)"
    assert caught.value.fix == f"compute it in float32: {fix}"
    Path("fixed.py").write_text("import torch_verdicts\ndef make():\n    return torch_verdicts.Double().float()\n")
    asked = ExportOptions((InputSpec.parse("x=float32[1,6]"),), is_static=True)
    assert export("fixed:make", Path("m.onnx"), options=asked).path.exists()


RETURNED = {
    "Spectrum": (r"'spectrum' as complex64, a type that Triton does not have", r"torch\.view_as_real"),
    "Sparse": ("'output' as a sparse tensor", r"to_dense\(\)"),
    "Float8": ("'output' as float8_e4m3fn, a type that Triton does not have", r"\.float\(\)"),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", RETURNED)
def test_a_tensor_that_triton_has_no_type_for_is_refused_with_what_to_return_instead(name: str) -> None:
    what, fix = RETURNED[name]
    with pytest.raises(ModelError, match=f"(?s){what}.*{fix}"):
        exported(name, "x=float32[1,4]")


@pytest.mark.torch
def test_integers_are_converted_at_the_line_that_computes_with_them() -> None:
    asked = ExportOptions((InputSpec.parse("x=float32[1,4]"),))
    found = Unsupported("Conv", "int32", None)
    fix = fix_for(found, None, asked, lambda *_: pytest.fail("nothing to try"))  # type: ignore[arg-type]
    assert fix.startswith("convert its inputs with .float() before Conv")
