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
    ],
)
def test_options_that_contradict_each_other_are_a_usage_error(options: list[str], reason: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "m.onnx"), *options])
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())
