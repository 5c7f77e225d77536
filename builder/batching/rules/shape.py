"""Operators that arrange elements in another shape: reshape, transpose, expand, repeat."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter
from builder.batching.layout import DROPPED, REST, Batch, Dropped, Placed, Shape, choose, padded, placements
from builder.batching.rule import Build, Known, Op, Plan, required
from builder.batching.rules.axes import normalized, only_batched
from builder.batching.rules.registry import ai_onnx, table


def reshaped(op: Op, target: Shape) -> tuple[Batch, Batch]:
    """Follow the data's batch through a reshape to the static `target`.

    A reshape moves no element, so the product of the sizes in front of the batch stays what it was. For a static
    `[1, 64, 49, 32]` with the batch on axis 0 it is 1; in `[64, 49, 32]` the batch is then on axis 0 too, in front of
    the 64: `outer` is 1, `inner` 64, and the rewritten value is `[N * 64, 49, 32]`. For a static `[64, 1, 32]` with
    the batch on axis 1 it is 64; in `[64, 32]` the batch is either behind the 64 (`[64 * N, 32]`) or in front of the
    32 (`[64, N * 32]`), and `choose` picks one.

    Returns:
        The form to bring the data to, and the batch of the result.
    """
    operand, batch = op.samples(0)
    found = placements(operand.shape, batch, target, op.static_batch) if isinstance(batch, Placed) else []
    if isinstance(batch, Dropped) or not found:
        if op.static_batch > 1:
            op.refuse(f"it splits the batch over several axes: {list(operand.shape)} to {list(target)}")
        return batch.lift(), DROPPED
    chosen = choose(operand.shape, batch, target, found)
    if op.static_batch > 1:
        chosen = replace(chosen, certain=True)
    return batch, replace(chosen, lifted=batch.lifted)


def reshape(op: Op) -> Plan:
    """Reshape to a target that follows from the static shapes: the batch keeps its place among the elements.

    `[N, 3, 8, 8]` to a static `[1, 192]` becomes `[-1, 192]`. `[N, 64, 49, 32]` to a static `[64, 49, 32]` becomes
    `[-1, 49, 32]`, where axis 0 holds 64 rows of each sample.

    Source: https://onnx.ai/onnx/operators/onnx__Reshape.html
    """
    target = op.outputs[0]
    given = op.shown(1) if len(op.inputs) > 1 else np.asarray(op.attribute("shape", ()))
    source, result = reshaped(op, target)
    wanted, what = _shown(result, target), ""
    if given is not None and len(given) == len(wanted) and given.tolist() != wanted:
        what = f"shape {given.tolist()} became {wanted}"
    return Plan([result], {0: source, 1: None}, build=_reshape_to(result, target), what=what)


def _shown(batch: Batch, shape: Shape) -> list[int]:
    """Return a target for the report: -1 where it grows with N."""
    return [max(size, REST) for size in batch.target(shape)]


def _reshape_to(batch: Batch, shape: Shape) -> Build:
    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        return [emit.reshape(required(inputs, 0), batch.target(shape))]

    return build


def flatten(op: Op) -> Plan:
    """Flatten: unchanged if the batch is axis 0 and `axis` is 1; otherwise it becomes a Reshape."""
    operand, batch = op.samples(0)
    axis = op.axis(1, operand.rank)
    source, result = reshaped(op, op.outputs[0])
    if not batch.lifted and batch.axis == 0 and axis == 1 and result.is_on(0):
        return Plan([result])
    build = _reshape_to(result, op.outputs[0])
    return Plan([result], {0: source}, build=build, what=f"flattens to {_shown(result, op.outputs[0])}")


def squeeze(op: Op) -> Plan:
    """Squeeze removes axes of size 1; if one of them is the batch's (B = 1), samples are lifted first: `[N, *s]`."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="axes")
    given = op.constant_or_none(1)
    listed = given.ravel().tolist() if given is not None else op.attribute("axes", ())
    axes = normalized(listed, operand.rank) or [i for i, d in enumerate(operand.shape) if d == 1]
    return _drop_axes(op, batch, axes)


def _drop_axes(op: Op, batch: Batch, axes: Sequence[int]) -> Plan:
    shape = op.outputs[0]
    result = DROPPED if batch.is_on(*axes) else batch.moved(lambda axis: axis - sum(a < axis for a in axes))
    source = batch.lift() if isinstance(result, Dropped) else batch
    return Plan([result], {0: source, 1: None}, build=_reshape_to(result, shape))


def unsqueeze(op: Op) -> Plan:
    """Unsqueeze inserts axes of size 1."""
    given = op.constant_or_none(1)
    return unsqueeze_at(op, given.ravel().tolist() if given is not None else op.attribute("axes", ()))


def unsqueeze_at(op: Op, listed: Sequence[int]) -> Plan:
    """Insert axes of size 1: the batch moves to the right by those in front of it."""
    batch = only_batched(op, 0, role="axes")
    shape = op.outputs[0]
    axes = set(normalized(listed, len(shape)))
    kept = [i for i in range(len(shape)) if i not in axes]
    result = batch.moved(lambda axis: kept[axis])
    return Plan([result], {1: None}, build=_reshape_to(result, shape))


def transpose(op: Op) -> Plan:
    """Transpose moves the batch's axis like any other; where samples are lifted, N stays in front."""
    operand, batch = op.samples(0)
    perm = list(op.attribute("perm", None) or range(operand.rank)[::-1])
    if sorted(perm) != list(range(operand.rank)):
        op.refuse(f"perm {perm} is not an order of its input's {operand.rank} axes")
    result = batch.moved(perm.index)
    if batch.lifted:
        perm = [0, *(p + 1 for p in perm)]
    return Plan([result], attributes={"perm": perm})


def expand(op: Op) -> Plan:
    """Expand: the target gets 1 on the batch's axis, which leaves that axis as it is."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="shape")
    shape = op.outputs[0]
    shift = len(shape) - operand.rank
    result = batch.moved(lambda axis: axis + shift)
    if isinstance(result, Placed) and shape[result.axis] != result.rows * op.static_batch:
        if op.static_batch > 1:
            op.refuse("it repeats the samples of the batch")
        result = DROPPED
    if not result.lifted:
        given, what = op.shown(1), ""
        target = np.asarray([1 if i == result.axis else d for i, d in enumerate(shape)], np.int64)
        if given is not None and op.static_batch > 1:
            what = f"shape {given.tolist()} became {target.tolist()}"
        return Plan([result], {1: target}, what=what)
    sample = result.sample_shape(shape)
    return Plan([result], {0: padded(batch, operand.shape, len(shape)), 1: np.asarray((1, *sample), np.int64)})


def tile(op: Op) -> Plan:
    """Tile: r repeats of the batch's axis give each sample r times as many rows: `[N * i] -> [r * N * i]`."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="repeats")
    repeats = op.constant(1).ravel().tolist()
    if operand.rank != len(repeats):
        op.refuse(f"it repeats {len(repeats)} axes of an input that has {operand.rank}")
    result = batch
    if isinstance(batch, Placed) and repeats[batch.axis] != 1:
        result = replace(batch, outer=batch.outer * repeats[batch.axis])
    if batch.lifted:
        return Plan([result], {1: np.asarray([1, *repeats], np.int64)})
    return Plan([result])


def shape_of(op: Op) -> Known:
    """Shape: a constant of the static model; the rules of the nodes that read it put in the batch of the call."""
    full = op.operand(0).shape
    start, end = int(op.attribute("start", 0)), op.attribute("end", None)
    return Known([np.asarray(full[start : None if end is None else int(end)], np.int64)])


def size_of(op: Op) -> Known:
    """Size: a constant of the static model."""
    return Known([np.asarray(math.prod(op.operand(0).shape), np.int64)])


def eye_like(op: Op) -> Known:
    """EyeLike: a constant, since it reads only the shape of its input."""
    operand = op.operand(0)
    dtype = op.attribute("dtype", int(operand.dtype))
    kind = type(operand.dtype)(dtype).numpy()
    return Known([np.eye(operand.shape[0], operand.shape[1], k=int(op.attribute("k", 0)), dtype=kind)])


OPERATORS = table(
    ai_onnx("Reshape", rule=reshape),
    ai_onnx("Flatten", rule=flatten),
    ai_onnx("Squeeze", rule=squeeze),
    ai_onnx("Unsqueeze", rule=unsqueeze),
    ai_onnx("Transpose", rule=transpose),
    ai_onnx("Expand", rule=expand),
    ai_onnx("Tile", rule=tile, since=6),
    ai_onnx("Shape", rule=shape_of),
    ai_onnx("Size", rule=size_of),
    ai_onnx("EyeLike", rule=eye_like),
)
