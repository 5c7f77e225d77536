"""Read off the graph which values an input may take.

What an input means is told by where its values arrive: at the indices of a table, at a comparison with 0,
at the lengths of a recurrent network. So the values are followed from each input through the nodes that only
move, select or shift them, and each node where they arrive as something in particular leaves evidence.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from builder.errors import ModelError
from builder.model import Model
from builder.model.opsets import inlined
from builder.samples.reach import Reach, Reaches, attribute_of, bounds_of, casts_to_bool, through


@dataclass(frozen=True, slots=True)
class Normal:
    """Floats, standard normal."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Floats between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Integers:
    """Whole numbers in `[low, high]`."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Mask:
    """Ones, then zeros, along the last axis; never all zeros."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Whole numbers in `[1, longest]`."""

    longest: int


@dataclass(frozen=True, slots=True)
class Choices:
    """One of these strings or numbers."""

    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """The same number everywhere."""

    value: int


Domain = Normal | Unit | Integers | Mask | Lengths | Choices | Constant

_WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")
_LARGE = 1e3
"""A mask is turned into a penalty by a factor beyond this; features are not."""


def find_domains(model: Model) -> dict[str, Domain]:
    """The domain of each served input, by its name in the original."""
    names = [spec.name for spec in model.inputs]
    try:
        whole = inlined(model.ir, where=model.path)
    except ModelError:  # what its functions say is not known
        whole = model.ir.clone()
    evidence = _follow(whole.graph, names)
    if any(found.unsized for found in evidence.values()):
        inferred = ShapeInferencePass(strict_mode=False, data_prop=True)(whole).model
        evidence = _follow(inferred.graph, names)
    return {spec.name: _domain(spec.dtype, evidence[spec.name]) for spec in model.inputs}


@dataclass(slots=True)
class _Evidence:
    """What the nodes say that an input's values arrive at.

    Attributes:
        highest: The largest values that stay inside the tables indexed, one for each.
        lowest: The smallest values that do not count from the end of a table.
        longest: The longest sequence that a node allows, one for each.
        choices: The values a node has an answer for.
        mask: Some node tells only zero from not zero.
        counted: Some node treats whole numbers as a mask would be: sums them, or weighs other values by them.
        positive: Some node is defined for positive values only.
        unsized: The size of a table or the length of a sequence is not written in the graph.
    """

    highest: list[int] = field(default_factory=list)
    lowest: int = 0
    longest: list[int] = field(default_factory=list)
    choices: tuple[str, ...] | tuple[int, ...] = ()
    mask: bool = False
    counted: bool = False
    positive: bool = False
    unsized: bool = False


def _domain(dtype: ir.DataType, evidence: _Evidence) -> Domain:
    if evidence.choices:
        return Choices(evidence.choices)
    if dtype == ir.DataType.STRING:
        return Choices(_WORDS)
    if evidence.highest:
        highest = max(0, min(evidence.highest))
        return Integers(evidence.lowest if evidence.lowest <= highest else 0, highest)
    if evidence.longest:
        return Lengths(max(1, min(evidence.longest)))
    if dtype == ir.DataType.BOOL or evidence.mask:
        return Mask()
    if dtype.is_floating_point():
        return Unit() if evidence.positive else Normal()
    if dtype.bitwidth == 8:  # an image, or quantized values
        return Integers(-128, 127) if dtype.is_signed() else Integers(0, 255)
    return Mask() if evidence.counted else Integers(0, 9)


# ---------------------------------------------------------------- following the values


def _follow(graph: ir.Graph, inputs: Iterable[str]) -> dict[str, _Evidence]:
    evidence = {name: _Evidence() for name in inputs}
    reaches: dict[ir.Value, Reaches] = {
        value: {value.name: Reach()} for value in graph.inputs if value.name in evidence
    }
    for node in graph.all_nodes():
        arriving = [reaches.get(value, {}) if value is not None else {} for value in node.inputs]
        if not any(arriving):
            continue
        for position, sources in enumerate(arriving):
            for name, reach in sources.items():
                _note(evidence[name], node, position, reach)
        for body in _bodies(node):
            reaches.update(zip(body.inputs, arriving, strict=False))
        if leaving := through(node, arriving):
            reaches.update(dict.fromkeys(node.outputs[:1] if node.op_type == "TopK" else node.outputs, leaving))
    return evidence


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Graphs whose inputs are, in order, the node's."""
    if node.op_type in ("Loop", "Scan") and (body := node.attributes.get("body")) is not None:
        yield body.as_graph()


# ---------------------------------------------------------------- where values arrive


def _note(evidence: _Evidence, node: ir.Node, position: int, reach: Reach) -> None:
    """Record what a value means by its arrival at this input of the node."""
    if size_of := _TABLES.get((node.op_type, position)):
        size = size_of(node)
        highest = None if size is None else reach.highest_within(size)
        evidence.highest.extend([] if highest is None else [highest])
        evidence.lowest = max(evidence.lowest, reach.lowest_from_the_front())
        evidence.unsized |= size is None
    if length_of := _SEQUENCES.get((node.op_type, position)):
        length = length_of(node)
        evidence.longest.extend([length] if length else [])
        evidence.unsized |= length is None
    if _choices(node):
        evidence.choices = _choices(node)
    evidence.mask |= _is_mask(node, position)
    evidence.counted |= node.op_type in _COUNTING or _weighs(node, position)
    evidence.positive |= node.op_type in ("Log", "Sqrt")


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
    """The smallest of the axes that tuples of indices point into: `data[batch_dims : batch_dims + k]`."""
    first = attribute_of(node, "batch_dims", 0)
    width = _dim(node.inputs[1], -1)
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if width is None or shape is None:
        return None
    dims = [_dim(node.inputs[0], axis) for axis in range(first, first + width)]
    known = [dim for dim in dims if dim is not None]
    return min(known) if known else None


def _axis_of(position: int, axis: int) -> Callable[[ir.Node], int | None]:
    """The size of one axis of one of the node's inputs."""
    return lambda node: _dim(node.inputs[position], axis) if position < len(node.inputs) else None


def _depth(node: ir.Node) -> int | None:
    bounds = bounds_of(node.inputs[1])
    return None if bounds is None else int(bounds[0])


def _time_of_recurrence(node: ir.Node) -> int | None:
    return _dim(node.inputs[0], 1 if attribute_of(node, "layout", 0) else 0)


def _time_of_reversal(node: ir.Node) -> int | None:
    return _dim(node.inputs[0], attribute_of(node, "time_axis", 0))


def _time_of_attention(node: ir.Node) -> int | None:
    """A mask of rank 1 holds lengths; 0 for any other.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Attention
    """
    mask = node.inputs[3]
    is_lengths = mask is not None and mask.shape is not None and len(mask.shape) == 1
    return _dim(node.inputs[0], 1) if is_lengths else 0


_TABLES: Mapping[tuple[str, int], Callable[[ir.Node], int | None]] = {
    ("Gather", 1): _along_axis,
    ("GatherElements", 1): _along_axis,
    ("ScatterElements", 1): _along_axis,
    ("Scatter", 1): _along_axis,
    ("GatherND", 1): _under_nd_indices,
    ("ScatterND", 1): _under_nd_indices,
    ("OneHot", 0): _depth,
    ("ArrayFeatureExtractor", 1): _axis_of(0, -1),
    ("NegativeLogLikelihoodLoss", 1): _axis_of(0, 1),
    ("SoftmaxCrossEntropyLoss", 1): _axis_of(0, 1),
    ("EmbedLayerNormalization", 0): _axis_of(2, 0),
    ("EmbedLayerNormalization", 1): _axis_of(4, 0),
    ("EmbedLayerNormalization", 8): _axis_of(3, 0),
}
"""Inputs that are indices, by operator and position, and the size of what they index."""

_SEQUENCES: Mapping[tuple[str, int], Callable[[ir.Node], int | None]] = {
    ("RNN", 4): _time_of_recurrence,
    ("GRU", 4): _time_of_recurrence,
    ("LSTM", 4): _time_of_recurrence,
    ("ReverseSequence", 1): _time_of_reversal,
    ("Attention", 3): _time_of_attention,
    ("TopK", 1): lambda node: _dim(node.inputs[0], attribute_of(node, "axis", -1)),
}
"""Inputs that are lengths, by operator and position, and the longest there can be."""

_MASKS = frozenset({("EmbedLayerNormalization", 7), ("Attention", 3), ("MultiHeadAttention", 4), ("QAttention", 5)})
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_COUNTING = frozenset({"CumSum", "ReduceSum", "ReduceMean"})


def _is_mask(node: ir.Node, position: int) -> bool:
    if casts_to_bool(node):
        return True
    if node.op_type in ("Attention", "MultiHeadAttention", "QAttention", "EmbedLayerNormalization"):
        return (node.op_type, position) in _MASKS and node.domain == "com.microsoft"
    if node.op_type in _COMPARISONS:
        bounds = bounds_of(node.inputs[1 - position])
        return bounds is not None and set(bounds) <= {0, 1}
    if node.op_type == "Mul":
        bounds = bounds_of(node.inputs[1 - position])
        return bounds is not None and max(abs(bounds[0]), abs(bounds[1])) >= _LARGE
    return False


def _weighs(node: ir.Node, position: int) -> bool:
    """Whether the value multiplies another that is no constant."""
    return node.op_type == "Mul" and bounds_of(node.inputs[1 - position]) is None


def _choices(node: ir.Node) -> tuple[str, ...] | tuple[int, ...]:
    """The values that an encoder of scikit-learn's kind knows."""
    if node.domain != "ai.onnx.ml":
        return ()
    for name in ("keys_strings", "cats_strings", "classes_strings", "string_vocabulary"):
        if (attribute := node.attributes.get(name)) is not None:
            return tuple(attribute.as_strings())
    for name in ("keys_int64s", "cats_int64s", "int64_vocabulary"):
        if (attribute := node.attributes.get(name)) is not None:
            return tuple(attribute.as_ints())
    return ()
