"""Values that depend on how many samples a batch has: `x / batch`, or `x if batch > 20 else -x`.

A model may read the size of its batch to make a shape from it. If it computes values with that size, a sample's answer
depends on how many others there are. `Shape` of a value that holds samples counts them. What is computed from it counts
too, unless it is used as a shape only:

    Shape(x) -> Gather(0)                    counts
             -> Concat -> Reshape(x, ...)    used as a shape: the result does not count
             -> Cast -> Div(x, ...)          used as a value: refused
"""

from collections.abc import Sequence

import onnx_ir as ir

from builder.batching.layout import Dropped, Placed
from builder.batching.rule import Mixing, Operand
from builder.batching.statics import evaluate
from builder.model import operator

SHAPES = {
    "AffineGrid": {1}, "CenterCropPad": {1}, "ConstantOfShape": {0}, "Expand": {1}, "EyeLike": {0}, "MaxUnpool": {2},
    "OneHot": {1}, "Pad": {1}, "Range": {1}, "Reshape": {1}, "Resize": {1, 2, 3}, "Shape": {0}, "Size": {0},
    "Slice": {1, 2, 3, 4}, "Split": {1}, "Tile": {1}, "TopK": {1}, "Upsample": {1},
}  # fmt: skip
"""Inputs that are used as a shape, a size or a range: they decide how many elements there are, not their values."""

PICKING = {("", "Gather"), ("", "Slice")}
"""Operators that take some elements of a vector."""

INPUTS_OF_SLICE = 4
"""The inputs after the data: starts, ends, axes and steps."""


def check_counts(node: ir.Node, inputs: Sequence[Operand | None]) -> None:
    """Check that a node does not compute with the size of the batch.

    Raises:
        Mixing: It computes with it.
    """
    if _reads_counts(node, inputs):
        raise Mixing("it computes with the size of the batch")
    if operator(node) == ("", "Slice") and _cuts_elsewhere(inputs):
        raise Mixing("it cuts a sample at the size of the batch")


def counts_of_shape(node: ir.Node, operand: Operand | None) -> tuple[int, ...] | None:
    """Return which elements of the result of Shape or Size depend on the size of the batch, as `Operand.counts`."""
    if operand is None or operand.batch is None or isinstance(operand.batch, Dropped):
        return None
    if node.op_type != "Shape":
        return ()
    start, end = node.attributes.get_int("start", 0), node.attributes.get("end")
    read = range(operand.rank)[start : None if end is None else end.as_int()]
    return (read.index(operand.batch.axis),) if operand.batch.axis in read else None


def counts_of(node: ir.Node, inputs: Sequence[Operand | None]) -> tuple[int, ...] | None:
    """Return which elements of a node's result count, as `Operand.counts`; its inputs are constants."""
    first = inputs[0] if inputs else None
    if first is not None and first.counts and operator(node) in PICKING:
        picked = _picked(node, inputs, first.shape[0])
        if picked is not None:
            return () if any(k in first.counts for k in picked) else None
    return () if _reads_counts(node, inputs) else None


def _cuts_elsewhere(inputs: Sequence[Operand | None]) -> bool:
    """Return whether a Slice has a start or an end that counts, on another axis than that of the batch."""
    data, *bounds = [*inputs, None, None, None][:INPUTS_OF_SLICE]
    if data is None or not isinstance(data.batch, Placed):
        return False
    given = None if bounds[-1] is None else evaluate(bounds[-1])
    axes = list(range(data.rank)) if given is None else [int(axis) % data.rank for axis in given.ravel()]
    return any(
        axes[k] != data.batch.axis
        for bound in bounds[:2]
        if bound is not None and bound.counts is not None
        for k in bound.counts or range(bound.shape[0])
    )


def _picked(node: ir.Node, inputs: Sequence[Operand | None], length: int) -> list[int] | None:
    """Return which elements of a vector a Gather or Slice takes; None if that is not known."""
    given = [None if o is None else evaluate(o) for o in inputs[1:]]
    if not given or any(array is None for array in given):
        return None
    numbers = [array.ravel().tolist() for array in given if array is not None]
    if node.op_type == "Gather":
        return [int(k) % length for k in numbers[0]]
    start, end, step = numbers[0][0], numbers[1][0] if len(numbers) > 1 else length, 1
    if len(numbers) == INPUTS_OF_SLICE:
        step = numbers[-1][0]
    return list(range(length)[start:end:step])


def _reads_counts(node: ir.Node, inputs: Sequence[Operand | None]) -> bool:
    domain, op_type = operator(node)
    shapes = set() if domain else SHAPES.get(op_type, set())
    return any(o is not None and o.counts is not None for k, o in enumerate(inputs) if k not in shapes)
