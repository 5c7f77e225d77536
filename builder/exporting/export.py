"""Export a PyTorch module. PyTorch itself is imported only when the export starts."""

import contextlib
import gc
import importlib.util
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from builder import bounded
from builder.bounded import Limits
from builder.errors import HostError
from builder.exporting.options import ExportedModel, ExportOptions
from builder.exporting.sources import Kind, kind_of, mode_of
from builder.exporting.temporary import folder_beside
from builder.installing import install
from builder.progress import Report, silent


def export(
    source: str,
    path: Path,
    *,
    options: ExportOptions,
    limits: Limits | None = None,
    report: Report = silent,
) -> ExportedModel:
    """Export the module of `source` (`package.module:name`, or what else `Source` knows) to `path`.

    A file of PyTorch and a Hugging Face model may come from anybody, so they are read and run in a child process with
    limits. The code of a factory is the user's own, and runs here.

    Raises:
        HostError: PyTorch or its exporter is not installed, the file cannot be written or is the source itself, or a
            file of PyTorch takes more time or memory than it may.
        ModelError: The module does not exist or does not accept the inputs, or no exporter can export it.
        VerificationError: The module mixes the rows of a batch, or no export gives the module's answers.
    """
    _check_output(source, path)
    missing = [package for package in ("torch", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise HostError(source, f"{' and '.join(missing)} {verb} not installed", install(*missing))
    with folder_beside(path) as folder:  # not in the child, which may be killed before it removes the folder
        if kind_of(source) not in (Kind.TORCH_FILE, Kind.HUGGING_FACE):
            return _export(source, path, folder, options, report)
        return bounded.run(
            partial(_export_file, source, path, folder, options),
            where=Path(source),
            limits=limits or Limits(),
            report=report,
            is_fresh="torch" in sys.modules,  # the threads of its operators do not survive a fork
        )


def _check_output(source: str, path: Path) -> None:
    """Refuse to replace what the module is made from, and what is no file, such as a device.

    Raises:
        HostError: The path leads to one of them.
    """
    if not (mode := mode_of(str(path))):
        return
    fix = "choose another output file"
    if not stat.S_ISREG(mode):
        raise HostError(path, "is not a file that can be replaced", fix)
    origin = Path(source)
    if kind_of(source) is Kind.FACTORY:
        origin = Path(*source.strip().partition(":")[0].split(".")).with_suffix(".py")
    if mode_of(str(origin)) and origin.samefile(path):
        raise HostError(path, "is the source of the module, and would be replaced", fix)


def _export_file(source: str, path: Path, folder: Path, options: ExportOptions, report: Report) -> ExportedModel:
    if (file := Path(source)).is_file():
        bounded.expect(file.stat().st_size)
    with bounded.during("it is exported"):
        return _export(source, path, folder, options, report)


def _export(source: str, path: Path, folder: Path, options: ExportOptions, report: Report) -> ExportedModel:
    with _rare_collections():
        from builder.exporting.strategies import export_proven

        return export_proven(source, path, folder, options, report)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Collect garbage less often.

    Importing PyTorch and its exporter makes millions of objects that stay. Looking through them again and again took
    0.9 of the 6.1 s of a small export, and found next to nothing. This halves it.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
