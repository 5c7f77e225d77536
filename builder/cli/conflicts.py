"""Options of `publish` that contradict each other, or that have no effect on this kind of model."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.faults import WrongUsage

if TYPE_CHECKING:
    from builder.publishing import PublishOptions

Conflict = tuple[str, str]
"""What is wrong, and how to fix it."""


def check_options(options: "PublishOptions") -> None:
    """Refuse options that contradict each other.

    Raises:
        WrongUsage: The first contradiction.
    """
    conflicts = [*_batch_conflicts(options), *_tensorrt_conflicts(options)]
    if conflicts:
        raise WrongUsage(*conflicts[0])


def _batch_conflicts(options: "PublishOptions") -> Iterator[Conflict]:
    largest, preferred = options.config.max_batch_size, options.config.preferred_batch_sizes
    if options.is_static and options.is_per_sample:
        yield "--static and --per-sample cannot be used together", "leave out --static or --per-sample"
    if options.dynamic and (options.is_static or options.is_per_sample):
        other = "--static" if options.is_static else "--per-sample"
        yield f"--dynamic does not work with {other}", f"leave out {other} or --dynamic"
    if options.is_static and preferred:
        yield "--preferred-batch-size has no effect with --static", "leave out --preferred-batch-size or --static"
    if options.is_static and largest:
        yield "--max-batch-size has no effect with --static", "leave out --max-batch-size or --static"
    if largest and max(preferred or (0,)) > largest:
        what = f"--preferred-batch-size {max(preferred or (0,))} is larger than --max-batch-size {largest}"
        yield what, f"use preferred sizes of at most {largest}, or a larger --max-batch-size"


def _tensorrt_conflicts(options: "PublishOptions") -> Iterator[Conflict]:
    is_plan, accelerator = options.format == "tensorrt", options.config.accelerator
    if is_plan and accelerator:
        yield (
            "--accelerator is for an ONNX file, and --format tensorrt makes a plan of it",
            "leave out --accelerator or --format",
        )
    if options.profiles and not (is_plan or accelerator):
        yield (
            "--profile has no effect without TensorRT",
            "add --format tensorrt or --accelerator tensorrt, or leave out --profile",
        )
    needs_plan = {
        "--timing-cache": options.build.timing_cache,
        "--workspace-mb": options.build.workspace_mb,
        "--version-compatible": options.build.version_compatible,
        "--hardware-compatible": options.build.hardware_compatible,
        "--cuda-graphs": options.config.cuda_graphs,
    }
    for name, value in needs_plan.items():
        if value and not is_plan:
            yield f"{name} is only for TensorRT plans", f"add --format tensorrt, or leave out {name}"


def check_module(model: Path, options: "PublishOptions", exporting: Mapping[str, Any]) -> None:
    """Refuse a module without inputs, and options that a module cannot have.

    Raises:
        WrongUsage: The first of them.
    """
    if exporting["inputs"]:
        if options.constants or None in options.batch_axes.values():
            what = "--constant and --batch-axis INPUT=none do not work with PyTorch modules"
            raise WrongUsage(what, "make that input an attribute of the module, such as a buffer")
        return
    fix = "add --input NAME=DTYPE[DIM,...] for each parameter of forward()"
    if re.fullmatch(r"[\w.]+:\w+", str(model)) and not model.exists():
        raise WrongUsage(f"{model} looks like a PyTorch module, and there is no --input", fix)
    for name, value in exporting.items():
        if value:
            raise WrongUsage(
                f"--{name} is only for PyTorch modules, and there is no --input", f"{fix}, or leave it out"
            )
