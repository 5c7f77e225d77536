"""Options that contradict each other, or that have no effect on this kind of model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.faults import WrongUsage

if TYPE_CHECKING:
    from builder.config import ConfigOptions
    from builder.proof import AccuracyOptions
    from builder.publishing import PublishOptions

_NO_FALLBACK = {
    "bf16": "ONNX Runtime cannot compute in bf16 on a CPU",
    "int8": "a file that is quantized for TensorRT can answer wrongly on a CPU, where sums of its products overflow",
}
"""Why a file in a precision is of no use to a server that cannot run its plan."""

Conflict = tuple[str, str]
"""What is wrong, and how to fix it."""


def check_options(options: "PublishOptions") -> None:
    """Refuse options that contradict each other.

    Raises:
        WrongUsage: The first contradiction.
    """
    conflicts = [
        *_batch_conflicts(options),
        *_sample_conflicts(options),
        *accuracy_conflicts(options.accuracy, options.samples),
        *_config_conflicts(options.config),
        *_speed_conflicts(options),
        *_int8_conflicts(options),
        *_tensorrt_conflicts(options),
    ]
    if conflicts:
        raise WrongUsage(*conflicts[0])


def check_inspection(options: "PublishOptions") -> None:
    """Refuse options of `inspect` that contradict each other, or that only plans need where none is built.

    Raises:
        WrongUsage: The first contradiction.
    """
    given = {
        "--max-batch-size": options.config.max_batch_size,
        "--prove": options.effort != "sample",
        "--samples": options.samples,
        "--max-error": options.max_error,
        "--metric": options.accuracy.metric,
        "--label-output": options.accuracy.label_output,
        "--max-accuracy-drop": options.accuracy.max_accuracy_drop is not None,
        "--precision": options.precision != "fp32",
        "--profile": options.profiles,
        **_needs_plan(options),
    }
    if options.format != "tensorrt":
        for name, value in given.items():
            if value:
                what = f"{name} has no effect on `inspect` without --format tensorrt"
                raise WrongUsage(what, f"add --format tensorrt, or leave out {name}")
    check_options(options)


def check_settings(config: "ConfigOptions") -> None:
    """Refuse settings of config.pbtxt that contradict each other, and a call that names none.

    Raises:
        WrongUsage: The first contradiction.
    """
    if config == type(config)():
        what = "no setting is named, so there is nothing to change"
        raise WrongUsage(what, "name one, such as --instances 2; `python -m builder configure --help` lists them")
    conflicts = [*_size_conflicts(config), *_config_conflicts(config)]
    if conflicts:
        raise WrongUsage(*conflicts[0])


def _size_conflicts(config: "ConfigOptions") -> Iterator[Conflict]:
    largest, preferred = config.max_batch_size, config.preferred_batch_sizes
    if largest and max(preferred or (0,)) > largest:
        what = f"--preferred-batch-size {max(preferred or (0,))} is larger than --max-batch-size {largest}"
        yield what, f"use preferred sizes of at most {largest}, or a larger --max-batch-size"


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
    yield from _size_conflicts(options.config)


def _sample_conflicts(options: "PublishOptions") -> Iterator[Conflict]:
    if options.sizes and options.samples is not None:
        yield "--size is for random inputs, and --samples gives others", "leave out --size or --samples"


def accuracy_conflicts(accuracy: "AccuracyOptions", samples: Path | None) -> Iterator[Conflict]:
    """Yield what is wrong with the options for accuracy."""
    given = {
        "--metric": accuracy.metric,
        "--label-output": accuracy.label_output,
        "--max-accuracy-drop": accuracy.max_accuracy_drop,
    }
    for name, value in given.items():
        if value is not None and samples is None:
            yield (
                f"{name} is about the accuracy on labelled samples, and there is no --samples",
                f"add --samples FILE.npz with an array label, or leave out {name}",
            )
    if accuracy.function is not None and accuracy.label_output is not None:
        yield (
            "--label-output has no effect with a function, which gets all outputs",
            "leave out --label-output, or name a figure with --metric, such as accuracy",
        )


def _config_conflicts(config: "ConfigOptions") -> Iterator[Conflict]:
    if config.instance_groups and (config.instances is not None or config.kind is not None):
        other = "--instances" if config.instances is not None else "--kind"
        yield (
            f"{other} and --instance-group cannot be used together",
            f"leave out {other}: each group has its own count and kind",
        )
    levels, default = config.priority_levels, config.default_priority
    if levels is not None and default is not None and default > levels:
        what = f"--default-priority {default} is not one of the {levels} levels of --priority-levels"
        yield what, f"use a priority from 1 to {levels}" if levels else "leave out --default-priority"
    if config.intra_op_thread_count is not None and "intra_op_thread_count" in config.parameters:
        yield (
            "--intra-op-thread-count and --parameter intra_op_thread_count set the same",
            "leave one of them out",
        )


def _speed_conflicts(options: "PublishOptions") -> Iterator[Conflict]:
    from builder.lowering import QUANTIZED

    if options.min_speedup is None:
        return
    if options.precision not in QUANTIZED:
        what = f"--min-speedup has no effect with --precision {options.precision}"
        yield what, "leave out --min-speedup, or add --precision int8-dynamic"
    elif "tensorrt" in (options.format, options.config.accelerator, options.runtime):
        what = "--min-speedup is about this CPU, and the model is for TensorRT"
        yield what, "leave out --min-speedup"


def _int8_conflicts(options: "PublishOptions") -> Iterator[Conflict]:
    is_int8 = options.precision == "int8"
    is_tensorrt = options.format == "tensorrt" or options.config.accelerator == "tensorrt"
    if is_int8 and options.calibration is None and options.samples is None:
        without = "--precision fp16" if is_tensorrt else "--precision int8-dynamic"
        yield (
            "--precision int8 needs real inputs, to measure the ranges of the values inside the model",
            f"give some with --calibration FILE.npz, or use {without}, which needs none",
        )
    for name, value in {"--calibration": options.calibration, "--for": options.runtime}.items():
        if value is not None and not is_int8:
            yield f"{name} is only for --precision int8", f"add --precision int8, or leave out {name}"
    if is_int8 and options.runtime == "cpu" and is_tensorrt:
        what = "TensorRT does not accept what --for cpu makes: its values have a zero point that is not 0"
        yield what, "leave out --for"


def _tensorrt_conflicts(options: "PublishOptions") -> Iterator[Conflict]:
    is_plan, accelerator = options.format == "tensorrt", options.config.accelerator
    if options.precision == "int8-dynamic" and (is_plan or accelerator == "tensorrt"):
        yield (
            "TensorRT cannot quantize values while a model runs, as --precision int8-dynamic does",
            "use --precision int8 --calibration FILE.npz, or leave out what asks for TensorRT",
        )
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
    for name, value in _needs_plan(options).items():
        if value and not is_plan:
            yield f"{name} is only for TensorRT plans", f"add --format tensorrt, or leave out {name}"
    if options.fallback and (why := _NO_FALLBACK.get(options.precision)):
        what = f"--fallback onnx does not work with --precision {options.precision}: {why}"
        yield what, "use --precision fp16, or leave out --fallback"


def _needs_plan(options: "PublishOptions") -> dict[str, object]:
    """Return the options that only plans have, with their values."""
    build = options.build
    return {
        "--fallback": options.fallback,
        "--keep-plans": options.keep_plans,
        "--builder-optimization-level": build.builder_optimization_level is not None,
        "--tiling-optimization-level": build.tiling_optimization_level,
        "--build-route": build.build_route is not None,
        "--timing-cache": options.build.timing_cache,
        "--workspace-mb": options.build.workspace_mb,
        "--version-compatible": options.build.version_compatible,
        "--hardware-compatible": options.build.hardware_compatible,
        "--cuda-graphs": options.config.cuda_graphs,
    }


def check_origin(model: str, given: Mapping[str, Any]) -> None:
    """Refuse options for models from elsewhere that this model cannot have, and a URL without a digest.

    Raises:
        WrongUsage: The first of them.
    """
    from builder.exporting import Kind, kind_of
    from builder.fetching import is_url

    conflicts = [
        *_hub_conflicts(given, is_on_hub=kind_of(model) is Kind.HUGGING_FACE),
        *_digest_conflicts(given, is_url=is_url(model)),
    ]
    if conflicts:
        raise WrongUsage(*conflicts[0])


def _hub_conflicts(given: Mapping[str, Any], *, is_on_hub: bool) -> Iterator[Conflict]:
    options = {"--task": given["task"], "--download": given["is_download"], "--revision": given["revision"]}
    for name, value in options.items():
        if value and not is_on_hub:
            yield f"{name} is only for Hugging Face models", f"name the model as hf:FOLDER, or leave out {name}"
    if given["revision"] and not given["is_download"]:
        yield "--revision has no effect without --download", "add --download, or leave out --revision"


def _digest_conflicts(given: Mapping[str, Any], *, is_url: bool) -> Iterator[Conflict]:
    if is_url and not given["sha256"]:
        yield (
            "a model at a URL is published only if its content is known beforehand, and there is no --sha256",
            "add --sha256 DIGEST; `sha256sum FILE` prints it where the file was made",
        )
    if given["sha256"] and not is_url:
        yield "--sha256 is only for models at a URL", "leave out --sha256"


def check_module(model: str, options: "PublishOptions", exporting: Mapping[str, Any]) -> None:
    """Refuse a module without inputs, and options that this kind of model cannot have.

    Raises:
        WrongUsage: The first of them.
    """
    from builder.exporting import Kind, Source

    source = Source.of(model)
    fix = "add --input NAME=DTYPE[DIM,...] for each parameter of forward()"
    if source.needs_inputs and not exporting["inputs"]:
        raise WrongUsage(f"{model} looks like a PyTorch module, and there is no --input", fix)
    if source.kind is not Kind.ONNX or exporting["inputs"]:
        return
    for name, constant in options.constants.items():
        if not isinstance(constant, int | float | Path):
            what = f"--constant {name}: {constant!r} is neither a number nor the name of a .npy file"
            raise WrongUsage(what, f"write a number, as in {name}=0.5, or a file, as in {name}=values.npy")
    for name, value in exporting.items():
        if value:
            option = f"--{name.removeprefix('is_')}"
            raise WrongUsage(
                f"{option} is only for PyTorch modules, and there is no --input", f"{fix}, or leave it out"
            )
