"""A module that was found, on the CPU and in evaluation mode, and how to call it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from builder.exporting.options import InputSpec


@dataclass(frozen=True, slots=True)
class Found:
    """A module and what is known of its inputs.

    Attributes:
        module: On the CPU, in evaluation mode.
        inputs: The tensors that it takes: those given, or those that its source declares.
        dynamic: Names for axes other than the batch that may have any size, by input and axis: those given, or those
            that its source declares.
        constants: The Python values of other parameters of `forward`, by name.
    """

    module: nn.Module
    inputs: tuple[InputSpec, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
