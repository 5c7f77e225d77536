"""Check that a plan can be built, without running it: no GPU is needed with TensorRT for RTX."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from builder.config import Profile
from builder.errors import HostError, ModelError
from builder.lowering import Precision
from builder.proof import VerifiedModel
from builder.tensorrt.building import BuildOptions, build, check_build_options
from builder.tensorrt.diagnosis import UnbuildableError
from builder.tensorrt.library import Library, need_library
from builder.tensorrt.running import engine_formats

_NAMES: Mapping[Precision, frozenset[str]] = {
    "fp16": frozenset({"Half", "FP16"}),
    "bf16": frozenset({"BFloat16", "BF16"}),
    "int8": frozenset({"Int8"}),
    "int8-dynamic": frozenset({"Int8"}),
}
"""The compilers' names for the data types of a layer's tensors, by precision."""


@dataclass(frozen=True, slots=True)
class CheckedPlan:
    """A plan that was built, and thrown away without being run.

    Attributes:
        compiler: What built it: `TensorRT`, or `TensorRT for RTX`.
        version: Its version.
        bytes: The size of the plan.
        seconds: How long parsing and building took.
        layers: How many outputs of layers have each data type.
        profiles: The shapes that it was built for, as `MIN:OPT:MAX` by input.
    """

    compiler: str
    version: str
    bytes: int
    seconds: float
    layers: Mapping[str, int]
    profiles: tuple[Mapping[str, str], ...]


def check_build(
    verified: VerifiedModel, profiles: Sequence[Profile], options: BuildOptions, report: Callable[[str], None]
) -> CheckedPlan:
    """Build a plan with the compiler that is installed, and throw it away.

    Raises:
        ModelError: The compiler does not support the model, or built no layer in the precision.
        HostError: No compiler is installed, or it cannot do what is asked for.
    """
    library = check_request(options)
    check_types(verified)
    with redirect_stdout(sys.stderr):
        built = build(verified, profiles, options, report)
    layers = built.layers or engine_formats(built.plan, library)
    check_precision(verified.batched.original.path, options.precision, layers)
    return CheckedPlan(
        library.name, library.version, len(built.plan), built.seconds, dict(layers), tuple(map(_shown, profiles))
    )


def check_request(options: BuildOptions) -> Library:
    """Return the compiler that is installed, if it can do what is asked for.

    Raises:
        HostError: None is installed, or it cannot.
    """
    library = need_library()
    if library.is_rtx and options.timing_cache is not None:  # it would overwrite TensorRT's, with nothing in it
        what = f"{library} keeps no timings, so a timing cache has no effect"
        raise HostError("this machine", what, "leave out --timing-cache")
    check_build_options(options)
    return library


def check_types(verified: VerifiedModel) -> None:
    """Check that a plan can have inputs and outputs of these types.

    Raises:
        ModelError: It cannot.
    """
    batched = verified.batched
    refused = (ir.DataType.STRING, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    for tensor in (*batched.inputs, *batched.outputs):
        if tensor.dtype in refused:
            what = f"tensor {tensor.name!r} is {tensor.dtype}, which is not supported for inputs and outputs of a plan"
            raise ModelError(batched.original.path, what, "publish it with --format onnx")


def check_precision(where: Path, precision: Precision, layers: Mapping[str, int]) -> None:
    """Check that some layers compute in the requested precision, given the number of outputs by data type.

    Raises:
        UnbuildableError: None does.
    """
    if precision != "fp32" and not layers.keys() & _NAMES[precision]:
        counts = ", ".join(f"{count} {name}" for name, count in layers.items()) or "layers of unknown types"
        raise UnbuildableError(where, f"the plan has no layer in {precision}, only {counts}", "leave out --precision")


def _shown(profile: Profile) -> dict[str, str]:
    return {name: str(shapes) for name, shapes in profile.items()}
