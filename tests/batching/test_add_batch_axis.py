"""Every model of the tables `cases_*.py` is right at every batch size, or refused; and the tables are complete."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from _pytest.mark import ParameterSet
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from support.batched import Case, batch, compare, operators, proofs, prove, refusals, refuse, session

from builder.batching.control_flow import CONTROL_FLOW
from builder.batching.rules import OPERATORS, REFUSED

NO_KERNEL = {
    ("com.microsoft", name)
    for name in ("BiasAdd", "BiasSplitGelu", "GroupNorm", "NhwcConv", "NhwcFusedConv", "SkipGroupNorm")
}
"""Operators that ONNX Runtime runs on accelerators only; cases here prove their rules on other layouts."""

TABLES: dict[str, list[Case]] = {
    path.stem.removeprefix("cases_"): import_module(f"batching.{path.stem}").CASES
    for path in sorted(Path(__file__).parent.glob("cases_*.py"))
}

WARNING = 2
"""ONNX Runtime's level of logging from which it says that a shape is not the declared one."""


def of_every_table(select: Callable[[Iterable[Case], str], list[ParameterSet]]) -> list[ParameterSet]:
    return [chosen for name, cases in TABLES.items() for chosen in select(cases, f"{name}: ")]


@pytest.mark.parametrize(("case", "static_batch"), of_every_table(proofs))
def test_the_batched_model_answers_each_sample_as_the_original_does(
    case: Case, static_batch: int, tmp_path: Path
) -> None:
    prove(case, static_batch, tmp_path)


@pytest.mark.parametrize(("case", "static_batch"), of_every_table(refusals))
def test_a_model_that_mixes_samples_is_refused_with_its_reason(case: Case, static_batch: int, tmp_path: Path) -> None:
    refuse(case, static_batch, tmp_path)


@pytest.mark.parametrize("cases", TABLES.values(), ids=TABLES)
def test_every_case_of_a_table_has_its_own_name(cases: Sequence[Case]) -> None:
    names = [case.name for case in cases]
    assert sorted(names) == sorted(set(names))


def _cases() -> Iterator[Case]:
    return chain.from_iterable(TABLES.values())


def test_every_rule_has_a_case() -> None:
    proven = {key for case in _cases() if set(case.batches) - case.refused.keys() for key in operators(case)}
    assert (OPERATORS.keys() | CONTROL_FLOW.keys()) - proven == NO_KERNEL


def test_every_operator_of_onnx_has_a_rule_or_a_reason() -> None:
    schemas = {(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history() if s.domain in ("", "ai.onnx.ml")}
    assert schemas - OPERATORS.keys() - CONTROL_FLOW.keys() - REFUSED.keys() == set()


def test_every_rule_is_of_an_operator_that_exists() -> None:
    known = {(s.domain, s.name) for s in runtime.get_all_operator_schema()}
    known |= {(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()}
    assert {k for k in OPERATORS.keys() | CONTROL_FLOW.keys() if k not in known} == set()


def test_a_case_fails_when_the_batched_model_is_wrong(tmp_path: Path) -> None:
    case = Case("a corrupt weight", "float[B, 3] x", "y = Add(x, w)", "float[3] w")
    model = case.model(1)
    batched = batch(model, tmp_path)
    weight = model.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + np.float32(1), weight.name))
    with pytest.raises(AssertionError, match="N=1"):
        compare(case, model, batched)


def test_every_refused_node_is_listed(tmp_path: Path) -> None:
    case = next(c for c in TABLES["graph_ends"] if c.name == "several reasons")
    for reason in case.refused.values():
        refuse(Case(case.name, case.inputs, case.body, refused={1: reason}), 1, tmp_path)


def test_the_runtime_gives_no_warning_about_shapes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = Case(
        "folded",
        "float[B, 3, 4] x",
        "f = Reshape(x, s) y = Reshape(f, t)",
        "int64[2] s = {3B, 4}; int64[2] t = {B, 12}",
    )
    model = ir.to_proto(batch(case.model(1), tmp_path).ir)
    sample = {"x": np.zeros((2, 3, 4), np.float32)}

    session(model, log_severity=WARNING).run(None, sample)
    assert "Expected shape" not in capfd.readouterr().err

    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 5
    session(model, log_severity=WARNING).run(None, sample)
    assert "Expected shape" in capfd.readouterr().err


def test_nodes_around_quantized_constants_stay(tmp_path: Path) -> None:
    """ONNX Runtime makes integer kernels of them; of the same numbers as floats it does not."""
    case = Case("a quantized bias", "float[B, 4] x", "b = DequantizeLinear (q, s) r = Reshape (b, to) y = Add (x, r)",
                "int8[4] q = {1, 2, 3, 4}; float s = {0.5}; int64[2] to = {1, 4}")  # fmt: skip
    batched = prove(case, 1, tmp_path)
    assert "DequantizeLinear" in [node.op_type for node in batched.ir.graph]


@pytest.mark.parametrize(
    "name", ["Einsum of samples without an axis", "Einsum with an ellipsis, without an axis for the batch"]
)
def test_the_batch_gets_a_small_letter_in_an_equation(name: str, tmp_path: Path) -> None:
    """ONNX allows capital letters, and TensorRT refuses them."""
    batched = batch(next(case for case in TABLES["linear"] if case.name == name).model(1), tmp_path)
    (equation,) = (node.attributes["equation"].as_string() for node in batched.ir.graph if node.op_type == "Einsum")
    assert equation == equation.lower()
    assert "z" in equation


def test_an_equation_with_all_small_letters_gets_a_capital(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    ones = ", ".join(["1"] * 26)
    case = Case(
        "26 axes",
        f"float[B, {ones}] x",
        f's = Squeeze(x, i) e = Einsum <equation = "{letters}->{letters}"> (s) y = Unsqueeze(e, i)',
        "int64[1] i = {0}",
        batches=[1],
    )
    (equation,) = (
        n.attributes["equation"].as_string() for n in batch(case.model(1), tmp_path).ir.graph if n.op_type == "Einsum"
    )
    assert equation == f"A{letters}->A{letters}"
