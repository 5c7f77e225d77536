"""Export a PyTorch module to ONNX with its batch dynamic, and prove the file against the module itself.

Only what the command line needs to ask for an export is imported here; `strategies` imports PyTorch when it runs.
"""

from builder.exporting.export import EXPORTERS, ExportedModel, ExportOptions, InputSpec, export

__all__ = ["EXPORTERS", "ExportOptions", "ExportedModel", "InputSpec", "export"]
