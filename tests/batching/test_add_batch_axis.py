"""What holds for all rules, and for the ends of the graph."""

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from support.batched import Case, batch, compare, operators, proofs, prove, refusals, refuse

from builder.batching.control_flow import CONTROL_FLOW
from builder.batching.rules import OPERATORS, REFUSED

NO_KERNEL = {
    ("com.microsoft", name)
    for name in ("BiasAdd", "BiasSplitGelu", "GroupNorm", "NhwcConv", "NhwcFusedConv", "SkipGroupNorm")
}
"""Operators that ONNX Runtime runs on accelerators only; their rules are those of cases here, on other layouts."""

LSTM_WEIGHTS = "int8[1, 3, 8] w; int8[1, 2, 8] v; float[1] scale; int8[1] zero"
LENGTH = "the size of its output depends on the values of the samples"
ALWAYS = {
    "NonZero": ("float[B, 3] x", "y = NonZero(x)", LENGTH),
    "Unique": ("float[B, 3] x", "y = Unique(x)", LENGTH),
    "StringSplit": ("string[B, 3] x", "y, n = StringSplit(x)", LENGTH),
    "Tokenizer": ("string[B, 3] x", 'y = com.microsoft.Tokenizer <mark = 0, mincharnum = 1, pad_value = "#", '
                  'separators = [" "]> (x)', LENGTH),
    "RandomNormalLike": ("float[B, 3] x", "y = RandomNormalLike(x)", "draws random numbers"),
    "RandomUniform": ("float[B, 3] x", "r = RandomUniform <shape = [3]> () y = Add(x, r)", "draws random numbers"),
    "Bernoulli": ("float[B, 3] x", "a = Abs(x) b = Sigmoid(a) y = Bernoulli(b)", "draws random numbers"),
    "Multinomial": ("float[B, 3] x", "y = Multinomial <sample_size = 2> (x)", "draws random numbers"),
    "Range": ("int64[B] n", "s = Squeeze(n) z = Constant <value = int64 {0}> () o = Constant <value = int64 {1}> () "
              "y = Range(z, s, o)", "size is computed from the samples"),
    "ConstantOfShape": ("int64[B] n", "s = Squeeze(n) q = Constant <value = int64[1] {0}> () u = Unsqueeze(s, q) "
                        "y = ConstantOfShape(u)", "size is computed from the samples"),
    "HannWindow": ("int64[B] n", "s = Squeeze(n) y = HannWindow(s)", "size is computed from the samples"),
    "NonMaxSuppression": ("float[B, 5, 4] b; float[B, 1, 5] s", "m = Constant <value = int64[1] {2}> () "
                          "y = NonMaxSuppression(b, s, m)", "one list of boxes for the whole batch"),
    "DynamicQuantizeLSTM": ("float[4, B, 3] x", "y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 2> "
                            '(x, w, v, "", "", "", "", "", scale, zero, scale, zero)',
                            "takes a scale over the whole batch"),
}  # fmt: skip

CASES = [
    *(
        Case(name, inputs, body,
             "int8[1, 3, 8] w; int8[1, 2, 8] v; float[1] scale; int8[1] zero" if "LSTM" in name else "",
             batches=[1], opset=20, refused={1: reason}, axes={"x": 1} if "LSTM" in name else {}, below={"n": (2, 4)})
        for name, (inputs, body, reason) in ALWAYS.items()
    ),
    Case("an output that is an input", "float[B, 3] x", "y = Relu(x)", outputs=["y"]),
    Case("one value twice", "float[B, 3] x", "y = Relu(x) z = Identity(y)", outputs=["y", "z"]),
    Case("a constant output with a row for each sample", "float[B, 3] x", "y = Relu(x) z = Identity(w)",
         "float[B, 2] w",
         equal={"w": 0}, outputs=["y", "z"]),
    Case("a constant output without rows", "float[B, 3] x", "y = Relu(x) z = Identity(w)", "float[5, 2] w",
         outputs=["y", "z"], refused={1: "does not depend on the inputs", 3: "does not depend on the inputs"}),
    Case("an output with several rows of each sample", "float[B, 3, 4] x", "y = Reshape(x, s)", "int64[2] s = {3B, 4}"),
    Case("an output with rows of samples behind one another", "float[B, 3, 4] x",
         "t = Transpose <perm = [1, 0, 2]> (x) y = Reshape(t, s)", "int64[2] s = {3B, 4}"),
    Case("an output of rank 1", "float[B, 3] x", "y = ReduceMax <axes = [1], keepdims = 0> (x)"),
    Case("an output whose batch is not in front", "float[B, 3] x", "y = Transpose(x)"),
    Case("an input whose batch is not in front", "float[3, B, 4] x", "y = Relu(x)", axes={"x": 1}),
    Case("an input of rank 1", "float[B] x", "y = Relu(x)"),
    Case("a sum over all samples", "float[B, 3] x", "y = ReduceSum <keepdims = 0> (x)",
         refused={1: "reduces over axis 0, which holds the batch", 3: "reduces over axis 0, which holds the batch"}),
    Case("several reasons", "float[B, 3] x", "a = Softmax <axis = 0> (x) b = ReduceMax <axes = [0]> (x) y = Add(a, b)",
         refused={1: "normalizes over axis 0", 3: "reduces over axis 0"}),
    Case("opset 7 repeats a constant without Expand", "float[B, 3] x", "y = Concat <axis = 1> (w, x)", "float[B, 2] w",
         equal={"w": 0}, opset=7),
]  # fmt: skip


@pytest.mark.parametrize(("case", "static_batch"), proofs(CASES))
def test_the_batched_model_answers_each_sample_as_the_original_does(
    case: Case, static_batch: int, tmp_path: Path
) -> None:
    prove(case, static_batch, tmp_path)


@pytest.mark.parametrize(("case", "static_batch"), refusals(CASES))
def test_what_mixes_samples_is_refused_with_its_reason(case: Case, static_batch: int, tmp_path: Path) -> None:
    refuse(case, static_batch, tmp_path)


def _cases() -> Iterator[Case]:
    folder = str(Path(__file__).parent)
    for module in pkgutil.iter_modules([folder]):
        yield from getattr(import_module(f"batching.{module.name}"), "CASES", [])


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
    case = next(c for c in CASES if c.name == "several reasons")
    for reason in case.refused.values():
        refuse(Case(case.name, case.inputs, case.body, refused={1: reason}), 1, tmp_path)


def test_the_runtime_gives_no_warning_about_shapes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = Case(
        "folded",
        "float[B, 3, 4] x",
        "f = Reshape(x, s) y = Reshape(f, t)",
        "int64[2] s = {3B, 4}; int64[2] t = {B, 12}",
    )
    ort.set_default_logger_severity(2)
    prove(case, 1, tmp_path)
    assert not re.search("Expected shape", capfd.readouterr().err)
