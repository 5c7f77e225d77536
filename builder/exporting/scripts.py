"""Call a TorchScript module, from a file or from a factory, by the names in its schema."""

import inspect
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from builder.errors import ModelError
from builder.exporting.found import Found
from builder.exporting.options import ExportOptions, InputSpec
from builder.model import pickles
from builder.tensors import TORCH_TYPES

EXPORTER = "TorchScript"
"""The only exporter that takes TorchScript: `torch.export` requires Python code, or parameters of Python's class."""


def found(
    source: str, module: torch.jit.ScriptModule, request: ExportOptions, traced: Sequence[pickles.Tensor] = ()
) -> Found:
    """Describe how to call a TorchScript module.

    Args:
        source: What the user named, for messages.
        module: The module.
        request: What to export.
        traced: The types and shapes that it was traced with, if its file keeps them.

    Raises:
        ModelError: The inputs are neither given nor known, or another exporter is asked for.
    """
    if request.exporter not in (None, EXPORTER):
        what = f"--exporter {request.exporter} does not take TorchScript"
        raise ModelError(source, what, "leave out --exporter, or give the Python module that it was made from")
    script = Script(module)
    inputs = request.inputs or _traced(script, traced)
    if not inputs:
        names = script.tensors
        what = f"a TorchScript module does not say the shapes of its inputs: {', '.join(names)}"
        fix = "add " + " ".join(f"--input '{name}=float32[1,3,224,224]'" for name in names)
        raise ModelError(source, what, f"{fix}, with their own types and shapes")
    mode = "set to evaluation mode"
    if not request.inputs:
        shown = ", ".join(f"{spec.name}={tensor}" for spec, tensor in zip(inputs, traced, strict=True))
        mode += f", with the inputs that it was traced with, {shown}"
    name = f"{module.original_name} in TorchScript"
    return Found(script, inputs, request.dynamic, request.constants, exporter=EXPORTER, mode=mode, name=name)


def _traced(script: "Script", traced: Sequence[pickles.Tensor]) -> tuple[InputSpec, ...]:
    """Return the inputs that a module was traced with; none if they are not all of its tensors."""
    are_whole = all(tensor.dtype in TORCH_TYPES and all(tensor.shape) for tensor in traced)
    if len(traced) != len(script.tensors) or not are_whole:
        return ()
    return tuple(
        InputSpec(name, ir.DataType[TORCH_TYPES[tensor.dtype]], tensor.shape)
        for name, tensor in zip(script.tensors, traced, strict=True)
    )


class Script(nn.Module):
    """A TorchScript module with the signature that its schema describes.

    Attributes:
        tensors: The names of the parameters that take a tensor.
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.module = module.cpu().eval()
        arguments = module.forward.schema.arguments[1:]  # the first one is the module, whatever it is called
        self.tensors = [a.name for a in arguments if "Tensor" in str(a.type)]
        setattr(self, "forward", self._forward_with(arguments))  # noqa: B010 - one signature for each module

    def _forward_with(self, arguments: Any) -> Any:
        def forward(**given: Any) -> Any:
            return self.module(**given)

        kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
        parameters = [
            inspect.Parameter(a.name, kind, default=a.default_value if a.has_default_value() else empty)
            for a in arguments
        ]
        setattr(forward, "__signature__", inspect.Signature(parameters))  # noqa: B010 - which inspect reads
        return forward
