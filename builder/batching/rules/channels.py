"""Operators that work by channel, where the samples are among the channels or the parameters depend on the samples.

A convolution with a kernel for every sample is exported with the batch in its groups: `[1, B * C, H, W]` by
`[B * O, C, k, k]` in B groups. With B = 3 samples of 4 channels and kernels for 5 outputs, that is `[1, 12, H, W]` by
`[15, 4, k, k]`, and group b, channels 4b to 4b + 3, is sample b. The number of groups is an attribute, which cannot
grow with N. So the samples go back to axis 0: `[3, 4, H, W]`. If every sample has the same kernels, they are one
convolution by `[5, 4, k, k]`; otherwise each sample's kernels are multiplied with the patches of its image.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Attribute
from builder.batching.layout import Placed
from builder.batching.rule import Decomposition, Op, Plan, per_sample
from builder.batching.rules.decompose import append, constant
from builder.batching.rules.registry import ai_onnx, table
from builder.batching.rules.rows import Carry, batch_normalization, rowwise, trains

_row_by_row = rowwise()


def convolution(op: Op) -> Plan | Decomposition:
    """Conv: row by row along axis 0; if the kernels depend on the samples, a product with patches of the image.

    `[N, C, *s], [N * O, C / g, *k] -> [N, O, *p]`

    Source: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    return _convolved(op, _by_patches)


def transposed_convolution(op: Op) -> Plan | Decomposition:
    """ConvTranspose: as Conv; if the kernels depend on the samples, a product gives patches, which are then added up.

    Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    return _convolved(op, _into_patches)


def _convolved(op: Op, by_own_kernels: Callable[[Op, list[ir.Node]], ir.Value]) -> Plan | Decomposition:
    """Convolve; `by_own_kernels` is the product to use when input 1, the kernels, depends on the samples."""
    others = [i for i, *_ in op.batched() if i > 0]
    if not others:
        return _among_channels(op) or _row_by_row(op)
    nodes: list[ir.Node] = []
    if 1 in others:
        result = by_own_kernels(op, nodes)
    else:
        result = append(nodes, op.node.op_type, op.node.inputs[:2], attributes=op.node.attributes)
    if op.given(2) is not None:
        result = append(nodes, "Add", [result, _by_channel(op, nodes, 2)])
    return Decomposition(nodes, [result])


def _by_patches(op: Op, nodes: list[ir.Node]) -> ir.Value:
    """Multiply kernels `[1, g, O / g, C / g * K]` with patches `[n, g, C / g * K, P]`; a kernel covers K places.

    The patches of an image are what a convolution with K kernels gives, of which each is 1 at one place. An image
    `[1, 3, 8, 8]` with kernels `[5, 3, 3, 3]` has K = 9 and P = 6 * 6: patches `[1, 1, 27, 36]`, times kernels
    `[1, 1, 5, 27]`, are `[1, 1, 5, 36]`, which is the answer `[1, 5, 6, 6]`.
    """
    (rows, channels, *size), (outputs, each, *kernel) = op.operand(0).shape, op.operand(1).shape
    groups, places, out = channels // each, math.prod(kernel), op.outputs[0]
    image = _shaped(nodes, op.node.inputs[0], (rows * channels, 1, *size))
    cut = append(nodes, "Conv", [image, _places(op, nodes)], attributes=_without_groups(op))
    patches = _shaped(nodes, cut, (rows, groups, each * places, math.prod(out[2:])))
    kernels = _shaped(nodes, op.node.inputs[1], (1, groups, outputs // groups, each * places))
    return _shaped(nodes, append(nodes, "MatMul", [kernels, patches]), out)


def _into_patches(op: Op, nodes: list[ir.Node]) -> ir.Value:
    """Multiply kernels `[1, g, O / g * K, C / g]` with images `[n, g, C / g, S]`: patches of `[n, O, *p]`.

    A transposed convolution with K kernels, of which each is 1 at one place, then adds up the patches at their places.
    With an image `[1, 5, 6, 6]` and kernels `[5, 3, 3, 3]`, it is `[1, 1, 27, 5]` times `[1, 1, 5, 36]`: patches
    `[3, 9, 6, 6]`, which add up to `[1, 3, 8, 8]`.
    """
    (rows, channels, *size), (_, each, *kernel) = op.operand(0).shape, op.operand(1).shape
    out = op.outputs[0]
    groups, places = out[1] // each, math.prod(kernel)
    kernels = _shaped(nodes, op.node.inputs[1], (1, groups, channels // groups, each * places))
    kernels = append(nodes, "Transpose", [kernels], attributes={"perm": [0, 1, 3, 2]})
    image = _shaped(nodes, op.node.inputs[0], (rows, groups, channels // groups, math.prod(size)))
    patches = _shaped(nodes, append(nodes, "MatMul", [kernels, image]), (rows * out[1], places, *size))
    put = append(nodes, "ConvTranspose", [patches, _places(op, nodes)], attributes=_without_groups(op))
    return _shaped(nodes, put, out)


def _places(op: Op, nodes: list[ir.Node]) -> ir.Value:
    """Make kernels `[K, 1, *k]`, each of them 1 at one place and 0 elsewhere."""
    kernel = op.operand(1).shape[2:]
    places = math.prod(kernel)
    return constant(nodes, np.eye(places, dtype=op.operand(1).dtype.numpy()).reshape(places, 1, *kernel))


def _without_groups(op: Op) -> Mapping[str, Attribute]:
    return {k: v for k, v in op.node.attributes.items() if k != "group"}


def instance_normalization(op: Op) -> Plan | Decomposition:
    """InstanceNormalization: row by row along axis 0; scale and bias that depend on the samples are applied afterwards.

    Source: https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html
    """
    return _normalized(op, _row_by_row)


def channel_normalization(op: Op) -> Plan | Decomposition:
    """BatchNormalization: as InstanceNormalization; in training mode only if each channel belongs to one sample.

    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    if not trains(op):
        return _normalized(op, batch_normalization)
    if _samples(op) is None or any(v.uses() or v.is_graph_output() for v in op.node.outputs[1:]):
        return batch_normalization(op)
    nodes: list[ir.Node] = []
    attributes = {"epsilon": float(op.attribute("epsilon", 1e-5))}
    result = append(nodes, "InstanceNormalization", op.node.inputs[:3], attributes=attributes)
    return Decomposition(nodes, [result] * len(op.node.outputs))


def _normalized(op: Op, row_by_row: Carry) -> Plan | Decomposition:
    """Normalize by `row_by_row`; with a scale or bias that depends on the samples, by 1 and 0, then apply it."""
    others = [i for i, *_ in op.batched() if i > 0]
    if not others:
        return _among_channels(op) or row_by_row(op)
    if not {1, 2}.issuperset(others):
        op.refuse(f"its statistics (input {max(others)}) depend on the samples")
    nodes: list[ir.Node] = []
    channels, kind = op.operand(0).shape[1], op.operand(1).dtype.numpy()
    plain = [constant(nodes, np.full(channels, value, kind)) for value in (1, 0)]
    given = [op.node.inputs[0], *plain, *op.node.inputs[3:]]
    result = append(nodes, op.node.op_type, given, attributes=op.node.attributes)
    result = append(nodes, "Mul", [result, _by_channel(op, nodes, 1)])
    return Decomposition(nodes, [append(nodes, "Add", [result, _by_channel(op, nodes, 2)])])


def _by_channel(op: Op, nodes: list[ir.Node], index: int) -> ir.Value:
    """Reshape a parameter to broadcast along the channels: `[C] -> [1, C, 1, ...]`."""
    return _shaped(nodes, op.node.inputs[index], (1, op.outputs[0][1], *(1,) * (len(op.outputs[0]) - 2)))


def _samples(op: Op) -> Placed | None:
    """Return the batch of a static `[1, B * C, *s]`; None where the samples are not among the channels like this."""
    operand = op.operand(0)
    batch = operand.batch
    if op.static_batch == 1 or not isinstance(batch, Placed):
        return None
    return batch if (batch.axis, batch.outer, operand.shape[0]) == (1, 1, 1) else None


def _among_channels(op: Op) -> Decomposition | None:
    """Move the samples from the channels to axis 0, `[1, B * C, *s] -> [B, C, *s]`, with the parameters of one sample.

    Raises:
        DifferentRows: A parameter has other values for other samples.
    """
    batch, groups = _samples(op), int(op.attribute("group", 1))
    is_convolution = op.node.op_type in ("Conv", "ConvTranspose")
    # In fewer groups, or in groups across samples, the convolution would mix the channels of different samples.
    if batch is None or (is_convolution and groups % op.static_batch):
        return None
    nodes: list[ir.Node] = []
    _, _, *size = op.operand(0).shape
    given: list[ir.Value | None] = [_shaped(nodes, op.node.inputs[0], (op.static_batch, batch.inner, *size))]
    for index in range(1, len(op.inputs)):
        parameter = op.given(index)
        if parameter is not None:
            rows = Placed(0, 1, parameter.shape[0] // op.static_batch)
            given.append(constant(nodes, per_sample(op, parameter, 0, rows)))
    own = {"group": groups // op.static_batch} if is_convolution else {}
    result = append(nodes, op.node.op_type, given, attributes={**op.node.attributes, **own})
    return Decomposition(nodes, [_shaped(nodes, result, op.outputs[0])] * len(op.node.outputs))


def _shaped(nodes: list[ir.Node], value: ir.Value | None, shape: Sequence[int]) -> ir.Value:
    return append(nodes, "Reshape", [value, constant(nodes, np.asarray(shape, np.int64))])


OPERATORS = table(
    ai_onnx("BatchNormalization", rule=channel_normalization),
    ai_onnx("Conv", rule=convolution),
    ai_onnx("ConvTranspose", rule=transposed_convolution),
    ai_onnx("InstanceNormalization", rule=instance_normalization),
)
