"""The tensor types of the KServe v2 protocol, as NumPy arrays and as bytes."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
"""The NumPy type of each fixed-size element. NumPy has no BF16, so its 16 bits are kept as they are.

Source: https://github.com/kserve/kserve/blob/master/docs/predict-api/v2/required_api.md#tensor-data-types
"""

FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: Its name.
        datatype: Its type in KServe's spelling, as in `FP32`.
        dims: Its shape without the batch axis; -1 where any size is allowed.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]

    def takes(self, shape: Sequence[int]) -> bool:
        """Return whether a tensor of this shape, without the batch axis, fits the dims."""
        same_rank = len(shape) == len(self.dims)
        return same_rank and all(want in (-1, size) for want, size in zip(self.dims, shape, strict=True))


def to_wire(array: Array, datatype: str) -> bytes:
    """Return the bytes of `array` as the protocol's binary extension wants them (row-major, little endian)."""
    if datatype == "BYTES":
        texts = array.ravel().tolist()
        return pack_strings([text if isinstance(text, bytes) else text.encode() for text in texts])
    return np.ascontiguousarray(array, DTYPES[datatype]).tobytes()


def from_wire(data: memoryview | bytes, datatype: str, shape: Sequence[int]) -> Array:
    """Read received bytes as an array; fixed-size elements are viewed, not copied.

    Strings become an array of Python's `str`: NumPy's own would lose the NULs at their ends.

    Raises:
        ValueError: The bytes do not fill `shape`, or are none of this type: a BOOL of 2, text that is not UTF-8.
    """
    if datatype == "BYTES":
        return np.array(_unpack_strings(bytes(data)), dtype=object).reshape(shape)
    if datatype == "BOOL" and (highest := max(bytes(data), default=0)) > 1:
        raise ValueError(f"{highest} is not a BOOL")
    return np.frombuffer(data, DTYPES[datatype]).reshape(shape)


def pack_strings(texts: Iterable[bytes]) -> bytes:
    """Return strings as they are sent, each behind its length in four bytes: `ab` is `2 0 0 0 a b`."""
    return b"".join([struct.pack("<I", len(text)) + text for text in texts])


def _unpack_strings(data: bytes) -> list[str]:
    texts, start = [], 0
    while start < len(data):
        begin = start + 4
        stop = begin + int.from_bytes(data[start:begin], "little")
        if stop > len(data):
            raise ValueError(f"a string ends at byte {stop:,}, but there are {len(data):,}")
        texts.append(data[begin:stop].decode())
        start = stop
    return texts


def widen(array: Array, datatype: str) -> Array:
    """Return the same numbers in a type that NumPy can compute with: FP16 and BF16 become float32.

    BF16 is the upper half of a float32. 1.0 is 0x3F800000 as float32 and 0x3F80 as BF16, so shifting the 16 bits
    up by 16 gives the number back exactly.
    """
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if datatype == "FP16" else array
