"""What the caller of `publish` can ask for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from builder.bounded import Limits
from builder.config import ConfigOptions, Shapes
from builder.errors import ModelError
from builder.lowering import Precision, Runtime
from builder.proof import AccuracyOptions, Effort
from builder.record import Download
from builder.tensorrt import BuildOptions


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file comes from, which the caller does not choose.

    Attributes:
        is_module: Whether it was exported from a PyTorch module just now.
        download: Where it was fetched from; None if it was here.
        class_labels: Files of labels that came with the model, by the outputs' names in the file. An output that
            `ConfigOptions.labels` names gets those instead.
    """

    is_module: bool = False
    download: Download | None = None
    class_labels: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What the caller asked for. What is left out gets a default, or stays as the served version has it.

    Attributes:
        is_static: Keep the model as it is, without a batch.
        is_per_sample: Run each row of a batch by itself inside the model.
        input_names: Names for all inputs, in order.
        output_names: Names for all outputs, in order.
        renames: New names of single inputs or outputs, by their name in the file.
        dynamic: Other axes to make dynamic: by input, the name of the axis by its position in the file.
        batch_axes: The batch axis of inputs whose batch is not axis 0. None means that each sample brings it all.
        constants: Values of inputs to turn into constants: a number that fills the input, or an .npy file. For a
            PyTorch module, any Python value for a parameter of `forward`.
        outputs: The outputs to keep, by name; all of them if it is empty.
        sizes: The sizes of dynamic axes in random samples, by the name of the axis or by `INPUT:AXIS`. Axes that are
            left out have sizes at which the model was seen to run.
        samples: An .npz file of samples to prove the model with.
        effort: How many batch sizes the proof runs.
        precision: The precision in which the model computes; its inputs and outputs keep their types.
        calibration: An .npz file of inputs on which `int8` measures ranges; by default `samples`.
        runtime: What `int8` is for; by default what `format` and the accelerator of the config say.
        max_error: The allowed error of floats, as a part of each value and again of the output's largest value.
        min_speedup: The least throughput of a quantized model on this CPU, as a multiple of fp32's. 0 publishes any.
        accuracy: What the caller asks about the accuracy on `samples` with labels.
        triton: The release of the Triton container that will serve the model, such as `26.10`.
        format: What Triton loads: the ONNX file, or a TensorRT plan made from it.
        fallback: `onnx` stores the proven ONNX file beside the plan: every server can load it, and `deploy` loads the
            plan where it runs.
        keep_plans: Whether the version also gets the plans that the served one has for other kinds of GPU.
        profiles: Shapes that TensorRT builds for, each with its input.
        build: How to build a TensorRT plan.
        config: What to set in config.pbtxt.
        serve: Whether to serve the version at once. If not, it is only installed.
        serve_also: Lower versions to serve at the same time; None leaves that to config.pbtxt.
        dry_run: Only say what would be changed, after the model is proven; nothing is written.
        lock_timeout_s: How long to wait while another command changes the repository, in seconds; None waits until it
            is done.
        limits: How much time and memory the work on the model may take.
    """

    is_static: bool = False
    is_per_sample: bool = False
    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    samples: Path | None = None
    effort: Effort = "sample"
    precision: Precision = "fp32"
    calibration: Path | None = None
    runtime: Runtime | None = None
    max_error: float | None = None
    min_speedup: float | None = None
    accuracy: AccuracyOptions = field(default_factory=AccuracyOptions)
    triton: str | None = None
    format: Literal["onnx", "tensorrt"] = "onnx"
    fallback: Literal["onnx"] | None = None
    keep_plans: bool = False
    profiles: tuple[tuple[str, Shapes], ...] = ()
    build: BuildOptions = field(default_factory=BuildOptions)
    config: ConfigOptions = field(default_factory=ConfigOptions)
    serve: bool = True
    serve_also: tuple[int, ...] | None = None
    dry_run: bool = False
    lock_timeout_s: float | None = None
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Check the numbers that limit what may be published: with a NaN, any error would be allowed.

        Raises:
            ModelError: One is no such number, or the metric cannot be had.
        """
        if self.max_error is not None and not 0 < self.max_error <= 1:
            what = f"{self.max_error:g} is not a number above 0 and up to 1"
            raise ModelError("max_error", what, "use a part of the values, for example 0.02")
        if self.min_speedup is not None and not 0 <= self.min_speedup < math.inf:
            what = f"{self.min_speedup:g} is not a number from 0 up"
            raise ModelError("min_speedup", what, "use a multiple of the throughput in fp32, for example 1.1")
        if self.precision not in get_args(Precision):
            what = f"{self.precision!r} is no precision"
            raise ModelError("precision", what, f"use one of {', '.join(get_args(Precision))}")
        self.accuracy.check()

    def to_manifest(self) -> dict[str, Any]:
        """Return the options that shape the model's files, as `manifest.json` records them; defaults are left out."""
        given = {
            "static": self.is_static,
            "per_sample": self.is_per_sample,
            "input_names": list(self.input_names or ()),
            "output_names": list(self.output_names or ()),
            "rename": dict(self.renames),
            "batch_axis": dict(self.batch_axes),
            "constant": {name: _file_name(value) for name, value in self.constants.items()},
            "output": list(self.outputs),
            "dynamic": {name: {str(axis): size for axis, size in axes.items()} for name, axes in self.dynamic.items()},
            "size": dict(self.sizes),
            "samples": _file_name(self.samples),
            "prove": _unless("sample", self.effort),
            "precision": _unless("fp32", self.precision),
            "calibration": _file_name(self.calibration),
            "for": self.runtime,
            "max_error": self.max_error,
            **self.accuracy.to_manifest(),
            "triton": self.triton,
            "format": _unless("onnx", self.format),
            "profile": [f"{name}={shapes}" for name, shapes in self.profiles if self.format == "tensorrt"],
            "version_compatible": self.build.version_compatible,
            "hardware_compatible": self.build.hardware_compatible,
            "builder_optimization_level": self.build.builder_optimization_level,
            "tiling_optimization_level": self.build.tiling_optimization_level,
            "build_route": self.build.build_route,
            "fallback": self.fallback,
        }
        numbers = ("max_accuracy_drop", "builder_optimization_level")  # of which 0 is one, too
        return {option: value for option, value in given.items() if value or (option in numbers and value is not None)}


def _file_name(value: object) -> object:
    return value.name if isinstance(value, Path) else value


def _unless(default: str, value: str) -> str | None:
    return None if value == default else value
