"""Find the module in a folder of Hugging Face's transformers."""

from builder.errors import ModelError
from builder.exporting.found import Found
from builder.exporting.options import ExportOptions


def find(source: str, request: ExportOptions) -> Found:
    """Load `hf:FOLDER`.

    Raises:
        ModelError: It cannot be loaded.
    """
    raise ModelError(source, "Hugging Face models are not supported yet", "write a factory that returns the module")
