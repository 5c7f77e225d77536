"""Follow the values of inputs through the nodes that only move, select or shift them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Reach:
    """Bounds of a value while its input lies in `[0, t]`: `low + low_t * t <= value <= high + high_t * t`."""

    low: float = 0.0
    low_t: float = 0.0
    high: float = 0.0
    high_t: float = 1.0

    def plus(self, other: "Reach") -> "Reach":
        """The bounds of the sum of two values."""
        return Reach(
            self.low + other.low,
            self.low_t + other.low_t,
            self.high + other.high,
            self.high_t + other.high_t,
        )

    def times(self, factor: float) -> "Reach":
        """The bounds of a multiple of the value."""
        low, high = (self.low * factor, self.low_t * factor), (self.high * factor, self.high_t * factor)
        return Reach(*low, *high) if factor >= 0 else Reach(*high, *low)

    def hull(self, other: "Reach") -> "Reach":
        """The bounds of a value that is one or the other."""
        return Reach(
            min(self.low, other.low),
            min(self.low_t, other.low_t),
            max(self.high, other.high),
            max(self.high_t, other.high_t),
        )

    def highest_within(self, size: int) -> int | None:
        """The largest `t` at which `-size <= value < size`, None where the input does not matter.

        Negative indices count from the end (https://onnx.ai/onnx/operators/onnx__Gather.html).
        """
        limits = []
        if self.high_t > 0:
            limits.append((size - 1 - self.high) / self.high_t)
        if self.low_t < 0:
            limits.append((size + self.low) / -self.low_t)
        return math.floor(min(limits)) if limits else None

    def lowest_from_the_front(self) -> int:
        """The smallest `t` at which the value is not negative: what counts from the end is seldom meant."""
        if self.low >= 0 or self.low_t or self.high_t <= 0:
            return 0
        return math.ceil(-self.low / self.high_t)


Reaches = Mapping[str, Reach]
"""By the name of the input the values come from."""

Bounds = tuple[float, float]
"""The smallest and the largest value."""


_KEEP = frozenset(
    {
        *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"),
        *("Slice", "Split", "Gather", "GatherElements", "GatherND", "Compress", "Pad", "Dropout"),
        *("Floor", "Ceil", "Round", "Abs", "ReduceMax", "ReduceMin", "ScatterElements", "ScatterND", "TopK"),
    }
)
"""Nodes whose outputs hold values of their first input."""

_CHOOSE = frozenset({"Concat", "Where", "Max", "Min"})
"""Nodes whose output holds values of several inputs."""


def through(node: ir.Node, arriving: Sequence[Reaches]) -> Reaches:
    """What leaves the node of the values that arrive; nothing where they become something else."""
    if casts_to_bool(node):
        return {}
    if node.op_type in _KEEP:
        return arriving[0]
    if node.op_type in _CHOOSE:
        return _hull(arriving)
    if node.op_type == "Neg":
        return {name: reach.times(-1) for name, reach in arriving[0].items()}
    if node.op_type in _ARITHMETIC and len(node.inputs) == 2:
        return _ARITHMETIC[node.op_type](node, *arriving)
    return {}


def _hull(arriving: Sequence[Reaches]) -> Reaches:
    together: dict[str, Reach] = {}
    for sources in arriving:
        for name, reach in sources.items():
            together[name] = together[name].hull(reach) if name in together else reach
    return together


def _add(node: ir.Node, left: Reaches, right: Reaches, sign: int = 1) -> Reaches:
    operands = [_operand(value, sources) for value, sources in zip(node.inputs, (left, right), strict=True)]
    if operands[0] is None or operands[1] is None or len({*left, *right}) != 1:
        return {}
    (name,) = {*left, *right}
    return {name: operands[0].plus(operands[1].times(sign))}


def _sub(node: ir.Node, left: Reaches, right: Reaches) -> Reaches:
    return _add(node, left, right, sign=-1)


def _mul(node: ir.Node, left: Reaches, right: Reaches) -> Reaches:
    bounds = bounds_of(node.inputs[1] if left else node.inputs[0])
    if bounds is None or bounds[0] * bounds[1] < 0:
        return {}
    return {name: reach.times(bounds[0]).hull(reach.times(bounds[1])) for name, reach in (left or right).items()}


def _div(node: ir.Node, left: Reaches, _: Reaches) -> Reaches:
    bounds = bounds_of(node.inputs[1])
    if bounds is None or bounds[0] <= 0:
        return {}
    return {name: reach.times(1 / bounds[0]) for name, reach in left.items()}


_ARITHMETIC: Mapping[str, Callable[[ir.Node, Reaches, Reaches], Reaches]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
}


def _operand(value: ir.Value | None, sources: Reaches) -> Reach | None:
    """The bounds of one side of a sum: followed from an input, or a constant's."""
    if sources:
        return next(iter(sources.values()))
    bounds = bounds_of(value)
    return None if bounds is None else Reach(bounds[0], 0.0, bounds[1], 0.0)


# ---------------------------------------------------------------- nodes and constants


def attribute_of(node: ir.Node, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def casts_to_bool(node: ir.Node) -> bool:
    """Whether only zero and not zero are told apart behind this node."""
    return node.op_type == "Cast" and attribute_of(node, "to", 0) == ir.DataType.BOOL


_RESHAPING = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose"})


def bounds_of(value: ir.Value | None) -> Bounds | None:
    """The smallest and largest value of a constant, None for anything else.

    A size of a static shape is a constant, and so is the sum or product of two.
    """
    while value is not None and (node := value.producer()) is not None and node.op_type in _RESHAPING:
        value = node.inputs[0]
    made = None if value is None else value.producer()
    if made is not None and made.op_type in ("Add", "Mul"):
        left, right = (bounds_of(side) for side in made.inputs)
        return None if left is None or right is None else _together(made.op_type, left, right)
    if made is not None and made.op_type == "Gather":
        return _size(made)
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or not 0 < tensor.size <= 1 << 20 or not _is_number(tensor.dtype):
        return None
    array = tensor.numpy()
    return float(array.min()), float(array.max())


def _together(op_type: str, left: Bounds, right: Bounds) -> Bounds:
    """The bounds of a sum or product."""
    if op_type == "Add":
        return left[0] + right[0], left[1] + right[1]
    corners = [a * b for a in left for b in right]
    return min(corners), max(corners)


def _size(gather: ir.Node) -> Bounds | None:
    """The size of one axis, read off a static shape."""
    shape, index = gather.inputs[:2]
    source = None if shape is None else shape.producer()
    axis = bounds_of(index)
    if source is None or source.op_type != "Shape" or source.attributes or axis is None or axis[0] != axis[1]:
        return None
    dims = source.inputs[0].shape if source.inputs[0] is not None else None
    size = dims[int(axis[0])] if dims is not None and -len(dims) <= axis[0] < len(dims) else None
    return (float(size), float(size)) if isinstance(size, int) else None


def _is_number(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point() or dtype.is_integer()
