"""Export a PyTorch module. PyTorch itself is imported only when the export starts."""

import contextlib
import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from builder.errors import HostError
from builder.exporting.options import ExportedModel, ExportOptions
from builder.installing import install
from builder.progress import Report, silent


def export(source: str, path: Path, *, options: ExportOptions, report: Report = silent) -> ExportedModel:
    """Export the module of `source` (`package.module:name`, or what else `Source` knows) to `path`.

    Raises:
        HostError: PyTorch or its exporter is not installed, or the file cannot be written.
        ModelError: The module does not exist or does not accept the inputs, or no exporter can export it.
        VerificationError: The module mixes the rows of a batch, or no export gives the module's answers.
    """
    missing = [package for package in ("torch", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise HostError(source, f"{' and '.join(missing)} {verb} not installed", install(*missing))
    with _rare_collections():
        from builder.exporting.strategies import export_proven

        return export_proven(source, path, options, report)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Collect garbage less often.

    Importing PyTorch and its exporter makes millions of objects that stay. Looking through them again and again took a
    tenth of the time of a small export, and found nothing.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
