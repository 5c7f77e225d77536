"""Follow the values of an input through the nodes that move, select or shift them.

An input of token ids often reaches its embedding table only after a cast, a reshape and an offset. To find out which
ids are valid, the offset has to be known. So each value on the way is described by bounds that are linear in `t`, the
largest value that the input holds; see `Reach`.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from builder.model import operator

Operator = tuple[str, str]
"""An operator's domain and type, as `builder.model.operator` gives them: ("", "Add"), ("ai.onnx.ml", "Scaler")."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The bounds of a value while its input stays in `[0, t]`: `low + low_t * t <= value <= high + high_t * t`.

    The input itself is `Reach(0, 0, 0, 1)`: between 0 and t. Behind `Sub(ids, 1)` the value is between -1 and t - 1,
    which is `Reach(-1, 0, -1, 1)`. When that indexes a table of 7 rows, the largest valid index is 6, and
    `highest_within(7)` solves `t - 1 = 6`: the input may hold numbers up to 7. An index of -1 would count from the end
    of the table, which is rarely meant, and `lowest_from_the_front()` solves `t - 1 = 0`: they start at 1.
    """

    low: float = 0.0
    low_t: float = 0.0
    high: float = 0.0
    high_t: float = 1.0

    def plus(self, other: "Reach") -> "Reach":
        """Return the bounds of the sum of two values."""
        return Reach(
            self.low + other.low,
            self.low_t + other.low_t,
            self.high + other.high,
            self.high_t + other.high_t,
        )

    def times(self, factor: float) -> "Reach":
        """Return the bounds of the value multiplied by a constant."""
        low, high = (self.low * factor, self.low_t * factor), (self.high * factor, self.high_t * factor)
        return Reach(*low, *high) if factor >= 0 else Reach(*high, *low)

    def hull(self, other: "Reach") -> "Reach":
        """Return the bounds of a value that is one or the other."""
        return Reach(
            min(self.low, other.low),
            min(self.low_t, other.low_t),
            max(self.high, other.high),
            max(self.high_t, other.high_t),
        )

    def highest_within(self, size: int) -> int | None:
        """Return the largest `t` at which `-size <= value < size`, or None where the input makes no difference.

        Negative indices count from the end (https://onnx.ai/onnx/operators/onnx__Gather.html).
        """
        limits = []
        if self.high_t > 0:
            limits.append((size - 1 - self.high) / self.high_t)
        if self.low_t < 0:
            limits.append((size + self.low) / -self.low_t)
        return math.floor(min(limits)) if limits else None

    def lowest_from_the_front(self) -> int:
        """Return the smallest `t` at which the value is not negative: an index that counts from the end is rare."""
        if self.low >= 0 or self.low_t or self.high_t <= 0:
            return 0
        return math.ceil(-self.low / self.high_t)


Reaches = Mapping[str, Reach]
"""The bounds of a value for each input that it comes from, by the input's name."""

Bounds = tuple[float, float]
"""The smallest and the largest value."""


def onnx_operators(*op_types: str) -> Iterator[Operator]:
    """Yield the keys of operators that ONNX itself defines."""
    yield from (("", op_type) for op_type in op_types)


KEEPS_VALUES: Collection[Operator] = frozenset(
    {
        *onnx_operators(
            "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"
        ),
        *onnx_operators("Slice", "Split", "Gather", "GatherElements", "GatherND", "Compress", "Pad", "Dropout"),
        *onnx_operators("Floor", "Ceil", "Round", "Abs", "ReduceMax", "ReduceMin", "ScatterElements", "ScatterND"),
        *onnx_operators("TopK"),
    }
)
"""Operators whose outputs hold values of their first input."""

SELECTS_VALUES: Collection[Operator] = frozenset(onnx_operators("Concat", "Where", "Max", "Min"))
"""Operators whose output holds values of several inputs."""


def through(node: ir.Node, arriving: Sequence[Reaches]) -> Reaches:
    """Return the bounds of what leaves a node, given those of each of its inputs; empty once values lose their meaning.

    For example, `Add(ids, 1)` shifts the bounds by 1, and what leaves `MatMul(ids, w)` is not followed.
    """
    if casts_to_bool(node):
        return {}
    kind = operator(node)
    if kind in KEEPS_VALUES:
        return arriving[0]
    if kind in SELECTS_VALUES:
        return _hull(arriving)
    if kind == ("", "Neg"):
        return {name: reach.times(-1) for name, reach in arriving[0].items()}
    if kind in ARITHMETIC and len(node.inputs) == 2:
        return ARITHMETIC[kind](node, *arriving)
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


ARITHMETIC: Mapping[Operator, Callable[[ir.Node, Reaches, Reaches], Reaches]] = {
    ("", "Add"): _add,
    ("", "Sub"): _sub,
    ("", "Mul"): _mul,
    ("", "Div"): _div,
}
"""Operators on two inputs that shift or scale values, and how each changes the bounds."""


def _operand(value: ir.Value | None, sources: Reaches) -> Reach | None:
    """Return the bounds of one side of a sum: those followed from an input, or those of a constant."""
    if sources:
        return next(iter(sources.values()))
    bounds = bounds_of(value)
    return None if bounds is None else Reach(bounds[0], 0.0, bounds[1], 0.0)


# ---------------------------------------------------------------- nodes and constants


def attribute_of(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute of a node."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def value_outputs(node: ir.Node) -> Sequence[ir.Value]:
    """Return the outputs that hold values of the inputs; the second output of TopK holds positions."""
    return node.outputs[:1] if operator(node) == ("", "TopK") else node.outputs


def casts_to_bool(node: ir.Node) -> bool:
    """Return whether the node turns numbers into booleans, so that only zero and nonzero still differ."""
    return operator(node) == ("", "Cast") and attribute_of(node, "to", 0) == ir.DataType.BOOL


RESHAPES: Collection[Operator] = frozenset(
    onnx_operators("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose")
)
"""Operators that keep the smallest and the largest value of their first input."""

_LARGEST_CONSTANT = 1 << 20
"""Constants of more elements than this are not searched for their bounds."""


def bounds_of(value: ir.Value | None) -> Bounds | None:
    """Return the smallest and the largest value of a constant, or None for anything else.

    Exporters also compute constants in the graph: `Gather(Shape(table), 0)` is the constant 7 where the table has the
    static shape [7, 3], and so are sums and products of such sizes.
    """
    origin = _before_reshapes(value)
    made = None if origin is None else origin.producer()
    kind = None if made is None else operator(made)
    if made is not None and kind in (("", "Add"), ("", "Mul")):
        left, right = (bounds_of(side) for side in made.inputs)
        return None if left is None or right is None else _together(made.op_type, left, right)
    if made is not None and kind == ("", "Gather"):
        return _size(made)
    return _constant_bounds(origin)


def _before_reshapes(value: ir.Value | None) -> ir.Value | None:
    """Return where a value comes from, before the nodes that only reshape or cast it."""
    while value is not None and (node := value.producer()) is not None and operator(node) in RESHAPES:
        value = node.inputs[0]
    return value


def _constant_bounds(value: ir.Value | None) -> Bounds | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or not 0 < tensor.size <= _LARGEST_CONSTANT or not _is_number(tensor.dtype):
        return None
    array = tensor.numpy()
    return float(array.min()), float(array.max())


def _together(op_type: str, left: Bounds, right: Bounds) -> Bounds:
    """Return the bounds of a sum or a product."""
    if op_type == "Add":
        return left[0] + right[0], left[1] + right[1]
    corners = [a * b for a in left for b in right]
    return min(corners), max(corners)


def _size(gather: ir.Node) -> Bounds | None:
    """Return the size of one axis where the node is `Gather(Shape(x), axis)` and the axis is static."""
    shape, index = gather.inputs[:2]
    source = None if shape is None else shape.producer()
    axis = bounds_of(index)
    if source is None or operator(source) != ("", "Shape") or source.attributes or axis is None or axis[0] != axis[1]:
        return None
    dims = source.inputs[0].shape if source.inputs[0] is not None else None
    size = dims[int(axis[0])] if dims is not None and -len(dims) <= axis[0] < len(dims) else None
    return (float(size), float(size)) if isinstance(size, int) else None


def _is_number(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point() or dtype.is_integer()
