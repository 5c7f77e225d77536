"""Find the module that a function in the user's Python code makes."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from builder.errors import ModelError
from builder.exporting import scripts
from builder.exporting.found import Found
from builder.exporting.options import ExportOptions
from builder.user_code import UserCode, import_from, parse


def find(source: str, request: ExportOptions) -> Found:
    """Import `package.module:name` or `package.module:name(ARGUMENTS)`, and make the module.

    It is on the CPU and in evaluation mode. The Python module may be in the working directory, which from now on is
    the last place that modules are imported from.

    Raises:
        ModelError: It does not exist, cannot be imported or called, or does not return a `torch.nn.Module`.
    """
    call = parse(source)
    made = import_from(source, call)
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
    return Found(_ready(source, made), request.inputs, request.dynamic, request.constants)


def _ready(source: str, module: nn.Module) -> nn.Module:
    """Return the module on the CPU and in evaluation mode.

    Raises:
        ModelError: A parameter has no values yet, or the module cannot be moved.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            what = f"{name} has no shape yet: a lazy module gets its shapes when it is called for the first time"
            raise ModelError(source, what, "call the module once in the factory, or load its weights there")
        if tensor.is_meta:
            what = f"{name} is on the device 'meta', and has no values"
            raise ModelError(source, what, "make the module on the CPU in the factory, and load its weights there")
    with UserCode(source, "it cannot be moved to the CPU and set to evaluation mode", "correct the module"):
        return module.cpu().eval()
