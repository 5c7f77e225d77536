"""Operators that mix elements along some axes and along no others."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.layout import DROPPED, Dropped, Placed
from builder.batching.rule import Mixing, Op, Plan, Static, Wanted, per_sample, required
from builder.batching.rules.axes import normalized, on_axes, only_batched, parallel
from builder.batching.rules.inference import Inputs, integer, same_as_first
from builder.batching.rules.registry import ai_onnx, microsoft, table

SUM_TAKES_AXES_SINCE = 13
"""From this opset on ReduceSum takes its axes as an input."""

REDUCTIONS_TAKE_AXES_SINCE = 18
"""From this opset on all reductions take their axes as an input."""

SOFTMAX_IS_ALONG_ONE_AXIS_SINCE = 13
"""From this opset on Softmax works along one axis; before, over all axes from `axis` on."""

DFT_TAKES_AXIS_SINCE = 20
"""From this opset on DFT takes its axis as an input."""


def reduce(op: Op) -> Plan:
    """Reduce over axes other than the batch's: `[N, *s] -> [N, *s without axes]`.

    Source: https://onnx.ai/onnx/operators/onnx__ReduceSum.html
    """
    operand = op.operand(0)
    batch = only_batched(op, 0, role="axes")
    given = op.constant_or_none(1)
    listed = given.ravel().tolist() if given is not None else op.attribute("axes", ())
    if not len(listed) and op.attribute("noop_with_empty_axes", 0):
        return Plan([batch])
    axes = sorted(normalized(listed, operand.rank)) or list(range(operand.rank))
    form = parallel(op, batch, axes, "reduces over")
    keep = bool(op.attribute("keepdims", 1))
    result = form if keep else form.moved(lambda axis: axis - sum(a < axis for a in axes))
    shifted = np.asarray(axes, np.int64) + form.lifted
    since = SUM_TAKES_AXES_SINCE if op.node.op_type == "ReduceSum" else REDUCTIONS_TAKE_AXES_SINCE
    inputs: dict[int, Wanted] = {0: form}
    if op.opset >= since and "axes" not in op.node.attributes:
        return Plan([result], {**inputs, 1: shifted})
    return Plan([result], inputs, {"axes": shifted.tolist()})


def arg_reduce(op: Op) -> Plan:
    """ArgMax, ArgMin along an axis other than the batch's: `[N, *s] -> [N, *s without axis]`."""
    operand = op.operand(0)
    axis = op.axis(0, operand.rank)
    form = parallel(op, only_batched(op, 0, role="input"), [axis], "picks along")
    result = form if op.attribute("keepdims", 1) else form.moved(lambda at: at - (axis < at))
    return Plan([result], {0: form}, {"axis": axis + form.lifted})


def softmax(op: Op) -> Plan:
    """Softmax, LogSoftmax and Hardmax along one axis; before opset 13 over all axes from `axis` on.

    Source: https://onnx.ai/onnx/operators/onnx__Softmax.html
    """
    rank = op.operand(0).rank
    axis = op.axis(-1 if op.opset >= SOFTMAX_IS_ALONG_ONE_AXIS_SINCE else 1, rank)
    axes = softmax_axes(op.opset, axis, rank)
    form = parallel(op, only_batched(op, 0, role="input"), axes, "normalizes over")
    return Plan([form], {0: form}, {"axis": axis + form.lifted})


def softmax_axes(opset: int, axis: int, rank: int) -> Sequence[int]:
    """Return the axes that a Softmax of this opset normalizes over."""
    return [axis] if opset >= SOFTMAX_IS_ALONG_ONE_AXIS_SINCE else range(axis, rank)


def top_k(op: Op) -> Plan:
    """TopK along an axis other than the batch's; a batch of 1 has one element to sort, which changes nothing."""
    axis = op.axis(-1, op.operand(0).rank)
    batch = only_batched(op, 0, role="count")
    if isinstance(batch, Placed) and batch.axis == axis and batch.rows == 1:
        if op.static_batch > 1:
            raise Mixing(f"it picks along axis {axis}, which holds the batch")
        batch = DROPPED
    form = parallel(op, batch, [axis], "picks along")
    return Plan([form] * len(op.outputs), {0: form}, {"axis": axis + form.lifted})


def cumulative(op: Op) -> Plan:
    """CumSum, CumProd along a constant axis other than the batch's."""
    operand = op.operand(0)
    (axis,) = normalized([int(op.constant(1).item())], operand.rank)
    form = parallel(op, only_batched(op, 0, role="axis"), [axis], "accumulates along")
    return Plan([form], {0: form, 1: np.asarray(axis + form.lifted, np.int64)})


def layer_normalization(op: Op) -> Plan:
    """Normalize over all axes from `axis` on; scale and bias are constants that broadcast from the right.

    Source: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    rank = op.operand(0).rank
    axis = op.axis(-1, rank)
    batch = only_batched(op, 0, role="scale or bias")
    form = parallel(op, batch, range(axis, rank), "normalizes over")
    wants: dict[int, Wanted] = {0: form}
    for i, operand in enumerate(op.inputs[1:], start=1):
        if operand is None or isinstance(form, Dropped) or op.static_batch == 1:
            continue
        at = form.axis - (rank - operand.rank)
        if at >= 0 and operand.shape[at] != 1:
            wants[i] = per_sample(op, operand, at, form)
    return Plan([form] * len(op.outputs), wants, {"axis": axis + form.lifted})


def lp_normalization(op: Op) -> Plan:
    """LpNormalization along `axis`, by default the last: `[N, *s] -> [N, *s]`."""
    axis = op.axis(-1, op.operand(0).rank)
    form = parallel(op, only_batched(op, 0, role="input"), [axis], "normalizes over")
    return Plan([form], {0: form}, {"axis": axis + form.lifted})


def mean_variance(op: Op) -> Plan:
    """MeanVarianceNormalization over `axes`, by default 0, 2 and 3; the batch must be on another axis."""
    axes = normalized(op.attribute("axes", (0, 2, 3)), op.operand(0).rank)
    form = parallel(op, only_batched(op, 0, role="input"), axes, "normalizes over")
    return Plan([form], {0: form}, {"axes": [a + form.lifted for a in axes]})


def triangular(op: Op) -> Plan:
    """Trilu: a triangle of the last two axes."""
    rank = op.operand(0).rank
    form = parallel(op, only_batched(op, 0, role="diagonal"), (rank - 2, rank - 1), "cuts a triangle along")
    return Plan([form], {0: form})


def one_hot(op: Op) -> Plan:
    """OneHot inserts a new axis: `[N, *s] -> [N, *s with depth]`."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="depth or values")
    axis = op.axis(-1, operand.rank + 1)
    result = batch.moved(lambda at: at if at < axis else at + 1)
    return Plan([result], attributes={"axis": axis + batch.lifted})


def dft(op: Op) -> Plan:
    """DFT along an axis other than the batch's; the last axis holds real and imaginary parts."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="length or axis")
    if op.opset < DFT_TAKES_AXIS_SINCE:
        axis = op.axis(1, operand.rank)
    else:
        given = op.constant_or_none(2)
        (axis,) = normalized([-2 if given is None else int(given.item())], operand.rank)
    form = parallel(op, batch, (axis, operand.rank - 1), "transforms along")
    if op.opset < DFT_TAKES_AXIS_SINCE:
        return Plan([form], {0: form}, {"axis": axis + form.lifted})
    return Plan([form], {0: form, 2: np.asarray(axis + form.lifted, np.int64)})


def reverse_sequence(op: Op) -> Plan:
    """ReverseSequence, with its `batch_axis` on the batch's axis, and one of `sequence_lens` for each sample.

    Source: https://onnx.ai/onnx/operators/onnx__ReverseSequence.html
    """
    rows = op.axis(1, op.operand(0).rank, "batch_axis")
    return on_axes(op, {0: rows, 1: 0}, [rows])


def matrices(op: Op) -> Plan:
    """Det, Inverse of the matrices in the last two axes: `[*b, M, M] -> [*b]` or `[*b, M, M]`."""
    rank = op.operand(0).rank
    form = parallel(op, only_batched(op, 0, role="input"), (rank - 2, rank - 1), "has its matrices along")
    is_kept = isinstance(form, Dropped) or form.axis < len(op.outputs[0])
    return Plan([form if is_kept else DROPPED], {0: form})


def unfold(op: Op) -> Plan:
    """UnfoldTensor: windows along `dim` become a new last axis."""
    dim = op.axis(-1, op.operand(0).rank, "dim")
    form = parallel(op, only_batched(op, 0, role="input"), [dim], "cuts windows along")
    return Plan([form], {0: form}, {"dim": dim + form.lifted})


_REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]


def _simplified(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the input's shape, and `[*s, 1, ...]` for the inverse deviations."""
    first = required(inputs, 0)
    axis = integer(node, "axis", -1) % first.rank
    statistic = (ir.DataType.FLOAT, (*first.shape[:axis], *(1,) * (first.rank - axis)))
    return [(first.dtype, first.shape), statistic][: len(node.outputs)]


def _unfolded(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[*s, d, *t] -> [*s, windows, *t, size]`."""
    first = required(inputs, 0)
    dim, size, step = integer(node, "dim", -1) % first.rank, integer(node, "size"), integer(node, "step", 1)
    windows = (first.shape[dim] - size) // step + 1
    return [(first.dtype, (*first.shape[:dim], windows, *first.shape[dim + 1 :], size))]


OPERATORS = table(
    ai_onnx(*_REDUCTIONS, rule=reduce),
    ai_onnx("ArgMax", "ArgMin", rule=arg_reduce),
    ai_onnx("Softmax", "LogSoftmax", "Hardmax", rule=softmax),
    ai_onnx("TopK", rule=top_k),
    ai_onnx("CumSum", "CumProd", rule=cumulative),
    ai_onnx("LayerNormalization", "RMSNormalization", rule=layer_normalization),
    ai_onnx("SimplifiedLayerNormalization", rule=layer_normalization, shape=_simplified),
    ai_onnx("LpNormalization", rule=lp_normalization),
    ai_onnx("MeanVarianceNormalization", rule=mean_variance, shape=same_as_first),
    ai_onnx("Trilu", rule=triangular),
    ai_onnx("OneHot", rule=one_hot),
    ai_onnx("DFT", rule=dft),
    ai_onnx("ReverseSequence", rule=reverse_sequence),
    ai_onnx("Det", rule=matrices),
    microsoft("Inverse", rule=matrices, shape=same_as_first),
    microsoft("Trilu", rule=triangular, shape=same_as_first),
    microsoft("UnfoldTensor", rule=unfold, shape=_unfolded),
)
