"""Read from the graph which values an input may hold.

The graph shows what an input means by where its values arrive: as indices into a table, in a comparison with 0, as the
lengths of a recurrent network. So the values of each input are followed (see `reach`) through the nodes that only
move, select or shift them, and every node that gives them a meaning leaves evidence. For example, in

    Sub(ids, 1) -> Gather(table[7, 3], ...)

`ids` indexes a table of 7 rows after 1 was subtracted, so that its samples are drawn from 1 to 7.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from builder.errors import ModelError
from builder.model import Model, inlined, operator
from builder.samples.constraints import declare_inputs
from builder.samples.reach import (
    Operator,
    Reach,
    Reaches,
    attribute_of,
    bounds_of,
    casts_to_bool,
    onnx_operators,
    through,
)


@dataclass(frozen=True, slots=True)
class Normal:
    """Floats from the standard normal distribution."""


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
_PENALTY = 1e3
"""A mask becomes a penalty when it is multiplied by at least this much; features are not multiplied by so much."""


class Domains:
    """The domains of a model's inputs. The graph is read once for all sizes, unless they matter."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._whole = model.ir
        if model.ir.functions:
            with suppress(ModelError):  # the nodes inside its functions cannot be read; the others can
                self._whole = inlined(model.ir, where=model.path)
        self._evidence = _follow(self._whole.graph, self._names)
        self._is_unsized = any(found.unsized for found in self._evidence.values())

    @property
    def _names(self) -> list[str]:
        return [spec.name for spec in self.model.inputs]

    def at(self, sizes: Mapping[str, int] | None = None) -> dict[str, Domain]:
        """Return the domain of each input, by its name in the original model.

        Args:
            sizes: Sizes of dynamic dimensions, by name: an index along such an axis stays below its size.
        """
        evidence = self._evidence_at(sizes or {}) if self._is_unsized else self._evidence
        return {spec.name: _domain(spec.dtype, evidence[spec.name]) for spec in self.model.inputs}

    def _evidence_at(self, sizes: Mapping[str, int]) -> Mapping[str, "_Evidence"]:
        """Return the evidence in a graph with inferred shapes."""
        whole = self._whole.clone()
        declare_inputs(whole.graph, self.model, sizes)
        return _follow(ShapeInferencePass(strict_mode=False, data_prop=True)(whole).model.graph, self._names)


@dataclass(slots=True)
class _Evidence:
    """What the nodes show about one input.

    Attributes:
        highest: For each table that the values index, the largest value that stays inside it.
        lowest: The smallest value that does not count from the end of a table.
        longest: For each node that takes the values as lengths, the longest length that it allows.
        choices: The values that an encoder knows.
        mask: Whether a node distinguishes only zero from nonzero.
        counted: Whether a node does with whole numbers what is done with a mask: adds them up, or multiplies another
            value by them.
        positive: Whether a node is defined for positive values only.
        compared: Numbers that whole numbers are compared with, such as the rates of sound that the model takes.
        unsized: Whether the graph does not give the size of a table or the length of a sequence.
    """

    highest: list[int] = field(default_factory=list)
    lowest: int = 0
    longest: list[int] = field(default_factory=list)
    choices: tuple[str, ...] | tuple[int, ...] = ()
    mask: bool = False
    counted: bool = False
    positive: bool = False
    unsized: bool = False
    compared: list[int] = field(default_factory=list)


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
    if evidence.compared:
        return Choices((*dict.fromkeys(evidence.compared), 0))
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
            reaches.update(dict.fromkeys(_value_outputs(node), leaving))
    return evidence


def _value_outputs(node: ir.Node) -> Iterable[ir.Value]:
    """Return the outputs that hold values of the inputs; the second output of TopK holds positions."""
    return node.outputs[:1] if operator(node) == ("", "TopK") else node.outputs


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs inside a node whose inputs are the node's own, in the same order."""
    if operator(node) in (("", "Loop"), ("", "Scan")) and (body := node.attributes.get("body")) is not None:
        yield body.as_graph()


# ---------------------------------------------------------------- where values arrive


def _note(evidence: _Evidence, node: ir.Node, position: int, reach: Reach) -> None:
    """Add what this input of the node says about the values that arrive there."""
    kind = operator(node)
    if size_of := INDEX_INPUTS.get((*kind, position)):
        size = size_of(node)
        highest = None if size is None else reach.highest_within(size)
        evidence.highest.extend([] if highest is None else [highest])
        evidence.lowest = max(evidence.lowest, reach.lowest_from_the_front())
        evidence.unsized |= size is None
    if length_of := LENGTH_INPUTS.get((*kind, position)):
        length = length_of(node)
        evidence.longest.extend([length] if length else [])
        evidence.unsized |= length is None
    if _choices(node):
        evidence.choices = _choices(node)
    evidence.mask |= _is_mask(node, position)
    evidence.compared += _compared_with(node, position)
    evidence.counted |= kind in SUMMING or _multiplies_another(node, position)
    evidence.positive |= kind in POSITIVE_ONLY


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

COMPARISONS: Collection[Operator] = frozenset(
    onnx_operators("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
)
"""Operators that make their other input a mask when they compare it with 0 or 1."""

SUMMING: Collection[Operator] = frozenset(onnx_operators("CumSum", "ReduceSum", "ReduceMean"))
"""Operators that add values up, as is done with a mask to count what it shows."""

POSITIVE_ONLY: Collection[Operator] = frozenset(onnx_operators("Log", "Sqrt"))
"""Operators that have no result for negative values."""


def _is_mask(node: ir.Node, position: int) -> bool:
    if casts_to_bool(node) or (*operator(node), position) in MASK_INPUTS:
        return True
    if operator(node) in COMPARISONS:
        bounds = bounds_of(node.inputs[1 - position])
        return bounds is not None and set(bounds) <= {0, 1}
    if operator(node) == ("", "Mul"):
        bounds = bounds_of(node.inputs[1 - position])
        return bounds is not None and max(abs(bounds[0]), abs(bounds[1])) >= _PENALTY
    return False


def _compared_with(node: ir.Node, position: int) -> list[int]:
    """Return the number that an Equal compares this input with, as a list; empty for other nodes."""
    bounds = bounds_of(node.inputs[1 - position]) if operator(node) == ("", "Equal") else None
    return [int(bounds[0])] if bounds is not None and bounds[0] == bounds[1] and bounds[0] > 0 else []


def _multiplies_another(node: ir.Node, position: int) -> bool:
    """Return whether the node multiplies another value, which is not a constant, by this one."""
    return operator(node) == ("", "Mul") and bounds_of(node.inputs[1 - position]) is None


STRING_CHOICES = ("keys_strings", "cats_strings", "classes_strings", "string_vocabulary")
INTEGER_CHOICES = ("keys_int64s", "cats_int64s", "int64_vocabulary")
"""Attributes in which the encoders of `ai.onnx.ml` list the values that they know."""


def _choices(node: ir.Node) -> tuple[str, ...] | tuple[int, ...]:
    """Return the values that an encoder, such as scikit-learn's OrdinalEncoder, knows."""
    if node.domain != "ai.onnx.ml":
        return ()
    for name in STRING_CHOICES:
        if (attribute := node.attributes.get(name)) is not None:
            return tuple(attribute.as_strings())
    for name in INTEGER_CHOICES:
        if (attribute := node.attributes.get(name)) is not None:
            return tuple(attribute.as_ints())
    return ()
