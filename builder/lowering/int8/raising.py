"""Make a graph ready for int8: in opset 13, the first in which each channel of a weight can have its own scale."""

from pathlib import Path

import onnx
import onnx_ir as ir

from builder.batching import BatchedModel
from builder.errors import ModelError
from builder.lowering.preparing import prepared
from builder.model import name_nodes, node_names, operator, why_not

LEAST = 13

_LEAST_IR = 7
"""The IR version of opset 13. Up to IR 3, the converter makes an input of every constant."""

_QUANTIZERS = {("", "QuantizeLinear"), ("", "DequantizeLinear"), ("", "DynamicQuantizeLinear")}

_CHANGED = frozenset({"Hardmax", "LogSoftmax", "Softmax"})
"""Operators that flatten what is behind their axis before opset 13, which nothing in a node shows."""


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
    up = raised(model, where=where)
    if up is not model:
        model = prepared(up, where)
    name_nodes(model.graph, node_names(model))
    return model


def raised(model: ir.Model, *, where: Path) -> ir.Model:
    """Return the model in opset 13, or as it is if its opset is as high.

    If every node means the same there, only the number changes. Otherwise ONNX's converter writes the nodes anew.

    Raises:
        ModelError: It cannot.
    """
    opset = model.opset_imports.get("", 0)
    if opset >= LEAST:
        return model
    nodes = list(model.graph.all_nodes())
    if all(node.op_type not in _CHANGED and why_not(node, opset, LEAST) is None for node in nodes if not node.domain):
        same = model.clone()
        for graph in same.graphs():
            graph.opset_imports[""] = LEAST
        return same
    fix = f"export the model with opset {LEAST} or later"
    what = f"int8 requires opset {LEAST}, and the model has {opset}, from which it cannot be converted"
    if len(nodes) > len(model.graph):
        raise ModelError(where, f"{what}: it has graphs inside its nodes", fix)
    from onnx import version_converter

    proto = ir.to_proto(model)
    proto.ir_version = max(proto.ir_version, _LEAST_IR)
    try:
        converted = version_converter.convert_version(proto, LEAST)
        if not any(isinstance(value.const_value, ir.ExternalTensor) for value in model.graph.initializers.values()):
            onnx.checker.check_model(converted)  # it looks for weights in the working directory
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason is given")
        raise ModelError(where, f"{what}: {reason}", fix) from error
    found = ir.from_proto(converted)
    ir.external_data.set_base_dir(found.graph, where.parent)
    return found
