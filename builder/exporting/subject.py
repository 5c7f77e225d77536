"""The user's PyTorch module: call it with named tensors, and get its answers."""

import contextlib
import dataclasses
import importlib
import inspect
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
from builder.exporting.found import Found
from builder.exporting.quiet import eagerly
from builder.tensors import Array, Arrays

_LIBRARY_FOLDERS = [str(Path(file).parent) for file in (str(torch.__file__), importlib.__file__, __file__)]
_NOT_USER_CODE = (*_LIBRARY_FOLDERS, "<frozen importlib", "<string>", "<eval_with_key>")


class UserCode(contextlib.AbstractContextManager["UserCode"]):
    """Turn any exception of the user's code, or of an exporter that runs it, into a ModelError.

    That code may raise any exception at all, and none of them is a bug in this package.
    """

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.where, self.what, self.fix = where, what, fix

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, BuilderError):
            raise ModelError(self.where, f"{self.what}: {brief(error)}", self.fix) from error


class Diagnosis(contextlib.AbstractContextManager["Diagnosis"]):
    """Search for the reason of a verdict by running the user's code again. The verdict stays, whatever goes wrong.

    Attributes:
        failure: What went wrong, in one line; empty if nothing did.
    """

    failure = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.failure = brief(error)
        return isinstance(error, Exception)


def brief(error: BaseException) -> str:
    """Return an exception in one line: its first paragraph, and the innermost line of the user's code."""
    while error.__cause__ is not None:
        error = error.__cause__
    paragraph = " ".join(str(error).strip().partition("\n\n")[0].split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({place_of(error.filename, error.lineno or 0)})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_code(frame.filename)]
    last = f" ({place_of(frames[-1].filename, frames[-1].lineno or 0)}: `{frames[-1].line}`)" if frames else ""
    return f"{type(error).__name__}: {paragraph[:400]}{last}"


def is_user_code(file: str) -> bool:
    """Return whether a source file is the user's, rather than PyTorch's or this package's."""
    return not file.startswith(_NOT_USER_CODE)


def place_of(file: str, line: int) -> str:
    """Return `FILE:LINE`, relative to the working directory if the file is inside it."""
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"


class Subject(nn.Module):
    """A module with named tensors in and named tensors out, whatever its `forward` accepts and returns.

    Attributes:
        where: What the user named, for messages.
        specs: The inputs.
        outputs: The names of the outputs, made of the keys and positions in what `forward` returns. They are known
            once it was called.
    """

    # torch.export writes the name of this class into the file. With another name the bytes would change, and publishing
    # the same module again after an update would add a version.
    __module__ = "builder.export.subject"

    def __init__(self, where: str, found: Found) -> None:
        super().__init__()
        self.where, self.specs = where, found.inputs
        self.module, self._mode = found.module, found.mode
        self._name = found.name or type(found.module).__name__
        self.outputs: tuple[str, ...] = ()
        _check_parameters(where, self.module, [spec.name for spec in self.specs])
        self.eval()

    def describe(self) -> str:
        """Describe the module in one line."""
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"{self._name}: {count:,} parameters, {self._mode}"

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module with its parameters by name."""
        named = zip((spec.name for spec in self.specs), tensors, strict=True)
        found = dict(self._flat(self.module(**dict(named)), ""))
        self.outputs = tuple(found)
        return tuple(found.values())

    def _flat(self, value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors inside what `forward` returns, each named by the keys that lead to it.

        `{"logits": a, "states": (b, None, {"last": c})}` gives `logits`, `states_0` and `states_2_last`. A lone tensor
        is `output`, and the items of a tuple are `output_0`, `output_1` and so on.
        """
        if value is None:
            return
        if isinstance(value, torch.Tensor):
            yield name or "output", value
            return
        items = _as_mapping(value)
        if items is None:
            what = f"forward returns an object of type {type(value).__name__}" + (f" as {name!r}" if name else "")
            raise ModelError(self.where, what, "return tensors, alone or in tuples, lists, dicts or dataclasses")
        for key, item in items.items():
            own = f"output_{key}" if str(key).isdigit() else str(key)
            yield from self._flat(item, f"{name}_{key}" if name else own)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Return the answers to one batch, by output, from inputs by name. BF16 is stored as its bits in uint16.

        Raises:
            ModelError: `forward` fails.
        """
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        fix = "give inputs that forward accepts with --input and --samples, or correct forward"
        with UserCode(self.where, f"forward fails on {shapes}", fix), torch.no_grad(), eagerly():
            answers = self(*self.tensors(feeds))
        return {name: to_array(tensor) for name, tensor in zip(self.outputs, answers, strict=True)}

    def tensors(self, feeds: Arrays) -> tuple[torch.Tensor, ...]:
        """Return new tensors for all inputs, in order, because `forward` may change them in place."""
        return tuple(to_tensor(feeds[spec.name], spec.dtype) for spec in self.specs)


def _as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return the items of a dict, dataclass, named tuple, list or tuple by key, or None for anything else."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    if isinstance(value, list | tuple):
        return {str(i): item for i, item in enumerate(value)}
    return None


def _check_parameters(factory: str, module: nn.Module, names: Sequence[str]) -> None:
    """Check that every input is a parameter of `forward`, and every parameter without a default an input."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    unknown = [name for name in names if name not in {p.name for p in named}]
    if unknown and not takes_any:
        listed = ", ".join(p.name for p in named)
        fix = f"name its parameters with --input: {listed}" if named else "give forward parameters that have names"
        raise ModelError(factory, f"forward has no parameter {unknown[0]!r}", fix)
    missing = [p.name for p in named if p.default is p.empty and p.name not in names]
    if missing:
        fix = "add an --input NAME=DTYPE[DIMS] for each"
        raise ModelError(factory, f"forward also requires {', '.join(missing)}", fix)


def to_tensor(array: Array, dtype: ir.DataType) -> torch.Tensor:
    """Return a copy of the array as a tensor; BF16 is given as its bits in uint16."""
    if dtype == ir.DataType.BFLOAT16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def to_array(tensor: torch.Tensor) -> Array:
    """Return the values as they are stored in files: BF16 as its bits in uint16."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(np.uint16)
    values: Array = tensor.numpy()
    return values
