"""Build a plan of a proven model and prove it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from builder import digest
from builder.config import Profile
from builder.proof import Baseline, Proven, VerifiedModel
from builder.record import Accuracy, Plan
from builder.tensorrt.building import BuildOptions, build
from builder.tensorrt.checking import check_precision, check_types
from builder.tensorrt.host import Host
from builder.tensorrt.judging import fitting_profile, judge_plan
from builder.tensorrt.layers import count_formats
from builder.tensorrt.library import need_library
from builder.tensorrt.proving import prove_profile, sizes_of
from builder.tensorrt.running import runners


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A plan that gives the original model's answers.

    Attributes:
        plan: The bytes of `model.plan`.
        facts: How it was built, for the manifest.
        proven: The result of the comparison.
        batch_sizes: The batch sizes that were compared.
        accuracy: How right it is on the user's labelled samples; None if that was not measured.
        cache: The timing cache that the next build starts from; None if there is none.
    """

    plan: bytes
    facts: Plan
    proven: Proven
    batch_sizes: tuple[int, ...]
    accuracy: Accuracy | None = None
    cache: bytes | None = None


def compile_plan(
    verified: VerifiedModel,
    profiles: Sequence[Profile],
    options: BuildOptions,
    host: Host,
    *,
    report: Callable[[str], None] = lambda _: None,
    failure_dir: Path = Path(),
    baseline: Baseline | None = None,
) -> CompiledModel:
    """Build the plan, and compare it with the original model at the edges and in the middle of each profile.

    With a `baseline`, its accuracy on the user's labelled samples is compared too.

    Raises:
        ModelError: TensorRT does not support an operator, or built no layer in the requested precision.
        HostError: The build fails, for example because the GPU has too little memory.
        VerificationError: A row differs from the original's, or too few labelled rows are right.
    """
    where = verified.batched.original.path
    check_types(verified)
    if baseline is not None:
        fitting_profile(baseline, profiles)  # before a build that takes minutes
    with redirect_stdout(sys.stderr):
        built = build(verified, profiles, options, report)
        with runners(built.plan, where, len(profiles)) as (engine, runs):
            layers = count_formats(engine, need_library())
            check_precision(where, options.precision, layers)
            proven = [
                prove_profile(verified, profile, run, options.precision, failure_dir=failure_dir)
                for profile, run in zip(profiles, runs, strict=True)
            ]
            accuracy = None if baseline is None else judge_plan(baseline, profiles, runs, report)
    sizes = sorted({size for profile in profiles for size in sizes_of(verified, profile)})
    facts = _facts(verified, profiles, host, layers)
    return CompiledModel(
        built.plan, facts, reduce(Proven.worse_of, proven), tuple(sizes), accuracy=accuracy, cache=built.cache
    )


def _facts(verified: VerifiedModel, profiles: Sequence[Profile], host: Host, layers: Mapping[str, int]) -> Plan:
    weights = [verified.batched.original.digests[file] for file in verified.external_files]
    return Plan(
        tensorrt=host.tensorrt,
        cuda=host.cuda,
        gpu=host.gpu,
        driver=host.driver,
        onnx_sha256=digest.of_model([digest.of(verified.model_bytes), *weights]),
        layers=dict(layers),
        profiles=tuple({name: str(shapes) for name, shapes in profile.items()} for profile in profiles),
        compute_capability=host.compute_capability,
    )
