"""The program that judges published files in benchmarks/torch_table finds a wrong file, whatever is wrong in it."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

pytestmark = pytest.mark.torch
JUDGE = Path(__file__).parents[2] / "benchmarks" / "torch_table" / "torch_judge.py"


@pytest.fixture(scope="module")
def judge() -> ModuleType:
    """Return the program as a module."""
    spec = importlib.util.spec_from_file_location("torch_judge", JUDGE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def node(op_type: str, inputs: Sequence[str] = ("input",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, ["y"], **attributes)


def scaled(factor: float) -> list[onnx.NodeProto]:
    constant = helper.make_node("Constant", [], ["factor"], value_float=factor)
    relu = helper.make_node("Relu", ["input"], ["positive"])
    return [constant, relu, node("Mul", ["positive", "factor"])]


@pytest.fixture
def verdict_on(judge: ModuleType, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return what judges the nodes of a file that should answer as `torch.nn.ReLU` does."""

    def verdict(
        nodes: Sequence[onnx.NodeProto], name: str = "input", output: int = TensorProto.FLOAT
    ) -> dict[str, Any]:
        ends = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("y", output, None),
        )
        graph = helper.make_graph(list(nodes), "graph", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        model.metadata_props.add(key="exported_by", value="hand")
        onnx.save(model, tmp_path / "model.onnx")
        given = {"name": "input", "dtype": "float32", "shape": [1, 4], "axis": 0, "values": "normal"}
        job = {"name": "ReLU", "module": "torch.nn:ReLU", "model": str(tmp_path / "model.onnx"), "inputs": [given]}
        found: dict[str, Any] = judge.judge(job | {"sizes": [{}], "outputs": {}, "is_static": False})
        return found

    return verdict


def test_a_right_file_is_right(verdict_on: Callable[..., dict[str, Any]]) -> None:
    found = verdict_on([node("Relu")])
    assert found["is_right"], found["why"]
    assert found["batches"] == [1, 2, 3, 8]
    assert found["way"] == "hand"


def test_a_difference_that_rounding_makes_is_right(verdict_on: Callable[..., dict[str, Any]]) -> None:
    found = verdict_on(scaled(1 + 1e-6))
    assert found["is_right"], found["why"]
    assert 1e-7 < found["largest"] < 1e-5


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (scaled(1.001), "differs by 0.001"),
        ([node("LeakyRelu", alpha=0.01)], "differs by"),
        ([node("ReduceMax")], "has shape (1, 1)"),
        ([helper.make_node("Relu", ["input"], ["x"]), node("Flatten", ["x"], axis=0)], "an output has 1 rows"),
        ([helper.make_node("ReduceMean", ["input"], ["m"]), helper.make_node("Sub", ["input", "m"], ["x"]),
          node("Relu", ["x"])], "differs by"),
        ([helper.make_node("Relu", ["input"], ["x"]), node("Log", ["x"])], "differs by inf"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_found(
    verdict_on: Callable[..., dict[str, Any]], nodes: Sequence[onnx.NodeProto], why: str
) -> None:
    found = verdict_on(nodes)
    assert not found["is_right"]
    assert why in found["why"]


def test_another_type_or_name_is_found(verdict_on: Callable[..., dict[str, Any]]) -> None:
    cast = [helper.make_node("Relu", ["input"], ["x"]), node("Cast", ["x"], to=TensorProto.DOUBLE)]
    assert "float64, not float32" in verdict_on(cast, output=TensorProto.DOUBLE)["why"]
    assert "the inputs are ['x']" in verdict_on([node("Relu", ["x"])], name="x")["why"]
