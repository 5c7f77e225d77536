"""Values that a server writes one by one, in JSON or in protobuf's typed fields, as the bytes of a tensor.

NumPy alone would read 1.9 as the INT32 1, 300 as the UINT8 44, 1e9 as an infinite FP16 and "false" as the BOOL True,
and would remove the NULs at the end of a string. Here, a value of another type is refused, and a string keeps its NULs.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtest.printable import counted
from loadtest.wire.tensors import DTYPES, FLOATS, pack_strings

_SHOWN = 60


def flatten(values: Any, shape: Sequence[int]) -> list[Any]:
    """Return the values of a tensor in row-major order, whether they are nested as its shape says or not at all.

    Axes of size 1 may be missing or added: [[1, 2, 3]] is read for the shape [3], and [[1, 2], [3, 4], [5, 6]] is not
    for [2, 3].

    Raises:
        ValueError: They are no list, do not fill the shape, or are nested in another way.
    """
    if not isinstance(values, list):
        raise ValueError(f"{_show(values)} is not a list of values")
    array = np.array(values, object)
    if array.size != math.prod(shape):
        raise ValueError(f"{counted(array.size, 'value')} cannot fill {list(shape)}")
    nested, described = ([size for size in each if size != 1] for each in (array.shape, shape))
    if nested != described and len(nested) > 1:
        raise ValueError(f"the values are nested as {list(array.shape)}, but the shape is {list(shape)}")
    return list(array.ravel())


def pack_values(values: Sequence[Any], datatype: str) -> bytes:
    """Return the bytes of values of a type.

    Servers that are right may write 1 for true, 2.0 for 2 and null for NaN. Nothing else is converted.

    Raises:
        ValueError: A value is none of this type.
    """
    try:
        if _fit(values, datatype):
            if datatype == "BYTES":
                return pack_strings([value.encode() for value in values])
            with np.errstate(over="raise"):  # 1e9 as FP16 would be inf
                return np.array(values, DTYPES[datatype]).tobytes()
    except (OverflowError, FloatingPointError) as error:
        raise ValueError(f"a number is too large for {datatype}") from error
    wrong = next(value for value in values if not _fit((value,), datatype))
    raise ValueError(f"{_show(wrong)} is not {datatype}")


def _fit(values: Sequence[Any], datatype: str) -> bool:
    kinds = set(map(type, values))
    if datatype == "BYTES":
        return kinds <= {str}
    if datatype == "BOOL":
        return kinds <= {bool, int, float} and all(value in (0, 1) for value in values)
    if datatype in FLOATS:
        return kinds <= {int, float, type(None)} and datatype != "BF16"
    if datatype not in DTYPES:
        return not values
    limits = np.iinfo(DTYPES[datatype])
    is_whole = kinds <= {int} or (kinds <= {int, float} and all(value == value // 1 for value in values))
    return is_whole and min(values, default=0) >= limits.min and max(values, default=0) <= limits.max


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
