"""What benchmarks/plans makes of the answers of the compiler and of this project."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DRIVER = Path(__file__).parents[2] / "benchmarks" / "plans" / "run_plans.py"
PLAN = {"plan": {"bytes": 1200000, "seconds": 3.25, "layers": {"Half": 4}}}


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    """Return the program as a module."""
    spec = importlib.util.spec_from_file_location("run_plans", DRIVER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"out": json.dumps(PLAN)}, "built"),
        ({"code": 3, "err": "error: m.onnx: the samples cannot be separated:\n  Softmax\nfix: export it\n"}, "refused"),
        (
            {"code": 3, "err": "error: m.onnx: TensorRT for RTX cannot parse Einsum 'e': no\nfix: ...\n"},
            "refused by it",
        ),
        ({"code": 3, "err": "error: m.onnx: TensorRT cannot build the plan: no\nfix: ...\n"}, "refused by it"),
        ({"code": 1, "err": "Traceback (most recent call last):\nerror: m.onnx: TensorRT cannot parse\n"}, "FAILED"),
        ({"code": -11, "err": ""}, "FAILED"),
        ({"code": 0, "out": "not JSON"}, "FAILED"),
        ({"code": 2, "err": "error: there is no option --format\nfix: see --help\n"}, "FAILED"),
    ],
)
def test_the_outcome_says_who_refused(
    driver: ModuleType, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], outcome: str
) -> None:
    whole = {"out": "", "err": "", "code": 0, "cpu": 1.0, "memory": 100} | answer
    monkeypatch.setattr(driver, "run", lambda *_: whole)
    assert driver.outcome_of(Path("m.onnx"), "fp16", [])["outcome"] == outcome


def test_a_fault_is_what_the_compiler_takes_only_from_the_exporter(driver: ModuleType) -> None:
    def is_fault(as_exported: str, ours: str) -> bool:
        found: bool = driver.is_fault({driver.PLAIN: {"outcome": as_exported}, "fp32": {"outcome": ours}})
        return found

    assert is_fault("built", "refused by it")
    assert is_fault("refused by it", "FAILED")
    assert not is_fault("built", "refused")
    assert not is_fault("refused by it", "refused by it")
    assert not is_fault("built", "built")


def test_the_table_counts_and_shows_every_model(driver: ModuleType) -> None:
    refused = {"outcome": "refused by it", "why": "TensorRT cannot parse\n  fix: no"}
    outcomes = {
        "a": {
            driver.PLAIN: {"outcome": "built", "bytes": 5e5, "seconds": 1},
            "fp32": {"outcome": "built", **PLAN["plan"]},
        },
        "b": {driver.PLAIN: {"outcome": "built", "bytes": 5e5, "seconds": 1}, "fp32": refused},
    }
    lines = driver.table(outcomes, ["fp32"]).splitlines()
    assert "| as exported | 2 | 0 | 0 | 0 |  |" in lines
    assert "| fp32 | 1 | 0 | 1 | 0 | 4 Half |" in lines
    assert "| a | 0.5 MB, 1.0 s | 1.2 MB, 3.2 s: 4 Half |" in lines
    assert "| b | 0.5 MB, 1.0 s | refused by it: TensorRT cannot parse |" in lines
    assert "Built as exported, but not as we make it: b." in lines
