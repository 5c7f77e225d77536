"""Where a model's weights lie when they are in files of their own. They are located and measured, never read."""

import math
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir
from onnx.external_data_helper import uses_external_data

from builder.errors import ModelError


def locate(path: Path, tensors: Iterable[onnx.TensorProto]) -> tuple[Path, ...]:
    """Return the files that weights of the model at `path` live in, by the names the model has for them.

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
            raise ModelError(path, f"{file.name} is truncated: weights reach to byte {size}", "copy it again")
    return tuple(sorted(needed))


def _inside(path: Path, name: str, location: str) -> Path:
    """The file at `location`, which lies in the model's folder even when links are followed."""
    folder = path.parent.resolve()
    relative = PurePosixPath(location)
    if not location or "\0" in location or relative.is_absolute() or ".." in relative.parts:
        raise _outside(path, name, location)
    try:
        target = (folder / relative).resolve(strict=True)
    except FileNotFoundError as error:
        raise ModelError(path, f"weight {name!r} is in {location!r}, which is missing", "put that file back") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise ModelError(path, f"weight {name!r} is in {location!r}: {_why(error)}", "fix that file") from error
    if not target.is_relative_to(folder):
        raise _outside(path, name, f"{location} -> {target}")
    if not target.is_file():
        raise ModelError(path, f"weight {name!r} is in {location!r}, which is not a file", "export it again")
    return folder / relative


def _outside(path: Path, name: str, location: str) -> ModelError:
    return ModelError(
        path,
        f"weight {name!r} is in {location!r}, outside the model's folder; it was not read",
        "put the model and its weights in one folder, as files and not as links (cp -rL)",
    )


def _why(error: OSError | RuntimeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "its links lead in a circle"


def _end(path: Path, tensor: onnx.TensorProto, info: dict[str, str]) -> int:
    """The byte after a tensor's last one."""
    try:
        size = -(-math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth // 8)
        length, offset = int(info.get("length") or size), int(info.get("offset") or 0)
    except (TypeError, ValueError) as error:
        what = f"weight {tensor.name!r} has no readable place in its file"
        raise ModelError(path, what, "export it again") from error
    if min(offset, length, *tensor.dims) < 0:
        raise ModelError(path, f"weight {tensor.name!r} has a negative place in its file", "export it again")
    if length < size:
        what = f"weight {tensor.name!r} has {length} bytes in its file, and its shape needs {size}"
        raise ModelError(path, what, "export it again")
    return offset + length
