"""Check the tensors in a file: their types, their shapes, and how much data each has. The data itself is not read."""

import math
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import uses_external_data

from builder.errors import ModelError
from builder.printable import counted

MOST_AXES = 32
"""NumPy 1 has no arrays of more axes; NumPy 2 has 64. Real models have up to 8."""

LARGEST_BYTES = 2**63 - 1
"""NumPy counts the bytes of an array in an int64, in which it takes an axis of 0 for 1."""

FIX = "export the model again"

_COMPLEX = {ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}
_PACKED_BITS = (2, 4)


def check(path: Path, tensors: Iterable[onnx.TensorProto]) -> None:
    """Check that every tensor has a known type, a possible shape, and as much data as they need.

    Raises:
        ModelError: A tensor does not.
    """
    for tensor in tensors:
        if fault := _fault(tensor):
            raise ModelError(path, f"weight {tensor.name!r} {fault}", FIX)


def too_many_axes(count: int) -> str:
    """Return what is wrong with a shape of so many axes; empty if nothing is."""
    return f"has {count:,} axes, but the limit is {MOST_AXES}" if count > MOST_AXES else ""


def _fault(tensor: onnx.TensorProto) -> str:
    """Return what is wrong with a tensor; empty if nothing is."""
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        return f"has an unknown element type ({tensor.data_type})"
    if dtype == ir.DataType.UNDEFINED:
        return "has no element type"
    if fault := too_many_axes(len(tensor.dims)):
        return fault
    dims = list(tensor.dims)
    if min(dims, default=0) < 0:
        return f"has a negative dimension: {dims}"
    width = 1 if dtype == ir.DataType.STRING else -(-dtype.bitwidth // 8)
    if math.prod(dim or 1 for dim in dims) * width > LARGEST_BYTES:
        return f"has an impossible shape: {dims}"
    return "" if uses_external_data(tensor) else _data_fault(tensor, dtype, math.prod(dims))


def _data_fault(tensor: onnx.TensorProto, dtype: ir.DataType, size: int) -> str:
    if tensor.HasField("raw_data"):
        if dtype == ir.DataType.STRING:
            return "holds strings as raw bytes, which ONNX does not allow"
        found, needed, unit = len(tensor.raw_data), -(-size * dtype.bitwidth // 8), "byte"
    else:
        found, needed, unit = len(getattr(tensor, _field(dtype))), _entries(dtype, size), "value"
    wanted = f"{dtype.name}{list(tensor.dims)} needs {needed}"
    return "" if found == needed else f"has {counted(found, unit)} of data, but {wanted}"


def _field(dtype: ir.DataType) -> str:
    """Return the field in which values of a type are listed.

    Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, TensorProto
    """
    return str(onnx.helper.tensor_dtype_to_field(dtype.value))


def _entries(dtype: ir.DataType, size: int) -> int:
    """Return how many entries such a field has for `size` values."""
    if dtype in _COMPLEX:
        return 2 * size
    is_packed = dtype != ir.DataType.STRING and dtype.bitwidth in _PACKED_BITS
    return -(-size * dtype.bitwidth // 8) if is_packed else size
