"""Tell whether a node means the same in another opset, and inline functions that use another opset than the model."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from builder.errors import Listing, ModelError
from builder.model.inlining import inline
from builder.model.soundness import RUNTIME_OPERATORS
from builder.model.types import label


def inlined(model: ir.Model, *, where: Path) -> ir.Model:
    """Return a copy of the model in which every call of a function is replaced by the function's nodes.

    A function may use another opset than the model. Its nodes then move to the model's opset, if they mean the same
    there.

    Raises:
        ModelError: Some nodes mean something else in the model's opset; the error lists them all.
    """
    copy = model.clone()
    if not copy.functions:
        return copy
    problems: list[str] = []
    for function in copy.functions.values():
        problems += _problems(function, copy.opset_imports)
        copy.opset_imports.update({**function.opset_imports, **copy.opset_imports})
    if problems:
        what = "its functions use another opset than the model, in which some nodes mean something else:"
        raise ModelError(
            where, Listing(what, problems), "export the model without functions, or with one opset for all of it"
        )
    inline(copy)
    return copy


def _problems(function: ir.Function, opsets: Mapping[str, int]) -> Iterator[str]:
    for node in _all_nodes(function):
        opset, other = function.opset_imports.get(node.domain), opsets.get(node.domain)
        if opset is not None and other is not None and (reason := why_not(node, opset, other)):
            yield f"{label(node)} of function {function.name!r}: {reason}"


def _all_nodes(function: ir.Function) -> Iterator[ir.Node]:
    """Yield the nodes, and those of the graphs in them, without graphs that a caller of the function passes."""
    stack: list[ir.Function | ir.Graph] = [function]
    while stack:
        for node in stack.pop():
            yield node
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                    stack.append(attribute.as_graph())


def why_not(node: ir.Node, opset: int, other: int) -> str | None:
    """Return why a node of opset `opset` does not mean the same in opset `other`; None when it does.

    An attribute that only the newer opset has makes no difference: its default is what the older one does. `CHANGED`
    lists the operators that are exceptions.
    """
    if not onnx.defs.has(node.op_type, domain=node.domain) or node.op_type in RUNTIME_OPERATORS:
        return None
    try:
        here = onnx.defs.get_schema(node.op_type, opset, node.domain)
        there = onnx.defs.get_schema(node.op_type, other, node.domain)
    except onnx.defs.SchemaError:
        since = onnx.defs.get_schema(node.op_type, max(opset, other), node.domain).since_version
        return f"the operator was added in opset {since}"
    if here.since_version == there.since_version:
        return None
    return (
        _attribute_problem(node, here, there, other)
        or _meaning_problem(node, here, there)
        or _count_problem(node, there, other)
        or _type_problem(node, there, other)
    )


CHANGED = {
    "BatchNormalization": 14,  # its outputs in training mode
    "DFT": 20,  # the axis became an input, with another default
    "GridSample": 20,  # the modes have other names
    "GroupNormalization": 21,  # scale and bias became those of channels
    "Hardmax": 13,  # before, it flattens what is behind its axis, as Softmax and LogSoftmax do
    "LogSoftmax": 13,
    "Resize": 11,  # the coordinates that it takes
    "RoiAlign": 16,  # the coordinates that it takes
    "Scan": 9,  # before, it loops over the batch, too
    "Softmax": 13,
    "Split": 18,  # equal parts have to be counted
}
"""Operators of ONNX's own domain that mean something else from an opset on, although nothing in a node shows it."""


def _meaning_problem(node: ir.Node, here: onnx.defs.OpSchema, there: onnx.defs.OpSchema) -> str | None:
    changed = CHANGED.get(node.op_type, 0)
    if min(here.since_version, there.since_version) < changed <= max(here.since_version, there.since_version):
        return f"the operator means something else from opset {changed} on"
    if there.deprecated and not here.deprecated:
        return f"the operator is gone from opset {there.since_version} on"
    return None


def _attribute_problem(node: ir.Node, here: onnx.defs.OpSchema, there: onnx.defs.OpSchema, other: int) -> str | None:
    if missing := sorted(set(node.attributes) - set(there.attributes)):
        return f"opset {other} has no attribute {', '.join(missing)} for it"
    for name in there.attributes:
        is_left_out = name in here.attributes and name not in node.attributes
        if is_left_out and here.attributes[name].default_value != there.attributes[name].default_value:
            return f"its attribute {name} has a different default in opset {other}"
    return None


def _count_problem(node: ir.Node, there: onnx.defs.OpSchema, other: int) -> str | None:
    takes_its_inputs = there.min_input <= len(node.inputs) <= there.max_input
    if takes_its_inputs and len(node.outputs) <= there.max_output:
        return None
    return f"it has different inputs or outputs in opset {other}"


def _type_problem(node: ir.Node, schema: onnx.defs.OpSchema, opset: int) -> str | None:
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for position, value in enumerate(values):
            if value is None or not isinstance(value.type, ir.TensorType):
                continue
            formal = formals[min(position, len(formals) - 1)].type_str
            if _type_name(value.type.dtype) not in allowed.get(formal, {formal}):
                return f"{value.name!r} is {value.type.dtype}, which the operator does not accept in opset {opset}"
    return None


def _type_name(dtype: ir.DataType) -> str:
    """Return an element type as a schema writes it, such as `tensor(float)`."""
    return f"tensor({dtype.name.lower()})"
