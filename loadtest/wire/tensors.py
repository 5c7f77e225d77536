"""The tensor types of the KServe v2 protocol, as NumPy arrays and as bytes on the wire."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
}
"""How a fixed-size element lies in memory; BF16 has no NumPy type and stays as its 16 bits.

Source: https://github.com/kserve/kserve/blob/master/docs/predict-api/v2/required_api.md#tensor-data-types
"""

FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})


def to_wire(array: Array, datatype: str) -> bytes:
    """Lay `array` out as the protocol's binary extension wants it (row-major, little endian)."""
    if datatype == "BYTES":
        return bytes(serialize_byte_tensor(np.char.encode(array, "utf-8").astype(object)).item())
    return np.ascontiguousarray(array, DTYPES[datatype]).tobytes()


def from_wire(data: memoryview | bytes, datatype: str, shape: Sequence[int]) -> Array:
    """Read bytes of the wire as an array; fixed-size elements are viewed, not copied.

    Raises:
        ValueError: The bytes do not hold `shape` elements.
    """
    if datatype == "BYTES":
        words = [word.decode("utf-8", "replace") for word in deserialize_bytes_tensor(bytes(data))]
        return np.array(words, dtype=np.str_).reshape(shape)
    return np.frombuffer(data, DTYPES[datatype]).reshape(shape)


def widen(array: Array, datatype: str) -> Array:
    """The same numbers in a type NumPy can compute with: FP16 and BF16 become float32."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if datatype == "FP16" else array
