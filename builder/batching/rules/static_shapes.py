"""Static shapes of operators that ONNX has no schema for (com.microsoft), or no inference.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.layout import Shape
from builder.batching.rule import Infer, Malformed, Operand, Refusal, Static, given, required
from builder.batching.statics import evaluate, infer
from builder.tensors import Array

Inputs = Sequence[Operand | None]

OPSET = 17
"""Of the ai.onnx operator whose inference is borrowed."""


def _int(node: ir.Node, name: str, default: int = 0) -> int:
    attr = node.attributes.get(name)
    return default if attr is None else int(attr.value)


def _same(node: ir.Node, inputs: Inputs) -> Static:
    """The output has the first input's shape and type."""
    first = required(inputs, 0)
    return [(first.dtype, first.shape)] * len(node.outputs)


def _words(node: ir.Node, inputs: Inputs) -> Static:
    """StringNormalizer: as many words as it gets, unless it drops some."""
    if "stopwords" in node.attributes:
        raise Refusal("it drops words, so how much it returns depends on the samples' values")
    return _same(node, inputs)


def _broadcast(*members: int) -> Infer:
    """The output's shape is that of some inputs, broadcast; its type that of the last."""

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        found = _broadcast_shapes(*(required(inputs, i).shape for i in members))
        return [(required(inputs, members[-1]).dtype, found)]

    return shape


def _pooled(op_type: str) -> Infer:
    """The shape that an ai.onnx operator on floats has."""
    borrowed = _borrowed(op_type, 0, drop=["channels_last"])

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        first = required(inputs, 0)
        ((_, found),) = borrowed(node, [Operand(first.name, ir.DataType.FLOAT, first.shape, first.batch)])
        return [(first.dtype, found)]

    return shape


def _borrowed(op_type: str, *members: int, drop: Sequence[str] = ()) -> Infer:
    """The shape that an ai.onnx operator has for some of the inputs."""

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        kept = [a for k, a in node.attributes.items() if k not in drop and not k.startswith("activation")]
        taken = [required(inputs, i) for i in members]
        stand_in = ir.Node("", op_type, [None] * len(taken), kept, num_outputs=1)
        stand_in.outputs[0].name = "y"
        return infer(stand_in, taken, {"": OPSET})

    return shape


def _channels_last(shape_of: Infer, weights: int | None = None) -> Infer:
    """The same with input 0, and the output, in NHWC order."""

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        if not (_int(node, "channels_last") or node.op_type.startswith("Nhwc")):
            return shape_of(node, inputs)
        first = required(inputs, 0)
        turned = Operand(first.name, first.dtype, (first.shape[0], first.shape[-1], *first.shape[1:-1]), first.batch)
        taken = [turned, *inputs[1:]]
        if weights is not None and node.op_type.startswith("Nhwc"):
            w = required(inputs, weights)
            taken[weights] = Operand(w.name, w.dtype, (w.shape[0], w.shape[-1], *w.shape[1:-1]))
        ((dtype, found),) = shape_of(node, taken)
        return [(dtype, (found[0], *found[2:], found[1]))]

    return shape


def _product(node: ir.Node, inputs: Inputs) -> Static:
    left, right = _factor(node, inputs, 0, "A"), _factor(node, inputs, 1, "B")
    lead = _broadcast_shapes(left[:-2], right[:-2])
    return [(required(inputs, 0).dtype, (*lead, *left[-2:-1], *right[-1:]))]


def _factor(node: ir.Node, inputs: Inputs, index: int, side: str) -> Shape:
    """`A -> A'`: axis 0 moved to before the last (transBatch), then the last two axes swapped (trans)."""
    shape = required(inputs, index).shape
    if _int(node, f"transBatch{side}"):
        shape = (*shape[1:-1], *shape[:1], *shape[-1:])
    return (*shape[:-2], *shape[:-3:-1]) if _int(node, f"trans{side}") else shape


def _broadcast_shapes(*shapes: Shape) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise Malformed(f"its inputs do not broadcast: {error}") from error


def _float_product(node: ir.Node, inputs: Inputs) -> Static:
    ((_, shape),) = _product(node, inputs)
    return [(ir.DataType.FLOAT, shape)]


def _quantized_gemm(node: ir.Node, inputs: Inputs) -> Static:
    a, b = required(inputs, 0), required(inputs, 3)
    rows = a.shape[1] if _int(node, "transA") else a.shape[0]
    columns = b.shape[0] if _int(node, "transB") else b.shape[1]
    point = given(inputs, 8)
    return [(ir.DataType.FLOAT if point is None else point.dtype, (rows, columns))]


def _packed_product(node: ir.Node, inputs: Inputs) -> Static:
    a = required(inputs, 0)
    return [(a.dtype, (*a.shape[:-1], _int(node, "N")))]


def _quantized_concat(node: ir.Node, inputs: Inputs) -> Static:
    members = [required(inputs, i) for i in range(2, len(inputs), 3)]
    axis = _int(node, "axis") % members[0].rank
    shape = members[0].shape
    total = sum(m.shape[axis] for m in members)
    return [(members[0].dtype, (*shape[:axis], total, *shape[axis + 1 :]))]


def _quantize(node: ir.Node, inputs: Inputs) -> Static:
    point = given(inputs, 2)
    return [(ir.DataType.UINT8 if point is None else point.dtype, required(inputs, 0).shape)]


def _dequantize(node: ir.Node, inputs: Inputs) -> Static:
    return [(required(inputs, 1).dtype, required(inputs, 0).shape)]


def _normalized(node: ir.Node, inputs: Inputs) -> Static:
    """SkipLayerNormalization: output, mean, inverse deviation, the sum that was normalized."""
    shape = _broadcast_shapes(required(inputs, 0).shape, required(inputs, 1).shape)
    dtype = required(inputs, 0).dtype
    statistic = (ir.DataType.FLOAT, (*shape[:-1], 1))
    return [(dtype, shape), statistic, statistic, (dtype, shape)][: len(node.outputs)]


def _simplified(node: ir.Node, inputs: Inputs) -> Static:
    first = required(inputs, 0)
    axis = _int(node, "axis", -1) % first.rank
    statistic = (ir.DataType.FLOAT, (*first.shape[:axis], *(1,) * (first.rank - axis)))
    return [(first.dtype, first.shape), statistic][: len(node.outputs)]


def _embedded(node: ir.Node, inputs: Inputs) -> Static:
    """EmbedLayerNormalization: `[N, T, H]`, the length of every sample's mask, the sum of the embeddings."""
    ids, table = required(inputs, 0), required(inputs, 2)
    floats = ir.DataType.FLOAT if node.op_type.startswith("Q") else table.dtype
    found = (floats, (*ids.shape, table.shape[1]))
    return [found, (ir.DataType.INT32, ids.shape[:1]), found][: len(node.outputs)]


def _expanded(node: ir.Node, inputs: Inputs) -> Static:
    first = required(inputs, 0)
    at = int(_value(inputs, 1).item()) % (first.rank + 1)
    return [(first.dtype, (*first.shape[:at], 1, *first.shape[at:]))]


def _halved(node: ir.Node, inputs: Inputs) -> Static:
    first = required(inputs, 0)
    return [(first.dtype, (*first.shape[:-1], first.shape[-1] // 2))]


def _unfolded(node: ir.Node, inputs: Inputs) -> Static:
    first = required(inputs, 0)
    dim, size, step = _int(node, "dim", -1) % first.rank, _int(node, "size"), _int(node, "step", 1)
    windows = (first.shape[dim] - size) // step + 1
    return [(first.dtype, (*first.shape[:dim], windows, *first.shape[dim + 1 :], size))]


def _distances(node: ir.Node, inputs: Inputs) -> Static:
    a, b = required(inputs, 0), required(inputs, 1)
    return [(a.dtype, (a.shape[0], b.shape[0]))]


def _gathered(node: ir.Node, inputs: Inputs) -> Static:
    data, indices, scales = required(inputs, 0), required(inputs, 1), required(inputs, 2)
    axis = _int(node, "gather_axis") % data.rank
    last = data.shape[-1] * (2 if data.dtype == ir.DataType.UINT8 and _int(node, "bits", 4) == 4 else 1)
    shape = (*data.shape[:-1], last)
    return [(scales.dtype, (*shape[:axis], *indices.shape, *shape[axis + 1 :]))]


def _sampled(node: ir.Node, inputs: Inputs) -> Static:
    data, grid = required(inputs, 0), required(inputs, 1)
    return [(data.dtype, (*data.shape[:2], *grid.shape[1:-1]))]


def _cropped(node: ir.Node, inputs: Inputs) -> Static:
    data, rois = required(inputs, 0), required(inputs, 1)
    return [(data.dtype, (rois.shape[0], data.shape[1], *(int(d) for d in _value(inputs, 3).ravel())))]


def _padded_transpose(node: ir.Node, inputs: Inputs) -> Static:
    """ConvTranspose whose pads are an input."""
    pads = None if given(inputs, 2) is None else evaluate(required(inputs, 2))
    spatial = required(inputs, 0).rank - 2
    listed = [int(p) for p in pads.ravel()] if pads is not None else [0] * (2 * spatial)
    attrs = [*node.attributes.values(), ir.Attr("pads", ir.AttributeType.INTS, listed)]
    stand_in = ir.Node("", "ConvTranspose", [None, None], attrs, num_outputs=1)
    stand_in.outputs[0].name = "y"
    return infer(stand_in, [required(inputs, 0), required(inputs, 1)], {"": OPSET})


def _unpooled(node: ir.Node, inputs: Inputs) -> Static:
    """MaxUnpool to a constant shape, or to the one its kernel gives."""
    if given(inputs, 2) is None:
        return infer(node, inputs, {"": OPSET})
    return [(required(inputs, 0).dtype, tuple(int(d) for d in _value(inputs, 2).ravel()))]


def _spectrum(node: ir.Node, inputs: Inputs) -> Static:
    """STFT: `[N, frames, bins, 2]`; ONNX's inference takes `onesided` for 0 where it is left out."""
    signal, window = required(inputs, 0), given(inputs, 2)
    size = int(_value(inputs, 3).item()) if given(inputs, 3) is not None else (window.shape[0] if window else 0)
    frames = 1 + (signal.shape[1] - size) // int(_value(inputs, 1).item())
    bins = size // 2 + 1 if _int(node, "onesided", 1) else size
    return [(signal.dtype, (signal.shape[0], frames, bins, 2))]


def _value(inputs: Inputs, index: int) -> Array:
    operand = required(inputs, index)
    found = None if operand.batch is not None else evaluate(operand)
    if found is None:
        raise Refusal(f"input {index} ({operand.name!r}) decides its shape and is computed from the samples")
    return found


_SAME = [
    "BiasAdd",
    "FastGelu",
    "Gelu",
    "GroupNorm",
    "Inverse",
    "QLinearLeakyRelu",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QuickGelu",
    "SkipGroupNorm",
    "Trilu",
]

SHAPES: Mapping[tuple[str, str], Infer] = {
    **{("com.microsoft", name): _same for name in _SAME},
    **{("", name): _borrowed("Less", 0, 1) for name in ("GreaterOrEqual", "LessOrEqual")},
    ("", "GroupNormalization"): _same,
    ("", "MeanVarianceNormalization"): _same,
    ("", "MaxUnpool"): _unpooled,
    ("", "STFT"): _spectrum,
    ("", "SimplifiedLayerNormalization"): _simplified,
    ("", "StringNormalizer"): _words,
    ("com.microsoft", "BiasGelu"): _broadcast(1, 0),
    ("com.microsoft", "BiasSplitGelu"): _halved,
    ("com.microsoft", "CDist"): _distances,
    ("com.microsoft", "ConvTransposeWithDynamicPads"): _padded_transpose,
    ("com.microsoft", "CropAndResize"): _cropped,
    ("com.microsoft", "DequantizeLinear"): _dequantize,
    ("com.microsoft", "DynamicQuantizeMatMul"): _float_product,
    ("com.microsoft", "EmbedLayerNormalization"): _embedded,
    ("com.microsoft", "ExpandDims"): _expanded,
    ("com.microsoft", "FusedConv"): _borrowed("Conv", 0, 1),
    ("com.microsoft", "FusedGemm"): _product,
    ("com.microsoft", "FusedMatMul"): _product,
    ("com.microsoft", "GatherBlockQuantized"): _gathered,
    ("com.microsoft", "GatherND"): _borrowed("GatherND", 0, 1),
    ("com.microsoft", "GridSample"): _sampled,
    ("com.microsoft", "MatMulBnb4"): _packed_product,
    ("com.microsoft", "MatMulIntegerToFloat"): _float_product,
    ("com.microsoft", "MatMulNBits"): _packed_product,
    ("com.microsoft", "NGramRepeatBlock"): lambda node, inputs: _same(node, inputs[1:]),
    ("com.microsoft", "NhwcConv"): _channels_last(_borrowed("Conv", 0, 1), weights=1),
    ("com.microsoft", "NhwcFusedConv"): _channels_last(_borrowed("Conv", 0, 1), weights=1),
    ("com.microsoft", "NhwcMaxPool"): _channels_last(_pooled("MaxPool")),
    ("com.microsoft", "Pad"): _borrowed("Pad", 0, 1),
    ("com.microsoft", "QEmbedLayerNormalization"): _embedded,
    ("com.microsoft", "QGemm"): _quantized_gemm,
    ("com.microsoft", "QLinearAdd"): _broadcast(0, 3),
    ("com.microsoft", "QLinearAveragePool"): _channels_last(_pooled("AveragePool")),
    ("com.microsoft", "QLinearConcat"): _quantized_concat,
    ("com.microsoft", "QLinearConv"): _channels_last(
        _borrowed("QLinearConv", 0, 1, 2, 3, 4, 5, 6, 7, drop=["channels_last"])
    ),
    ("com.microsoft", "QLinearGlobalAveragePool"): _channels_last(_pooled("GlobalAveragePool")),
    ("com.microsoft", "QLinearMul"): _broadcast(0, 3),
    ("com.microsoft", "QLinearWhere"): _broadcast(0, 4, 1),
    ("com.microsoft", "QuantizeLinear"): _quantize,
    ("com.microsoft", "SkipLayerNormalization"): _normalized,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _normalized,
    ("com.microsoft", "TransposeMatMul"): _product,
    ("com.microsoft", "UnfoldTensor"): _unfolded,
}
