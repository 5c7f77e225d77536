"""Find the module that a function in the user's Python code makes."""

import importlib
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from builder.errors import ModelError
from builder.exporting import scripts
from builder.exporting.calls import parse
from builder.exporting.found import Found
from builder.exporting.options import ExportOptions
from builder.exporting.subject import UserCode


def find(source: str, request: ExportOptions) -> Found:
    """Import `package.module:name` or `package.module:name(ARGUMENTS)`, and make the module.

    It is on the CPU and in evaluation mode. The Python module may be in the working directory, which from now on is
    the last place that modules are imported from.

    Raises:
        ModelError: It does not exist, cannot be imported or called, or does not return a `torch.nn.Module`.
    """
    call = parse(source)
    made = _attribute(source, call.home, call.name)
    if isinstance(made, nn.Module) and call.has_arguments:
        what = f"{call.name} is a module already, and takes no arguments"
        raise ModelError(source, what, f"write {call.shown}, or name a function that returns a torch.nn.Module")
    if not isinstance(made, nn.Module):
        if not callable(made):
            what = f"{call.name} is of type {type(made).__name__}, and cannot be called"
            raise ModelError(source, what, "name a function that returns a torch.nn.Module")
        call.check(made)
        with UserCode(source, "calling the factory fails", "correct the source, or the arguments in parentheses"):
            made = made(*call.args, **call.kwargs)
    if not isinstance(made, nn.Module):
        what = f"the factory returns an object of type {type(made).__name__}"
        raise ModelError(source, what, "return a torch.nn.Module")
    if isinstance(made, torch.jit.ScriptModule):
        return scripts.found(source, made, request)
    return Found(made.cpu().eval(), request.inputs, request.dynamic, request.constants)


def _attribute(source: str, home: str, name: str) -> Any:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        with UserCode(source, f"importing {home} fails", "correct that Python module"):
            module = importlib.import_module(home)
    except ModelError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing and f"{home}.".startswith(f"{missing}."):
            fix = "run the command in the folder that contains it, or add that folder to PYTHONPATH"
            raise ModelError(source, f"there is no Python module {missing!r}", fix) from error
        raise
    try:
        return attrgetter(name)(module)
    except AttributeError as error:
        offered = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        fix = f"use one of {', '.join(sorted(offered)[:20])}" if offered else f"define {name} there"
        raise ModelError(source, f"{home} does not define {name!r}", fix) from error
