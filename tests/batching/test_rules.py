"""How operators are registered, and the page that lists them."""

import re
import runpy
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from onnx import parser
from support.batched import Case, batch

from builder.batching.rules import OPERATORS, inference, registry
from builder.batching.rules.elementwise import same_shape
from builder.errors import ModelError

DOCS = Path(__file__).parents[2] / "docs"


def shapeless(operators: registry.Entries) -> set[registry.Key]:
    """Return the operators whose static shape is unknown: ONNX has no schema for them, and their entry has no shape."""
    return {key for key, entry in operators.items() if entry.shape is inference.unknown}


def page() -> str:
    made: str = runpy.run_path(str(DOCS / "operators.py"))["page"]()
    return made


def test_every_operator_that_onnx_does_not_define_has_a_shape() -> None:
    assert shapeless(OPERATORS) == set()


def test_an_operator_without_a_shape_is_found() -> None:
    assert shapeless(registry.ai_onnx("Relu", "FromNowhere", rule=same_shape)) == {("", "FromNowhere")}


def test_an_operator_cannot_be_registered_twice() -> None:
    once = registry.ai_onnx("Relu", "Abs", rule=same_shape)
    with pytest.raises(TypeError, match="Relu"):
        registry.table(once, registry.ai_onnx("Relu", rule=same_shape))


def test_an_operator_of_two_domains_is_two_operators() -> None:
    both = registry.table(
        registry.ai_onnx("Gelu", rule=same_shape),
        registry.microsoft("Gelu", rule=same_shape, shape=inference.same_as_first),
    )
    assert both.keys() == {("", "Gelu"), ("com.microsoft", "Gelu")}


def test_a_rule_refuses_an_opset_that_it_is_not_written_for(tmp_path: Path) -> None:
    body = "y = Pad <paddings = [0, 1, 0, 1]> (x)"
    model = parser.parse_model(
        f'<ir_version: 3, opset_import: ["": 1]> g (float[1, 3] x) => (float[1, 5] y) {{ {body} }}'
    )
    with pytest.raises(ModelError, match="Pad 'y': its rule needs opset 2 or newer, and the model has opset 1"):
        batch(model, tmp_path)


def test_a_missing_shape_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ("com.microsoft", "QuickGelu")
    monkeypatch.setitem(OPERATORS, key, replace(OPERATORS[key], shape=inference.unknown))
    case = Case("a shape nobody knows", "float[B, 3] x", "y = com.microsoft.QuickGelu(x)")
    with pytest.raises(ModelError, match=r"QuickGelu 'y': the shape of its output is not known .* report it"):
        batch(case.model(1), tmp_path)


def test_the_page_of_operators_is_up_to_date() -> None:
    assert (DOCS / "operators.md").read_text() == page(), "run `python docs/operators.py > docs/operators.md`"


def test_the_page_of_operators_names_files_that_exist() -> None:
    named = set(re.findall(r"`(builder/[^`]+)`", page()))
    assert len(named) > 5
    assert {path for path in named if not (DOCS.parent / path).exists()} == set()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("builder.batching.rules.OPERATORS", ("", "Relu")),
        ("builder.batching.rules.REFUSED", ("", "NonZero")),
        ("builder.batching.control_flow.CONTROL_FLOW", ("", "If")),
        ("builder.batching.sizes.RULES", ("", "Reshape")),
    ],
)
def test_the_page_shows_a_change_in_a_table(name: str, key: registry.Key, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page()
    module, _, attribute = name.rpartition(".")
    table = getattr(import_module(module), attribute)
    monkeypatch.setattr(name, {k: v for k, v in table.items() if k != key})
    assert page() != before
