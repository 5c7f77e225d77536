"""How operators are registered, and the page that lists them."""

import runpy
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builder.batching.layout import Placed
from builder.batching.rule import Answer, Op, Operand, Plan, Refusal
from builder.batching.rules import OPERATORS, SHAPES, inference, registry
from builder.batching.rules.elementwise import same_shape

DOCS = Path(__file__).parents[2] / "docs"


def shapeless(operators: registry.Entries) -> set[registry.Key]:
    """Return the operators whose static shape nothing tells: ONNX has no schema for them, their entry has no shape."""
    return {key for key, entry in operators.items() if entry.shape is None and not inference.has_schema(key)}


def relu(opset: int) -> Op:
    node = ir.Node("", "Relu", [None], num_outputs=1)
    operand = Operand("x", ir.DataType.FLOAT, (1, 3), Placed(0))
    return Op(node, opset, [operand], [(1, 3)], 1, lambda operand: np.zeros(()))


def page() -> str:
    made: str = runpy.run_path(str(DOCS / "operators.py"))["page"]()
    return made


def test_every_operator_that_onnx_does_not_define_has_a_shape() -> None:
    assert shapeless(OPERATORS) == set()


def test_an_operator_without_a_shape_is_found() -> None:
    assert shapeless(registry.ai_onnx("Relu", "FromNowhere", rule=same_shape)) == {("", "FromNowhere")}


def test_shapes_are_of_operators_with_a_rule() -> None:
    assert SHAPES.keys() <= OPERATORS.keys()


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


def test_a_rule_refuses_an_opset_that_it_is_not_written_for() -> None:
    def rule(op: Op) -> Answer:
        return Plan([Placed(0)])

    (entry,) = registry.ai_onnx("Relu", rule=rule, since=6).values()
    assert isinstance(entry.carry(relu(opset=6)), Plan)
    with pytest.raises(Refusal, match="from opset 6 on, and the model has opset 5"):
        entry.carry(relu(opset=5))


def test_a_missing_shape_says_so() -> None:
    with pytest.raises(Refusal, match="shape of its output is not known"):
        inference.unknown(ir.Node("com.example", "New", [], num_outputs=1), [])


def test_the_page_of_operators_is_up_to_date() -> None:
    assert (DOCS / "operators.md").read_text() == page(), "run `python docs/operators.py > docs/operators.md`"


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
