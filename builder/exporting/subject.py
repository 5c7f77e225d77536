"""The user's PyTorch module: call it with named tensors, and get its answers."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from builder.arrays import read_npy
from builder.errors import ModelError
from builder.exporting.arguments import arguments_of, signature_of
from builder.exporting.found import Found
from builder.exporting.quiet import eagerly
from builder.exporting.results import choose, flatten
from builder.exporting.sources import Source
from builder.files import reason
from builder.tensors import TORCH_TYPES, Array, Arrays
from builder.user_code import UserCode, brief

LARGEST_CONSTANT = 2**31 - 1
"""The most bytes of a .npy file whose array becomes a constant: what an ONNX file can hold."""


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
