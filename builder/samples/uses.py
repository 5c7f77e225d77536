"""Find out what a model does with the values of an input: it compares them, or it computes with them.

`where(x > 0, x, 0.1 * x)` compares `x` with 0, and returns it too: `x` is data, and something else happens below 0.
`where(mask > 0, scores, -1e9)` only compares: nothing but the side of 0 that a value is on matters, so `mask` is one.
One use alone does not tell the two apart, so the values of each input are followed to all of them, through the nodes
that move, select, shift or scale them.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from builder.model import operator
from builder.samples.numbers import constant, count_of, numbers_of
from builder.samples.positions import INDEX_INPUTS, LENGTH_INPUTS, MASK_INPUTS
from builder.samples.reach import (
    KEEPS_VALUES,
    RESHAPES,
    SELECTS_VALUES,
    Operator,
    attribute_of,
    casts_to_bool,
    onnx_operators,
    value_outputs,
)
from builder.samples.traces import Role, Trace, Traces, Uses

PENALTY = 1e3
"""A mask becomes a penalty when its ones, or its zeros, become at most the negative of this, and the others 0."""


def find_uses(graph: ir.Graph, names: Iterable[str]) -> dict[str, Uses]:
    """Return what a graph without functions does with the values of each of these inputs."""
    search = _Search({name: Uses() for name in names})
    for value in graph.inputs:
        if value.name in search.uses:
            search.reach(value, {value.name: Trace(Role.VALUE, ((1.0, 0.0),))})
    for node in graph.all_nodes():
        search.visit(node)
    return search.uses


class _Search:
    """One walk over a graph, in order of execution."""

    def __init__(self, uses: dict[str, Uses]) -> None:
        self.uses = uses
        self._traces: dict[ir.Value, Traces] = {}
        self._results: dict[ir.Value, list[ir.Value]] = {}

    def reach(self, value: ir.Value, traces: Traces) -> None:
        """Note what a value is to the inputs, also where it leaves a graph inside a node."""
        stack = [value]
        while stack and traces:
            value = stack.pop()
            there = self._traces.get(value, {})
            self._traces[value] = {**there, **{name: trace.also(there.get(name)) for name, trace in traces.items()}}
            results = self._results.get(value, [])
            if value.is_graph_output() and not results and not _is_negation(value):
                for name, trace in traces.items():
                    _compute_with(self.uses[name], trace)
            stack += results

    def visit(self, node: ir.Node) -> None:
        """Note what a node does with the values that arrive there, and what leaves it."""
        self._enter(node)
        arriving = [self._traces.get(value, {}) if value is not None else {} for value in node.inputs]
        leaving: dict[str, Trace] = {}
        for position, traces in enumerate(arriving):
            for name, trace in traces.items():
                found = _follow(_Place(node, position, name, trace, arriving), self.uses[name])
                if found is not None:
                    leaving[name] = found.also(leaving.get(name))
        for output in value_outputs(node):
            self.reach(output, leaving)

    def _enter(self, node: ir.Node) -> None:
        """Connect the graphs inside a node with its inputs and outputs."""
        kind = operator(node)
        for attribute in node.attributes.values():
            if attribute.type != ir.AttributeType.GRAPH:
                continue
            body = attribute.as_graph()
            first = 1 if kind == ("", "Loop") else 0  # the first output of its body is a condition
            for inner, outer in zip(body.outputs[first:], node.outputs, strict=False):
                self._results.setdefault(inner, []).append(outer)
                self.reach(outer, self._traces.get(inner, {}))
            if kind in LOOPS:
                for outer_input, inner in zip(node.inputs, body.inputs, strict=False):
                    self.reach(inner, self._traces.get(outer_input, {}) if outer_input is not None else {})


def _is_negation(value: ir.Value) -> bool:
    """Return whether a value is a boolean that is returned as one, and not as a number."""
    made = value.producer()
    return made is not None and operator(made) == ("", "Not")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where values of an input arrive: the node, the position of its input, and all that arrives at the node."""

    node: ir.Node
    position: int
    name: str
    trace: Trace
    arriving: Sequence[Traces]

    @property
    def kind(self) -> Operator:
        return operator(self.node)

    @property
    def other(self) -> ir.Value | None:
        """The other input of an operator that has two."""
        return self.node.inputs[1 - self.position] if len(self.node.inputs) == 2 and self.position < 2 else None

    @property
    def other_trace(self) -> Trace | None:
        """What the other input is to the same input of the model."""
        return self.arriving[1 - self.position].get(self.name) if self.other is not None else None


def _follow(place: _Place, uses: Uses) -> Trace | None:
    """Note what a node does with values, and return what they are behind it; None if they end there."""
    if place.trace.role is Role.FLAG:
        return _follow_flag(place)
    kind = place.kind
    if casts_to_bool(place.node):
        return _flag(place, uses, (0.0,))
    if kind in COMPARISONS:
        return _compare(place, uses)
    if kind in TESTS:
        uses.is_gate = True
        uses.special |= dict.fromkeys(TESTS[kind](place.node))
        return Trace(Role.FLAG)
    if _only_steers(place, uses):
        return None
    if kind in LOGIC:
        uses.is_gate = True
        return Trace(Role.FLAG)
    return _pass(place, uses)


def _pass(place: _Place, uses: Uses) -> Trace | None:
    """Note what a node that does not compare values does with them, and return what they are behind it."""
    kind = place.kind
    if kind in SUMMING:
        uses.is_counted |= place.trace.role is Role.VALUE
        return Trace(Role.COUNT)
    if kind in ARITHMETIC and place.other is not None:
        return ARITHMETIC[kind](place, uses)
    if kind in PRODUCTS and place.trace.role is Role.VALUE and all(constant(v) is None for v in _others(place)):
        uses.is_in_products = True
        return None
    if kind in FOLLOWED:
        return _keep(place, uses)
    return _compute_with(uses, place.trace)


def _compute_with(uses: Uses, trace: Trace) -> Trace | None:
    """Note that a node computes with these values, or that they are answers: they are not followed further."""
    uses.is_data |= trace.role is Role.VALUE
    uses.counts_are_data |= trace.role is Role.COUNT
    return None


def _others(place: _Place) -> Iterator[ir.Value | None]:
    yield from (value for position, value in enumerate(place.node.inputs[:2]) if position != place.position)


def _follow_flag(place: _Place) -> Trace | None:
    """Flags stay flags while nothing but constants and other flags of the same input is mixed into them."""
    if place.kind not in FLAG_KEEPING and not casts_to_bool(place.node):
        return None
    pairs = zip(place.node.inputs, place.arriving, strict=True)
    own = [
        value is None
        or constant(value) is not None
        or ((trace := traces.get(place.name)) is not None and trace.role is Role.FLAG)
        for value, traces in pairs
    ]
    return place.trace if all(own) else None


# ---------------------------------------------------------------- comparisons


def _flag(place: _Place, uses: Uses, numbers: Iterable[float]) -> Trace:
    """Note that the node only asks on which side of these numbers a value is."""
    if place.trace.role is Role.VALUE:
        uses.is_gate = True
        uses.add_points(place.trace, numbers)
    return Trace(Role.FLAG)


def _compare(place: _Place, uses: Uses) -> Trace | None:
    if place.other is place.node.inputs[place.position]:  # only NaN differs from itself
        uses.is_gate = True
        uses.special |= {math.nan: None}
        return Trace(Role.FLAG)
    if place.other_trace is not None:
        return Trace(Role.FLAG)
    if (count := count_of(place.other)) is not None:
        if place.trace.role is Role.VALUE:
            (uses.longest if place.kind in ORDERS else uses.kinds).extend([count] if count else [])
            uses.unsized |= not count
        return None
    numbers = numbers_of(place.other)
    uses.is_ordered |= bool(numbers) and place.kind in ORDERS
    return _flag(place, uses, numbers) if numbers else None


def _infinities(node: ir.Node) -> Iterator[float]:
    yield from [math.inf] if attribute_of(node, "detect_positive", 1) else []
    yield from [-math.inf] if attribute_of(node, "detect_negative", 1) else []


def _only_steers(place: _Place, uses: Uses) -> bool:
    """Return whether the node takes a mask, an index, a length or a shape here rather than a value to compute with."""
    key = (*place.kind, place.position)
    if key in MASK_INPUTS:
        uses.is_penalty = True
        return True
    if key in INDEX_INPUTS or key in LENGTH_INPUTS:
        uses.is_position |= place.trace.role is Role.COUNT
        return True
    if place.kind == ("", "Where") and place.position == 0:
        uses.is_gate = True
        return True
    is_parameter = place.kind in KEEPS_VALUES and place.position > 0 and place.kind not in SCATTERS
    return is_parameter or place.kind in STEERED


# ---------------------------------------------------------------- arithmetic


def _scale(place: _Place, uses: Uses) -> Trace | None:
    """`value * other`, or the other way round."""
    if place.other_trace is not None:
        both = {place.trace.role, place.other_trace.role}
        return Trace(Role.COUNT if Role.COUNT in both else Role.VALUE)
    bounds = constant(place.other)
    if bounds is None:
        if place.trace.role is Role.VALUE:
            uses.is_factor = True
        else:
            uses.counts_are_data = True
        return None
    return _unless_penalty(place.trace.mapped(lambda a, b: ((a * c, b * c) for c in bounds)), uses, bounds)


def _divide(place: _Place, uses: Uses) -> Trace | None:
    """`value / other`, or `other / value`."""
    if place.position == 1:
        uses.is_divisor |= place.trace.role is Role.COUNT
        uses.is_data |= place.trace.role is Role.VALUE
        return None
    if place.other_trace is not None:
        return Trace(place.trace.role)
    bounds = constant(place.other)
    if bounds is None:
        return _compute_with(uses, place.trace)
    return place.trace.mapped(lambda a, b: ((a / c, b / c) for c in bounds if c))


def _add(place: _Place, uses: Uses) -> Trace | None:
    return _shift(place, uses, sign=1.0, own=1.0)


def _subtract(place: _Place, uses: Uses) -> Trace | None:
    """`value - other`, or `other - value`."""
    return _shift(place, uses, sign=-1.0, own=1.0) if place.position == 0 else _shift(place, uses, sign=1.0, own=-1.0)


def _shift(place: _Place, uses: Uses, *, sign: float, own: float) -> Trace | None:
    """`own * value + sign * other`."""
    if place.other_trace is not None:
        return Trace(place.trace.role)
    bounds = constant(place.other)
    if bounds is not None:
        shifted = place.trace.mapped(lambda a, b: ((own * a, own * b + sign * c) for c in bounds))
        return _unless_penalty(shifted, uses, ())
    # `scores - 1e9 * hidden`
    is_penalty = _unless_penalty(place.trace.mapped(lambda a, b: [(own * a, own * b)]), uses, ()) is None
    return None if is_penalty else _compute_with(uses, place.trace)


def _unless_penalty(trace: Trace, uses: Uses, factors: Iterable[float]) -> Trace | None:
    """Return the trace, or None if values of 0 and 1 have become 0 and a penalty."""
    maps = trace.maps or [(factor, 0.0) for factor in factors]
    if trace.role is Role.VALUE and any(_is_penalty(offset, scale + offset) for scale, offset in maps):
        uses.is_penalty = True
        return None
    return trace


def _is_penalty(hidden: float, shown: float) -> bool:
    """Return whether what 0 and 1 have become is a penalty: 0 for one, and far below any score for the other."""
    low, high = sorted((hidden, shown))
    return low <= -PENALTY and abs(high) <= -low / PENALTY


def _keep(place: _Place, uses: Uses) -> Trace | None:
    """Values that are moved, selected or cut off."""
    trace = place.trace
    if place.kind in LIMITS and trace.role is Role.VALUE:
        uses.add_points(trace, _limits(place))
    match place.kind[1]:
        case "Neg":
            return _unless_penalty(trace.mapped(lambda a, b: [(-a, -b)]), uses, ())
        case "Not":
            return trace.mapped(lambda a, b: [(-a, 1 - b)])
        case "Abs":
            return trace.mapped(lambda a, b: [(a, b), (-a, -b)])
    return Trace(trace.role) if place.kind in CHANGES else trace


def _limits(place: _Place) -> Iterator[float]:
    """Yield the constants at which a node cuts values off."""
    yield from (place.node.attributes[name].as_float() for name in ("min", "max") if name in place.node.attributes)
    for position, value in enumerate(place.node.inputs):
        if position != place.position and (bounds := constant(value)) is not None:
            yield from bounds


LOOPS: Collection[Operator] = frozenset(onnx_operators("Loop", "Scan"))
"""Operators whose own inputs are the inputs of the graph inside them, in the same order."""

ORDERS: Collection[Operator] = frozenset(onnx_operators("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
"""Operators that ask whether a value is larger or smaller than their other input."""

COMPARISONS: Collection[Operator] = frozenset((*ORDERS, *onnx_operators("Equal")))
"""Operators that only ask on which side of their other input a value is."""

TESTS: Mapping[Operator, Callable[[ir.Node], Iterable[float]]] = {
    ("", "IsNaN"): lambda _: [math.nan],
    ("", "IsInf"): _infinities,
}
"""Operators that test for certain values, and for which."""

LOGIC: Collection[Operator] = frozenset(onnx_operators("And", "Or", "Xor", "If"))
"""Operators that take booleans to decide by."""

STEERED: Collection[Operator] = frozenset(onnx_operators("NonZero", "Loop", "Scan", "Shape", "Size", "Range"))
"""Operators that do not compute with the values they get here: they take counts or only the shape, or enter a graph."""

SUMMING: Collection[Operator] = frozenset(onnx_operators("CumSum", "ReduceSum", "ReduceMean"))
"""Operators that add values up, as is done with a mask to count what it shows."""

ARITHMETIC: Mapping[Operator, Callable[[_Place, Uses], Trace | None]] = {
    ("", "Mul"): _scale,
    ("", "Div"): _divide,
    ("", "Add"): _add,
    ("", "Sub"): _subtract,
}
"""Operators on two inputs that shift or scale values."""

PRODUCTS: Collection[Operator] = frozenset(onnx_operators("MatMul", "Einsum"))
"""Products of matrices. With a mask as one of them, they add up what the mask shows."""

LIMITS: Collection[Operator] = frozenset(onnx_operators("Clip", "Max", "Min"))
"""Operators that cut values off at a constant."""

CHANGES: Collection[Operator] = frozenset(onnx_operators("Mod", "BitwiseAnd", "BitwiseOr", "BitShift", "Sign"))
"""Operators behind which the values are others, but still only matter for what becomes of them."""

FOLLOWED: Collection[Operator] = frozenset(
    (*KEEPS_VALUES, *SELECTS_VALUES, *CHANGES, *onnx_operators("Clip", "Neg", "Not", "CastLike"))
)
"""Operators that values are followed through."""

FLAG_KEEPING: Collection[Operator] = frozenset(
    (*RESHAPES, *onnx_operators("Not", "And", "Or", "Xor", "Where", "Mul", "Add", "Sub", "Concat", "Slice", "CastLike"))
)
"""Operators behind which flags are still flags."""

SCATTERS: Collection[Operator] = frozenset(onnx_operators("ScatterElements", "ScatterND"))
"""Operators that also put the values of their third input into their output."""
