"""Measure how right a plan is on the user's labelled samples."""

from collections.abc import Callable, Sequence

from builder.config import Profile
from builder.errors import ModelError
from builder.proof import MOST_TOGETHER, Baseline, Batches
from builder.record import Accuracy
from builder.tensorrt.running import Run


def fitting_profile(baseline: Baseline, profiles: Sequence[Profile]) -> int | None:
    """Return the number of the first profile that takes the labelled samples; None if none does and no limit is set.

    Raises:
        ModelError: None does, and the accuracy is limited.
    """
    first = 0 if baseline.batched.is_static else 1
    shapes = {name: rows.shape[1:] for name, rows in baseline.inputs.items()}
    for number, profile in enumerate(profiles):
        if all(
            low <= size <= high
            for name, dims in shapes.items()
            for low, size, high in zip(profile[name].min[first:], dims, profile[name].max[first:], strict=True)
        ):
            return number
    if baseline.max_drop is None:
        return None
    listed = ", ".join(f"{name} {list(dims)}" for name, dims in shapes.items())
    what = f"no profile takes the labelled samples, which have the shapes {listed}"
    raise ModelError(baseline.batched.original.path, what, "widen --profile, or give samples that fit it")


def judge_plan(
    baseline: Baseline,
    profiles: Sequence[Profile],
    runs: Sequence[Run],
    report: Callable[[str], None] = lambda _: None,
) -> Accuracy | None:
    """Return how right a plan is beside the original; None if no profile takes the samples and no limit is set.

    Args:
        baseline: How right the original is.
        profiles: The profiles of the plan.
        runs: A function for each profile that runs the plan.
        report: Called now and then with how far it is.

    Raises:
        ModelError: No profile takes the labelled samples, and the accuracy is limited.
        VerificationError: A figure is lower than it may be.
    """
    number = fitting_profile(baseline, profiles)
    if number is None:
        report("the accuracy is not measured, because no profile takes the labelled samples")
        return None
    shapes = next(iter(profiles[number].values()))
    is_static = baseline.batched.is_static
    least = 1 if is_static else shapes.min[0]
    most = 1 if is_static else max(least, min(shapes.opt[0], MOST_TOGETHER))
    found = baseline.measure(Batches(runs[number], is_static, most, least), report=report)
    baseline.check(found)
    return found
