"""The shapes of the values of a rewritten graph, with numbers for its batch and all its sizes."""

import numpy as np
import onnx_ir as ir

from builder.batching.attempt import Attempt
from builder.batching.emit import static_dims
from builder.batching.layout import Shape
from builder.batching.rule import Computed, Operand, Refusal
from builder.batching.rules import OPERATORS
from builder.batching.statics import infer
from builder.model import operator

BATCH = 1009
"""The number for N: a prime that no dimension of a model is likely to be a multiple of."""


def shapes_of(attempt: Attempt) -> dict[ir.Value, Shape]:
    """Return the shapes of the values that `attempt` wrote; those that cannot be inferred are left out."""
    known: dict[ir.Value, Operand] = {}
    for value in attempt.graph_inputs:
        shape = tuple(BATCH if isinstance(d, ir.SymbolicDim) else int(d) for d in value.shape or ())
        known[value] = Operand(str(value.name), value.dtype or ir.DataType.UNDEFINED, shape)
    opsets = attempt.walk.opsets
    for node in attempt.walk.writer.emit.nodes:
        inputs = [None if v is None else _operand(known, v) for v in node.inputs]
        if any(v is not None and o is None for v, o in zip(node.inputs, inputs, strict=True)):
            continue
        try:
            entry = OPERATORS.get(operator(node))
            found = infer(node, inputs, opsets) if entry is None or entry.shape is None else entry.shape(node, inputs)
        except Refusal:
            continue
        opset = opsets.get(operator(node)[0], 1)
        is_constant = all(o is None or o.origin is not None for o in inputs)
        for k, (value, (dtype, shape)) in enumerate(zip(node.outputs, found, strict=True)):
            origin = Computed(node, opset, tuple(inputs), k) if is_constant else None
            known[value] = Operand(str(value.name), dtype, shape, origin=origin)
            if node.op_type == "Shape":
                known[value] = _shape_read(node, inputs, known[value])
    return {value: operand.shape for value, operand in known.items()}


def _operand(known: dict[ir.Value, Operand], value: ir.Value) -> Operand | None:
    if value not in known and value.const_value is not None:
        tensor = value.const_value
        known[value] = Operand(str(value.name), tensor.dtype, static_dims(tensor), origin=tensor)
    return known.get(value)


def _shape_read(node: ir.Node, inputs: list[Operand | None], result: Operand) -> Operand:
    first = inputs[0]
    if first is not None and not node.attributes:
        return Operand(result.name, result.dtype, result.shape, origin=np.asarray(first.shape, np.int64))
    return result
