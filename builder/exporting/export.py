"""Export a PyTorch module. PyTorch itself is imported only when the export starts."""

import importlib.util
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
    from builder.exporting.strategies import export_proven

    return export_proven(source, path, options, report)
