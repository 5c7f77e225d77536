"""The PyTorch module that is exported: found, called, and asked for its answers."""

import contextlib
import dataclasses
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from builder.errors import BuilderError, ModelError
from builder.exporting.export import InputSpec
from builder.tensors import Array, Arrays

_OURS = [str(Path(file).parent) for file in (str(torch.__file__), importlib.__file__, __file__)]
_NOT_THEIRS = (*_OURS, "<frozen importlib")


class TheirCode(contextlib.AbstractContextManager["TheirCode"]):
    """Tells whatever the user's code, or an exporter that runs it, raises as a fault that the user can fix.

    That code may raise any exception at all, and none of them is a fault of this package.
    """

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.where, self.what, self.fix = where, what, fix

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, BuilderError):
            raise ModelError(self.where, f"{self.what}: {brief(error)}", self.fix) from error


def brief(error: BaseException) -> str:
    """An exception's first paragraph in one line, and the last line of the user's own code that it went through."""
    while error.__cause__ is not None:
        error = error.__cause__
    paragraph = " ".join(str(error).strip().partition("\n\n")[0].split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({place_of(error.filename, error.lineno or 0)})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_theirs(frame.filename)]
    last = f" ({place_of(frames[-1].filename, frames[-1].lineno or 0)}: `{frames[-1].line}`)" if frames else ""
    return f"{type(error).__name__}: {paragraph[:400]}{last}"


def is_theirs(file: str) -> bool:
    """Whether a source file is the user's, rather than PyTorch's or this package's."""
    return not file.startswith(_NOT_THEIRS)


def place_of(file: str, line: int) -> str:
    """A line of a file, relative to the working directory if it is there."""
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"


def find(factory: str) -> nn.Module:
    """Import `package.module:name` and make the module, on the CPU and in evaluation mode.

    Raises:
        ModelError: It is not there, cannot be imported or called, or makes no `torch.nn.Module`.
    """
    home, colon, name = factory.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in home.split("."))):
        raise ModelError(factory, "is not of the form package.module:factory", "name a module and a function in it")
    made = _attribute(factory, home, name)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ModelError(factory, f"is a {type(made).__name__}", "name a function that returns a torch.nn.Module")
        with TheirCode(factory, "the factory fails", "fix it; it is called without arguments"):
            made = made()
    if not isinstance(made, nn.Module):
        raise ModelError(factory, f"returns a {type(made).__name__}", "return a torch.nn.Module")
    return made.cpu().eval()


def _attribute(factory: str, home: str, name: str) -> Any:
    fix = "run it where the module can be imported from, or put its folder on PYTHONPATH"
    try:
        with TheirCode(factory, f"importing {home} fails", "fix that module"):
            module = importlib.import_module(home)
    except ModelError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing and f"{home}.".startswith(f"{missing}."):
            raise ModelError(factory, f"there is no module {missing!r}", fix) from error
        raise
    if not hasattr(module, name):
        offered = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ModelError(factory, f"{home} has no {name!r}", f"it has {', '.join(sorted(offered)[:20]) or 'nothing'}")
    return getattr(module, name)


class Subject(nn.Module):
    """A module with named tensors in and named tensors out, whatever its `forward` takes and returns.

    Attributes:
        where: The factory, for messages.
        specs: What its inputs take.
        outputs: The outputs' names, known once it was called: the keys and positions in what `forward` returns.
    """

    def __init__(self, factory: str, specs: Sequence[InputSpec]) -> None:
        super().__init__()
        self.where, self.specs = factory, tuple(specs)
        self.module = find(factory)
        self.outputs: tuple[str, ...] = ()
        _check_parameters(factory, self.module, [spec.name for spec in specs])
        self.eval()

    def describe(self) -> str:
        """One line."""
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"{type(self.module).__name__}: {count:,} parameters, set to evaluation mode"

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module by its parameters' names."""
        named = zip((spec.name for spec in self.specs), tensors, strict=True)
        found = dict(self._flat(self.module(**dict(named)), ""))
        self.outputs = tuple(found)
        return tuple(found.values())

    def _flat(self, value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors in what `forward` returns, each with a name made of the way to it."""
        if value is None:
            return
        if isinstance(value, torch.Tensor):
            yield name or "output", value
            return
        if dataclasses.is_dataclass(value) and not isinstance(value, Mapping):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):
            value = value._asdict()
        elif isinstance(value, list | tuple):
            value = {str(i): item for i, item in enumerate(value)}
        if not isinstance(value, Mapping):
            what = f"forward returns a {type(value).__name__}" + (f" as {name!r}" if name else "")
            raise ModelError(self.where, what, "return tensors, alone or in tuples, lists or dicts")
        for key, item in value.items():
            yield from self._flat(item, f"{name}_{key}" if name else f"output_{key}" if key.isdigit() else str(key))

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Answer one batch: from inputs by name to outputs by name, stored as everywhere in this package.

        Raises:
            ModelError: `forward` fails.
        """
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        fix = "give inputs that forward can take, or fix it"
        with TheirCode(self.where, f"forward fails on {shapes}", fix), torch.no_grad():
            answers = self(*self.tensors(feeds))
        return {name: to_array(tensor) for name, tensor in zip(self.outputs, answers, strict=True)}

    def tensors(self, feeds: Arrays) -> tuple[torch.Tensor, ...]:
        """Tensors of their own for every input, in order: `forward` may change them in place."""
        return tuple(to_tensor(feeds[spec.name], spec.dtype) for spec in self.specs)


def _check_parameters(factory: str, module: nn.Module, names: Sequence[str]) -> None:
    """Every input is a parameter of `forward`, and every parameter without a default is an input."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    listed = ", ".join(p.name for p in named) or "none by name"
    unknown = [name for name in names if name not in {p.name for p in named}]
    if unknown and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        raise ModelError(
            factory, f"forward has no parameter {unknown[0]!r}", f"name its parameters with --input: {listed}"
        )
    missing = [p.name for p in named if p.default is p.empty and p.name not in names]
    if missing:
        raise ModelError(factory, f"forward needs {', '.join(missing)} too", "give each with --input NAME=DTYPE[DIMS]")


def to_tensor(array: Array, dtype: ir.DataType) -> torch.Tensor:
    """A copy of the array; BF16 comes as its bits in uint16."""
    if dtype == ir.DataType.BFLOAT16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def to_array(tensor: torch.Tensor) -> Array:
    """The values as they are stored: BF16 as its bits in uint16."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(np.uint16)
    values: Array = tensor.numpy()
    return values


@contextlib.contextmanager
def as_exported() -> Iterator[None]:
    """Run modules by the operators that exporters know, what `forward` prints sent to stderr.

    The fused encoder layers of PyTorch's fast path have no ONNX form, and give padded tokens other values.
    """
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
