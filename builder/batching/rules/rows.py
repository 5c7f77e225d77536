"""Operators that take axis 0 row by row: convolutions, pooling, normalizing images, losses."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter
from builder.batching.layout import DROPPED, Placed, View, folded
from builder.batching.numbering import by_sample, names_its_sample
from builder.batching.rule import Op, Plan, Static, Wanted, given, required
from builder.batching.rules.inference import BORROWED_OPSET, Inputs, constant_value, integer, same_as_first
from builder.batching.rules.numbers import folded_shape, offsets
from builder.batching.rules.registry import ai_onnx, table
from builder.batching.statics import infer
from builder.tensors import Array

TEST_MODE_IS_DEFAULT_SINCE = 7
"""Before this opset BatchNormalization trains unless `is_test` is set."""

TRAINING_MODE_EXISTS_SINCE = 14
"""From this opset on, an attribute says whether BatchNormalization trains; before, the number of its outputs does."""

Built = Sequence[ir.Value]
Carry = Callable[[Op], Plan]


def rowwise(*row_inputs: int, weights: str = "weights", mixed: int = 2) -> Carry:
    """Make the rule of an operator that takes axis 0 of `row_inputs`, and of its outputs, row by row.

    `[rows * N, *s] -> [rows * N, *t]`: on axis 0 the batch stays where it is, with whatever else is there. From another
    axis it is moved: a static `[4, 3, 8, 8]` whose batch was dropped is lifted, `[N, 4, 3, 8, 8]`, goes through as
    `[N * 4, 3, 8, 8]`, and comes out as `[N, 4, ...]`.

    Args:
        row_inputs: The inputs with rows; input 0 if none is given.
        weights: What the other inputs are.
        mixed: The first axis that the operator mixes; it leaves the axes in front of it as they are.
    """
    inputs_with_rows = row_inputs or (0,)

    def rule(op: Op) -> Plan:
        """Row by row along axis 0: `[rows * N, *s] -> [rows * N, *t]`."""
        for i, operand, b in op.batched():
            if i not in inputs_with_rows:
                op.refuse(f"its {weights} (input {i}, {operand.name!r}) depend on the samples")
            if b.certain and b.axis >= mixed:
                op.refuse(f"it mixes axis {b.axis} of {operand.name!r}, which holds the batch")
        return _in_place(op, inputs_with_rows) or _folded(op, inputs_with_rows)

    return rule


def _in_place(op: Op, inputs_with_rows: tuple[int, ...]) -> Plan | None:
    """Keep the node as it is, if every input has the batch at one place on axis 0."""
    batches = [b for *_, b in op.batched()]
    first = batches[0]
    if first.lifted or any(b.lifted or b.axis != 0 or b.place != first.place for b in batches):
        return None
    batch = replace(first, certain=all(b.certain for b in batches))
    spread: dict[int, Wanted] = {i: batch for i in inputs_with_rows if op.given(i) is not None}
    if any(op.operand(i).shape[0] != batch.rows * op.static_batch for i in spread):
        return None
    return Plan([batch] * len(op.outputs), spread)


def _folded(op: Op, inputs_with_rows: tuple[int, ...]) -> Plan:
    """Lift every input and fold N into its axis 0, and the other way round for the outputs."""
    batches = [b for *_, b in op.batched()]
    first = batches[0]
    if op.static_batch > 1 and any(b.place != first.place or not b.is_on(0) for b in batches):
        op.refuse("it mixes the axis that holds the batch")
    views: dict[int, Wanted] = {}
    for i in inputs_with_rows:
        operand = op.given(i)
        if operand is not None:
            views[i] = folded(operand.batch or (first if op.static_batch > 1 else DROPPED), operand.shape)
    batch = first.lift() if first.is_on(0) else DROPPED
    return Plan([folded(batch, shape) for shape in op.outputs], views)


def batch_normalization(op: Op) -> Plan:
    """BatchNormalization with given statistics, row by row; in training mode it computes them over the batch.

    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    if trains(op):
        op.refuse("it normalizes by the statistics of the whole batch (training mode)")
    return _per_channel(op)


def trains(op: Op) -> bool:
    """Return whether a BatchNormalization computes the statistics of what it normalizes."""
    if op.opset >= TRAINING_MODE_EXISTS_SINCE:
        return bool(op.attribute("training_mode", 0))
    several = sum(bool(v.name) for v in op.node.outputs) > 1
    return several or (op.opset < TEST_MODE_IS_DEFAULT_SINCE and not op.attribute("is_test", 0))


def pool(op: Op) -> Plan:
    """Pooling: row by row along axis 0, or by channel if the samples are among the channels: `[1, N * C, *s]`."""
    batch = op.operand(0).batch
    if op.static_batch == 1 or not isinstance(batch, Placed) or batch.axis != 1:
        return _per_channel(op)
    place = batch.lower()
    return Plan([place] * len(op.outputs), {0: place})


def max_pool(op: Op) -> Plan:
    """MaxPool: as other pooling; its second output, positions in the whole batch, becomes positions in one sample.

    A sample `[2, 6, 6]` has 72 elements: position 80 of the whole batch is position 8 of sample 1, 80 modulo 72. With
    B > 1 the original's positions exceed these by 72 times the number of the sample, which `numbering` follows.

    Source: https://onnx.ai/onnx/operators/onnx__MaxPool.html
    """
    plan = pool(op)
    indices = op.node.outputs[1] if len(op.node.outputs) > 1 else None
    if indices is None or not (indices.uses() or indices.is_graph_output()):
        return plan
    each = math.prod(op.operand(0).shape) // op.static_batch
    offsets = {1: _first_positions(op, plan, each)} if op.static_batch > 1 else {}

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Built:
        names = [v.name for v in op.node.outputs]
        pooled, where = emit.node("MaxPool", inputs, op.node.attributes, outputs=[names[0], None], like=op.node)
        size = emit.constant(np.asarray(each, np.int64))
        return [pooled, *emit.node("Mod", [where, size], outputs=[names[1]])]

    return replace(plan, build=build, what="indices count over one sample", offsets=offsets)


def _first_positions(op: Op, plan: Plan, each: int) -> Array:
    """Return the position of the first element of the sample that each element of the indices belongs to."""
    place = plan.outputs[1].batch if isinstance(plan.outputs[1], View) else plan.outputs[1]
    if not isinstance(place, Placed) or math.prod(op.outputs[1][: place.axis]) * place.outer != 1:
        op.refuse("its indices are positions in the whole batch, where the elements of a sample are not together")
    return by_sample(op.outputs[1], place, op.static_batch, step=each)


def max_unpool(op: Op) -> Plan:
    """MaxUnpool at positions in one sample, which become positions in the whole batch.

    With 72 elements to an output of one sample, position 8 of sample 1 becomes 1 * 72 + 8 = 80.

    Source: https://onnx.ai/onnx/operators/onnx__MaxUnpool.html
    """
    plan = rowwise(0, 1, weights="output shape")(op)
    rows, *rest = op.operand(1).shape
    out, *size = op.outputs[0]
    sample, result = (rows // op.static_batch, *rest), (out // op.static_batch, *size)
    each = math.prod(result)
    if op.static_batch > 1 and not _are_positions(op, each):
        op.refuse("its indices are not positions in the part of the output that belongs to each sample")

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Built:
        values, where = inputs[0], required(inputs, 1)
        by_own = emit.reshape(where, (-1, *sample))
        (shifted,) = emit.node("Add", [by_own, offsets(emit, each, len(sample) + 1)])
        given = [values, emit.reshape(shifted, (-1, *sample[1:]))]
        if op.given(2) is not None:
            given.append(folded_shape(emit, result))
        return emit.node("MaxUnpool", given, op.node.attributes, outputs=[op.node.outputs[0].name], like=op.node)

    return replace(plan, build=build, what="indices count over one sample")


def _are_positions(op: Op, each: int) -> bool:
    """Return whether the indices name, for each sample, elements of its own part of the output."""
    indices = op.operand(1)
    lies_together = indices.batch is not None and indices.batch.order[0] == 1
    return lies_together and names_its_sample(indices, op.static_batch, step=each)


def loss(op: Op) -> Plan:
    """NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss with a loss for each row: `[N, C], [N] -> [N]`.

    Source: https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html
    """
    if op.attribute("reduction", "mean") != "none":
        op.refuse("it reduces the loss over all samples of the batch")
    return rowwise(0, 1, mixed=1)(op)


# ---------------------------------------------------------------------- static shapes


def _unpooled(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the constant shape that it is given, or what its kernel makes."""
    if given(inputs, 2) is None:
        return infer(node, inputs, {"": BORROWED_OPSET})
    return [(required(inputs, 0).dtype, tuple(int(d) for d in constant_value(inputs, 2).ravel()))]


def _spectrum(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[N, frames, bins, 2]`; ONNX's own inference takes `onesided` for 0 where it is left out, but it is 1."""
    signal, window = required(inputs, 0), given(inputs, 2)
    if given(inputs, 3) is not None:
        size = int(constant_value(inputs, 3).item())
    else:
        size = window.shape[0] if window is not None else 0
    frames = 1 + (signal.shape[1] - size) // int(constant_value(inputs, 1).item())
    bins = size // 2 + 1 if integer(node, "onesided", 1) else size
    return [(signal.dtype, (signal.shape[0], frames, bins, 2))]


_per_channel = rowwise()
_whole_row = rowwise(mixed=1)

OPERATORS = table(
    ai_onnx("Col2Im", "DepthToSpace", "QLinearConv", "SpaceToDepth", rule=_per_channel),
    ai_onnx("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", rule=pool),
    ai_onnx("MaxPool", rule=max_pool),
    ai_onnx("MaxUnpool", rule=max_unpool, shape=_unpooled),
    ai_onnx("CausalConvWithState", rule=rowwise(0, 3)),
    ai_onnx("DeformConv", rule=rowwise(0, 2, 4)),
    ai_onnx("GridSample", rule=rowwise(0, 1, weights="parameters")),
    ai_onnx("GroupNormalization", rule=_whole_row, shape=same_as_first),
    ai_onnx("LRN", rule=_whole_row),
    ai_onnx("STFT", rule=rowwise(mixed=1), shape=_spectrum),
    ai_onnx("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", rule=loss),
)
