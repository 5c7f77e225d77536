"""`inspect --format tensorrt` builds a plan as `publish` would, and throws it away."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from builder.cli import cli
from builder.tensorrt import library

MODELS = Path(__file__).parents[1] / "models"
ENCODER = MODELS / "encoder_layer_ts17.onnx"


def inspect(model: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["inspect", str(model), "--format", "tensorrt", *options])


def plan_of(result: Result) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(result.stdout)["plan"]
    return found


@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "types"), [("fp32", {"Float"}), ("fp16", {"Half"}), ("bf16", {"BFloat16"})])
def test_the_layers_of_the_plan_have_the_precision(precision: str, types: set[str]) -> None:
    result = inspect(ENCODER, "--precision", precision, "--max-batch-size", "4", "--json")
    assert result.exit_code == 0, result.output
    plan = plan_of(result)
    assert (plan["built"], plan["run"], plan["compiler"]) == (True, False, "TensorRT for RTX")
    assert max(plan["layers"], key=plan["layers"].get) in types
    assert plan["profiles"] == [{"tokens": "1x9x24:4x9x24:4x9x24"}]
    assert plan["proof"]["batch_sizes"][-1] == 4
    assert plan["bytes"] > 10_000
    assert any("it was not run" in note for note in plan["notes"])


@pytest.mark.rtx
def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    result = inspect(MODELS / "conv_view_ts11.onnx", "--prove", "off")
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert "it was not run" in shown
    assert "Triton does not load them" in shown
    assert "NOT compared" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rtx
def test_a_model_that_the_compiler_refuses_exits_with_3(tmp_path: Path) -> None:
    """The operator is one that ONNX Runtime adds to ONNX's own."""
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[1, 4] x) => (float[1, 4] y) { y = com.microsoft.QuickGelu <alpha = 1.5> (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    result = inspect(tmp_path / "m.onnx", "--prove", "off", "--json")
    assert result.exit_code == 1  # the error itself, which the command line turns into 3
    assert getattr(result.exception, "exit_code", None) == 3
    plan = plan_of(result)
    assert plan["built"] is False
    assert "QuickGelu" in plan["refusal"]
    assert plan["fix"]


@pytest.mark.rtx
def test_a_lowered_model_that_is_too_wrong_is_not_built(tmp_path: Path) -> None:
    result = inspect(ENCODER, "--precision", "fp16", "--max-error", "0.0000001", "--json")
    assert getattr(result.exception, "exit_code", None) == 4
    assert plan_of(result)["built"] is False


@pytest.mark.rtx
@pytest.mark.parametrize("option", ["--hardware-compatible", "--timing-cache=cache"])
def test_what_the_compiler_cannot_do_is_refused_before_the_model_is_read(tmp_path: Path, option: str) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    result = inspect(tmp_path / "m.onnx", option)
    assert getattr(result.exception, "exit_code", None) == 6
    assert option.partition("=")[0] in str(result.exception)


def test_without_a_compiler_the_command_that_installs_one_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_MODULES", ())
    result = inspect(ENCODER)
    assert getattr(result.exception, "exit_code", None) == 6
    assert "tensorrt-rtx-cu13-libs" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--precision", "fp16"], "--precision"),
        (["--max-batch-size", "8"], "--max-batch-size"),
        (["--prove", "off"], "--prove"),
        (["--workspace-mb", "64"], "--workspace-mb"),
        (["--profile", "x=1x4:2x4:4x4"], "--profile"),
    ],
)
def test_what_only_plans_need_is_refused_without_one(options: list[str], name: str) -> None:
    result = CliRunner().invoke(cli, ["inspect", str(ENCODER), *options])
    assert result.exit_code == 2
    assert f"{name} has no effect on `inspect` without --format tensorrt" in " ".join(result.output.split())
