"""Constants that values are compared with, as exporters write them: also spread over a shape, or counted up."""

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from builder.model import operator
from builder.samples.reach import RESHAPES, Bounds, Operator, bounds_of, onnx_operators

MOST_NUMBERS = 8
"""How many numbers of one constant are compared with, each by itself."""

LARGEST_COUNT = 1 << 20
"""Longer constants are not searched for 0, 1, 2, …."""


def constant(value: ir.Value | None) -> Bounds | None:
    """Return the smallest and the largest value of a constant, also of `zeros_like(x)`; None for anything else."""
    origin = _before_reshapes(value)
    made = None if origin is None else origin.producer()
    if made is not None and operator(made) == ("", "ConstantOfShape"):
        filled = made.attributes.get("value")
        number = 0.0 if filled is None else float(filled.as_tensor().numpy().ravel()[0])
        return number, number
    return bounds_of(origin)


def _before_reshapes(value: ir.Value | None) -> ir.Value | None:
    """Return where a value comes from, before the nodes that only reshape, cast or repeat it."""
    while value is not None and (node := value.producer()) is not None and operator(node) in (*RESHAPES, *LIKE):
        value = node.inputs[0]
    return value


def numbers_of(value: ir.Value | None) -> Sequence[float]:
    """Return the numbers in a constant: all of them if they are few, or the smallest and the largest."""
    bounds = constant(value)
    if bounds is None or bounds[0] == bounds[1]:
        return [] if bounds is None else bounds[:1]
    origin = _before_reshapes(value)
    tensor = None if origin is None else ir.convenience.get_const_tensor(origin)
    if tensor is None:
        return bounds
    different = np.unique(tensor.numpy().astype(np.float64))
    return different.tolist() if different.size <= MOST_NUMBERS else bounds


def count_of(value: ir.Value | None) -> int | None:
    """Return n where a value is 0, 1, 2, … n - 1; 0 if the graph does not give n, and None if it is anything else."""
    origin = _before_reshapes(value)
    made = None if origin is None else origin.producer()
    if made is not None and operator(made) == ("", "Range"):
        dims = made.outputs[0].shape
        size = dims[0] if dims is not None and len(dims) == 1 else None
        return size if isinstance(size, int) else 0
    tensor = None if origin is None else ir.convenience.get_const_tensor(origin)
    if tensor is None or not tensor.dtype.is_integer() or not 2 < tensor.size <= LARGEST_COUNT:
        return None
    numbers = tensor.numpy().ravel()
    return numbers.size if (numbers == range(numbers.size)).all() else None


LIKE: Collection[Operator] = frozenset(onnx_operators("CastLike", "Tile"))
"""Operators that make a value of the same numbers, besides those that only reshape it."""
