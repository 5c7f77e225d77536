"""Prove the files of a published version again: the one that config.pbtxt serves, and the plan of this GPU."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from builder import bounded
from builder.errors import HostError
from builder.proof import check_files, verify_published
from builder.record import Manifest, Plan, Proof
from builder.repository import ModelDirectory
from builder.tensorrt import Host, find_host, open_plan
from builder.tensors import Arrays


@dataclass(frozen=True, slots=True)
class ProvenVersion:
    """A version whose files answer as they did.

    Attributes:
        proof: What was compared, of the file that config.pbtxt serves.
        notes: Which other files of it were compared, and which could not be; one sentence each.
    """

    proof: Proof
    notes: tuple[str, ...] = ()


def verify_files(model: ModelDirectory, version: int, manifest: Manifest) -> ProvenVersion:
    """Run the published files again, and compare the answers with the stored ones.

    Raises:
        RepositoryError: A file is missing, or is not a regular one of its version.
        VerificationError: The files changed, Triton would refuse them, or an answer differs.
        HostError: None of them can be run on this machine.
    """
    reference, folder = model.read_reference(version), model.version_dir(version)
    bounded.expect(manifest.model.bytes)
    if manifest.has_fallback:
        with bounded.during("its answers are compared with the stored ones"):
            proof = verify_published(folder, manifest, reference)
        return ProvenVersion(proof, tuple(_verify_plan_beside(folder, manifest, reference)))
    if manifest.plan is None:
        with bounded.during("its answers are compared with the stored ones"):
            return ProvenVersion(verify_published(folder, manifest, reference))
    plan = _plan_for(_host(model.name), manifest)
    proof = _verify_plan(folder, plan, manifest, reference)
    return ProvenVersion(proof, tuple(_unverified(manifest, plan)))


def _host(name: str) -> Host:
    try:
        return find_host()
    except HostError as error:
        fix = f"run it in the container that serves the plan: docker compose run --rm builder verify {name}; "
        deploy = "or run `python -m builder deploy`, which compares the answers on a Triton with a GPU"
        raise HostError(error.where, error.what, f"{fix}{deploy}") from error


def _verify_plan_beside(folder: Path, manifest: Manifest, reference: Arrays) -> Iterator[str]:
    """Verify the plan beside an ONNX file where this machine can run it, and yield what was not verified."""
    try:
        plan = _plan_for(find_host(), manifest)
    except HostError as error:
        yield f"its ONNX file was compared, but no plan of it: {error.what}"
        return
    _verify_plan(folder, plan, manifest, reference)
    yield f"its ONNX file and its plan for {plan.gpu} were compared"
    yield from _unverified(manifest, plan)


def _plan_for(host: Host, manifest: Manifest) -> Plan:
    """Return the plan that Triton loads on a GPU: the one of its kind, or else `model.plan`."""
    of_kind = (plan for plan in manifest.plans if plan.compute_capability == host.compute_capability != "")
    return next(of_kind, manifest.plans[0])


def _verify_plan(folder: Path, plan: Plan, manifest: Manifest, reference: Arrays) -> Proof:
    """Run a plan. Its files are compared first: a plan holds code, which runs as soon as TensorRT loads it."""
    check_files(folder, manifest)
    own = replace(manifest, proof=plan.proof or manifest.proof)
    with bounded.during("its answers are compared with the stored ones"), open_plan(folder / plan.file) as run:
        return verify_published(folder, own, reference, run=run, file=plan.file)


def _unverified(manifest: Manifest, verified: Plan) -> Iterator[str]:
    others = [plan.gpu for plan in manifest.plans if plan != verified]
    if others:
        yield f"its plans for other GPUs were not compared here: {', '.join(others)}"
