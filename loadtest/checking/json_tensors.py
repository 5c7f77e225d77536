"""Tensors written in JSON as perf_analyzer's input files have them: plain values, base64, or either with a shape."""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from tritonclient.utils import deserialize_bytes_tensor

from loadtest.checking.reference import DAMAGE, describe, read_spec
from loadtest.errors import SettingsError
from loadtest.printable import counted
from loadtest.wire import DTYPES, FLOATS, Array, TensorSpec

_LARGEST_DIM = 1 << 40
_DESCRIBED = '{"content": [1, 2], "shape": [1, 2], "datatype": "FP32"}'
_FIX = 'write the values in row-major order, as in [1, 2], or with a shape: {"content": [1, 2], "shape": [2]}'


def read_tensor(
    value: Any, name: str, spec: TensorSpec | None, shape: tuple[int, ...] | None, where: str
) -> tuple[TensorSpec, Array]:
    """Read one tensor: its description, and an array of the shape that one row has.

    Args:
        value: `[1, 2]`, `{"b64": "…"}`, or `{"content": either, "shape": [2]}`; with a key `datatype`, such as `FP32`,
            if the server does not say what it takes.
        name: The tensor's name.
        spec: What the server says about it; None if it says nothing.
        shape: What the user said about its shape; None if nothing.
        where: What messages call it.

    Raises:
        SettingsError: The value cannot be read, or does not fit.
    """
    described = value if isinstance(value, dict) and "content" in value else {"content": value}
    try:
        if spec is None:
            spec = read_spec(name, described["datatype"], described["shape"])
        _check_spec(spec, described)
        values = _values(described["content"], spec.datatype)
        return spec, values.reshape(_shape(described.get("shape", shape), spec, values.size))
    except KeyError as error:
        what = "neither the server nor the file says which datatype and shape it has"
        raise SettingsError(where, what, f"add both, as in {_DESCRIBED}") from error
    except RecursionError as error:
        raise SettingsError(where, "it is nested too deeply", _FIX) from error
    except DAMAGE as error:
        raise SettingsError(where, describe(error), _FIX) from error


def _check_spec(spec: TensorSpec, described: dict[str, Any]) -> None:
    if described.get("datatype", spec.datatype) != spec.datatype:
        raise ValueError(f"its datatype is {str(described['datatype'])[:40]}, but the model has {spec.datatype}")


def _shape(given: Any, spec: TensorSpec, values: int) -> tuple[int, ...]:
    """Return the shape of a tensor of so many values; a ValueError says why there is none."""
    shape = _fill(spec.dims, values) if given is None else tuple(given)
    if not all(type(size) is int and 0 <= size < _LARGEST_DIM for size in shape):
        raise ValueError(f"{list(shape[:32])} is not a shape")
    if not spec.takes(shape):
        lead = ", without the batch axis" if len(shape) == len(spec.dims) + 1 else ""
        raise ValueError(f"its shape is {list(shape[:32])}, but the model has {list(spec.dims)}{lead}")
    if math.prod(shape) != values:
        raise ValueError(f"it has {counted(values, 'value')}, but its shape {list(shape)} needs {math.prod(shape)}")
    return shape


def _fill(dims: tuple[int, ...], values: int) -> tuple[int, ...]:
    """Return dims with the size of the one that is open: with [-1, 3] and 12 values, [4, 3]."""
    known = math.prod(size for size in dims if size != -1)
    if dims.count(-1) > 1 or (-1 in dims and (not known or values % known)):
        raise ValueError(f"the model takes {list(dims)}, any size for -1, so that its shape must be given")
    return tuple(values // known if size == -1 else size for size in dims)


def _values(content: Any, datatype: str) -> Array:
    """Return the values as an array of one dimension; a ValueError says what is wrong with them."""
    if isinstance(content, dict):
        return _from_base64(content, datatype)
    flat: list[Any] = []
    _flatten(content, flat)
    if datatype == "BYTES":
        if not all(type(value) is str for value in flat):
            raise ValueError("a value is not a string")
        return as_text([value.encode() for value in flat], (len(flat),))
    return _numbers(flat, datatype)


def _flatten(content: Any, flat: list[Any]) -> None:
    """Append the values of nested lists in row-major order."""
    if isinstance(content, list):
        for value in content:
            if isinstance(value, list):
                _flatten(value, flat)
            else:
                flat.append(value)
    else:
        flat.append(content)


def _numbers(flat: list[Any], datatype: str) -> Array:
    kinds = set(map(type, flat))
    if datatype in FLOATS:
        if not kinds <= {int, float}:
            raise ValueError(f"a value is not a number, as {datatype} needs")
        with np.errstate(over="ignore"):
            return _bf16(flat) if datatype == "BF16" else np.array(flat, DTYPES[datatype])
    allowed = {bool, int} if datatype == "BOOL" else {int}
    low, high = (0, 1) if datatype == "BOOL" else (np.iinfo(DTYPES[datatype]).min, np.iinfo(DTYPES[datatype]).max)
    if not kinds <= allowed or min(flat, default=0) < low or max(flat, default=0) > high:
        raise ValueError(f"a value is not one of {datatype}, {low} to {high}")
    return np.array(flat, DTYPES[datatype])


def _bf16(flat: list[Any]) -> Array:
    """Round to the nearest BF16, which is the upper half of a float32.

    Half of the last kept bit is added before the lower half is cut off: 0x3F80_8001 becomes 0x3F81, and 0x3F80_7FFF
    stays 0x3F80. A tie goes to the even neighbour, so 0x3F80_8000 stays and 0x3F81_8000 becomes 0x3F82.
    """
    bits = np.array(flat, np.float32).view(np.uint32)
    rounded: Array = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(bits.view(np.float32)), np.uint16(0x7FC0), rounded)


def _from_base64(content: dict[str, Any], datatype: str) -> Array:
    """Read base64 of a tensor's bytes: little endian, row-major, and each string behind its length in 4 bytes."""
    try:
        data = base64.b64decode(content["b64"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError('it is neither a list of values nor {"b64": "base64"}') from error
    if datatype == "BYTES":
        words = _words(data)
        return as_text(words, (len(words),))
    if len(data) % DTYPES[datatype].itemsize:
        raise ValueError(f"{counted(len(data), 'byte')} cannot be divided into {datatype}")
    return np.frombuffer(data, DTYPES[datatype])


def _words(data: bytes) -> list[bytes]:
    try:
        words: list[bytes] = deserialize_bytes_tensor(data).tolist()
    except struct.error as error:
        raise ValueError("its strings must each stand behind their length, in 4 bytes, little endian") from error
    return words


def as_text(words: Sequence[bytes], shape: Sequence[int]) -> Array:
    """Return strings as an array of Python's `str`, or of `bytes` if they are not text, such as a JPEG."""
    try:
        texts: Sequence[str | bytes] = [word.decode() for word in words]
    except UnicodeDecodeError:
        texts = words
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)
