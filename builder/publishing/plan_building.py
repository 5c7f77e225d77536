"""Build the plan of a version on this machine, with the plans for other GPUs that it keeps from the served version."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from builder.config import Profile
from builder.progress import Report
from builder.proof import Baseline, VerifiedModel
from builder.publishing import summary
from builder.publishing.options import PublishOptions
from builder.publishing.plan_files import KeptPlans, ServedPlans, keep_plans, start_from
from builder.tensorrt import CompiledModel, Host, check_build_options, compile_plan, find_host


def find_compiler(options: PublishOptions) -> Host | None:
    """Find what builds the plan, and check that it has what is asked of it; None if there is no plan to build.

    Raises:
        HostError: The GPU, TensorRT or Polygraphy is missing, or TensorRT does not have one of the options.
    """
    if options.format != "tensorrt":
        return None
    host = find_host()
    check_build_options(options.build)
    return host


def build_plans(
    verified: VerifiedModel,
    *,
    served: ServedPlans | None,
    profiles: tuple[Profile, ...],
    options: PublishOptions,
    host: Host,
    report: Report,
    baseline: Baseline | None = None,
) -> tuple[CompiledModel, KeptPlans]:
    """Build and prove the plan for this GPU. Kernels that were timed for the served version here are not timed again.

    Args:
        verified: The ONNX file.
        served: The served version, if it has plans; None otherwise.
        profiles: The shapes to build for.
        options: What the caller asked for.
        host: This GPU and this TensorRT.
        report: Called with each step's name and what it found.
        baseline: How right the original is on labelled samples; None if that was not measured.

    Raises:
        ModelError: TensorRT does not support the model, or built no layer in the requested precision.
        RepositoryError: A plan of the served version was to be kept, and is not one of this ONNX file.
        HostError: The build fails.
        VerificationError: A row differs from the original's.
    """
    kept = KeptPlans()
    if options.keep_plans:  # before minutes are spent on the build
        written = tuple({name: str(shapes) for name, shapes in profile.items()} for profile in profiles)
        kept = keep_plans(served, verified, options, written, host)
        for line in summary.of_kept_plans(kept.plans):
            report("keep", line)
    own = options.build.timing_cache
    former = start_from(served, host) if own is None else None
    for line in summary.of_compiling(host, is_warm=former is not None):
        report("compile", line)
    with tempfile.TemporaryDirectory() as folder:
        cache = own or Path(folder, "timing.cache")
        if former is not None:
            shutil.copyfile(former, cache)
        build = replace(options.build, precision=options.precision, timing_cache=cache)
        compiled = compile_plan(
            verified, profiles, build, host, report=lambda phase: report("compile", phase), baseline=baseline
        )
    if compiled.accuracy is not None:
        report("accuracy", f"of the plan: {compiled.accuracy}")
    return compiled, kept
