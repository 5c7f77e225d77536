"""Operators of com.microsoft that ONNX Runtime's optimizer writes: fused ones, and images in NHWC order."""

import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, folded
from builder.batching.rule import Decomposition, Op, Plan, Static, given, required
from builder.batching.rules.axes import on_axes
from builder.batching.rules.decompose import append
from builder.batching.rules.elementwise import elementwise
from builder.batching.rules.indexing import look_up
from builder.batching.rules.inference import (
    Inputs,
    borrowed,
    broadcast_shapes,
    channels_last,
    constant_value,
    integer,
    pooled,
    same_as_first,
    stand_in,
)
from builder.batching.rules.joining import pad
from builder.batching.rules.linear import activated
from builder.batching.rules.nd import gather_nd
from builder.batching.rules.registry import microsoft, table
from builder.batching.rules.rows import rowwise
from builder.batching.rules.shape import unsqueeze_at
from builder.batching.statics import evaluate


def skip_layer_normalization(op: Op) -> Plan:
    """Normalize `input + skip (+ bias)` over the last axis: `[N, T, H], [N, T, H] or [T, H] -> [N, T, H]`.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    shape = op.outputs[0]
    found = _summands(op)
    first = found[0]
    are_together = all(b.place == first.place for b in found)
    if not are_together and op.static_batch > 1:
        op.refuse("its inputs hold the samples in different places")
    # Input and skip have rows for the samples if they have the output's shape. A skip [T, H] is shared by all samples.
    with_rows = [i for i in (0, 1) if op.operand(i).shape == shape]
    if are_together and first.is_on(0) and not any(b.lifted for b in found):
        return Plan([first] * len(op.outputs), dict.fromkeys(with_rows, first))
    form = first.lift() if are_together and not first.is_on(len(shape) - 1) else DROPPED
    views = {i: folded(op.operand(i).batch or form, shape) for i in with_rows}
    return Plan([folded(form, output) for output in op.outputs], views)


def _summands(op: Op) -> list[Batch]:
    """Return where input and skip have their samples, if every sample is normalized by itself.

    Raises:
        Refusal: It is not.
    """
    shape = op.outputs[0]
    for i, operand, batch in op.batched():
        if i > 1:
            op.refuse("its scale or bias depends on the samples")
        if operand.shape != shape:
            op.refuse("it adds the same skip to every sample, and that skip depends on the samples")
        if batch.is_on(len(shape) - 1) and (batch.certain or op.static_batch > 1):
            op.refuse("it normalizes over the axis that holds the batch")
    return [b for *_, b in op.batched()]


def fused_convolution(op: Op) -> Plan | Decomposition:
    """FusedConv: a Conv, the sum with Z and an activation, row by row along axis 0; otherwise split into the three."""
    batches = [b for *_, b in op.batched()]
    are_images = all(i in (0, 3) for i, *_ in op.batched()) and (op.static_batch == 1 or batches[0].is_on(0))
    are_together = len({b.place for b in batches}) == 1 and not any(b.lifted for b in batches)
    if are_images and (op.given(3) is None or are_together):
        return rowwise(0, 3)(op)
    nodes: list[ir.Node] = []
    kept = {k: v for k, v in op.node.attributes.items() if not k.startswith("activation")}
    result = append(nodes, "Conv", op.node.inputs[:3], attributes=kept)
    if op.given(3) is not None:
        result = append(nodes, "Add", [result, op.node.inputs[3]])
    if op.attribute("activation_params"):
        op.refuse("its activation has parameters, and there is no rule for such an activation by itself")
    return Decomposition(nodes, [activated(op, nodes, result)])


def expand_dims(op: Op) -> Plan:
    """ExpandDims inserts one axis of size 1, at a constant position."""
    return unsqueeze_at(op, [int(op.constant(1).item())])


def gather_blocks(op: Op) -> Plan:
    """GatherBlockQuantized: the samples are indices into a packed table that is a constant."""
    for i, operand, _ in op.batched():
        if i != 1:
            op.refuse(f"its table (input {i}, {operand.name!r}) depends on the samples")
    rank = op.operand(0).rank
    return look_up(op, op.axis(0, rank, "gather_axis"), attribute="gather_axis")


def distances(op: Op) -> Plan:
    """CDist: the distance from each row of A, which is a sample, to each row of B: `[N, F], [m, F] -> [N, m]`."""
    found = {i: b for i, _, b in op.batched()}
    if len(found) > 1:
        op.refuse("it compares the samples of the batch with each other")
    ((index, batch),) = found.items()
    if batch.is_on(1) and (batch.certain or op.static_batch > 1):
        op.refuse("it sums over the axis that holds the batch")
    if not batch.lifted and batch.axis == 0:
        return Plan([batch.at(index)])
    if index == 1 or op.static_batch > 1:
        op.refuse("its samples must be the rows of its first input")
    return Plan([folded(DROPPED, op.outputs[0])], {0: folded(batch, op.operand(0).shape)})


def gelu_with_bias(op: Op) -> Plan:
    """BiasSplitGelu: `a * gelu(b)`, a and b being the halves of `x + bias` along the last axis."""
    return rowwise(mixed=len(op.outputs[0]) - 1)(op)


def repeat_block(op: Op) -> Plan:
    """NGramRepeatBlock: tokens `[N, T]`, scores `[N, V]` -> `[N, V]`."""
    return on_axes(op, {0: 0, 1: 0}, [0])


# ---------------------------------------------------------------------- static shapes


def _normalized(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the output, the mean, the inverse deviation, and the sum that was normalized."""
    shape = broadcast_shapes(required(inputs, 0).shape, required(inputs, 1).shape)
    dtype = required(inputs, 0).dtype
    statistic = (ir.DataType.FLOAT, (*shape[:-1], 1))
    return [(dtype, shape), statistic, statistic, (dtype, shape)][: len(node.outputs)]


def _expanded(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the shape with one more axis, of size 1."""
    first = required(inputs, 0)
    at = int(constant_value(inputs, 1).item()) % (first.rank + 1)
    return [(first.dtype, (*first.shape[:at], 1, *first.shape[at:]))]


def _halved(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[*s, 2 * d] -> [*s, d]`."""
    first = required(inputs, 0)
    return [(first.dtype, (*first.shape[:-1], first.shape[-1] // 2))]


def _pairs(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[M, F], [n, F] -> [M, n]`."""
    a, b = required(inputs, 0), required(inputs, 1)
    return [(a.dtype, (a.shape[0], b.shape[0]))]


def _gathered(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the table's shape with the indices in place of one axis; two 4-bit values are in a byte."""
    data, indices, scales = required(inputs, 0), required(inputs, 1), required(inputs, 2)
    axis = integer(node, "gather_axis") % data.rank
    last = data.shape[-1] * (2 if data.dtype == ir.DataType.UINT8 and integer(node, "bits", 4) == 4 else 1)
    shape = (*data.shape[:-1], last)
    return [(scales.dtype, (*shape[:axis], *indices.shape, *shape[axis + 1 :]))]


def _sampled(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[N, C, H, W], [N, h, w, 2] -> [N, C, h, w]`."""
    data, grid = required(inputs, 0), required(inputs, 1)
    return [(data.dtype, (*data.shape[:2], *grid.shape[1:-1]))]


def _padded_transpose(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the shape of a ConvTranspose whose pads are an input."""
    pads = None if given(inputs, 2) is None else evaluate(required(inputs, 2))
    spatial = required(inputs, 0).rank - 2
    listed = [int(p) for p in pads.ravel()] if pads is not None else [0] * (2 * spatial)
    attributes = [*node.attributes.values(), ir.Attr("pads", ir.AttributeType.INTS, listed)]
    return stand_in("ConvTranspose", [required(inputs, 0), required(inputs, 1)], attributes)


def _scores(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the shape of the second input."""
    return same_as_first(node, inputs[1:])


_nhwc_conv = channels_last(borrowed("Conv", 0, 1), weights=1)
_images = rowwise(0)
_nhwc = rowwise(mixed=1)

OPERATORS = table(
    microsoft("BiasAdd", rule=elementwise, shape=same_as_first),
    microsoft("BiasSplitGelu", rule=gelu_with_bias, shape=_halved),
    microsoft("CDist", rule=distances, shape=_pairs),
    microsoft("ConvTransposeWithDynamicPads", rule=_images, shape=_padded_transpose),
    microsoft("ExpandDims", rule=expand_dims, shape=_expanded),
    microsoft("FusedConv", rule=fused_convolution, shape=borrowed("Conv", 0, 1)),
    microsoft("GatherBlockQuantized", rule=gather_blocks, shape=_gathered),
    microsoft("GatherND", rule=gather_nd, shape=borrowed("GatherND", 0, 1)),
    microsoft("GridSample", rule=rowwise(0, 1, weights="parameters"), shape=_sampled),
    microsoft("GroupNorm", rule=_nhwc, shape=same_as_first),
    microsoft("NGramRepeatBlock", rule=repeat_block, shape=_scores),
    microsoft("NhwcConv", rule=_nhwc, shape=_nhwc_conv),
    microsoft("NhwcFusedConv", rule=rowwise(0, 3, mixed=1), shape=_nhwc_conv),
    microsoft("NhwcMaxPool", rule=_nhwc, shape=channels_last(pooled("MaxPool"))),
    microsoft("Pad", rule=pad, shape=borrowed("Pad", 0, 1)),
    microsoft("SkipGroupNorm", rule=rowwise(0, 3, mixed=1), shape=same_as_first),
    microsoft(
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        rule=skip_layer_normalization,
        shape=_normalized,
    ),
)
