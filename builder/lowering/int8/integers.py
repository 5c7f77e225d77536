"""Write products of matrices on integers, with a scale for each row of the values.

Take x = [[0.5, -2.0], [100.0, 40.0]] and the weights w = [[0.9, 0.1], [-0.3, 0.4]]. The largest magnitudes of the rows
of x are 2 and 100, so their scales are 2/127 and 100/127. The columns of w have the scales 0.9/63 and 0.4/63:

    x = [[32, -127], [127, 51]] * [[2/127], [100/127]]        w = [[63, 16], [-21, 63]] * [[0.9/63, 0.4/63]]

The integers are multiplied exactly, and each sum is multiplied by the scale of its row and that of its column. No row
has a part in another's scale, so a row's answer is the same in every batch. That is why DynamicQuantizeLinear is not
used: it takes one scale for all rows.

The values become bytes from 1 to 255, with 128 for zero, or from 0 to 255 if they are never negative. The weights
become whole numbers from -63 to 63. A processor without VNNI adds two products in 16 bits first, and what does not fit
is cut off without a warning. Here it fits: 255 * 63 * 2 = 32,130 is less than 2^15. So every processor gives the same
answer. Where 7 bits are not exact enough, the weights become bytes from 1 to 255, with 128 for zero. The kernels for
two bytes without a sign never add in 16 bits, but are slower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from builder.lowering.int8.products import Product
from builder.model import free_name, name_nodes, node_names, value_names
from builder.tensors import Array

Bits = Literal[7, 8]
"""How many bits weights have, see above."""

BITS: tuple[Bits, ...] = (7, 8)

ZERO = 128
"""The byte that stands for zero in values that may be negative, and in weights of 8 bits."""

SMALLEST = 1e-30
"""A row or a column has the scale of this magnitude at least, so that zeros stay zeros."""

REDUCTIONS_TAKE_AXES_SINCE = 18


@dataclass(frozen=True, slots=True)
class _Rows:
    """Values as integers.

    Attributes:
        integers: The integers, `uint8[M, K]`: all axes but the last are one.
        scales: The scale of each row, `float32[M]`; NaN if the row has a NaN or an infinity.
        zero: The byte that stands for zero, or None if it is 0.
        leading: All dimensions but the last, `int64[rank - 1]`; None if there is one.
    """

    integers: ir.Value
    scales: ir.Value
    zero: ir.Value | None
    leading: ir.Value | None


class IntegerProducts:
    """Replaces products in the main graph of a model, in place, in the order of the graph.

    Products of the same values share their integers, and equal weights are stored once.
    """

    def __init__(self, model: ir.Model, bits: Bits = 7) -> None:
        self._graph = model.graph
        self._bits = bits
        self._opset = model.opset_imports.get("", 0)
        self._names = value_names(model)
        self._node_names = node_names(model)
        self._rows: dict[tuple[ir.Value, bool], _Rows] = {}
        self._constants: dict[bytes, ir.Value] = {}
        self._before: ir.Node

    def replace(self, product: Product) -> None:
        """Replace a product by one of integers."""
        node, old = product.node, product.node.outputs[0]
        self._before = node
        name = f"{node.name}_weights"
        integers, scales = quantized(product.weights, self._bits)
        rows = self._rows_of(product)
        weights = self._constant(integers, f"{name}_int8")
        if integers.ndim == 2:
            new = self._matrix(rows, weights, self._constant(scales.reshape(-1), f"{name}_scale"))
        else:
            new = self._batch(rows, weights, self._constant(scales, f"{name}_scale"), product.values)
        new = self._biased(new, node)
        if rows.leading is not None and integers.ndim == 2:
            columns = self._constant(np.asarray([integers.shape[-1]], np.int64))
            new = self._node("Reshape", [new, self._node("Concat", [rows.leading, columns], {"axis": 0})])
        ir.convenience.replace_nodes_and_values(self._graph, node, [node], [], [old], [new])

    def _rows_of(self, product: Product) -> _Rows:
        value = product.values
        is_turned = product.node.op_type == "Gemm" and product.node.attributes.get_int("transA", 0) == 1
        key = value, is_turned
        if key not in self._rows:
            self._rows[key] = self._quantized(value, product, is_turned=is_turned)
        return self._rows[key]

    def _quantized(self, value: ir.Value, product: Product, *, is_turned: bool) -> _Rows:
        """Turn values, `float32[..., K]`, into integers."""
        leading = None
        is_matrix = product.node.op_type == "Gemm" or (value.shape is not None and len(value.shape) == 2)
        if is_turned:
            value = self._node("Transpose", [value], {"perm": [1, 0]})
        if not is_matrix:
            start, end = self._constant(np.asarray([0], np.int64)), self._constant(np.asarray([-1], np.int64))
            leading = self._node("Slice", [self._node("Shape", [value]), start, end])
            flat = self._constant(np.asarray([-1, product.weights.shape[-2]], np.int64))
            value = self._node("Reshape", [value, flat])
        levels = 255 if product.is_never_negative else 127
        magnitudes = value if product.is_never_negative else self._node("Abs", [value])
        largest = self._node("Max", [self._reduced("ReduceMax", magnitudes), self._constant(np.float32(SMALLEST))])
        scales = self._node("Mul", [largest, self._constant(np.float32(1 / levels))])
        inputs = [value, scales]
        zero = None
        if not product.is_never_negative:
            zero = self._constant(np.uint8(ZERO))
            zeros = {"value": ir.tensor(np.asarray([ZERO], np.uint8))}
            inputs.append(self._node("ConstantOfShape", [self._node("Shape", [scales])], zeros))
        integers = self._node("QuantizeLinear", inputs, {"axis": 0})
        # ReduceMax leaves out NaN (ONNX Runtime 1.31.1), but a sum does not: 0 * NaN is NaN, and so is the whole row.
        spoiled = self._node("Mul", [self._reduced("ReduceSum", value), self._constant(np.float32(0))])
        return _Rows(integers, self._node("Add", [scales, spoiled]), zero, leading)

    def _matrix(self, rows: _Rows, weights: ir.Value, scales: ir.Value) -> ir.Value:
        """Multiply by `int8[K, n]`, and return `float32[M, n]`."""
        sums = self._multiplied(rows.integers, weights, rows.zero)
        # Not `Mul(Mul(a, b), Cast(sums))`, in which ONNX Runtime's optimizer sees a MatMulIntegerToFloat, with a single
        # scale for all rows.
        return self._node("Mul", [self._node("DequantizeLinear", [sums, rows.scales], {"axis": 0}), scales])

    def _batch(self, rows: _Rows, weights: ir.Value, scales: ir.Value, values: ir.Value) -> ir.Value:
        """Multiply by `int8[..., K, n]`, which has more than two axes."""
        integers, by_row = rows.integers, self._constant(np.asarray([-1, 1], np.int64))
        if rows.leading is not None:
            integers = self._node("Reshape", [integers, self._node("Shape", [values])])
            one = self._constant(np.asarray([1], np.int64))
            by_row = self._node("Concat", [rows.leading, one], {"axis": 0})
        sums = self._node("Cast", [self._multiplied(integers, weights, rows.zero)], {"to": int(ir.DataType.FLOAT)})
        return self._node("Mul", [self._node("Mul", [sums, self._node("Reshape", [rows.scales, by_row])]), scales])

    def _multiplied(self, integers: ir.Value, weights: ir.Value, zero: ir.Value | None) -> ir.Value:
        if self._bits == 8:
            return self._node("MatMulInteger", [integers, weights, zero, self._constant(np.uint8(ZERO))])
        return self._node("MatMulInteger", [integers, weights] if zero is None else [integers, weights, zero])

    def _biased(self, value: ir.Value, node: ir.Node) -> ir.Value:
        """Add the third input of a Gemm, times beta."""
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is None:
            return value
        beta = node.attributes.get_float("beta", 1.0)
        if beta != 1.0:
            bias = self._node("Mul", [bias, self._constant(np.float32(beta))])
        return self._node("Add", [value, bias])

    def _reduced(self, op_type: str, value: ir.Value) -> ir.Value:
        """Reduce `float32[M, K]` to `float32[M]`."""
        if op_type != "ReduceSum" and self._opset < REDUCTIONS_TAKE_AXES_SINCE:
            return self._node(op_type, [value], {"axes": [1], "keepdims": 0})
        return self._node(op_type, [value, self._constant(np.asarray([1], np.int64))], {"keepdims": 0})

    def _node(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        """Insert a node before the product, and return its output."""
        made = ir.node(op_type, inputs, attributes)
        name_nodes([made], self._node_names)
        made.outputs[0].name = free_name(f"{self._before.name}_{op_type}", self._names)
        self._graph.insert_before(self._before, made)
        return made.outputs[0]

    def _constant(self, array: Any, wanted: str = "int8_constant") -> ir.Value:
        """Return a constant; equal ones are shared."""
        array = np.asarray(array)
        key = sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).digest()
        if key not in self._constants:
            tensor = ir.tensor(array, name=free_name(wanted, self._names))
            made = ir.Value(
                name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
            self._graph.register_initializer(made)
            self._constants[key] = made
        return self._constants[key]


def quantized(weights: Array, bits: Bits = 7) -> tuple[Array, Array]:
    """Turn weights into integers with a scale for each column.

    Args:
        weights: `float32[..., K, n]`.
        bits: How many bits each has.

    Returns:
        The integers, `int8[..., K, n]` or for 8 bits `uint8[..., K, n]`, and the scales, `float32[..., 1, n]`.
    """
    largest = np.maximum(np.abs(weights).max(axis=-2, keepdims=True), np.float32(SMALLEST))
    scales = largest / np.float32(63 if bits == 7 else 127)
    integers = np.rint(weights / scales)
    return (integers.astype(np.int8) if bits == 7 else (integers + ZERO).astype(np.uint8)), scales
