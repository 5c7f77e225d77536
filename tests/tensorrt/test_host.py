"""What this machine has: a GPU and a compiler."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.plans import HAS_HOST

import builder
from builder import fetching
from builder.cli import cli
from builder.errors import HostError
from builder.publishing import PublishOptions, publish
from builder.tensorrt import Host, find_host, host


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


@pytest.mark.skipif(HAS_HOST, reason="this machine can build plans")
def test_nothing_is_fetched_or_exported_where_no_plan_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(fetching, "fetched", fetched)
    options = PublishOptions(format="tensorrt")
    for model in ("https://example.org/model.onnx", "package_that_is_not_there:factory"):
        with pytest.raises(HostError, match="requires an NVIDIA GPU"):
            builder.publish(model, options=options)


def test_the_fix_names_the_container_and_what_works_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_driver", lambda: None)
    with pytest.raises(HostError) as caught:
        find_host()
    assert "docker compose run --rm builder publish MODEL.onnx --format tensorrt" in caught.value.fix
    assert "inspect MODEL.onnx --format tensorrt" in caught.value.fix


@pytest.mark.rtx
@pytest.mark.skipif(HAS_HOST, reason="TensorRT itself is installed")
def test_tensorrt_for_rtx_is_not_enough_to_publish_even_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_driver", lambda: Host("", "13.0", "580.1", "NVIDIA RTX 4090", "8.9"))
    with pytest.raises(HostError, match=r"(?m)missing: tensorrt$") as caught:
        find_host()
    assert caught.value.exit_code == 6
