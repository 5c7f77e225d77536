"""What to export, how to export it, and the result."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from builder.tensors import TORCH_TYPES

EXPORTERS = ("torch.export", "TorchScript")
"""PyTorch's names for its two ONNX exporters, in the order in which they are tried."""

NAME = r"[^\W\d]\w*(?:\.[^\s=.:,\[\]]+)*"
"""A parameter of `forward`, or a tensor inside it: `x`, `batch.image`, `state.0`, `args.1`."""


def tensor_name(given: str) -> str:
    """Return the name of an ONNX model's input: `batch_image` for `batch.image`."""
    return re.sub(r"\W", "_", given)


LARGEST_TENSOR = 2**40
"""The most numbers in one input: larger ones fit into no machine, and far larger ones into no type of a size."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A tensor that `forward` takes.

    `InputSpec("batch.image", …)` and `InputSpec("batch_image", …, path=("batch", "image"))` are the same.

    Attributes:
        name: The name of the parameter, and of the ONNX model's input. A tensor inside a dictionary or another
            container has the keys and positions that lead to it, joined by `_`.
        dtype: The element type.
        shape: The full shape, batch included.
        path: The parameter, and the keys and positions inside it. Default: the name, split at its dots.
    """

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Work out the path from the name, and the name from the path."""
        object.__setattr__(self, "path", self.path or tuple(self.name.split(".")))
        object.__setattr__(self, "name", tensor_name(self.name))

    @property
    def given(self) -> str:
        """The name as the user writes it: `batch.image`."""
        return ".".join(self.path)

    @classmethod
    def parse(cls, text: str) -> "InputSpec":
        """Read `x=float32[1,3,224,224]` or `batch.image=float32[1,3,224,224]`.

        Raises:
            ValueError: The form or the type is wrong, a dimension is below 1, or they are too large.
        """
        match = re.fullmatch(rf"\s*({NAME})\s*=\s*(\w+)\s*\[([\d\s,]*)\]\s*", text)
        if match is None:
            raise ValueError(f"{text!r} is not of the form NAME=DTYPE[DIM,DIM,…], for example x=float32[1,3,224,224]")
        name, dtype, dims = match.groups()
        if dtype not in TORCH_TYPES:
            raise ValueError(f"unknown type {dtype!r} in {text!r}: use one of {', '.join(TORCH_TYPES)}")
        shape = tuple(int(dim) if dim.strip().isdigit() else 0 for dim in dims.split(",")) if dims.strip() else ()
        if 0 in shape:
            raise ValueError(f"every dimension in {text!r} must be a whole number of at least 1")
        if math.prod(shape) > LARGEST_TENSOR:
            raise ValueError(f"{text!r} has more numbers than fit into memory: use {LARGEST_TENSOR} of them or fewer")
        return cls(name, ir.DataType[TORCH_TYPES[dtype]], shape)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the user asks for.

    Attributes:
        inputs: The inputs, in the order that the ONNX model will have. Empty if the source declares them.
        batch_axes: The axis of the batch, by input, where it is not axis 0. In the ONNX model it is axis 0. None is
            for an input without a batch, which each row of the ONNX model's batch brings for itself.
        dynamic: Names for other axes to make dynamic, by input and by axis of the input's shape.
        is_static: Make no axis dynamic.
        exporter: The only exporter to try, one of `EXPORTERS`. Both are tried if it is None.
        opset: The ONNX opset. The exporter chooses if it is None.
        sizes: The sizes of dynamic axes in random samples, by their names in `dynamic` or by `INPUT:AXIS`. Default:
            those of `inputs`.
        samples: An .npz file of samples to prove with. Random ones are drawn if it is None.
        is_verbose: Show what PyTorch itself prints, logs and warns about.
        constants: Values for other parameters of `forward`, by name as for the inputs: Python values, or .npy files,
            which become tensors.
        outputs: The outputs to keep, by name; all of them if it is empty.
        task: What a Hugging Face model does, such as `text-classification`. Its config says it if it is None.
        is_download: Whether a Hugging Face model may be downloaded.
        revision: The branch, tag or commit to download.
    """

    inputs: tuple[InputSpec, ...] = ()
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    is_static: bool = False
    exporter: str | None = None
    opset: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    samples: Path | None = None
    is_verbose: bool = False
    constants: Mapping[str, object] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    task: str | None = None
    is_download: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        """Name the inputs as the ONNX model does: `batch_image` for `batch.image`."""
        object.__setattr__(self, "batch_axes", {tensor_name(n): axis for n, axis in self.batch_axes.items()})
        object.__setattr__(self, "dynamic", {tensor_name(n): axes for n, axes in self.dynamic.items()})

    @property
    def dynamic_axes(self) -> list[tuple[str, int, str]]:
        """The input, the axis and the name of each dynamic axis."""
        return [(name, axis, label) for name, axes in self.dynamic.items() for axis, label in axes.items()]

    @property
    def shape_sizes(self) -> dict[str, int]:
        """The size of each dynamic axis in the shapes of the inputs, by the axis's name."""
        shapes = {spec.name: spec.shape for spec in self.inputs}
        return {label: shapes[name][axis] for name, axis, label in self.dynamic_axes}

    @property
    def given_sizes(self) -> dict[str, int]:
        """The size of each dynamic axis in the samples, by the axis's name."""
        return {label: self.sizes.get(label, size) for label, size in self.shape_sizes.items()}


@dataclass(frozen=True, slots=True)
class Completed(ExportOptions):
    """What the user asks for, with what the source says about itself.

    Attributes:
        has_fixed_batch: The module takes no other batch size than that of its inputs.
    """

    has_fixed_batch: bool = False


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An ONNX file that was proven to give the module's answers.

    Attributes:
        path: The .onnx file.
        road: The way it was made: the exporter, and whether the batch was made dynamic afterwards.
        batch_sizes: The batch sizes at which it was compared; empty if it is static.
        other_sizes: Sizes of its other dynamic axes at which it was also compared, by name.
        largest_difference: The largest difference between the file's answers and the module's, over all outputs.
        drawn: In a few words, what the samples of each input were, such as `normal`; `given` if they were the user's.
        labels: The names of the classes of its output `logits`, in order; empty if it has none.
        sizes: The sizes of these axes at which it was compared first, by their names in the file.
    """

    path: Path
    road: str
    batch_sizes: tuple[int, ...]
    other_sizes: tuple[Mapping[str, int], ...]
    largest_difference: float
    drawn: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
