"""Export a PyTorch module to ONNX with a dynamic batch, and prove that the file gives the module's answers.

`export` tries the `strategies` in order (PyTorch's two `exporters`, each with the batch dynamic from the start or made
dynamic afterwards) and takes the first file that `proving` finds equal to the module. `sources` says what the user
named, `finding` loads its module, and `subject` runs it. `frozen` finds the values that tracing froze when an export is
wrong, and `options` describes what is exported. `publish_module` exports and publishes in one go. PyTorch is imported
only when an export starts.
"""

from builder.exporting.export import export
from builder.exporting.options import EXPORTERS, ExportedModel, ExportOptions, InputSpec
from builder.exporting.publishing import publish_module
from builder.exporting.sources import Kind, Source, kind_of

__all__ = [
    "EXPORTERS",
    "ExportOptions",
    "ExportedModel",
    "InputSpec",
    "Kind",
    "Source",
    "export",
    "kind_of",
    "publish_module",
]
