"""Inputs of operators that hold indices, lengths or masks, and how large those may be."""

from collections.abc import Callable, Collection, Mapping

import onnx_ir as ir

from builder.samples.reach import attribute_of, bounds_of


def _dim(value: ir.Value | None, axis: int) -> int | None:
    if value is None:
        return None
    shape = value.shape if value.const_value is None else value.const_value.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    dim = shape[axis]
    return dim if isinstance(dim, int) else None


def _along_axis(node: ir.Node) -> int | None:
    return _dim(node.inputs[0], attribute_of(node, "axis", 0))


def _under_nd_indices(node: ir.Node) -> int | None:
    """Return the smallest of the axes that tuples of indices point into: `data[batch_dims : batch_dims + k]`."""
    first = attribute_of(node, "batch_dims", 0)
    width = _dim(node.inputs[1], -1)
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if width is None or shape is None:
        return None
    dims = [_dim(node.inputs[0], axis) for axis in range(first, first + width)]
    known = [dim for dim in dims if dim is not None]
    return min(known) if known else None


def _size_of(position: int, axis: int) -> Callable[[ir.Node], int | None]:
    """Return a function that gives the size of one axis of one of a node's inputs."""
    return lambda node: _dim(node.inputs[position], axis) if position < len(node.inputs) else None


def _depth(node: ir.Node) -> int | None:
    bounds = bounds_of(node.inputs[1])
    return None if bounds is None else int(bounds[0])


def _time_of_recurrence(node: ir.Node) -> int | None:
    return _dim(node.inputs[0], 1 if attribute_of(node, "layout", 0) else 0)


def _time_of_reversal(node: ir.Node) -> int | None:
    return _dim(node.inputs[0], attribute_of(node, "time_axis", 0))


def _time_of_attention(node: ir.Node) -> int | None:
    """Return the longest sequence if the mask has rank 1 and so holds lengths, or else 0.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Attention
    """
    mask = node.inputs[3]
    is_lengths = mask is not None and mask.shape is not None and len(mask.shape) == 1
    return _dim(node.inputs[0], 1) if is_lengths else 0


InputOf = tuple[str, str, int]
"""An input of an operator: the operator's domain and type, and the input's position."""

INDEX_INPUTS: Mapping[InputOf, Callable[[ir.Node], int | None]] = {
    ("", "Gather", 1): _along_axis,
    ("", "GatherElements", 1): _along_axis,
    ("", "ScatterElements", 1): _along_axis,
    ("", "Scatter", 1): _along_axis,
    ("", "GatherND", 1): _under_nd_indices,
    ("", "ScatterND", 1): _under_nd_indices,
    ("", "OneHot", 0): _depth,
    ("ai.onnx.ml", "ArrayFeatureExtractor", 1): _size_of(0, -1),
    ("", "NegativeLogLikelihoodLoss", 1): _size_of(0, 1),
    ("", "SoftmaxCrossEntropyLoss", 1): _size_of(0, 1),
    ("com.microsoft", "EmbedLayerNormalization", 0): _size_of(2, 0),
    ("com.microsoft", "EmbedLayerNormalization", 1): _size_of(4, 0),
    ("com.microsoft", "EmbedLayerNormalization", 8): _size_of(3, 0),
}
"""Inputs that hold indices, and the size of what they index (None where the graph does not give it)."""

LENGTH_INPUTS: Mapping[InputOf, Callable[[ir.Node], int | None]] = {
    ("", "RNN", 4): _time_of_recurrence,
    ("", "GRU", 4): _time_of_recurrence,
    ("", "LSTM", 4): _time_of_recurrence,
    ("", "ReverseSequence", 1): _time_of_reversal,
    ("com.microsoft", "Attention", 3): _time_of_attention,
    ("", "TopK", 1): lambda node: _dim(node.inputs[0], attribute_of(node, "axis", -1)),
}
"""Inputs that hold lengths or counts, and the largest one allowed (None where the graph does not give it)."""

MASK_INPUTS: Collection[InputOf] = frozenset(
    {
        ("com.microsoft", "EmbedLayerNormalization", 7),
        ("com.microsoft", "Attention", 3),
        ("com.microsoft", "MultiHeadAttention", 4),
        ("com.microsoft", "QAttention", 5),
    }
)
"""Inputs that are masks, whatever the rest of the graph does."""
