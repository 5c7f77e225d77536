"""Quantized operators of ai.onnx and com.microsoft, with a scale for the whole tensor or for each index of an axis."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter
from builder.batching.layout import DROPPED
from builder.batching.rule import Decomposition, Op, Plan, SharedScale, Static, given, required
from builder.batching.rules.along import REDUCTIONS_TAKE_AXES_SINCE, softmax_axes
from builder.batching.rules.axes import parallel
from builder.batching.rules.decompose import append, constant
from builder.batching.rules.elementwise import elementwise
from builder.batching.rules.inference import (
    Inputs,
    borrowed,
    broadcast,
    channels_last,
    integer,
    pooled,
    same_as_first,
)
from builder.batching.rules.joining import concat_of
from builder.batching.rules.linear import product, product_shape
from builder.batching.rules.registry import ai_onnx, microsoft, table
from builder.batching.rules.rows import rowwise


def quantize(op: Op) -> Plan | Decomposition:
    """QuantizeLinear, DequantizeLinear with one scale, or one for each index of an axis other than the batch's.

    Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """
    operand, scale = op.operand(0), op.operand(1)
    batch = operand.batch
    if scale.batch is not None and op.node.op_type == "DequantizeLinear" and _is_scalar(scale.shape):
        return _dequantized(op)
    if batch is None or len(op.batched()) > 1:
        op.refuse("its scale depends on the samples")
    if _is_scalar(scale.shape):
        return Plan([batch])
    if len(scale.shape) > 1:
        op.refuse("it has a scale for each block of the static shape")
    axis = op.axis(1, operand.rank)
    if batch.is_on(axis):
        if op.static_batch > 1:
            op.refuse(f"it has a scale for each sample of the batch (axis {axis})")
        batch = DROPPED
    return Plan([batch], {0: batch}, {"axis": axis + batch.lifted})


def _is_scalar(shape: Sequence[int]) -> bool:
    return math.prod(shape) == 1 and len(shape) <= 1


def _dequantized(op: Op) -> Decomposition:
    """Split into `(x - zero_point) * scale`, with a different scale for each sample."""
    nodes: list[ir.Node] = []
    dtype = op.operand(1).dtype
    x, scale, point = [*op.node.inputs, None][:3]
    value = append(nodes, "Cast", [x], attributes={"to": int(dtype)})
    if point is not None:
        value = append(nodes, "Sub", [value, append(nodes, "Cast", [point], attributes={"to": int(dtype)})])
    return Decomposition(nodes, [append(nodes, "Mul", [value, scale])])


def dynamic_quantize(op: Op) -> Plan:
    """DynamicQuantizeLinear: the scale is computed for each sample, instead of for the whole tensor (B = 1).

    `scale = (max(x, 0) - min(x, 0)) / 255` and `zero_point = round(-min(x, 0) / scale)`, computed in the same order as
    ONNX Runtime does, so that they round alike.

    Source: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
    """
    if op.static_batch > 1:
        raise SharedScale(
            "its scale is computed over the whole batch, so one sample changes the rounding of the others"
        )
    operand = op.operand(0)
    form = op.batched()[0][2].lift()

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        zero, top = (emit.constant(np.asarray(v, np.float32)) for v in (0, 255))
        low = _extreme(emit, "Min", inputs[0], operand.rank, op.opset)
        high = _extreme(emit, "Max", inputs[0], operand.rank, op.opset)
        (span,) = emit.node("Div", [emit.node("Sub", [high, low])[0], top])
        (flat,) = emit.node("Equal", [span, zero])
        (scale,) = emit.node("Where", [flat, emit.constant(np.asarray(1, np.float32)), span])
        (start,) = emit.node("Sub", [zero, emit.node("Div", [low, scale])[0]])
        (point,) = emit.node("Round", [emit.node("Clip", [start, zero, top])[0]])
        (steps,) = emit.node("Round", [emit.node("Div", [inputs[0], scale])[0]])
        (level,) = emit.node("Clip", [emit.node("Add", [steps, point])[0], zero, top])
        y, small = (emit.node("Cast", [v], {"to": int(ir.DataType.UINT8)})[0] for v in (level, point))
        return [y, emit.reshape(scale, (-1,)), emit.reshape(small, (-1,))]

    return Plan([form, DROPPED, DROPPED], {0: form}, build=build, what="its scale is taken over each sample alone")


def _extreme(emit: Emitter, name: str, value: ir.Value | None, rank: int, opset: int) -> ir.Value:
    """Append the least or greatest value of each sample, or zero: `[N, *s] -> [N, 1, ...]`."""
    axes = list(range(1, rank + 1))
    if axes and opset >= REDUCTIONS_TAKE_AXES_SINCE:
        (value,) = emit.node(f"Reduce{name}", [value, emit.constant(np.asarray(axes, np.int64))])
    elif axes:
        (value,) = emit.node(f"Reduce{name}", [value], {"axes": axes})
    return emit.node(name, [value, emit.constant(np.asarray(0, np.float32))])[0]


# ---------------------------------------------------------------------- products and convolutions


def matmul_integer(op: Op) -> Plan | Decomposition:
    """MatMulInteger: `[*b, M, K] @ [*b, K, n] -> [*b, M, n]`, as MatMul; zero points for the tensor or for columns.

    Source: https://onnx.ai/onnx/operators/onnx__MatMulInteger.html
    """
    points = [op.given(i) for i in (2, 3)]
    if any(p is not None and p.batch is not None for p in points):
        return _matmul_by_sample(op)
    if points[0] is not None and not _is_scalar(points[0].shape):
        op.refuse("it has a zero point for each row, for which there is no rule")
    return product(op, 0, 1)


def _matmul_by_sample(op: Op) -> Decomposition:
    """Split a product whose zero points a and b depend on the samples: `A @ (B - b) - a * sum over K of (B - b)`.

    In integers this is exact.
    """
    a, b, a_point, b_point = [*op.node.inputs, None, None][:4]
    nodes: list[ir.Node] = []
    right = _minus(nodes, b, b_point)
    if op.operand(1).batch is not None:
        return Decomposition(nodes, [append(nodes, "MatMul", [_minus(nodes, a, a_point), right])])
    plain = append(nodes, "MatMulInteger", [a, b, None, b_point] if b_point is not None else [a, b])
    columns = append(nodes, "ReduceSum", [right], axes=[op.operand(1).rank - 2], opset=op.opset)
    shift = append(nodes, "Mul", [_wide(nodes, a_point), columns])
    return Decomposition(nodes, [append(nodes, "Sub", [plain, shift])])


def _wide(nodes: list[ir.Node], value: ir.Value | None) -> ir.Value:
    return append(nodes, "Cast", [value], attributes={"to": int(ir.DataType.INT32)})


def _minus(nodes: list[ir.Node], value: ir.Value | None, point: ir.Value | None) -> ir.Value:
    wide = _wide(nodes, value)
    return wide if point is None else append(nodes, "Sub", [wide, _wide(nodes, point)])


def conv_integer(op: Op) -> Plan | Decomposition:
    """ConvInteger, row by row along axis 0; a zero point that differs by sample is subtracted after the convolution.

    Padding counts as the zero point, so that it adds nothing: `conv(x) - point * conv(ones)`, both padded with zeros.
    In integers this is exact.

    Source: https://onnx.ai/onnx/operators/onnx__ConvInteger.html
    """
    point = op.given(2)
    if point is None or point.batch is None:
        return _rows(op)
    x, w, x_point, w_point = [*op.node.inputs, None][:4]
    rest = [w, None, w_point] if w_point is not None else [w]
    nodes: list[ir.Node] = []
    # An image of ones, `[1, *x.shape[1:]]`: its size is read at run time, because the axes of x may be dynamic.
    one = ir.tensor(np.ones(1, op.operand(0).dtype.numpy()))
    start, end, axis = (constant(nodes, np.asarray([number], np.int64)) for number in (1, LAST, 0))
    image = append(nodes, "Slice", [append(nodes, "Shape", [x]), start, end, axis])
    shape = append(nodes, "Concat", [start, image], attributes={"axis": 0})
    ones = append(nodes, "ConstantOfShape", [shape], attributes={"value": ir.AttrTensor("value", one)})
    plain = append(nodes, "ConvInteger", [x, *rest], attributes=op.node.attributes)
    unit = append(nodes, "ConvInteger", [ones, *rest], attributes=op.node.attributes)
    shift = append(nodes, "Mul", [_wide(nodes, x_point), unit])
    return Decomposition(nodes, [append(nodes, "Sub", [plain, shift])])


def qlinear_matmul(op: Op) -> Plan:
    """QLinearMatMul, as MatMul: scale and zero point for the whole tensor, or for columns of the second factor.

    Source: https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html
    """
    if any(math.prod(op.operand(i).shape) != 1 for i in (1, 2, 6, 7)):
        op.refuse("it has a scale for each row, for which there is no rule")
    return product(op, 0, 3)


def quantized_gemm(op: Op) -> Plan:
    """QGemm, row by row of A.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    bias = op.given(6)
    if op.attribute("transA", 0) or (bias is not None and len(bias.shape) > 1 and bias.shape[0] != 1):
        op.refuse("its samples must be the rows of its first input")
    return rowwise(mixed=1)(op)


def matmul_integer_to_float(op: Op) -> Plan | Decomposition:
    """MatMulIntegerToFloat, as MatMul: `(A - a) @ (B - b) * a_scale * b_scale + bias`."""
    a, b, a_scale, b_scale, a_point, b_point, bias = [*op.node.inputs, *[None] * 4][:7]
    if all(i == 0 for i, *_ in op.batched()) and _is_scalar(op.operand(2).shape):
        return product(op, 0, 1)
    nodes: list[ir.Node] = []
    return Decomposition(nodes, [_rescaled(nodes, [a, b, a_point, b_point], [a_scale, b_scale], bias)])


def dynamic_quantize_matmul(op: Op) -> Decomposition:
    """DynamicQuantizeMatMul is split into DynamicQuantizeLinear of A and a product of integers."""
    a, b, b_scale, b_point, bias = [*op.node.inputs, *[None] * 2][:5]
    first = ir.Node("", "DynamicQuantizeLinear", [a], num_outputs=3)
    for value, name in zip(first.outputs, ("quantized", "scale", "zero_point"), strict=True):
        value.name = name
    nodes = [first]
    quantized, scale, point = first.outputs
    return Decomposition(nodes, [_rescaled(nodes, [quantized, b, point, b_point], [scale, b_scale], bias)])


def _rescaled(
    nodes: list[ir.Node], product_of: list[ir.Value | None], scales: Sequence[ir.Value | None], bias: ir.Value | None
) -> ir.Value:
    """Append a product of integers, times its scales, plus its bias."""
    while product_of[-1] is None:
        product_of.pop()
    whole = append(nodes, "MatMulInteger", product_of)
    value = append(nodes, "Cast", [whole], attributes={"to": int(ir.DataType.FLOAT)})
    value = append(nodes, "Mul", [value, append(nodes, "Mul", scales)])
    return value if bias is None else append(nodes, "Add", [value, bias])


def by_blocks(op: Op) -> Plan:
    """MatMulNBits, MatMulBnb4: `[*b, K]` times packed weights, which are constants, is `[*b, n]`."""
    operand = op.operand(0)
    for i, other, _ in op.batched():
        if i:
            op.refuse(f"its weights (input {i}, {other.name!r}) depend on the samples")
    batch = parallel(op, op.batched()[0][2], [operand.rank - 1], "sums over")
    if batch.lifted and operand.rank == 0:
        op.refuse("its input has no axes")
    return Plan([batch], {0: batch})


# ---------------------------------------------------------------------- one element, or along an axis


def quantized_concat(op: Op) -> Plan:
    """QLinearConcat: as Concat; every tensor has its scale and zero point."""
    return concat_of(op, range(2, len(op.inputs), 3))


def quantized_softmax(op: Op) -> Plan:
    """QLinearSoftmax: as Softmax of the opset that its attribute `opset` names."""
    batch = op.operand(0).batch
    if batch is None or len(op.batched()) > 1:
        op.refuse("its scale depends on the samples")
    rank = op.operand(0).rank
    axis = op.axis(-1, rank)
    form = parallel(op, batch, softmax_axes(int(op.attribute("opset", 13)), axis, rank), "normalizes over")
    return Plan([form], {0: form}, {"axis": axis + form.lifted})


def image(op: Op) -> Plan:
    """Row by row along axis 0, over images in NCHW order, or with `channels_last` in NHWC order."""
    return rowwise(mixed=1 if op.attribute("channels_last", 0) else 2)(op)


# ---------------------------------------------------------------------- static shapes


def _quantize(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the input's shape and the type of the zero point."""
    point = given(inputs, 2)
    return [(ir.DataType.UINT8 if point is None else point.dtype, required(inputs, 0).shape)]


def _dequantize(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the input's shape and the type of the scale."""
    return [(required(inputs, 1).dtype, required(inputs, 0).shape)]


def _float_product(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the shape of a product, of floats."""
    ((_, shape),) = product_shape(node, inputs)
    return [(ir.DataType.FLOAT, shape)]


def _packed_product(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[*b, K] -> [*b, n]`, n being the attribute `N`."""
    a = required(inputs, 0)
    return [(a.dtype, (*a.shape[:-1], integer(node, "N")))]


def _gemm(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[M, n]`, of floats where there is no zero point for the output."""
    a, b, point = required(inputs, 0), required(inputs, 3), given(inputs, 8)
    rows = a.shape[1] if integer(node, "transA") else a.shape[0]
    columns = b.shape[0] if integer(node, "transB") else b.shape[1]
    return [(ir.DataType.FLOAT if point is None else point.dtype, (rows, columns))]


def _concat(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the shape of the join of every third input from input 2 on."""
    members = [required(inputs, i) for i in range(2, len(inputs), 3)]
    axis = integer(node, "axis") % members[0].rank
    shape = members[0].shape
    total = sum(m.shape[axis] for m in members)
    return [(members[0].dtype, (*shape[:axis], total, *shape[axis + 1 :]))]


_conv = borrowed("QLinearConv", *range(8), drop=["channels_last"])
_rows = rowwise()

LAST = 2**31 - 1
"""The end of a Slice that includes the last element."""

OPERATORS = table(
    ai_onnx("QuantizeLinear", "DequantizeLinear", rule=quantize),
    ai_onnx("DynamicQuantizeLinear", rule=dynamic_quantize),
    ai_onnx("MatMulInteger", rule=matmul_integer),
    ai_onnx("ConvInteger", rule=conv_integer),
    ai_onnx("QLinearMatMul", rule=qlinear_matmul),
    microsoft("QuantizeLinear", rule=quantize, shape=_quantize),
    microsoft("DequantizeLinear", rule=quantize, shape=_dequantize),
    microsoft("DynamicQuantizeMatMul", rule=dynamic_quantize_matmul, shape=_float_product),
    microsoft("MatMulIntegerToFloat", rule=matmul_integer_to_float, shape=_float_product),
    microsoft("MatMulBnb4", "MatMulNBits", rule=by_blocks, shape=_packed_product),
    microsoft("QGemm", rule=quantized_gemm, shape=_gemm),
    microsoft("QLinearAdd", "QLinearMul", rule=elementwise, shape=broadcast(0, 3)),
    microsoft("QLinearWhere", rule=elementwise, shape=broadcast(0, 4, 1)),
    microsoft("QLinearLeakyRelu", "QLinearSigmoid", rule=elementwise, shape=same_as_first),
    microsoft("QLinearSoftmax", rule=quantized_softmax, shape=same_as_first),
    microsoft("QLinearConcat", rule=quantized_concat, shape=_concat),
    microsoft("QLinearConv", rule=image, shape=channels_last(_conv)),
    microsoft("QLinearAveragePool", rule=image, shape=channels_last(pooled("AveragePool"))),
    microsoft("QLinearGlobalAveragePool", rule=image, shape=channels_last(pooled("GlobalAveragePool"))),
)
