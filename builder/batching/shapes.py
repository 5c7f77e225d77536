"""The shapes of the values in a rewritten graph, with a number for its batch and for every dynamic axis."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.attempt import Attempt
from builder.batching.emit import static_dims
from builder.batching.layout import Shape
from builder.batching.rule import Computed, Operand, Refusal
from builder.batching.rules import OPERATORS
from builder.batching.statics import infer
from builder.model import operator
from builder.tensors import Array

BATCH = 1009
"""The number for N: a prime that is not likely to divide a dimension of the model."""


def shapes_of(attempt: Attempt) -> dict[ir.Value, Shape]:
    """Return the shapes of the values that `attempt` wrote; those that cannot be inferred are left out."""
    known: dict[ir.Value, Operand] = {}
    for value in attempt.graph_inputs:
        shape = tuple(dim if isinstance(dim, int) else BATCH for dim in value.shape or ())
        known[value] = Operand(str(value.name), value.dtype or ir.DataType.UNDEFINED, shape)
    for node in attempt.walk.writer.emit.nodes:
        inputs = [None if v is None else _operand(known, v) for v in node.inputs]
        if all(v is None or o is not None for v, o in zip(node.inputs, inputs, strict=True)):
            known.update(_outputs(node, inputs, attempt.walk.opsets))
    return {value: operand.shape for value, operand in known.items()}


def _operand(known: dict[ir.Value, Operand], value: ir.Value) -> Operand | None:
    if value not in known and value.const_value is not None:
        tensor = value.const_value
        known[value] = Operand(str(value.name), tensor.dtype, static_dims(tensor), origin=tensor)
    return known.get(value)


def _outputs(
    node: ir.Node, inputs: Sequence[Operand | None], opsets: Mapping[str, int]
) -> Iterator[tuple[ir.Value, Operand]]:
    """Yield the outputs of a node whose shapes can be inferred. Constants and shapes can be evaluated later."""
    entry = OPERATORS.get(operator(node))
    try:
        found = infer(node, inputs, opsets) if entry is None or entry.shape is None else entry.shape(node, inputs)
    except Refusal:
        return
    opset = opsets.get(operator(node)[0], 1)
    is_constant = all(o is None or o.origin is not None for o in inputs)
    for k, (value, (dtype, shape)) in enumerate(zip(node.outputs, found, strict=True)):
        origin: Computed | Array | None = Computed(node, opset, tuple(inputs), k) if is_constant else None
        if node.op_type == "Shape" and not node.attributes and inputs[0] is not None:
            origin = np.asarray(inputs[0].shape, np.int64)
        yield value, Operand(str(value.name), dtype, shape, origin=origin)
