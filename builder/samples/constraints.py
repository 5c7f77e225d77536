"""Read from the graph which dynamic dimensions are equal, and which can have only one size.

In `MatMul(x, w)` with `w[64, 10]`, the last axis of `x` has size 64. In `Add(scores, mask)`, axes that are not
broadcast have equal sizes. What the nodes say is collected as pairs of equal dimensions, each a number or a name.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from math import prod

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from builder.errors import ModelError
from builder.model import Dim, Model, inlined, operator
from builder.samples.reach import Operator, attribute_of, onnx_operators

Shape = Sequence[Dim | None]
"""The shape of a value; None for a dimension that is unknown."""

Pair = tuple[Dim | None, Dim | None]


class Constraints:
    """What is known about the dynamic dimensions of a model's inputs."""

    def __init__(self, model: Model) -> None:
        self._sizes: dict[str, int] = {}
        self._same: dict[str, str] = {}
        for left, right in _pairs(model):
            self._join(left, right)

    def name(self, name: str) -> str:
        """Return the name that stands for all dimensions that are equal to this one."""
        while name in self._same:
            name = self._same[name]
        return name

    def size(self, name: str) -> int | None:
        """Return the only size that a dimension can have; None if it may have several."""
        return self._sizes.get(self.name(name))

    def _join(self, left: Dim | None, right: Dim | None) -> None:
        """Note that two dimensions are equal; of two numbers for one name, the first stays."""
        if isinstance(left, int):
            left, right = right, left
        if not isinstance(left, str) or right is None:
            return
        left = self.name(left)
        if isinstance(right, int):
            self._sizes.setdefault(left, right)
        elif (right := self.name(right)) != left:
            self._same[left] = right
            if left in self._sizes:
                self._sizes.setdefault(right, self._sizes.pop(left))


def declare_inputs(graph: ir.Graph, model: Model, sizes: Mapping[str, int]) -> None:
    """Declare the shapes of a graph's inputs in place, with a name or the given size for each dynamic dimension."""
    values = {value.name: value for value in graph.inputs}
    for spec in model.inputs:
        values[spec.name].shape = ir.Shape([sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape])


def _pairs(model: Model) -> Iterator[Pair]:
    try:
        whole = inlined(model.ir, where=model.path)
    except ModelError:  # the nodes inside its functions cannot be read; the others can
        whole = model.ir.clone()
    declare_inputs(whole.graph, model, {})
    inferred = ShapeInferencePass(strict_mode=False, data_prop=True)(whole).model
    for node in inferred.graph.all_nodes():
        rule = RULES.get(operator(node))
        if rule is not None:
            yield from rule(node, [_shape(value) for value in node.inputs])


def _shape(value: ir.Value | None) -> Shape:
    """Return the shape of an input; empty if it is not known or the input is left out."""
    shape = None if value is None else value.shape if value.const_value is None else value.const_value.shape
    return [] if shape is None else [dim if isinstance(dim, int) else dim.value for dim in shape]


# ---------------------------------------------------------------- what the nodes say


def _broadcast(_: ir.Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """`[*a] with [*b]`: counted from the end, axes are equal unless one of them is 1."""
    for aligned in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        yield from pairwise([dim for dim in aligned if dim != 1 and dim is not None])


def _product(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """`[..., m, k] with [..., k, n]`."""
    left, right = shapes[0], shapes[3 if node.op_type == "QLinearMatMul" else 1]
    if left and right:
        yield left[-1], right[max(0, len(right) - 2)]
    yield from _broadcast(node, [left[:-2], right[:-2]])


def _gemm(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """`[m, k] with [k, n]`, each perhaps transposed."""
    left, right = shapes[:2]
    if len(left) == len(right) == 2:
        yield left[0 if attribute_of(node, "transA", 0) else 1], right[1 if attribute_of(node, "transB", 0) else 0]


def _convolution(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """`[N, C, *s] with [M, C / group, *k]`, or `[C, M / group, *k]` if it is transposed."""
    data, weights = shapes[0], shapes[3 if node.op_type == "QLinearConv" else 1]
    channels = weights[:1] if node.op_type == "ConvTranspose" else weights[1:2]
    if len(data) > 1 and channels and isinstance(channels[0], int):
        group = 1 if node.op_type == "ConvTranspose" else attribute_of(node, "group", 1)
        yield data[1], channels[0] * group


def _by_channel(_: ir.Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """`[N, C, *s] with [C]`."""
    if len(shapes[0]) > 1 and shapes[1]:
        yield shapes[0][1], shapes[1][0]


def _recurrent(_: ir.Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """`[T, N, I] with [dirs, gates * H, I], [dirs, gates * H, H]`, and the states `[dirs, N, H]`."""
    data, weights, recurrence = shapes[:3]
    if len(data) == len(weights) == len(recurrence) == 3:
        yield data[2], weights[2]
        for state in (shape for shape in shapes[5:7] if len(shape) == 3):
            yield data[1], state[1]
            yield recurrence[2], state[2]


def _join(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """`[*a, i, *b], [*a, j, *b] -> [*a, i + j, *b]`."""
    axis = attribute_of(node, "axis", 0)
    for left, right in pairwise(shapes):
        for at, pair in enumerate(zip(left, right, strict=False)):
            if len(left) == len(right) and at != axis % len(left):
                yield pair


def _reshape(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """`[s, 4] -> [2, 6]`: a single dynamic dimension has the size that makes the numbers of elements equal."""
    shape = node.inputs[1] if len(node.inputs) > 1 else None
    target = None if shape is None else ir.convenience.get_const_tensor(shape)
    free = [dim for dim in shapes[0] if not isinstance(dim, int)]
    if target is None or len(free) != 1 or (target.numpy() < 1).any():
        return
    size, rest = divmod(int(target.numpy().prod()), prod(dim for dim in shapes[0] if isinstance(dim, int)) or 1)
    if size and not rest:
        yield free[0], size


Rule = Callable[[ir.Node, Sequence[Shape]], Iterator[Pair]]


def _table(rules: Mapping[Rule, Collection[str]]) -> Mapping[Operator, Rule]:
    return {kind: rule for rule, op_types in rules.items() for kind in onnx_operators(*op_types)}


RULES: Mapping[Operator, Rule] = _table(
    {
        _broadcast: ("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Where", "Equal", "Greater", "GreaterOrEqual", "Less",
                     "LessOrEqual", "And", "Or", "Xor", "Max", "Min", "Sum", "Mean", "PRelu", "LayerNormalization"),
        _product: ("MatMul", "MatMulInteger", "QLinearMatMul"),
        _gemm: ("Gemm",),
        _convolution: ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"),
        _by_channel: ("BatchNormalization", "InstanceNormalization"),
        _recurrent: ("LSTM", "GRU", "RNN"),
        _join: ("Concat",),
        _reshape: ("Reshape",),
    }
)  # fmt: skip
"""Operators that say something about the sizes of their inputs."""
