"""Constants that spell out a size which becomes dynamic: cut to one row where all rows are equal, else refused."""

import numpy as np
import onnx_ir as ir

from builder.batching.emit import stored
from builder.batching.rule import required
from builder.batching.rules.elementwise import BROADCASTING
from builder.batching.sizes.dims import Baked, is_fixed, static_size, text
from builder.batching.sizes.known import Sizes, along, is_constant

ELEMENTWISE = frozenset([*BROADCASTING, "PRelu", "Where"])
"""Operators of ONNX's own domain whose inputs broadcast against each other."""


def check_constants(sizes: Sizes, node: ir.Node) -> None:
    """Cut the constant inputs of a node to what they hold for any size.

    Raises:
        Baked: They hold different values for the elements of a named size.
    """
    if node.op_type in ("MatMul", "Gemm"):
        _check_product(sizes, node)
    elif node.op_type == "Split":
        _check_split(sizes, node)
    elif node.op_type == "Concat" or node.op_type in ELEMENTWISE:
        rank = max(len(sizes.of(v)) for v in node.inputs if v is not None)
        for index, value in enumerate(node.inputs):
            if value is not None and is_constant(value) and value not in sizes.dims:
                _shrink(sizes, node, index, value, rank)


def _shrink(sizes: Sizes, node: ir.Node, index: int, value: ir.Value, rank: int) -> None:
    """Cut a constant to one row along each axis where other inputs have a named size."""
    others = [sizes.of(v) for v in node.inputs if v is not None and v is not value]
    whole = stored(value).numpy()
    array = whole
    for axis in range(whole.ndim):
        column = along(others, axis + rank - whole.ndim, rank)
        named = next((d for d in column if not is_fixed(d)), None)
        if named is None or whole.shape[axis] == 1:
            continue
        first = np.take(array, [0], axis=axis)
        if node.op_type == "Concat" or not np.array_equal(array, np.broadcast_to(first, array.shape)):
            raise Baked(f"constant {value.name!r} holds {whole.shape[axis]} values for {text(named)}")
        array = first
    if array.shape != whole.shape:
        node.replace_input_with(index, sizes.write.constant(array))


def _check_product(sizes: Sizes, node: ir.Node) -> None:
    left, right = sizes.of(required(node.inputs, 0)), sizes.of(required(node.inputs, 1))
    turns_left, turns_right = _is_set(node, "transA"), _is_set(node, "transB")
    rows = right[-2] if len(right) > 1 else right[0]
    summed = (left[-2] if turns_left else left[-1]), (right[-1] if turns_right else rows)
    if is_fixed(summed[0]) != is_fixed(summed[1]):
        named = summed[0] if is_fixed(summed[1]) else summed[1]
        raise Baked(f"its weights need an axis of {static_size(named)}, which would become {text(named)}")


def _is_set(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].value)


def _check_split(sizes: Sizes, node: ir.Node) -> None:
    dims = sizes.of(required(node.inputs, 0))
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if not is_fixed(dims[axis]):
        raise Baked(f"it splits {text(dims[axis])} into parts of fixed sizes")
