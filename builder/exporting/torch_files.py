"""Find the module in a file of PyTorch: an exported program (`.pt2`) or a TorchScript file."""

from builder.errors import ModelError
from builder.exporting.found import Found
from builder.exporting.options import ExportOptions


def find(source: str, request: ExportOptions) -> Found:
    """Load the module in the file.

    Raises:
        ModelError: It cannot be loaded.
    """
    raise ModelError(source, "files of PyTorch are not supported yet", "write a factory that returns the module")
