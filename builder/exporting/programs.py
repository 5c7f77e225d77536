"""Find the module in an exported program, a file that `torch.export.save` wrote (`.pt2`)."""

import contextlib
import importlib.util
import inspect
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.utils import _pytree as pytree

from builder.errors import HostError, ModelError
from builder.exporting import program_checks
from builder.exporting.found import Found
from builder.exporting.options import ExportOptions, InputSpec
from builder.installing import install
from builder.tensors import TORCH_TYPES
from builder.user_code import UserCode

DEFAULT_NAME = "model"
"""The name under which `torch.export.save` stores the program."""

Declared = Mapping[str, tuple[ir.DataType, tuple[int, ...], Mapping[int, str]]]
"""The type, the example shape, and the symbol of each dynamic axis, by input."""


def find(source: str, request: ExportOptions) -> Found:
    """Load the program, whose signature says what its inputs are.

    Raises:
        ModelError: It cannot be loaded, would run code of the file, or does not take the given inputs.
    """
    _check(source)
    with UserCode(source, "PyTorch cannot read this exported program", _newer()), _without_pickles():
        program = torch.export.load(source)
        module = Exported(program)
    declared = _declared(source, program)
    for spec in request.inputs:
        _check_given(source, spec, declared)
    given = {spec.name: spec for spec in request.inputs}
    inputs = tuple(  # the program is called with flat inputs, also where the user writes `state.0`
        InputSpec(name, dtype, given[name].shape if name in given else shape, path=(name,))
        for name, (dtype, shape, _) in declared.items()
    )
    axes = request.batch_axes
    return Found(
        module,
        inputs,
        _dynamic(source, request, declared),
        request.constants,
        has_fixed_batch=any(axes.get(name, 0) not in symbols for name, (_, _, symbols) in declared.items()),
        name="exported program",
        mode=f"with the inputs {', '.join(_shown(name, *found) for name, found in declared.items())}",
    )


def _shown(name: str, dtype: ir.DataType, shape: Sequence[int], symbols: Mapping[int, str]) -> str:
    """Return an input as in `image=float32[s40,3,224,224]`."""
    return f"{name}={_torch_name(dtype)}[{','.join(symbols.get(axis, str(size)) for axis, size in enumerate(shape))}]"


def _newer() -> str:
    return f"save it again with the PyTorch that is installed here, {torch.__version__}, or install the one it is from"


def _check(source: str) -> None:
    """Refuse what `torch.export.load` would run, unpickle or cannot read."""
    with zipfile.ZipFile(source) as archive:
        if "version" in archive.namelist():
            what = "this exported program is in the format of PyTorch 2.7 and older"
            raise ModelError(source, what, "load it with that PyTorch, and save it again with a newer one")
    with UserCode(source, "it is not a whole archive of PyTorch", "save it again"):
        reader = torch._C.PyTorchFileReader(source)
        records = reader.get_all_records()
    programs = [name[len("models/") : -len(".json")] for name in records if name.startswith("models/")]
    if any(name.startswith("data/aotinductor/") for name in records):
        what = "this file holds code that AOTInductor compiled for one kind of machine"
        raise ModelError(source, what, "give the program that it was compiled from, saved with torch.export.save")
    if programs != [DEFAULT_NAME]:
        what = f"it holds the programs {', '.join(map(repr, programs)) or 'none'}, and not one"
        raise ModelError(source, what, "save one program with torch.export.save")
    description = reader.get_record(f"models/{DEFAULT_NAME}.json")
    program_checks.check(source, program_checks.parsed(source, description))
    if program_checks.OUTPUTS.encode() in description:
        _import_outputs(source)
    for kind in ("weights", "constants"):
        if (config := f"data/{kind}/{DEFAULT_NAME}_{kind}_config.json") in records:
            program_checks.check_payload(source, program_checks.parsed(source, reader.get_record(config)))


def _import_outputs(source: str) -> None:
    """Make the classes known to PyTorch that models of transformers return.

    Raises:
        HostError: transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        what = "transformers is not installed, and this exported program returns an object of it"
        raise HostError(source, what, install("transformers"))
    importlib.import_module(program_checks.OUTPUTS.rstrip("."))


@contextlib.contextmanager
def _without_pickles() -> Iterator[None]:
    """Keep `torch.load` from unpickling anything but tensors, wherever it is called.

    Source: https://docs.pytorch.org/docs/stable/notes/serialization.html
    """
    changed = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Exported(nn.Module):
    """An exported program, called with its flat inputs by name: `state_0` for the first item of `state`."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.module = program.module()
        self._spec = program.call_spec.in_spec
        slots = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
        self._slots = [
            (spec.arg.name, spec.arg.value if isinstance(spec.arg, ConstantArgument) else None) for spec in slots
        ]
        names = [spec.arg.name for spec in slots if isinstance(spec.arg, TensorArgument)]
        setattr(self, "forward", self._forward_with(names))  # noqa: B010 - one signature for each program

    def _forward_with(self, names: Sequence[str]) -> Any:
        def forward(**given: torch.Tensor) -> Any:
            leaves = [given.get(name, constant) for name, constant in self._slots]
            args, kwargs = pytree.tree_unflatten(leaves, self._spec)
            return self.module(*args, **kwargs)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        setattr(forward, "__signature__", signature)  # noqa: B010 - which inspect reads
        return forward

    def train(self, mode: bool = True) -> "Exported":
        """Keep the mode that the program was exported in: it is part of the graph."""
        return self


def _declared(source: str, program: ExportedProgram) -> Declared:
    """Return what the program's signature says about its tensors.

    Raises:
        ModelError: An input has a type that ONNX does not have, or is no tensor.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT or isinstance(spec.arg, ConstantArgument):
            continue
        name, value = spec.arg.name, values.get(spec.arg.name)
        if not isinstance(value, torch.Tensor):
            what = f"its input {name!r} is a number that may vary, not a tensor"
            raise ModelError(source, what, "export the program with a tensor in its place")
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in TORCH_TYPES:
            raise ModelError(source, f"its input {name!r} has the type {dtype}", f"use one of {', '.join(TORCH_TYPES)}")
        symbols = {axis: str(size) for axis, size in enumerate(value.shape) if not isinstance(size, int)}
        shape = tuple(_example_size(size) for size in value.shape)
        found[name] = (ir.DataType[TORCH_TYPES[dtype]], shape, symbols)
    if not found:
        raise ModelError(source, "this exported program takes no tensors", "export a program that does")
    return found


def _example_size(size: Any) -> int:
    """Return a size, or that of the example with which a dynamic axis was exported."""
    hint = size if isinstance(size, int) else size.node.hint
    return max(1, int(hint)) if hint is not None else 2


def _check_given(source: str, spec: InputSpec, declared: Declared) -> None:
    """Refuse an --input that contradicts the program's signature."""
    if spec.name not in declared:
        raise ModelError(source, f"the program has no input {spec.name!r}", f"its inputs are {', '.join(declared)}")
    dtype, shape, symbols = declared[spec.name]
    agrees = (
        spec.dtype == dtype
        and len(spec.shape) == len(shape)
        and all(axis in symbols or size == shape[axis] for axis, size in enumerate(spec.shape))
    )
    if not agrees:
        given = _shown(spec.name, spec.dtype, spec.shape, {})
        what = f"--input {given} is not what the program takes: {_shown(spec.name, dtype, shape, symbols)}"
        raise ModelError(source, what, "leave out --input: the program says its inputs")


def _torch_name(dtype: ir.DataType) -> str:
    return next(name for name, ours in TORCH_TYPES.items() if ir.DataType[ours] == dtype)


def _dynamic(source: str, request: ExportOptions, declared: Declared) -> Mapping[str, Mapping[int, str]]:
    """Return a name for each dynamic axis but the batch: the one that the user gives, or `image_2`.

    Axes that always have the same size share a name. The file keeps the relations, but not the names that they had.

    Raises:
        ModelError: --dynamic names an axis that the program fixes.
    """
    if request.is_static:
        return {}
    names: dict[str, str] = {}
    for name, axes in request.dynamic.items():
        _, shape, symbols = declared.get(name, (None, (), {}))
        for axis, label in axes.items():
            if axis < len(shape) and axis not in symbols:
                what = f"--dynamic names axis {axis} of {name!r}, which the program fixes at {shape[axis]}"
                raise ModelError(source, what, "leave it out, or export the program with that axis dynamic")
            names.setdefault(symbols.get(axis, ""), label)
    found: dict[str, dict[int, str]] = {name: dict(axes) for name, axes in request.dynamic.items()}
    for name, (_, _, symbols) in declared.items():
        for axis, symbol in symbols.items():
            if axis != request.batch_axes.get(name, 0):
                found.setdefault(name, {}).setdefault(axis, names.setdefault(symbol, f"{name}_{axis}"))
    return found
