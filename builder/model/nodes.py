"""Check in nodes what ONNX's checker skips: references to attributes, sparse constants, equations, and calls."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from builder.errors import ModelError
from builder.model.soundness import Operator, function_key, nodes_of, operator_key
from builder.model.types import own_domain
from builder.printable import counted

FIX = "export the model again"

_SPARSE = {onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS}

_TERM = r"[A-Za-z]*(?:\.\.\.[A-Za-z]*)?"
_EQUATION = re.compile(f"{_TERM}(?:,{_TERM})*(?:->{_TERM})?")
"""The equation of an Einsum, without spaces (source: https://onnx.ai/onnx/operators/onnx__Einsum.html)."""

_TYPES = {"to", "dtype"}
_KNOWN_TYPES = frozenset(ir.DataType)
"""The attributes that hold an element type, and those that there are."""

Functions = Mapping[Operator, onnx.FunctionProto]


def check(path: Path, proto: onnx.ModelProto) -> None:
    """Check the attributes of all nodes, and the calls of the model's own functions.

    Raises:
        ModelError: An attribute has no value, or a call does not fit its function.
    """
    functions = {function_key(function): function for function in proto.functions}
    for nodes, is_inside in ((proto.graph.node, False), *((f.node, True) for f in proto.functions)):
        for node, fault in _faults(nodes, functions, is_inside_function=is_inside):
            raise ModelError(path, f"{node.op_type} {_name(node)} {fault}", FIX)


def _faults(
    nodes: Sequence[onnx.NodeProto], functions: Functions, *, is_inside_function: bool
) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in nodes_of(nodes):
        if fault := _attribute_fault(node, is_inside_function=is_inside_function):
            yield node, fault
        function = functions.get(operator_key(node)) if functions else None
        if function is not None and (fault := _call_fault(node, function)):
            yield node, fault


def _attribute_fault(node: onnx.NodeProto, *, is_inside_function: bool) -> str:
    """Return what is wrong with a node's attributes; empty if nothing is."""
    for attribute in node.attribute:
        if attribute.ref_attr_name and not is_inside_function:
            return f"takes its attribute {attribute.name!r} from a function, but is in none"
        if attribute.type in _SPARSE:
            return f"has a sparse tensor as its attribute {attribute.name!r}, which is not supported"
        if attribute.type == onnx.AttributeProto.UNDEFINED:
            return f"has an attribute {attribute.name!r} without a type"
        if not attribute.ref_attr_name and not own_domain(node.domain) and (fault := _value_fault(node, attribute)):
            return fault
    return ""


def _value_fault(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> str:
    """Return what is wrong with an attribute of one of ONNX's own operators; empty if nothing is."""
    if node.op_type == "Einsum" and attribute.name == "equation":
        equation = attribute.s.decode(errors="replace")
        if not _EQUATION.fullmatch(equation.replace(" ", "")):
            return f"has an invalid equation: {equation[:200]!r}"
    if attribute.name in _TYPES and attribute.type == onnx.AttributeProto.INT and attribute.i not in _KNOWN_TYPES:
        return f"has the element type {attribute.i} as its attribute {attribute.name!r}, which does not exist"
    return ""


def _call_fault(node: onnx.NodeProto, function: onnx.FunctionProto) -> str:
    """Return what is wrong with a call; empty if nothing is. Inputs and outputs at the end may be left out."""
    for kind, given, taken in (
        ("input", len(node.input), len(function.input)),
        ("output", len(node.output), len(function.output)),
    ):
        if given > taken:
            return f"has {counted(given, kind)}, but its function has {taken}"
    return ""


def _name(node: onnx.NodeProto) -> str:
    return node.name or repr(next(iter(node.output), ""))
