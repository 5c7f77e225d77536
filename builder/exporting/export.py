"""Export a PyTorch module to ONNX with its batch dynamic, proven against the module itself.

Only what the command line needs to ask for an export is imported here; PyTorch comes with `roads`.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from builder.errors import HostError
from builder.progress import Report
from builder.tensors import TORCH_TYPES

EXPORTERS = ("torch.export", "TorchScript")
"""What PyTorch calls its two ways to ONNX, in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of `forward`: a parameter's name, and the element type and full shape of what it takes."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "InputSpec":
        """Read `x=float32[1,3,224,224]`.

        Raises:
            ValueError: It has another form, another type, or a dimension below 1.
        """
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\w+)\s*\[([\d\s,]*)\]\s*", text)
        if match is None or not match[1].isidentifier():
            raise ValueError(f"{text!r} is not of the form NAME=DTYPE[DIM,DIM,…], as in x=float32[1,3,224,224]")
        name, dtype, dims = match.groups()
        if dtype not in TORCH_TYPES:
            raise ValueError(f"{dtype!r} in {text!r} is none of {', '.join(TORCH_TYPES)}")
        shape = tuple(int(dim) if dim.strip().isdigit() else 0 for dim in dims.split(",")) if dims.strip() else ()
        if 0 in shape:
            raise ValueError(f"every dimension in {text!r} must be a whole number above 0")
        return cls(name, ir.DataType[TORCH_TYPES[dtype]], shape)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the caller asked for.

    Attributes:
        inputs: In the order that the ONNX model will have.
        batch_axes: For inputs whose batch is not axis 0, the axis it is on; in the ONNX model it is axis 0.
        dynamic: Other axes to make dynamic: by input, axis of the input's shape, and name.
        is_static: Make no axis dynamic.
        exporter: The only one to try, by its key in `EXPORTERS`; both if not given.
        opset: ONNX's; the exporter's own choice if not given.
        samples: An .npz with the caller's own samples to prove with.
    """

    inputs: tuple[InputSpec, ...]
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    is_static: bool = False
    exporter: str | None = None
    opset: int | None = None
    samples: Path | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The size that each dynamic axis has in the inputs as given, by its name."""
        shapes = {spec.name: spec.shape for spec in self.inputs}
        return {name: shapes[given][axis] for given, axes in self.dynamic.items() for axis, name in axes.items()}


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An ONNX file that was seen to answer as the module does.

    Attributes:
        path: The .onnx file.
        road: How it was made: which exporter, and who made the batch dynamic.
        batch_sizes: At which it was compared; none if it is static.
        other_sizes: Of its dynamic axes, at which it was compared too, by name.
        largest_difference: Between an answer of the file and the module's, over all outputs.
    """

    path: Path
    road: str
    batch_sizes: tuple[int, ...]
    other_sizes: tuple[Mapping[str, int], ...]
    largest_difference: float


def export(factory: str, path: Path, *, options: ExportOptions, report: Report = lambda *_: None) -> ExportedModel:
    """Export what `factory` (`package.module:name`) makes to `path`.

    Raises:
        HostError: PyTorch or its exporter is not installed, or the file cannot be written.
        ModelError: There is no such module, it cannot answer the inputs, or no exporter takes it.
        VerificationError: The module mixes the rows of a batch, or no export answers as the module does.
    """
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise HostError(
                factory, f"{package} is not installed", "install it with pip install 'triton-repository-builder[torch]'"
            )
    from builder.exporting.strategies import export_proven

    return export_proven(factory, path, options, report)
