"""Options about plans that contradict each other."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli import cli


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--profile", "x=1x4:2x4:4x4"], "--profile has no effect without TensorRT"),
        (["--timing-cache", "cache"], "--timing-cache is only for TensorRT plans"),
        (["--workspace-mb", "64", "--accelerator", "tensorrt"], "--workspace-mb is only for TensorRT plans"),
        (["--format", "tensorrt", "--accelerator", "tensorrt"], "--accelerator is for an ONNX file"),
        (["--fallback", "onnx"], "--fallback is only for TensorRT plans"),
        (["--keep-plans"], "--keep-plans is only for TensorRT plans"),
        (["--builder-optimization-level", "0"], "--builder-optimization-level is only for TensorRT plans"),
        (["--builder-optimization-level", "6", "--format", "tensorrt"], "6 is too large"),
        (["--tiling-optimization-level", "fast"], "--tiling-optimization-level is only for TensorRT plans"),
        (["--build-route", "-a=1"], "--build-route is only for TensorRT plans"),
        (
            ["--format", "tensorrt", "--fallback", "onnx", "--precision", "bf16"],
            "--fallback onnx does not work with --precision bf16: ONNX Runtime cannot compute in bf16 on a CPU",
        ),
        (
            ["--format", "tensorrt", "--fallback", "onnx", "--precision", "int8", "--calibration", "rows.npz"],
            "--fallback onnx does not work with --precision int8: a file that is quantized for TensorRT can answer",
        ),
    ],
)
def test_options_that_contradict_each_other_are_a_usage_error(options: list[str], reason: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "m.onnx"), *options])
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())
