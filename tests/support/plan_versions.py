"""Versions with TensorRT plans, made without a GPU. The plans are no plans; the product never makes such versions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import builder.server
from builder import digest
from builder.config import for_plan
from builder.deployment import goal
from builder.record import Content, Manifest, ModelFile, Plan
from builder.repository import Artifact
from builder.server import runtime
from support.artifacts import scale, scale_model

GPU = "NVIDIA H200"
CACHE = "timing-9.0.cache"


def plan_of(content: bytes, cache: bytes | None = b"kernels", *, kind: str = "9.0", gpu: str = GPU) -> Plan:
    """Return the facts of a plan."""
    return Plan(
        *("11.1.0", "13.3", gpu, "580.1", "0" * 64, {"Float": 3}, ({"x": "1x3:4x3:8x3"},)),
        compute_capability=kind,
        sha256=digest.of(content),
        timing_cache=None if cache is None else f"timing-{kind}.cache",
        timing_cache_sha256="" if cache is None else digest.of(cache),
    )


def with_plan(*, factor: float = 2.0, plan_factor: float | None = None, has_onnx: bool = True) -> Artifact:
    """`y = factor * x` as an ONNX file with a plan beside it, which is an ONNX file of `plan_factor` in truth."""
    artifact = scale(factor)
    plan = scale_model(factor if plan_factor is None else plan_factor).SerializeToString()
    beside: dict[str, Content] = {"model.plan": plan, CACHE: b"kernels"}
    facts = plan_of(plan)
    if not has_onnx:
        files: Mapping[str, Content] = beside
        model = ModelFile.of("model.plan", files, others={CACHE})
        return Artifact(files, replace(artifact.manifest, model=model, plan=facts), artifact.reference)
    files = {**artifact.files, **beside}
    model = ModelFile.of("model.onnx", files, others=beside.keys())
    manifest = replace(artifact.manifest, model=model, plan=replace(facts, proof=artifact.manifest.proof))
    return Artifact(files, manifest, artifact.reference)


@contextmanager
def backend_for_plans() -> Iterator[None]:
    """Give the servers that start in the block a backend `tensorrt`, which runs an ONNX file, whatever its name is."""
    model = Path(builder.server.__file__).parent / "backends" / "onnxruntime" / "model.py"

    def lay_out(directory: Path, *rest: object) -> None:
        laid_out(directory, *rest)  # type: ignore[arg-type]
        folder = directory / runtime.BACKENDS / "tensorrt"
        folder.mkdir()
        (folder / "model.py").symlink_to(model)

    laid_out = runtime.lay_out
    with mock.patch.object(runtime, "lay_out", lay_out):
        yield


@contextmanager
def plans_on_cpus() -> Iterator[None]:
    """Let `deploy` load plans on instances on the CPU, since no server of the tests has a GPU."""

    def on_cpu(config: Any, manifest: Manifest) -> Any:
        own = for_plan(config, manifest)
        for group in own.instance_group:
            assert group.kind == group.KIND_GPU
            group.kind = group.KIND_CPU
        return own

    with mock.patch.object(goal, "for_plan", on_cpu):
        yield
