"""Operators that ONNX defines as functions of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from builder.batching.rule import Decomposition, Operand

if TYPE_CHECKING:
    from builder.batching.walk import Walk


def function_body(node: ir.Node, inputs: Sequence[Operand | None], walk: Walk) -> Decomposition | None:
    """The body of an operator that ONNX defines as a function of others; None where it defines none for this opset."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, walk.opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return None
    proto = ir.serde.serialize_node(node)
    function = _definition(schema, proto, inputs, walk.opsets.get("", 1))
    if function is None or not _means_the_same(function, walk.opsets):
        return None
    graph = ir.serde.deserialize_graph(_as_graph(function, proto, schema))
    given = dict(zip(function.input, inputs, strict=False))
    walk.operands.update((value, given[str(value.name)]) for value in graph.inputs)
    nodes = list(graph)
    graph.remove(nodes)
    made = graph.outputs[: len(node.outputs)]
    return Decomposition(nodes, [v if asked.name else made[0] for asked, v in zip(node.outputs, made, strict=True)])


def _definition(
    schema: onnx.defs.OpSchema, call: onnx.NodeProto, inputs: Sequence[Operand | None], opset: int
) -> onnx.FunctionProto | None:
    """The newest definition that `opset` knows."""
    plain = [v for v in schema.function_opset_versions if v <= opset]  # type: ignore[attr-defined]
    by_context = [v for v in schema.context_dependent_function_opset_versions if v <= opset]  # type: ignore[attr-defined]
    if plain:
        body = schema.get_function_with_opset_version(max(plain))  # type: ignore[attr-defined]
    elif by_context:
        types = [
            onnx.helper.make_tensor_type_proto(int(o.dtype), o.shape).SerializeToString() if o is not None else b""
            for o in inputs
        ]
        body = schema.get_context_dependent_function_with_opset_version(  # type: ignore[attr-defined]
            max(by_context), call.SerializeToString(), types
        )
    else:
        return None
    return onnx.FunctionProto.FromString(body)


def _means_the_same(function: onnx.FunctionProto, opsets: Mapping[str, int]) -> bool:
    """Whether every operator of the body is in the model's opset what it is in the function's."""
    own = {o.domain: o.version for o in function.opset_import}
    return all(_is_unchanged(n, own.get(n.domain, 1), opsets.get(n.domain, 1)) for n in function.node)


def _is_unchanged(node: onnx.NodeProto, old: int, new: int) -> bool:
    """Whether a node keeps its meaning: what it gives is still taken, what it leaves out has the same default."""
    before, after = (onnx.defs.get_schema(node.op_type, v, node.domain) for v in (old, new))
    if before.since_version == after.since_version:
        return True
    given = {a.name for a in node.attribute}
    left_out = before.attributes.keys() - given
    return (
        given <= after.attributes.keys()
        and len(node.input) <= after.max_input
        and all(k in after.attributes and _default(before, k) == _default(after, k) for k in left_out)
    )


def _default(schema: onnx.defs.OpSchema, name: str) -> bytes:
    return schema.attributes[name].default_value.SerializeToString()


def _as_graph(function: onnx.FunctionProto, call: onnx.NodeProto, schema: onnx.defs.OpSchema) -> onnx.GraphProto:
    """The function as a graph, attribute references replaced by the call's attributes or their defaults."""
    given = {a.name: a for a in call.attribute}
    given |= {k: a.default_value for k, a in schema.attributes.items() if k not in given and a.default_value.name}
    graph = onnx.GraphProto(name=function.name)
    unused = {n for n, i in zip(function.input, call.input, strict=False) if not i} | set(
        function.input[len(call.input) :]
    )
    graph.input.extend(onnx.ValueInfoProto(name=n) for n in function.input if n not in unused)
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in function.output)
    for inner in function.node:
        copy = graph.node.add()
        copy.CopyFrom(inner)
        del copy.attribute[:]
        copy.input[:] = ["" if n in unused else n for n in inner.input]
        for attribute in inner.attribute:
            if not attribute.ref_attr_name:
                copy.attribute.add().CopyFrom(attribute)
            elif attribute.ref_attr_name in given:
                made = copy.attribute.add()
                made.CopyFrom(given[attribute.ref_attr_name])
                made.name = attribute.name
    return graph
