"""Check that a plan of a model can be built, with all steps of publishing but the last ones."""

from dataclasses import dataclass, replace
from functools import partial

from builder import bounded
from builder.batching import BatchedModel, Rewrite
from builder.config import make_profiles
from builder.errors import BuilderError, ModelError, VerificationError
from builder.lowering import TARGETS, Precision, fit
from builder.naming import rename
from builder.progress import Report
from builder.proof import VerifiedModel
from builder.publishing.compiling import compile_proven
from builder.publishing.lowered import baseline_of
from builder.publishing.options import PublishOptions
from builder.record import Accuracy, Proof
from builder.samples import read_samples
from builder.tensorrt import CheckedPlan, Library, check_build, check_request

MAX_BATCH_SIZE = 32
"""The largest batch size when the caller gives none."""


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """Whether a plan of a model can be built here.

    Attributes:
        compiler: What was asked to build it: `TensorRT`, or `TensorRT for RTX`.
        version: Its version.
        precision: The precision that was asked for.
        proof: The comparison of the model that was built with the original; None if it came to none.
        accuracy: How often it is right on labelled samples; None if that was not measured.
        lowered: What became of nodes in the precision, and which of them stayed in fp32.
        plan: The plan that was built and thrown away; None if that failed.
        refusal: Why it failed.
    """

    compiler: str
    version: str
    precision: Precision
    proof: Proof | None = None
    accuracy: Accuracy | None = None
    lowered: tuple[Rewrite, ...] = ()
    plan: CheckedPlan | None = None
    refusal: BuilderError | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan that could be built does not show, one sentence each."""
        if self.plan is None:
            return ()
        return _NOTES if self.compiler == "TensorRT for RTX" else _NOTES[:1]


_NOTES = (
    "the plan was built and thrown away; it was not run, so its answers and its speed are unknown",
    "plans of TensorRT for RTX are not those of TensorRT, and Triton does not load them: `publish --format tensorrt` "
    "needs TensorRT and a GPU",
)


def check_plan(batched: BatchedModel, options: PublishOptions, report: Report) -> PlanCheck:
    """Name, lower and prove a model as `publish` does, build a plan of it, and throw the plan away.

    What the model or the compiler lacks is in the result; what this machine lacks is raised.

    Args:
        batched: The model, whose batch is dynamic.
        options: What `publish` would be asked for.
        report: Called with each step's name and what it found.

    Raises:
        HostError: No compiler is installed, it does not have one of the options, or there is not enough time or memory.
    """
    options.check()
    library = check_request(options.build)
    check = PlanCheck(library.name, library.version, options.precision)
    try:
        return _check(batched, options, library, check, report)
    except (ModelError, VerificationError) as refusal:
        return replace(check, refusal=refusal)


def _check(
    batched: BatchedModel, options: PublishOptions, library: Library, check: PlanCheck, report: Report
) -> PlanCheck:
    batched = rename(
        batched, input_names=options.input_names, output_names=options.output_names, renames=options.renames
    )
    samples = None if options.samples is None else read_samples(options.samples, batched)
    if options.triton is not None:
        batched = fit(batched, TARGETS[options.triton])
    largest = options.config.max_batch_size or MAX_BATCH_SIZE
    profiles = make_profiles(
        batched,
        options.profiles,
        max_batch_size=largest,
        preferred=options.config.preferred_batch_sizes or (),
    )
    baseline = baseline_of(batched, options, samples, report)

    def build(verified: VerifiedModel) -> CheckedPlan:
        report("compile", f"{library}; the plan will be thrown away")
        asked = replace(options.build, precision=options.precision)
        with bounded.during(f"{library.name} builds a plan"):
            return check_build(verified, profiles, asked, partial(report, "compile"))

    proven, plan = compile_proven(
        batched, options, samples, largest, report, profiles=profiles, compile_model=build, baseline=baseline
    )
    before = set(batched.rewrites)
    return replace(
        check,
        proof=proven.verified.proof,
        accuracy=proven.accuracy,
        lowered=tuple(rewrite for rewrite in proven.verified.batched.rewrites if rewrite not in before),
        plan=plan,
    )
