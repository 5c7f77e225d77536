"""Read from the graph which values an input may hold.

The graph shows what an input means by where its values arrive: as indices into a table, in a comparison with 0, as the
lengths of a recurrent network. So the values of each input are followed (see `reach`) through the nodes that only
move, select or shift them, and every node that gives them a meaning leaves evidence. For example, in

    Sub(ids, 1) -> Gather(table[7, 3], ...)

`ids` indexes a table of 7 rows after 1 was subtracted, so that its samples are drawn from 1 to 7. What else the model
does with the values is found by `uses`: whether it only compares them, as it does with a mask, or computes with them.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from builder.errors import ModelError
from builder.model import Model, inlined, operator
from builder.samples.constraints import declare_inputs
from builder.samples.kinds import Around, Choices, Domain, Integers, Lengths, Mask, Normal, Unit
from builder.samples.positions import INDEX_INPUTS, LENGTH_INPUTS
from builder.samples.reach import Operator, Reach, Reaches, onnx_operators, through, value_outputs
from builder.samples.traces import LARGEST_POINT, Uses
from builder.samples.uses import find_uses

WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")

MOST_POINTS = 8
"""How many of the numbers that an input is compared with are drawn around."""

USUAL = Integers(0, 9)
"""Whole numbers of which nothing is known."""

BYTE = 8

HALF = frozenset({ir.DataType.FLOAT16})
LARGEST_HALF = 3e4
"""fp16 holds numbers up to 65,504, and twice the point may be drawn."""


class Domains:
    """The domains of a model's inputs. The graph is read once for all sizes, unless they matter."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._whole = model.ir
        if model.ir.functions:
            with suppress(ModelError):  # the nodes inside its functions cannot be read; the others can
                self._whole = inlined(model.ir, where=model.path)
        self._evidence = _follow(self._whole.graph, self._names)
        self._is_unsized = any(found.unsized or found.uses.unsized for found in self._evidence.values())

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
        uses: What the model does with its values.
        highest: For each table that the values index, the largest value that stays inside it.
        lowest: The smallest value that does not count from the end of a table.
        longest: For each node that takes the values as lengths, the longest length that it allows.
        choices: The values that an encoder knows.
        positive: Whether a node is defined for positive values only.
        unsized: Whether the graph does not give the size of a table or the length of a sequence.
    """

    uses: Uses
    highest: list[int] = field(default_factory=list)
    lowest: int = 0
    longest: list[int] = field(default_factory=list)
    choices: tuple[str, ...] | tuple[int, ...] = ()
    positive: bool = False
    unsized: bool = False


def _domain(dtype: ir.DataType, evidence: _Evidence) -> Domain:
    if evidence.choices:
        return Choices(evidence.choices)
    if dtype == ir.DataType.STRING:
        return Choices(WORDS)
    uses = evidence.uses
    within = [*evidence.highest, *(count - 1 for count in uses.kinds)]
    if within:
        highest = max(0, min(within))
        lowest = evidence.lowest if evidence.lowest <= highest else 0
        return _around(Integers(lowest, highest), uses, [p for p in _whole(uses) if lowest <= p <= highest])
    longest = [*evidence.longest, *(uses.longest if dtype.is_integer() else [])]
    if longest:
        return Lengths(max(1, min(longest)))
    return _numbers(dtype, evidence)


def _numbers(dtype: ir.DataType, evidence: _Evidence) -> Domain:
    """Numbers that are neither indices nor lengths, and booleans."""
    uses = evidence.uses
    if uses.is_penalty and not (uses.is_data and dtype.is_floating_point()):
        return Mask()
    if dtype == ir.DataType.BOOL:
        return Around(Integers(0, 1), has_masks=uses.is_gate) if uses.is_data else Mask()
    return _floats(dtype, evidence) if dtype.is_floating_point() else _integers(dtype, uses)


def _floats(dtype: ir.DataType, evidence: _Evidence) -> Domain:
    """Floats are a mask only if the model does nothing else with them than it does with one."""
    uses = evidence.uses
    base = Unit() if evidence.positive else Normal()
    points = [point for point in uses.points if abs(point) <= (LARGEST_HALF if dtype in HALF else LARGEST_POINT)]
    is_data = uses.is_data or uses.is_in_products or uses.counts_are_data or bool(uses.special)
    if is_data or not uses.is_gate or not set(points) <= {0, 1}:
        return _around(base, uses, points, has_masks=uses.is_penalty)
    return Mask() if uses.is_divisor or uses.is_position else _around(base, uses, points, has_masks=True)


def _integers(dtype: ir.DataType, uses: Uses) -> Domain:
    """Whole numbers are a mask if the model only compares them with 0 and 1, or only adds them up."""
    low, high = _range(dtype)
    points = [point for point in _whole(uses) if low <= point <= high]
    is_mask = (uses.is_gate or uses.is_counted or uses.is_factor) and set(points) <= {0, 1}
    if not uses.is_data and is_mask:
        return Mask()
    if dtype.bitwidth == BYTE:  # an image, or quantized values
        return _around(Integers(low, high), uses, points)
    if not uses.is_data and points:
        return Choices(_near(points, low, high) if uses.is_ordered else tuple(dict.fromkeys((*points, 0))))
    return _around(_widened(points, low, high), uses, points, has_masks=is_mask)


def _around(base: Normal | Unit | Integers, uses: Uses, points: Iterable[float], *, has_masks: bool = False) -> Domain:
    """Return the domain of values that the model computes with, and perhaps compares too."""
    chosen = tuple(sorted(list(points)[:MOST_POINTS]))
    special = () if isinstance(base, Integers) else tuple(uses.special)
    if not (chosen or special or has_masks):
        return base
    exact = tuple(point for point in chosen if isinstance(base, Integers) or uses.points.get(point))
    return Around(base, chosen, exact, special, has_masks)


def _whole(uses: Uses) -> Sequence[int]:
    """Return the numbers that whole numbers are compared with: `x > 0.5` tells 0 from 1."""
    return list(dict.fromkeys(whole for point in uses.points for whole in (math.floor(point), math.ceil(point))))


def _near(points: Sequence[int], low: int, high: int) -> tuple[int, ...]:
    """Return the numbers that are compared with, 0, and a number on either side of all of them."""
    chosen = points[:MOST_POINTS]
    others = [number for number in (0, max(chosen) + 1, min(chosen) - 1) if low <= number <= high]
    return tuple(dict.fromkeys((*chosen, *others)))


def _widened(points: Sequence[int], low: int, high: int) -> Integers:
    """Return the usual whole numbers, and those on both sides of all points."""
    chosen = points[:MOST_POINTS]
    below = min([USUAL.low, *(point + point // 2 - 1 for point in chosen if point < 0)])
    above = max([USUAL.high, *(point + point // 2 + 1 for point in chosen if point > 0)])
    return Integers(max(low, below), min(high, above))


def _range(dtype: ir.DataType) -> tuple[int, int]:
    """Return the smallest and the largest number that a type of whole numbers holds."""
    bits = dtype.bitwidth
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.is_signed() else (0, 2**bits - 1)


# ---------------------------------------------------------------- following the values


def _follow(graph: ir.Graph, inputs: Iterable[str]) -> dict[str, _Evidence]:
    evidence = {name: _Evidence(uses) for name, uses in find_uses(graph, inputs).items()}
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
            reaches.update(dict.fromkeys(value_outputs(node), leaving))
    return evidence


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
    evidence.positive |= kind in POSITIVE_ONLY


POSITIVE_ONLY: Collection[Operator] = frozenset(onnx_operators("Log", "Sqrt"))
"""Operators that have no result for negative values."""


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
