"""What this machine has: a GPU and a compiler."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.plans import HAS_HOST

from builder.cli import cli
from builder.errors import HostError
from builder.publishing import PublishOptions, publish


@pytest.mark.skipif(HAS_HOST, reason="this machine can build plans")
def test_without_a_gpu_a_plan_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"(?s)missing: .*docker compose run --rm builder publish"):
        publish(tmp_path / "missing.onnx", tmp_path / "models", options=PublishOptions(format="tensorrt"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(HAS_HOST, reason="this machine can build plans")
def test_the_command_line_exits_with_6_without_a_gpu(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "missing.onnx"), "--format", "tensorrt"])
    assert isinstance(result.exception, HostError)
    assert result.exception.exit_code == 6
