"""Publish plans: beside an ONNX file, with those for other GPUs, and from the timing cache of the version before.

Nothing is built here. In place of TensorRT, the tests return the proven ONNX file as the plan.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.artifacts import tree
from support.plan_versions import with_plan

from builder import api
from builder.cli import cli
from builder.config import ConfigOptions, pbtxt
from builder.config.profiles import parse
from builder.errors import HostError, RepositoryError, VerificationError
from builder.proof import Proven
from builder.proof.session import open_rewritten
from builder.publishing import PublishOptions, compiling, install, pipeline, plan_building, publish, verifying
from builder.publishing.plan_files import onnx_digest
from builder.record import Plan
from builder.repository import Repository
from builder.tensorrt import CompiledModel, Host, host

MODEL = Path(__file__).parents[1] / "models" / "encoder_layer_ts17.onnx"
A100 = Host("11.1.0", "13.3", "580.1", "NVIDIA A100", "8.0")
H200 = Host("11.1.0", "13.3", "580.1", "NVIDIA H200", "9.0")


@dataclass
class Gpu:
    """The machine that publishes, and what it said. Each build adds its GPU to the timing cache."""

    host: Host
    said: list[tuple[str, str]] = field(default_factory=list)

    def compile(self, verified: Any, profiles: Any, build: Any, host: Host, **_: Any) -> CompiledModel:
        before = build.timing_cache.read_text() if build.timing_cache.exists() else ""
        cache = f"{before}+{host.gpu}"
        build.timing_cache.write_text(cache)
        facts = Plan(
            *(host.tensorrt, host.cuda, host.gpu, host.driver, onnx_digest(verified), {"Float": 1}),
            profiles=tuple({name: str(shapes) for name, shapes in profile.items()} for profile in profiles),
            compute_capability=host.compute_capability,
        )
        differences = dict.fromkeys(verified.proof.outputs, 0.25)
        content = verified.model_bytes + host.gpu.encode()
        return CompiledModel(
            content, facts, Proven(differences, differences, frozenset()), (1, 4), cache=cache.encode()
        )

    def publish(self, root: Path, **options: Any) -> pipeline.Publication:
        asked = PublishOptions(format="tensorrt", config=ConfigOptions(max_batch_size=4), **options)
        return publish(MODEL, root, options=asked, report=lambda *line: self.said.append(line))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A machine that seems to have a GPU and TensorRT."""
    gpu = Gpu(H200)
    monkeypatch.setattr(plan_building, "find_host", lambda: gpu.host)
    monkeypatch.setattr(plan_building, "check_build_options", lambda _: None)
    monkeypatch.setattr(compiling, "check_builds", lambda _: None)
    monkeypatch.setattr(compiling, "build_time", nullcontext)
    monkeypatch.setattr(compiling, "check_parses", lambda *_: None)
    monkeypatch.setattr(plan_building, "compile_plan", lambda *args, **options: gpu.compile(*args, **options))
    return gpu


def test_the_proven_onnx_file_lies_beside_the_plan(gpu: Gpu, tmp_path: Path) -> None:
    done = gpu.publish(tmp_path / "models", fallback="onnx")
    manifest = done.manifest
    assert sorted(tree(done.version.path)) == [
        *("manifest.json", "model.onnx", "model.plan", "reference.npz", "timing-9.0.cache"),
    ]
    assert (manifest.has_fallback, manifest.model.file) == (True, "model.onnx")
    assert manifest.model.others == ("model.plan", "timing-9.0.cache")
    assert manifest.plan is not None
    assert manifest.plan.proof is not None
    assert {proof.largest_difference for proof in manifest.plan.proof.outputs.values()} == {0.25}
    assert 0.25 not in {proof.largest_difference for proof in manifest.proof.outputs.values()}
    config = pbtxt.parse((done.version.path.parent / "config.pbtxt").read_text(), where="test")
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "")
    found = api.verify("encoder_layer_ts17", tmp_path / "models")
    assert any(
        "its ONNX file was compared, but no plan of it: a TensorRT plan requires" in note for note in found.notes
    )


def test_a_build_starts_from_the_timing_cache_of_the_version_before(gpu: Gpu, tmp_path: Path) -> None:
    first = gpu.publish(tmp_path / "models")
    assert (first.version.path / "timing-9.0.cache").read_text() == "+NVIDIA H200"
    second = gpu.publish(tmp_path / "models")
    assert (second.version.path / "timing-9.0.cache").read_text() == "+NVIDIA H200+NVIDIA H200"
    assert any("it starts from the timing cache of the served version" in what for _, what in gpu.said)

    (second.version.path / "timing-9.0.cache").write_text("+NVIDIA H2OO+NVIDIA H200")  # not what was published
    third = gpu.publish(tmp_path / "models")
    assert (third.version.path / "timing-9.0.cache").read_text() == "+NVIDIA H200"
    gpu.host = A100
    assert (gpu.publish(tmp_path / "models").version.path / "timing-8.0.cache").read_text() == "+NVIDIA A100"
    gpu.host = replace(A100, tensorrt="11.2.0")
    assert (gpu.publish(tmp_path / "models").version.path / "timing-8.0.cache").read_text() == "+NVIDIA A100"

    own = tmp_path / "own.cache"
    own.write_text("own")
    sixth = gpu.publish(tmp_path / "models", build=replace(PublishOptions().build, timing_cache=own))
    assert own.read_text() == (sixth.version.path / "timing-8.0.cache").read_text() == "own+NVIDIA A100"


def test_a_version_keeps_the_plans_for_other_kinds_of_gpu(gpu: Gpu, tmp_path: Path) -> None:
    root = tmp_path / "models"
    gpu.publish(root)
    gpu.host = A100
    done = gpu.publish(root, keep_plans=True)
    assert [(plan.gpu, plan.file) for plan in done.manifest.plans] == [
        ("NVIDIA A100", "model.plan"),
        ("NVIDIA H200", "model-9.0.plan"),
    ]
    assert done.manifest.other_plans[0].proof is not None
    assert (done.version.path / "model-9.0.plan").read_bytes().endswith(b"NVIDIA H200")
    config = pbtxt.parse((done.version.path.parent / "config.pbtxt").read_text(), where="test")
    assert dict(config.cc_model_filenames) == {"8.0": "model.plan", "9.0": "model-9.0.plan"}

    gpu.host = H200  # its own plan is built again, from its own timing cache, and the other one is kept
    third = gpu.publish(root, keep_plans=True)
    assert [(plan.gpu, plan.file) for plan in third.manifest.plans] == [
        ("NVIDIA H200", "model.plan"),
        ("NVIDIA A100", "model-8.0.plan"),
    ]
    assert (third.version.path / "timing-9.0.cache").read_text() == "+NVIDIA H200+NVIDIA H200"
    assert (third.version.path / "timing-8.0.cache").read_text() == "+NVIDIA A100"

    listed = CliRunner().invoke(cli, ["list", "--repository", str(root)]).output
    one, other = "NVIDIA H200 (TensorRT 11.1.0)", "NVIDIA A100 (TensorRT 11.1.0)"
    assert f"version 1 has a plan for {one}\n" in listed
    assert f"version 3 has plans for {one} and {other}\n" in listed

    api.rollback("encoder_layer_ts17", root)
    config = pbtxt.parse((done.version.path.parent / "config.pbtxt").read_text(), where="test")
    assert dict(config.cc_model_filenames) == {"8.0": "model.plan", "9.0": "model-9.0.plan"}


@pytest.mark.parametrize(
    ("options", "host", "reason"),
    [
        ({"precision": "fp16"}, A100, "it was built from another ONNX file"),
        ({"build": {"builder_optimization_level": 0}}, A100, "with another --builder-optimization-level"),
        ({"profiles": True}, A100, "its profiles are others"),
        ({"max_error": 0.5}, A100, "it was proven with another tolerance"),
        ({}, replace(A100, tensorrt="10.16.1"), r"TensorRT 11\.1\.0 built it, and this is TensorRT 10\.16\.1"),
    ],
)
def test_a_plan_that_is_not_of_this_file_is_not_kept(
    gpu: Gpu, tmp_path: Path, options: dict[str, Any], host: Host, reason: str
) -> None:
    gpu.publish(tmp_path / "models")
    before = tree(tmp_path / "models")
    gpu.host = host
    if "build" in options:
        options = {"build": replace(PublishOptions().build, **options["build"])}
    if "profiles" in options:
        (profile,) = (replace_opt(shapes) for shapes in profiles_of(tmp_path / "models"))
        options = {"profiles": profile}
    with pytest.raises(RepositoryError, match=rf"its plan for NVIDIA H200 cannot be kept: .*{reason}") as caught:
        gpu.publish(tmp_path / "models", keep_plans=True, **options)
    assert "then publish on that GPU too" in (caught.value.fix or "")
    assert tree(tmp_path / "models") == before


def test_a_plan_that_changed_after_it_was_published_is_not_kept(gpu: Gpu, tmp_path: Path) -> None:
    folder = gpu.publish(tmp_path / "models").version.path
    content = (folder / "model.plan").read_bytes()
    (folder / "model.plan").write_bytes(content[:-1] + b"X")
    gpu.host = A100
    with pytest.raises(RepositoryError, match=r"model\.plan is missing, or changed after it was published"):
        gpu.publish(tmp_path / "models", keep_plans=True)
    (folder / "model.plan").unlink()
    (folder / "model.plan").symlink_to("/dev/zero")
    with pytest.raises(RepositoryError, match=r"model\.plan is missing, or changed after it was published"):
        gpu.publish(tmp_path / "models", keep_plans=True)


def test_of_a_plan_that_is_kept_a_damaged_timing_cache_is_left_out(gpu: Gpu, tmp_path: Path) -> None:
    folder = gpu.publish(tmp_path / "models").version.path
    (folder / "timing-9.0.cache").write_text("others")
    gpu.host = A100
    done = gpu.publish(tmp_path / "models", keep_plans=True)
    assert done.manifest.model.others == ("model-9.0.plan", "timing-8.0.cache")
    assert done.manifest.other_plans[0].timing_cache is None


def test_a_plan_that_was_cut_short_beside_an_onnx_file_is_not_put_on_the_onnx_file(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    install(repository, "m", with_plan())
    (install(repository, "m", with_plan(factor=3.0)).path / "model.plan").write_bytes(b"short")
    api.switch("m", repository.root, to=1)
    with pytest.raises(RepositoryError, match=r"model\.onnx and 2 other files have \d+ bytes, but"):
        api.switch("m", repository.root, to=2)


def profiles_of(root: Path) -> list[dict[str, str]]:
    manifest = Repository(root).model("encoder_layer_ts17").read_manifest(1)
    assert manifest.plan is not None
    return [dict(profile) for profile in manifest.plan.profiles]


def replace_opt(shapes: dict[str, str]) -> tuple[Any, ...]:
    """Return the same profile, with a smaller batch as the optimum."""
    found = []
    for name, text in shapes.items():
        least, _, most = text.split(":")
        found.append(parse(f"{name}={least}:{least}:{most}"))
    return tuple(found)


def test_where_the_kind_of_gpu_is_not_known_no_plan_is_kept(gpu: Gpu, tmp_path: Path) -> None:
    gpu.host = replace(H200, compute_capability="")
    with pytest.raises(HostError, match="does not tell the compute capability of NVIDIA H200"):
        gpu.publish(tmp_path / "models", keep_plans=True)


def test_without_a_gpu_it_is_said_where_a_plan_can_be_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_driver", lambda: None)
    install(Repository(tmp_path / "models"), "m", with_plan(has_onnx=False))
    with pytest.raises(HostError, match="requires an NVIDIA GPU") as caught:
        api.verify("m", tmp_path / "models")
    assert "docker compose run --rm builder verify m" in (caught.value.fix or "")


class TestVerifying:
    """Verify versions with plans on a machine that seems to have a GPU. The plan is an ONNX file in truth."""

    @pytest.fixture(autouse=True)
    def on_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @contextmanager
        def opened(path: Path) -> Iterator[Any]:
            yield open_rewritten(path, where=path).run

        monkeypatch.setattr(verifying, "find_host", lambda: H200)
        monkeypatch.setattr(verifying, "open_plan", opened)

    def test_both_files_are_compared(self, tmp_path: Path) -> None:
        install(Repository(tmp_path / "models"), "m", with_plan())
        found = api.verify("m", tmp_path / "models")
        assert found.notes == ("its ONNX file and its plan for NVIDIA H200 were compared",)

    @pytest.mark.parametrize("has_onnx", [True, False])
    def test_a_plan_that_changed_is_not_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_onnx: bool
    ) -> None:
        version = install(Repository(tmp_path / "models"), "m", with_plan(has_onnx=has_onnx))
        content = (version.path / "model.plan").read_bytes()
        (version.path / "model.plan").write_bytes(content[:-1] + b"X")
        opened = tmp_path / "opened"  # in a child process
        monkeypatch.setattr(verifying, "open_plan", lambda _: nullcontext(opened.write_text("")))
        with pytest.raises(VerificationError, match="the model's files changed after they were published"):
            api.verify("m", tmp_path / "models")
        assert not opened.exists()

    def test_a_plan_that_answers_wrongly_is_found(self, tmp_path: Path) -> None:
        install(Repository(tmp_path / "models"), "m", with_plan(plan_factor=3.0))
        with pytest.raises(VerificationError, match=r"model\.plan: .*output 'y'"):
            api.verify("m", tmp_path / "models")
