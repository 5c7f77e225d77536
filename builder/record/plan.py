"""How a TensorRT plan was built, from what, and how it was proven."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from builder.record.accuracy import Accuracy
from builder.record.proof import Proof

PLAN_FILE = "model.plan"
"""The plan that Triton loads unless the config names another one for its GPU."""

COMPUTE_CAPABILITY = re.compile(r"[1-9][0-9]?\.[0-9]", re.ASCII)
"""How Triton writes which kind of GPU it has: `9.0`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a TensorRT plan was built, and from what.

    Attributes:
        tensorrt: The version of TensorRT.
        cuda: The CUDA version that the driver supports.
        gpu: The name of the GPU.
        driver: The release of the driver.
        onnx_sha256: The digest of the compiled ONNX file and its external weights together.
        layers: How many layer outputs have each data type, according to the engine.
        profiles: For each profile, `MIN:OPT:MAX` by input.
        compute_capability: The kind of the GPU, such as `9.0`. Empty in versions of earlier releases.
        file: The plan, relative to the version's directory.
        sha256: Its digest. Empty in versions of earlier releases.
        timing_cache: The file of the kernels that were measured for it, from which the next build starts; None if
            there is none.
        timing_cache_sha256: The digest of that file.
        proof: The comparison with the original that this plan passed; None if it is that of the version.
        accuracy: How often this plan is right on the user's data; None if that is said of the version, or not measured.
    """

    tensorrt: str
    cuda: str
    gpu: str
    driver: str
    onnx_sha256: str
    layers: Mapping[str, int]
    profiles: tuple[Mapping[str, str], ...]
    compute_capability: str = ""
    file: str = PLAN_FILE
    sha256: str = ""
    timing_cache: str | None = None
    timing_cache_sha256: str = ""
    proof: Proof | None = None
    accuracy: Accuracy | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The plan, and its timing cache if there is one."""
        return (self.file,) if self.timing_cache is None else (self.file, self.timing_cache)


def plan_file(compute_capability: str) -> str:
    """Return the name of a plan beside `model.plan`, for another kind of GPU."""
    return f"model-{compute_capability}.plan"


def timing_cache_file(compute_capability: str) -> str:
    """Return the name of a timing cache in a version's directory."""
    return f"timing-{compute_capability}.cache" if compute_capability else "timing.cache"


def plan_problems(plan: Plan | None, others: tuple[Plan, ...], listed: Collection[str]) -> Iterator[str]:
    """Yield what no manifest that was written here says about its plans, one clause each.

    Args:
        plan: The plan that was built when the version was published.
        others: The plans for other GPUs.
        listed: The files of the version.
    """
    plans = (*others,) if plan is None else (plan, *others)
    if others and plan is None:
        yield "it has plans for other GPUs, but none of its own"
    kinds = [each.compute_capability for each in plans]
    if len(set(kinds)) < len(kinds) or (others and not all(map(COMPUTE_CAPABILITY.fullmatch, kinds))):
        yield f"its plans are for the GPUs {kinds[:20]}"
    if len({each.file for each in plans}) < len(plans):
        yield "two of its plans are the same file"
    for each in plans:
        if unknown := sorted(set(each.files) - set(listed)):
            yield f"its plan has the file {unknown[0][:200]!r}, which is none of the version's files"
