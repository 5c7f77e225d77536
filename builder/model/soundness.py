"""Check a parsed ONNX file: its size, its text, its opsets and operators, and its form."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx.external_data_helper import uses_external_data

from builder.errors import ModelError
from builder.model.types import own_domain

RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""Domains of ONNX Runtime's own operators; the onnx package has no schema for them."""

RUNTIME_OPERATORS = frozenset({"LayerNormalization", "SimplifiedLayerNormalization"})
"""Operators that ONNX Runtime's optimizer writes in ONNX's domain whatever the opset; ONNX's checker refuses that."""

LONGEST_NAME = 4096
"""In characters. Real names have up to a few hundred; a member of an .npz file can have 65,535 bytes."""

LARGEST_OPSET = 2**31 - 1
"""ONNX counts opsets in an int32."""

NAMES = frozenset(
    {"name", "op_type", "domain", "overload", "input", "output", "attribute", "ref_attr_name", "dim_param"}
)
"""The fields of ONNX's messages that hold names, rather than text for people."""

_UNCHECKED_DOMAIN = "builder.unchecked"

Operator = tuple[str, str, str]
"""Domain (`""` is ONNX's own), type, and overload (`""` except for some functions)."""


def check_operators(path: Path, proto: onnx.ModelProto) -> None:
    """Check that all names are text, and that the opsets and operators are known.

    Raises:
        ModelError: One of these checks fails.
    """
    _check_text(path, proto)
    _check_opsets(path, proto)
    _check_known(path, proto)


def check_form(path: Path, proto: onnx.ModelProto) -> None:
    """Run ONNX's own checker, which does not look for external weights here.

    Raises:
        ModelError: The checker refuses the model.
    """
    try:
        onnx.checker.check_model(_checkable(proto))
    except onnx.checker.ValidationError as error:
        raise ModelError(path, f"it is not a valid ONNX model: {_sentence(error)}", "export the model again") from error


def nodes_of(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes, and the nodes of the graphs inside them."""
    stack = [nodes]
    while stack:
        for node in stack.pop():
            yield node
            stack.extend(graph.node for graph in graphs_of(node))


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside a node, without those inside its nodes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every initializer and constant of a model, including those of its subgraphs and functions."""
    yield from _initializers(proto.graph)
    for node in all_nodes(proto):
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
        for graph in graphs_of(node):
            yield from _initializers(graph)


def sparse_of(proto: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    """Yield every sparse initializer of a model, including those of its subgraphs."""
    yield from proto.graph.sparse_initializer
    for node in all_nodes(proto):
        for graph in graphs_of(node):
            yield from graph.sparse_initializer


def values_of(proto: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield every input, output and inner value that a model describes, those of its subgraphs and functions too."""
    yield from _values(proto.graph)
    for function in proto.functions:
        yield from function.value_info
    for node in all_nodes(proto):
        for graph in graphs_of(node):
            yield from _values(graph)


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    for values in (graph.input, graph.output, graph.value_info):
        yield from values


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a model, including those of its subgraphs and functions."""
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        yield from nodes_of(nodes)


def operator_key(node: onnx.NodeProto) -> Operator:
    """Return the operator of a node."""
    return own_domain(node.domain), node.op_type, node.overload


def function_key(function: onnx.FunctionProto) -> Operator:
    """Return the operator that a function defines."""
    return own_domain(function.domain), function.name, function.overload


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    return {own_domain(opset.domain): opset.version for opset in proto.opset_import}


def _check_text(path: Path, proto: onnx.ModelProto) -> None:
    """Check that all text is UTF-8, and that names have a usual length and no NUL, at which C libraries stop reading.

    Protobuf returns other text than UTF-8 as bytes, which the following steps do not expect.
    """
    stack: list[Message] = [proto]
    while stack:
        for name, value in _texts_and_parts(stack.pop()):
            for item in [value] if isinstance(value, str | bytes | Message) else value:
                if fault := _text_fault(name, item):
                    raise ModelError(path, f"its field {name} {fault}", "export the model again")
                if isinstance(item, Message):
                    stack.append(item)


def _text_fault(name: str, item: Any) -> str:
    """Return what is wrong with a text; empty if nothing is."""
    if isinstance(item, bytes):
        return "is not UTF-8 text"
    if name in NAMES and isinstance(item, str):
        if len(item) > LONGEST_NAME:
            return f"holds a name of {len(item):,} characters; the limit is {LONGEST_NAME:,}"
        if "\0" in item:
            return "holds a name with a NUL character"
    return ""


def _texts_and_parts(message: Message) -> Iterator[tuple[str, Any]]:
    """Yield the strings and messages in a message, each with its field's name; a tensor's values are left out."""
    if isinstance(message, onnx.TensorProto):
        yield from [("name", message.name), ("external_data", message.external_data)]
        return
    for field, value in message.ListFields():
        if field.type in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_STRING):
            yield field.name, value


def _check_opsets(path: Path, proto: onnx.ModelProto) -> None:
    for imports in (proto.opset_import, *(function.opset_import for function in proto.functions)):
        _check_imports(path, {(own_domain(o.domain), o.version) for o in imports})


def _check_imports(path: Path, imports: Collection[tuple[str, int]]) -> None:
    twice = [domain for domain, n in Counter(domain for domain, _ in imports).items() if n > 1]
    if twice:
        what = f"the operator set {twice[0] or 'ai.onnx'!r} is imported in two versions"
        raise ModelError(path, what, "export the model again")
    newest = _newest_opsets()
    for domain, version in sorted(imports):
        last = newest.get(domain, LARGEST_OPSET)
        if not 1 <= version <= last:
            which = f"opset {version}" + (f" of {domain}" if domain else "")
            what = f"{which} is unknown" + (f"; the newest known opset is {last}" if domain in newest else "")
            raise ModelError(path, what, f"export the model with opset {last} or older")


@cache
def _newest_opsets() -> dict[str, int]:
    newest: dict[str, int] = {}
    for domain, version in onnx.helper.OP_SET_ID_VERSION_MAP:
        newest[own_domain(domain)] = max(version, newest.get(own_domain(domain), 0))
    return newest


def _check_known(path: Path, proto: onnx.ModelProto) -> None:
    opsets, own = _opsets(proto), set(map(function_key, proto.functions))
    unknown = [
        node
        for node in nodes_of(proto.graph.node)
        if (operator := operator_key(node)) not in own
        and not (_is_known(operator, opsets) or _is_left_by_runtime(operator) or node.domain in RUNTIME_DOMAINS)
    ]
    if plugins := list(filter(_is_plugin, unknown)):
        what = f"plugins of TensorRT, which ONNX Runtime cannot run, so no answer could be proven: {_listed(plugins)}"
        fix = "export the model without them; for a detector, leave out the NMS at its end and run it in the client"
        raise ModelError(path, what, fix)
    if unknown:
        what = f"unknown operators at opset {opsets.get('', 1)}: {_listed(unknown)}"
        raise ModelError(path, what, "export the model with standard ONNX operators")


def _listed(nodes: Sequence[onnx.NodeProto]) -> str:
    names = {f"{n.domain or 'ai.onnx'}::{n.op_type}" + (f" ({n.name})" if n.name else "") for n in nodes}
    return ", ".join(sorted(names)[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _is_plugin(node: onnx.NodeProto) -> bool:
    """Return whether an operator is one of TensorRT's plugins, such as `TRT::EfficientNMS_TRT`, by its name.

    Source: https://github.com/NVIDIA/TensorRT/tree/main/plugin
    """
    has_domain = node.domain.lower().split(".")[0] in ("trt", "tensorrt")
    return has_domain or node.op_type.endswith(("_TRT", "Plugin", "PluginDynamic")) or node.op_type.startswith("TRT")


def _is_known(operator: Operator, opsets: Mapping[str, int]) -> bool:
    domain, op_type, _ = operator
    return onnx.defs.has(op_type, opsets.get(domain, 1), domain)


def _is_left_by_runtime(operator: Operator) -> bool:
    return operator[0] == "" and operator[1] in RUNTIME_OPERATORS


def _checkable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that the checker can judge.

    External weights are emptied, and operators that the checker does not know move to a domain that it skips.
    """
    opsets = _opsets(proto)

    def is_foreign(node: onnx.NodeProto) -> bool:
        return _is_left_by_runtime(operator_key(node)) and not _is_known(operator_key(node), opsets)

    if not any(map(uses_external_data, tensors_of(proto))) and not any(map(is_foreign, nodes_of(proto.graph.node))):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in filter(uses_external_data, tensors_of(copy)):
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.dims[:] = [0]
    for node in filter(is_foreign, nodes_of(copy.graph.node)):
        node.domain = _UNCHECKED_DOMAIN
    copy.opset_import.append(onnx.helper.make_opsetid(_UNCHECKED_DOMAIN, 1))
    return copy


def _sentence(error: Exception) -> str:
    """Return the checker's message as one line, without the context that it appends."""
    return " ".join(str(error).partition("\n\n==>")[0].split()).rstrip(".") or type(error).__name__
