"""The plans of a version: the one that was just built, those for other GPUs that are kept, and their timing caches."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder import digest
from builder.errors import HostError, RepositoryError
from builder.proof import VerifiedModel
from builder.publishing.options import PublishOptions
from builder.record import (
    COMPUTE_CAPABILITY,
    PLAN_FILE,
    Content,
    Manifest,
    Plan,
    Proof,
    plan_file,
    timing_cache_file,
)
from builder.repository import ModelDirectory
from builder.tensorrt import CompiledModel, Host

PLAN_OPTIONS = (
    *("version_compatible", "hardware_compatible", "builder_optimization_level"),
    *("tiling_optimization_level", "build_route"),
)
"""The options in a manifest that shape a plan, beside the ONNX file that it is built from."""


@dataclass(frozen=True, slots=True)
class ServedPlans:
    """The served version, which has plans.

    Attributes:
        folder: Its directory.
        manifest: Its manifest.
    """

    folder: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class KeptPlans:
    """Plans of the served version that the new one has too.

    Attributes:
        plans: The plans, each with its own proof, and with the names of their files in the new version.
        files: The files to copy, by these names.
    """

    plans: tuple[Plan, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanFiles:
    """All plans of a version.

    Attributes:
        plan: The one that was just built.
        others: Those that are kept.
        contents: The files, by name.
    """

    plan: Plan
    others: tuple[Plan, ...]
    contents: Mapping[str, Content]


def find_served(model: ModelDirectory) -> ServedPlans | None:
    """Return the version that answers now if it has plans and was published here; None otherwise."""
    with suppress(RepositoryError):
        number = model.served_version()
        manifest = model.find_manifest(number)
        if manifest is not None and manifest.plans:
            return ServedPlans(model.version_dir(number), manifest)
    return None


def start_from(served: ServedPlans | None, host: Host) -> Path | None:
    """Return the timing cache that the served version has for this GPU and this TensorRT, if it is undamaged."""
    if served is None:
        return None
    for plan in served.manifest.plans:
        if plan.timing_cache is None or (plan.gpu, plan.tensorrt) != (host.gpu, host.tensorrt):
            continue
        if _is_as_published(served.folder, plan.timing_cache, plan.timing_cache_sha256):
            return served.folder / plan.timing_cache
    return None


def _is_as_published(folder: Path, file: str, sha256: str) -> bool:
    try:
        return digest.of(folder / file, inside=folder) == sha256
    except OSError:
        return False


def keep_plans(
    served: ServedPlans | None,
    verified: VerifiedModel,
    options: PublishOptions,
    profiles: tuple[Mapping[str, str], ...],
    host: Host,
) -> KeptPlans:
    """Return the plans of the served version for other kinds of GPU. Each was proven on a GPU of its kind.

    Args:
        served: The served version; None if it has no plans.
        verified: The ONNX file that the new plan is built from.
        options: What the caller asked for.
        profiles: For each profile of the new plan, `MIN:OPT:MAX` by input.
        host: What builds the new plan.

    Raises:
        RepositoryError: One of them was built from another ONNX file, or in another way, or is damaged.
        HostError: The kind of this GPU is not known, so that its plan cannot be told from others.
    """
    if not COMPUTE_CAPABILITY.fullmatch(host.compute_capability):
        what = f"the driver does not tell the compute capability of {host.gpu}, so plans cannot be told apart"
        raise HostError("this machine", what, "leave out --keep-plans")
    if served is None:
        return KeptPlans()
    kept: list[Plan] = []
    contents: dict[str, Path] = {}
    for plan in served.manifest.plans:
        if plan.compute_capability == host.compute_capability:
            continue
        reasons = list(_differences(plan, served, verified, options, profiles, host))
        if reasons:
            what = f"its plan for {plan.gpu} cannot be kept: {'; '.join(reasons)}"
            fix = "leave out --keep-plans, then publish on that GPU too, with --keep-plans"
            raise RepositoryError(served.folder, what, fix)
        if not _is_as_published(served.folder, plan.timing_cache or "", plan.timing_cache_sha256):
            plan = replace(plan, timing_cache=None, timing_cache_sha256="")  # it can be measured again
        renamed = replace(
            plan,
            file=plan_file(plan.compute_capability),
            timing_cache=plan.timing_cache and timing_cache_file(plan.compute_capability),
            proof=plan.proof or served.manifest.proof,
            accuracy=plan.accuracy or served.manifest.accuracy,
        )
        contents |= dict(zip(renamed.files, (served.folder / file for file in plan.files), strict=True))
        kept.append(renamed)
    return KeptPlans(tuple(kept), contents)


def _differences(
    plan: Plan,
    served: ServedPlans,
    verified: VerifiedModel,
    options: PublishOptions,
    profiles: tuple[Mapping[str, str], ...],
    host: Host,
) -> Iterator[str]:
    """Yield why a plan would not be the same as one that is built for its GPU now, one clause each."""
    manifest = served.manifest
    if not COMPUTE_CAPABILITY.fullmatch(plan.compute_capability) or not plan.sha256:
        yield "an earlier release built it, which did not record the kind of GPU"
    elif not _is_as_published(served.folder, plan.file, plan.sha256):
        yield f"{plan.file} is missing, or changed after it was published"
    if plan.onnx_sha256 != onnx_digest(verified):
        yield "it was built from another ONNX file"
    asked = options.to_manifest()
    for name in PLAN_OPTIONS:
        if asked.get(name) != manifest.options.get(name):
            yield f"it was built with another --{name.replace('_', '-')}"
    if [*map(dict, plan.profiles)] != [*map(dict, profiles)]:
        yield "its profiles are others"
    if plan.tensorrt != host.tensorrt and not options.build.version_compatible:
        yield f"TensorRT {plan.tensorrt} built it, and this is TensorRT {host.tensorrt}"
    proof = plan.proof or manifest.proof
    tolerances = {name: (found.rtol, found.atol) for name, found in proof.outputs.items()}
    if tolerances != {name: (found.rtol, found.atol) for name, found in verified.proof.outputs.items()}:
        yield "it was proven with another tolerance"


def onnx_digest(verified: VerifiedModel) -> str:
    """Return the digest of an ONNX file and its external weights together, as `Plan.onnx_sha256` has it."""
    weights = [verified.batched.original.digests[file] for file in verified.external_files]
    return digest.of_model([digest.of(verified.model_bytes), *weights])


def plan_files(compiled: CompiledModel, verified: VerifiedModel, kept: KeptPlans, *, is_beside: bool) -> PlanFiles:
    """Put the plans of a version together.

    Args:
        compiled: The plan that was just built.
        verified: The ONNX file that it was built from.
        kept: Plans for other GPUs.
        is_beside: Whether the ONNX file is in the version too, so that the plan has a proof of its own.
    """
    facts, contents = compiled.facts, dict[str, Content](kept.files)
    contents[PLAN_FILE] = compiled.plan
    own = replace(facts, sha256=digest.of(compiled.plan))
    if compiled.cache is not None:
        file = timing_cache_file(facts.compute_capability)
        contents[file] = compiled.cache
        own = replace(own, timing_cache=file, timing_cache_sha256=digest.of(compiled.cache))
    if is_beside:
        own = replace(own, proof=proof_of_plan(compiled, verified), accuracy=compiled.accuracy)
    return PlanFiles(own, kept.plans, contents)


def proof_of_plan(compiled: CompiledModel, verified: VerifiedModel) -> Proof:
    """Return the comparison that the plan passed, in place of the ONNX file's."""
    found = compiled.proven
    outputs = {
        name: replace(proof, largest_difference=found.largest[name], mean_difference=found.mean[name])
        for name, proof in verified.proof.outputs.items()
    }
    return replace(verified.proof, outputs=outputs, batch_sizes=compiled.batch_sizes)
