"""A module that was found, on the CPU and in evaluation mode, and how to call it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from torch import nn

from builder.exporting.options import Completed, ExportOptions, InputSpec


@dataclass(frozen=True, slots=True)
class Found:
    """A module and what is known of its inputs.

    Attributes:
        module: On the CPU, in evaluation mode.
        inputs: The tensors that it takes: those given, or those that its source declares.
        dynamic: Names for axes other than the batch that may have any size, by input and axis: those given, or those
            that its source declares.
        constants: The Python values of other parameters of `forward`, by name.
        exporter: The only exporter that can take it; any can if it is None.
        has_fixed_batch: It takes no other batch size than that of its inputs.
        mode: What was done so that it behaves as in inference, and what else the user should see about it.
        name: What to call it, if its class does not say.
        origin: What the exported file says about where it came from, if the source itself does not say enough.
        labels: The names of the classes of its output `logits`, in order; empty if it has none.
        notes: What the user should know about how it was found, a clause each.
    """

    module: nn.Module
    inputs: tuple[InputSpec, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    exporter: str | None = None
    has_fixed_batch: bool = False
    mode: str = "set to evaluation mode"
    name: str = ""
    origin: str = ""
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def completed(self, asked: ExportOptions) -> Completed:
        """Return what the user asks for, with what the source says."""
        options = replace(
            asked,
            inputs=self.inputs,
            dynamic=self.dynamic,
            constants={**self.constants, **asked.constants},
            exporter=self.exporter or asked.exporter,
        )
        values = {each.name: getattr(options, each.name) for each in fields(ExportOptions)}
        return Completed(**values, has_fixed_batch=self.has_fixed_batch)
