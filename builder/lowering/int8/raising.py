"""Make a graph ready for int8: in opset 13, the first in which each channel of a weight can have its own scale."""

import onnx_ir as ir

from builder.batching import BatchedModel
from builder.errors import ModelError
from builder.lowering.preparing import prepared
from builder.lowering.raising import CannotRaiseError, raised
from builder.model import name_nodes, node_names, operator

LEAST = 13

_QUANTIZERS = {("", "QuantizeLinear"), ("", "DequantizeLinear"), ("", "DynamicQuantizeLinear")}


def floats_of(batched: BatchedModel) -> ir.Model:
    """Return the graph in opset 13 or later, with names for its nodes and constants as initializers.

    Raises:
        ModelError: It is quantized already, or cannot be converted to opset 13.
    """
    where = batched.original.path
    if any(
        operator(node) in _QUANTIZERS or "Integer" in node.op_type for node in batched.original.ir.graph.all_nodes()
    ):
        fix = "publish it without --precision, or quantize the model in fp32 that it was made from"
        raise ModelError(where, "the model is quantized already", fix)
    model = prepared(batched.ir, where)
    try:
        model = raised(model, LEAST, where=where)
    except CannotRaiseError as error:
        opset = model.opset_imports.get("", 0)
        what = f"int8 requires opset {LEAST}, and the model has {opset}, from which it cannot be converted: {error}"
        raise ModelError(where, what, f"export the model with opset {LEAST} or later") from error
    name_nodes(model.graph, node_names(model))
    return model
