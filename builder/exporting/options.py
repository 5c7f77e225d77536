"""What to export, how to export it, and the result."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from builder.tensors import TORCH_TYPES

EXPORTERS = ("torch.export", "TorchScript")
"""PyTorch's names for its two ONNX exporters, in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of `forward`: the name of its parameter, and the element type and full shape of its tensor."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "InputSpec":
        """Read `x=float32[1,3,224,224]`.

        Raises:
            ValueError: The form or the type is wrong, or a dimension is below 1.
        """
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\w+)\s*\[([\d\s,]*)\]\s*", text)
        if match is None or not match[1].isidentifier():
            raise ValueError(f"{text!r} is not of the form NAME=DTYPE[DIM,DIM,…], for example x=float32[1,3,224,224]")
        name, dtype, dims = match.groups()
        if dtype not in TORCH_TYPES:
            raise ValueError(f"unknown type {dtype!r} in {text!r}: use one of {', '.join(TORCH_TYPES)}")
        shape = tuple(int(dim) if dim.strip().isdigit() else 0 for dim in dims.split(",")) if dims.strip() else ()
        if 0 in shape:
            raise ValueError(f"every dimension in {text!r} must be a whole number of at least 1")
        return cls(name, ir.DataType[TORCH_TYPES[dtype]], shape)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the user asks for.

    Attributes:
        inputs: The inputs, in the order that the ONNX model will have. Empty if the source declares them.
        batch_axes: The axis of the batch, by input, where it is not axis 0. In the ONNX model it is axis 0.
        dynamic: Names for other axes to make dynamic, by input and by axis of the input's shape.
        is_static: Make no axis dynamic.
        exporter: The only exporter to try, one of `EXPORTERS`. Both are tried if it is None.
        opset: The ONNX opset. The exporter chooses if it is None.
        samples: An .npz file of samples to prove with. Random ones are drawn if it is None.
        is_verbose: Show what PyTorch itself prints, logs and warns about.
        has_fixed_batch: The module takes no other batch size than that of its inputs, as its source says.
    """

    inputs: tuple[InputSpec, ...] = ()
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    is_static: bool = False
    exporter: str | None = None
    opset: int | None = None
    samples: Path | None = None
    is_verbose: bool = False
    has_fixed_batch: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each dynamic axis in the given inputs, by the axis's name."""
        shapes = {spec.name: spec.shape for spec in self.inputs}
        return {name: shapes[given][axis] for given, axes in self.dynamic.items() for axis, name in axes.items()}


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An ONNX file that was proven to give the module's answers.

    Attributes:
        path: The .onnx file.
        road: The way it was made: the exporter, and whether the batch was made dynamic afterwards.
        batch_sizes: The batch sizes at which it was compared; empty if it is static.
        other_sizes: Sizes of its other dynamic axes at which it was also compared, by name.
        largest_difference: The largest difference between the file's answers and the module's, over all outputs.
    """

    path: Path
    road: str
    batch_sizes: tuple[int, ...]
    other_sizes: tuple[Mapping[str, int], ...]
    largest_difference: float
