"""Find the module that the user names, in Python code or in a file, and the inputs that its source declares."""

from pathlib import Path

from builder.errors import ModelError
from builder.exporting import factories, hugging_face, torch_files
from builder.exporting.found import Found
from builder.exporting.options import ExportOptions
from builder.exporting.sources import Kind, kind_of, mode_of
from builder.model import refuse_as


def find(source: str, request: ExportOptions) -> Found:
    """Load the module of a factory, a file of PyTorch or a Hugging Face model.

    Args:
        source: What the user gives as MODEL.
        request: What to export; the inputs may be empty if the source declares them.

    Raises:
        ModelError: It does not exist, cannot be loaded, or is no module.
    """
    match kind_of(source):
        case Kind.TORCH_FILE:
            found = torch_files.find(source, request)
        case Kind.HUGGING_FACE:
            found = hugging_face.find(source, request)
        case Kind.ONNX if mode_of(source):
            what = f"it is a {'folder' if Path(source).is_dir() else 'file'} without a PyTorch module"
            fix = "if it is an ONNX file, publish it without the options for PyTorch modules"
            raise refuse_as(Path(source)) or ModelError(source, what, fix)
        case _:
            found = factories.find(source, request)
    if not found.inputs:
        fix = "add --input NAME=DTYPE[DIM,...] for each parameter of forward()"
        raise ModelError(source, "the types and shapes of its inputs are unknown", fix)
    return found
