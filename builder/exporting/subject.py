"""The user's PyTorch module: call it with named tensors, and get its answers."""

import contextlib
import importlib
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from builder.arrays import read_npy
from builder.errors import BuilderError, ModelError
from builder.exporting.arguments import arguments_of, signature_of
from builder.exporting.found import Found
from builder.exporting.quiet import eagerly
from builder.exporting.results import choose, flatten
from builder.exporting.sources import Source
from builder.files import reason
from builder.tensors import TORCH_TYPES, Array, Arrays

_LIBRARY_FOLDERS = [str(Path(file).parent) for file in (str(torch.__file__), importlib.__file__, __file__)]
_NOT_USER_CODE = (*_LIBRARY_FOLDERS, "<frozen importlib", "<string>", "<eval_with_key>")
LARGEST_CONSTANT = 2**31 - 1
"""The most bytes of a .npy file whose array becomes a constant: what an ONNX file can hold."""


class UserCode(contextlib.AbstractContextManager["UserCode"]):
    """Turn any exception of the user's code, or of an exporter that runs it, into a ModelError.

    That code may raise any exception at all, and none of them is a bug in this package. It may also end the program:
    `sys.exit(0)` would look like success. Only Ctrl-C still ends it. It may change the working directory, which
    the paths of the repository and of files are relative to: that is undone.
    """

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.where, self.what, self.fix = where, what, fix
        self._directory = _working_directory()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._directory and _working_directory() != self._directory:
            os.chdir(self._directory)
        if error is not None and not isinstance(error, (BuilderError, KeyboardInterrupt)):
            raise ModelError(self.where, f"{self.what}: {brief(error)}", self.fix) from error


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


class Diagnosis(contextlib.AbstractContextManager["Diagnosis"]):
    """Search for the reason of a verdict by running the user's code again. The verdict stays, whatever goes wrong.

    Attributes:
        failure: What went wrong, in one line; empty if nothing did.
    """

    failure = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, KeyboardInterrupt):
            return False
        self.failure = brief(error)
        return True


def brief(error: BaseException) -> str:
    """Return an exception in one line: its first paragraph, and the innermost line of the user's code."""
    while error.__cause__ is not None:
        error = error.__cause__
    # str(error) runs the user's code, and may raise an exception itself.
    paragraph = " ".join(
        str(traceback.TracebackException(type(error), error, None)).strip().partition("\n\n")[0].split()
    )
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({place_of(error.filename, error.lineno or 0)})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_code(frame.filename)]
    last = f" ({place_of(frames[-1].filename, frames[-1].lineno or 0)}: `{frames[-1].line}`)" if frames else ""
    return ": ".join(filter(None, (type(error).__name__, paragraph[:400]))) + last


def is_user_code(file: str) -> bool:
    """Return whether a source file is the user's, rather than PyTorch's or this package's."""
    return not file.startswith(_NOT_USER_CODE)


def place_of(file: str, line: int) -> str:
    """Return `FILE:LINE`, relative to the folder of installed packages or the working directory that it is in."""
    path = Path(file)
    installed = (folder for folder in path.parents if folder.name in ("site-packages", "dist-packages"))
    folder = next(installed, Path.cwd())
    return f"{path.relative_to(folder) if path.is_relative_to(folder) else path}:{line}"


class Subject(nn.Module):
    """A module with named tensors in and named tensors out, whatever its `forward` accepts and returns.

    Attributes:
        where: What the user named, for messages.
        specs: The inputs.
        outputs: The names of the outputs that are kept, made of the keys and positions in what `forward` returns.
            They are known once it was called.
        scalars: Those of them that are one number for the whole batch, such as a loss.
    """

    # torch.export writes the name of this class into the file. With another name the bytes would change, and publishing
    # the same module again after an update would add a version.
    __module__ = "builder.export.subject"

    def __init__(self, where: str, found: Found, outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.where, self.specs = where, found.inputs
        self.module, self._mode = found.module, found.mode
        self._name = found.name or type(found.module).__name__
        self.origin = found.origin or Source.of(where).shown
        self.outputs: tuple[str, ...] = ()
        self.scalars: tuple[str, ...] = ()
        self._wanted = tuple(outputs)
        signature = signature_of(self.module.forward)
        self._names = tuple(signature.parameters)
        paths = [spec.path for spec in self.specs]
        constants: dict[tuple[str, ...], object] = {}
        for name, value in found.constants.items():
            if isinstance(value, Path):
                self.register_buffer(f"constant_{len(paths)}", _read_tensor(value), persistent=False)
                paths.append(tuple(name.split(".")))
            else:
                constants[tuple(name.split("."))] = value
        self._arguments = arguments_of(where, signature, paths, constants)
        self.eval()

    def without_scalars(self) -> str:
        """Return how to leave out the outputs that are one number for the whole batch; empty if there are none."""
        others = [name for name in self.outputs if name not in self.scalars]
        if not (self.scalars and others):
            return ""
        return f"leave out {', '.join(self.scalars)}, which has no rows, with --output {','.join(others)}; or "

    def describe(self) -> str:
        """Describe the module in one line."""
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"{self._name}: {count:,} parameters, {self._mode}"

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module with these tensors where its parameters expect them."""
        fixed = [getattr(self, name) for name in self._buffers]
        arguments, named = self._arguments.fill((*tensors, *fixed))
        results = flatten(self.module(*arguments, **named), [spec.name for spec in self.specs])
        chosen = choose(self.where, results, self._wanted, self._names)
        self.outputs = tuple(result.name for result in chosen)
        self.scalars = tuple(result.name for result in chosen if not result.value.ndim)
        return tuple(result.value for result in chosen)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Return the answers to one batch, by output, from inputs by name. BF16 is stored as its bits in uint16.

        Raises:
            ModelError: `forward` fails.
        """
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        fix = "give inputs that forward accepts with --input and --samples, or correct forward"
        with UserCode(self.where, f"forward fails on {shapes}", fix), torch.no_grad(), eagerly():
            answers = self(*self.tensors(feeds))
        named = dict(zip(self.outputs, answers, strict=True))
        for name, tensor in named.items():
            if found := _not_served(tensor):
                raise ModelError(self.where, f"forward returns {name!r} as {found[0]}", found[1])
        return {name: to_array(tensor) for name, tensor in named.items()}

    def tensors(self, feeds: Arrays) -> tuple[torch.Tensor, ...]:
        """Return new tensors for all inputs, in order, because `forward` may change them in place."""
        return tuple(to_tensor(feeds[spec.name], spec.dtype) for spec in self.specs)


def _read_tensor(path: Path) -> torch.Tensor:
    try:
        return torch.from_numpy(read_npy(path, limit=LARGEST_CONSTANT))
    except OSError as error:
        what = f"the file cannot be read: {reason(error)}"
        raise ModelError(path, what, "check the path and the file's permissions") from error
    except (TypeError, ValueError) as error:
        what, fix = f"the array cannot be read: {error}", "save an array of numbers to this file with numpy.save"
        raise ModelError(path, what, fix) from error


def to_tensor(array: Array, dtype: ir.DataType) -> torch.Tensor:
    """Return a copy of the array as a tensor; BF16 is given as its bits in uint16."""
    if dtype == ir.DataType.BFLOAT16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def _not_served(tensor: torch.Tensor) -> tuple[str, str] | None:
    """Return what kind of tensor ONNX and Triton have nothing for, and what to return in its place; None otherwise."""
    if tensor.is_nested:
        return "a nested tensor", "return a padded one: tensor.to_padded_tensor(0.0)"
    if tensor.layout != torch.strided:
        return "a sparse tensor", "return a dense one: tensor.to_dense()"
    if tensor.is_quantized:
        return "a quantized tensor", "return its values: tensor.dequantize()"
    if tensor.is_complex():
        fix = "return torch.view_as_real(tensor), which has the real and the imaginary part on one more axis"
        return f"{_name_of(tensor.dtype)}, a type that Triton does not have", fix
    if _name_of(tensor.dtype) not in TORCH_TYPES and not _name_of(tensor.dtype).startswith("uint"):
        return f"{_name_of(tensor.dtype)}, a type that Triton does not have", "return it as float32: tensor.float()"
    return None


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def to_array(tensor: torch.Tensor) -> Array:
    """Return the values as they are stored in files: BF16 as its bits in uint16."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(np.uint16)
    values: Array = tensor.numpy()
    return values
