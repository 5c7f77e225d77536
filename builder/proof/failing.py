"""Keep the batch that shows what is wrong, so that a person can run it again."""

from pathlib import Path

from builder import files
from builder.record import write_arrays
from builder.tensors import Arrays


def keep_failing(model: Path, arrays: Arrays) -> str:
    """Write a failing batch beside `model`, as `STEM.failed.npz`, and say where it is or why that is not possible."""
    path = model.with_name(f"{model.stem}.failed.npz")
    try:
        with files.create(path) as stream:
            write_arrays(stream, arrays)
    except OSError as error:
        return f"; the failing batch could not be written to {path}: {files.reason(error)}"
    return f"; the failing batch is in {path}"
