"""What a manifest says about TensorRT plans."""

import json
from dataclasses import replace

import pytest
from support.artifacts import scale

from builder.errors import RepositoryError
from builder.record import Manifest, ModelFile, Plan, Proof

PLAN = Plan(
    *("11.1.0", "13.3", "NVIDIA H200", "580.1", "0" * 64, {"Half": 3}, ({"x": "1x3:4x3:8x3"},)),
    compute_capability="9.0",
    sha256="1" * 64,
    timing_cache="timing-9.0.cache",
    timing_cache_sha256="2" * 64,
)
OTHER = replace(PLAN, gpu="NVIDIA A100", compute_capability="8.0", file="model-8.0.plan", timing_cache=None)
PROOF = scale().manifest.proof
NEGATIVE = replace(PROOF, outputs={name: replace(found, rtol=-1.0) for name, found in PROOF.outputs.items()})
FILES = ModelFile("model.plan", "0" * 64, 1, others=("model-8.0.plan", "timing-9.0.cache"))


def manifest() -> Manifest:
    return replace(scale().manifest, model=FILES, plan=PLAN, other_plans=(OTHER,))


def test_plans_for_several_gpus_are_read_back_unchanged() -> None:
    written = manifest()
    assert Manifest.from_json(written.to_json(), where="test") == written
    assert written.backend == "tensorrt"
    assert not written.has_fallback
    assert written.plans == (PLAN, OTHER)


def test_the_plan_beside_an_onnx_file_has_its_own_proof() -> None:
    own = Proof((1, 8), 4, "1.31.0", scale().manifest.proof.outputs)
    files = ModelFile("model.onnx", "0" * 64, 1, others=("model.plan", "timing-9.0.cache"))
    written = replace(scale().manifest, model=files, plan=replace(PLAN, proof=own))
    assert Manifest.from_json(written.to_json(), where="test") == written
    assert (written.backend, written.has_fallback) == ("onnxruntime", True)


def test_a_manifest_of_an_earlier_release_has_one_plan_without_these_facts() -> None:
    before = Plan("11.1.0", "13.3", "NVIDIA H200", "580.1", "0" * 64, {"Half": 3}, ({"x": "1x3:4x3:8x3"},))
    old = json.loads(replace(manifest(), model=ModelFile("model.plan", "0" * 64, 1), plan=before).to_json())
    del old["other_plans"], old["model"]["others"]
    for name in ("compute_capability", "file", "sha256", "timing_cache", "timing_cache_sha256", "proof", "accuracy"):
        del old["plan"][name]
    found = Manifest.from_json(json.dumps(old), where="test")
    assert (found.plan, found.other_plans) == (before, ())


@pytest.mark.parametrize(
    ("plans", "reason"),
    [
        ({"plan": None}, "plans for other GPUs, but none of its own"),
        ({"other_plans": (replace(OTHER, compute_capability="9.0"),)}, "its plans are for the GPUs"),
        ({"other_plans": (replace(OTHER, compute_capability="sm_80"),)}, "its plans are for the GPUs"),
        ({"other_plans": (replace(OTHER, file="../model.plan"),)}, "which is none of the version's files"),
        ({"other_plans": (replace(OTHER, file="model.plan"),)}, "two of its plans are the same file"),
        ({"plan": replace(PLAN, proof=Proof((), 4, "1.31.0", {}))}, "proof.outputs are not its outputs"),
        ({"plan": replace(PLAN, proof=replace(PROOF, batch_sizes=(10**9,)))}, "a size that is not from 1 to 8"),
        ({"other_plans": (replace(OTHER, proof=NEGATIVE),)}, "its tolerance is negative"),
        ({"plan": replace(PLAN, timing_cache="elsewhere")}, "'elsewhere', which is none of the version's files"),
    ],
)
def test_a_manifest_whose_plans_contradict_it_is_not_read(plans: dict[str, object], reason: str) -> None:
    text = replace(manifest(), **plans).to_json()  # type: ignore[arg-type]
    with pytest.raises(RepositoryError, match=reason):
        Manifest.from_json(text, where="test")


def test_the_digest_and_the_size_of_a_version_are_those_of_all_its_files() -> None:
    contents = {"model.plan": b"plan", "model-8.0.plan": b"other", "weights": b"w"}
    found = ModelFile.of("model.plan", contents, others=("model-8.0.plan",))
    assert (found.files, found.bytes) == (("model.plan", "weights", "model-8.0.plan"), 10)
    assert found.sha256 != ModelFile.of("model.plan", contents | {"model-8.0.plan": b"OTHER"}).sha256
