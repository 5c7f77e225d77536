"""Raise the opset of a model, if every node then means the same or ONNX's converter can write it anew."""

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from builder.lowering.preparing import prepared
from builder.model import name_nodes, node_names, why_not

_LEAST_IR = 7
"""The IR version of opset 13. Up to IR 3, the converter makes an input of every constant."""


class CannotRaiseError(Exception):
    """The opset of the model cannot be raised; the text says why."""


def raised(model: ir.Model, opset: int, *, where: Path) -> ir.Model:
    """Return a prepared model in a later opset, prepared again, or as it is if its opset is as high.

    If every node means the same there, only the number changes. Otherwise ONNX's converter writes the nodes anew, which
    keep their names.

    Args:
        model: A model without functions, as `prepared` returns it.
        opset: The opset of ONNX's own domain; operators of other domains stay as they are.
        where: The file that it came from, beside which its weights may be.

    Raises:
        CannotRaiseError: It has graphs inside its nodes, which the converter leaves out, or an operator that it cannot
            convert.
        ModelError: As `prepared`.
    """
    before = model.opset_imports.get("", 0)
    if before >= opset:
        return model
    nodes = list(model.graph.all_nodes())
    if before and all(why_not(node, before, opset) is None for node in nodes if not node.domain):
        found = model.clone()
        for graph in found.graphs():
            graph.opset_imports[""] = opset
    elif len(nodes) > len(model.graph):
        raise CannotRaiseError("it has graphs inside its nodes")
    else:
        found = _converted(model, opset, where)
    found = prepared(found, where)
    name_nodes(found.graph, node_names(found))
    return found


def _converted(model: ir.Model, opset: int, where: Path) -> ir.Model:
    from onnx import version_converter

    proto = ir.to_proto(model)
    proto.ir_version = max(proto.ir_version, _LEAST_IR)
    try:
        converted = version_converter.convert_version(proto, opset)
        if not any(isinstance(value.const_value, ir.ExternalTensor) for value in model.graph.initializers.values()):
            onnx.checker.check_model(converted)  # it looks for weights in the working directory
    except (RuntimeError, ValueError, EncodeError, onnx.checker.ValidationError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason is given")
        raise CannotRaiseError(reason) from error
    found = ir.from_proto(converted)
    ir.external_data.set_base_dir(found.graph, where.parent)
    return found
