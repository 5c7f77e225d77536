"""Find the module in a file of PyTorch: an exported program (`.pt2`) or a TorchScript file (`.pt`, `.pth`)."""

import re
import warnings
from pathlib import Path

import torch

from builder import bounded
from builder.errors import ModelError
from builder.exporting import programs, scripts
from builder.exporting.found import Found
from builder.exporting.options import ExportOptions
from builder.model import Archive, archive_of, traced_inputs
from builder.user_code import UserCode

_REACHES_OUT = re.compile(rb"\b(torch|ops\.aten)\.(from_file|save)\b|\bops\.(rpc|c10d|dist_\w+)\b|\brpc\.\w+")
"""Operators that a module to serve has no use for."""


def find(source: str, request: ExportOptions) -> Found:
    """Load the module in the file.

    Raises:
        ModelError: It cannot be loaded, or reading or running it could run code or write files.
    """
    with bounded.during("it is read"):
        if archive_of(Path(source)) is Archive.PROGRAM:
            return programs.find(source, request)
        _check_script(source)
        fix = "save it again with torch.jit.save"
        with UserCode(source, "PyTorch cannot read this TorchScript file", fix), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated
            module = torch.jit.load(source, map_location="cpu")
        return scripts.found(source, module, request, traced_inputs(Path(source)))


def _check_script(source: str) -> None:
    """Refuse TorchScript that reads or writes files: a module may do so when it is loaded or run.

    Raises:
        ModelError: It does.
    """
    with UserCode(source, "it is not a whole archive of PyTorch", "save it again with torch.jit.save"):
        reader = torch._C.PyTorchFileReader(source)
        code = [(name, reader.get_record(name)) for name in reader.get_all_records() if name.startswith("code/")]
    for name, content in code:
        if name.endswith(".py") and (call := _REACHES_OUT.search(content)):
            what = f"this TorchScript module calls {call[0].decode()}, which reaches files or other machines"
            raise ModelError(source, what, "give a module without this call")
