"""Find the files of external weights, and check their place and size. The weights themselves are not read."""

import math
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir
from onnx.external_data_helper import uses_external_data

from builder.errors import ModelError
from builder.printable import counted

LONGEST_LOCATION = 4096
"""The longest path that Linux allows (PATH_MAX)."""


class ExternalWeights(ir.ExternalTensor):
    """A tensor in a file that `locate` has found in the model's folder.

    If onnx-ir knows the folder, it refuses a file that has a second hard link. Such files are usual: `cp -l` makes
    them, and so do stores that keep equal files once. A link that leads out of the folder is what `locate` refuses.
    """

    __slots__ = ("_folder",)

    def __init__(self, tensor: ir.ExternalTensor, folder: Path) -> None:
        super().__init__(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
        self._folder = folder

    @property
    def path(self) -> str:
        """The file."""
        return str(self._folder / self.location)


def attach(graph: ir.Graph, folder: Path) -> None:
    """Let all external weights of a graph, and of the graphs in it, be read from the files in a folder."""
    for inner in (graph, *graph.subgraphs()):
        for value in inner.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = ExternalWeights(value.const_value, folder)
        for node in inner:
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, ExternalWeights(attribute.value, folder))


def locate(path: Path, tensors: Iterable[onnx.TensorProto]) -> tuple[Path, ...]:
    """Return the files that hold weights of the model at `path`, under the names that the model uses.

    Raises:
        ModelError: A file is outside the model's folder, missing, unreadable or too short.
    """
    needed: dict[Path, int] = {}
    for tensor in tensors:
        if uses_external_data(tensor):
            info = {entry.key: entry.value for entry in tensor.external_data}
            file = _inside(path, tensor.name, info.get("location", ""))
            needed[file] = max(needed.get(file, 0), _end(path, tensor, info))
    for file, size in needed.items():
        if file.stat().st_size < size:
            left = counted(file.stat().st_size, "byte")
            what = f"{file.name} was cut short: it has {left}, but the weights need {size:,}"
            raise ModelError(path, what, "copy the file again")
    return tuple(sorted(needed))


def _inside(path: Path, name: str, location: str) -> Path:
    """Return the file at `location`, after checking that it is in the model's folder even when links are followed."""
    folder = path.parent.resolve()
    if len(location) > LONGEST_LOCATION:
        what = f"weight {name!r} is in a file whose name has {len(location):,} characters"
        raise ModelError(path, what, "export the model again")
    relative = PurePosixPath(location)
    if not location or "\0" in location or relative.is_absolute() or ".." in relative.parts:
        raise _outside(path, name, location)
    try:
        target = (folder / relative).resolve(strict=True)
    except FileNotFoundError as error:
        what = f"weight {name!r} is in the file {location!r}, which is missing"
        raise ModelError(path, what, f"copy {location!r} into {folder}") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        what = f"weight {name!r} is in the file {location!r}, which cannot be read: {_why(error)}"
        raise ModelError(path, what, "put the file itself in that place, instead of a link") from error
    if not target.is_relative_to(folder):
        raise _outside(path, name, f"{location} -> {target}")
    if not target.is_file():
        raise ModelError(path, f"weight {name!r} is in {location!r}, which is not a file", "export the model again")
    return folder / relative


def _outside(path: Path, name: str, location: str) -> ModelError:
    return ModelError(
        path,
        f"weight {name!r} is in {location!r}, outside the model's folder, and was not read",
        "put the model and its weights in one folder, as files instead of links (cp -rL)",
    )


def _why(error: OSError | RuntimeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "the links lead in a circle"


def _end(path: Path, tensor: onnx.TensorProto, info: dict[str, str]) -> int:
    """Return the offset in the file of the first byte after the tensor."""
    try:
        size = -(-math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth // 8)
        length, offset = _number(info.get("length"), size), _number(info.get("offset"), 0)
    except ValueError as error:
        what = f"the offset and length of weight {tensor.name!r} in its file are not numbers"
        raise ModelError(path, what, "export the model again") from error
    if min(offset, length) < 0:
        what = f"the offset or length of weight {tensor.name!r} in its file is negative"
        raise ModelError(path, what, "export the model again")
    if length < size:
        what = f"weight {tensor.name!r} has {counted(length, 'byte')} in its file, but its shape needs {size:,}"
        raise ModelError(path, what, "export the model again")
    return offset + length


def _number(text: str | None, default: int) -> int:
    """Return a number as ONNX Runtime reads it. Python also takes other digits, spaces and `1_000`.

    Raises:
        ValueError: It is not a number.
    """
    if not text:
        return default
    if not text.isascii() or not text.removeprefix("-").isdigit():
        raise ValueError(text)
    return int(text)
