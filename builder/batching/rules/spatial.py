"""Resizing, sampling and cutting out regions, where sizes and the numbers of images spell out the batch."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter
from builder.batching.layout import DROPPED, Batch, Placed, View, folded
from builder.batching.numbering import names_its_sample
from builder.batching.rule import Op, Operand, Plan, Static, Wanted, required
from builder.batching.rules.axes import normalized, only_batched, parallel
from builder.batching.rules.inference import Inputs, constant_value
from builder.batching.rules.numbers import offsets
from builder.batching.rules.registry import ai_onnx, microsoft, table
from builder.tensors import Array

RESIZE_TAKES_SIZES_SINCE = 11
"""From this opset on Resize has an input `roi` before its scales, and one for sizes."""

UPSAMPLE_TAKES_SCALES_SINCE = 9
"""From this opset on Upsample takes its scales as an input."""

Built = Sequence[ir.Value]


def resize(op: Op) -> Plan:
    """Resize axes other than the batch's; in constant `sizes`, the batch's entry becomes the batch of the call.

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    batch = only_batched(op, 0, role="scales or sizes")
    listed = op.attribute("axes", None)
    rank = op.operand(0).rank
    axes = normalized(listed, rank) if listed is not None else list(range(rank))
    scales = op.constant_or_none(2 if op.opset >= RESIZE_TAKES_SIZES_SINCE else 1)
    sizes = op.constant_or_none(3) if op.opset >= RESIZE_TAKES_SIZES_SINCE else None
    by_axis = None if scales is None else dict(zip(axes, scales.tolist(), strict=False))
    view, result, axis = _unresized(op, batch, by_axis)
    if sizes is None or not sizes.size:
        return Plan([result], {0: view})
    own = sizes.ravel().astype(np.int64)
    if isinstance(view, View) and isinstance(batch, Placed) and batch.axis in axes and op.static_batch > 1:
        own[axes.index(batch.axis)] = batch.rows
    if axis not in axes:
        return Plan([result], {0: view, 3: own})

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Built:
        full = _with_size_of(emit, inputs[0], axis, own, axes.index(axis))
        given = [*inputs[:3], full]
        return emit.node("Resize", given, op.node.attributes, outputs=[op.node.outputs[0].name], like=op.node)

    return Plan([result], {0: view}, build=build, what=f"sizes {sizes.ravel().tolist()} take the batch from the call")


def _unresized(op: Op, batch: Batch, scales: dict[int, float] | None) -> tuple[Batch | View, Batch | View, int]:
    """Return the input and the output with their batch on an axis that keeps its size, and that axis.

    In place the batch is on its own axis. Lifted, `[N, 3, 8, 8]` for a static `[3, 8, 8]`, it is folded into axis 0:
    `[N * 3, 8, 8]`, which needs the 3 to keep its size too.
    """
    shape, target = op.operand(0).shape, op.outputs[0]
    changed = {i for i, (a, b) in enumerate(zip(shape, target, strict=True)) if a != b}
    changed |= {i for i, s in (scales or {}).items() if s != 1}
    parallel(op, batch, changed, "resizes")
    if not batch.lifted and batch.axis not in changed:
        return batch, batch, batch.axis
    if 0 in changed:
        op.refuse("it resizes axis 0, which has to hold the batch")
    form = DROPPED if batch.is_on(*changed) else batch
    return folded(form, shape), folded(form, target), 0


def _with_size_of(emit: Emitter, data: ir.Value | None, axis: int, sizes: Array, at: int) -> ir.Value:
    """Append `sizes` with the length of the data's `axis` in place of entry `at`."""
    (shape,) = emit.node("Shape", [data])
    (rows,) = emit.node("Gather", [shape, emit.constant(np.asarray([axis], np.int64))], {"axis": 0})
    parts = [sizes[:at], sizes[at + 1 :]]
    before, after = ([emit.constant(part)] if part.size else [] for part in parts)
    return emit.node("Concat", [*before, rows, *after], {"axis": 0})[0]


def upsample(op: Op) -> Plan:
    """Upsample axes other than the batch's, by scales."""
    batch = only_batched(op, 0, role="scales")
    scales = op.constant(1).tolist() if op.opset >= UPSAMPLE_TAKES_SCALES_SINCE else list(op.attribute("scales", ()))
    view, result, _ = _unresized(op, batch, dict(enumerate(scales)))
    return Plan([result], {0: view})


def center_crop_pad(op: Op) -> Plan:
    """CenterCropPad to a constant shape; the batch's axis keeps its size.

    Source: https://onnx.ai/onnx/operators/onnx__CenterCropPad.html
    """
    operand = op.operand(0)
    batch = only_batched(op, 0, role="shape")
    listed = op.attribute("axes", None)
    axes = normalized(listed, operand.rank) if listed is not None else list(range(operand.rank))
    wanted = dict(zip(axes, op.constant(1).ravel().tolist(), strict=True))
    if isinstance(batch, Placed) and wanted.get(batch.axis) == operand.shape[batch.axis]:
        del wanted[batch.axis]
    form = parallel(op, batch, wanted, "crops or pads")
    sizes = np.asarray(list(wanted.values()), np.int64)
    if not wanted:
        return Plan([form], {0: form}, build=lambda emit, inputs: emit.node("Identity", inputs[:1]))
    return Plan([form], {0: form, 1: sizes}, {"axes": [a + form.lifted for a in wanted]})


def affine_grid(op: Op) -> Plan:
    """AffineGrid: `theta [N, 2, 3], size (N, C, H, W) -> [N, H, W, 2]`; the size gets the batch of the call.

    Source: https://onnx.ai/onnx/operators/onnx__AffineGrid.html
    """
    batch = only_batched(op, 0, role="size")
    size = op.constant(1).ravel()
    if isinstance(batch, Placed) and batch.axis != 0 and (op.static_batch > 1 or batch.certain):
        op.refuse(f"it mixes axis {batch.axis}, which holds the batch")
    outer, inner = batch.order if batch.is_on(0) else (1, op.operand(0).shape[0])
    rows = Placed(0, outer, inner)

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Built:
        full = _with_size_of(emit, inputs[0], 0, size, 0)
        names = [v.name for v in op.node.outputs]
        return emit.node("AffineGrid", [inputs[0], full], op.node.attributes, outputs=names, like=op.node)

    return Plan([rows], {0: rows}, build=build, what=f"size {size.tolist()} takes the batch from the call")


# ---------------------------------------------------------------------- regions of interest


def roi_align(op: Op) -> Plan:
    """RoiAlign, CropAndResize: each region's image number becomes the image's number in the batch of the call.

    `X [N, C, H, W], rois [N * R, 4], numbers [N * R] -> [N * R, C, h, w]`. With 3 regions of every sample, `numbers`
    is `[0, 0, 0]` for one sample; for two in a call it becomes `[0, 0, 0, 1, 1, 1]`.

    Source: https://onnx.ai/onnx/operators/onnx__RoiAlign.html
    """
    regions, own = _regions(op), op.static_batch
    images = op.operand(0).shape[0] // own
    numbers = op.given(2)
    place = _lead(op)
    wants: dict[int, Wanted] = {0: Placed(0, 1, images), 1: Placed(0, 1, regions)}
    if numbers is None or numbers.batch is None:
        _check_numbers(op, op.constant(2), images, regions)
        wants[2] = op.constant(2).ravel()[:regions].astype(np.int64)
    else:
        _check_names(op, numbers, images)
        wants[2] = numbers.batch.lift() if own > 1 else DROPPED

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Built:
        (named,) = emit.node("Cast", [inputs[2]], {"to": int(ir.DataType.INT64)})
        (full,) = emit.node("Add", [named, offsets(emit, images, 2)])
        given = [*inputs[:2], emit.reshape(full, (-1,)), *inputs[3:]]
        if op.node.op_type == "CropAndResize":
            (given[2],) = emit.node("Cast", [given[2]], {"to": int(ir.DataType.INT32)})
        names = [v.name for v in op.node.outputs]
        return emit.node(op.node.op_type, given, op.node.attributes, outputs=names, domain=op.node.domain, like=op.node)

    return Plan([place], wants, build=build, what="regions name images of the whole batch")


ROI_RANK = 2


def _regions(op: Op) -> int:
    """Return how many regions belong to a sample.

    Raises:
        Refusal: The samples have different numbers of them, or are not in order.
    """
    for i, operand, _ in op.batched():
        if i > 2:
            op.refuse(f"its input {i} ({operand.name!r}) depends on the samples")
    rois = op.operand(1)
    if rois.rank != ROI_RANK:
        op.refuse(f"its regions have {rois.rank} axes instead of {ROI_RANK}")
    for _, operand, b in op.batched():
        if isinstance(b, Placed) and b.axis != 0 and (op.static_batch > 1 or b.certain):
            op.refuse(f"it mixes axis {b.axis} of {operand.name!r}, which holds the batch")
        if op.static_batch > 1 and b.order[0] != 1:
            op.refuse("its regions are not sorted by sample")
    if rois.shape[0] % op.static_batch or op.operand(0).shape[0] % op.static_batch:
        op.refuse("its samples have different numbers of regions")
    return rois.shape[0] // op.static_batch


def _check_numbers(op: Op, numbers: Array, images: int, regions: int) -> None:
    """Refuse constant image numbers that do not name the same images of each sample."""
    rows = numbers.reshape(op.static_batch, regions) - images * np.arange(op.static_batch)[:, None]
    are_of_the_sample = bool((rows >= 0).all() and (rows < images).all())
    if (rows != rows[:1]).any() or not are_of_the_sample:
        op.refuse("it cuts regions of one sample from the image of another")


def _check_names(op: Op, numbers: Operand, images: int, column: int | None = None) -> None:
    """Refuse image numbers that are computed from samples, if they do not name each sample's own images (B > 1)."""
    if op.static_batch > 1 and not names_its_sample(numbers, op.static_batch, step=images, column=column):
        op.refuse("its regions do not name the images of each sample")


def _lead(op: Op) -> Batch:
    certain = all(b.certain for *_, b in op.batched())
    return Placed(0, 1, op.outputs[0][0] // op.static_batch, certain=certain)


def max_roi_pool(op: Op) -> Plan:
    """MaxRoiPool: each region's image number, in column 0, becomes the image's number in the batch of the call.

    `X [N, C, H, W], rois [N * R, 5] -> [N * R, C, h, w]`

    Source: https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html
    """
    _regions(op)
    rois, images = op.operand(1), op.operand(0).shape[0] // op.static_batch
    _check_names(op, rois, images, column=0)
    own = rois.batch.lift() if rois.batch is not None and op.static_batch > 1 else DROPPED
    wants: dict[int, Wanted] = {0: Placed(0, 1, images), 1: own}

    def build(emit: Emitter, inputs: Sequence[ir.Value | None]) -> Built:
        kind = int(op.operand(1).dtype)
        (numbers,) = emit.node("Cast", [offsets(emit, images, 3)], {"to": kind})
        column = np.asarray([1, 0, 0, 0, 0], op.operand(1).dtype.numpy())
        (shift,) = emit.node("Mul", [numbers, emit.constant(column)])
        (moved,) = emit.node("Add", [inputs[1], shift])
        names = [v.name for v in op.node.outputs]
        given = [inputs[0], emit.reshape(moved, (-1, len(column)))]
        return emit.node("MaxRoiPool", given, op.node.attributes, outputs=names, like=op.node)

    return Plan([_lead(op)], wants, build=build, what="regions name images of the whole batch")


def _cropped(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[R, C, h, w]`, h and w being constants."""
    data, rois = required(inputs, 0), required(inputs, 1)
    return [(data.dtype, (rois.shape[0], data.shape[1], *(int(d) for d in constant_value(inputs, 3).ravel())))]


OPERATORS = table(
    ai_onnx("AffineGrid", rule=affine_grid),
    ai_onnx("CenterCropPad", rule=center_crop_pad),
    ai_onnx("MaxRoiPool", rule=max_roi_pool),
    ai_onnx("Resize", rule=resize),
    ai_onnx("RoiAlign", rule=roi_align),
    ai_onnx("Upsample", rule=upsample, since=7),
    microsoft("CropAndResize", rule=roi_align, shape=_cropped),
)
