"""Operators that ONNX defines as functions of others: the batch is carried through the nodes of the definition."""

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from builder.batching.rule import Decomposition, Operand
from builder.model import own_domain, why_not


def function_body(node: ir.Node, inputs: Sequence[Operand | None], opsets: Mapping[str, int]) -> Decomposition | None:
    """Return the nodes that ONNX defines an operator by.

    Args:
        node: A node of that operator.
        inputs: Its operands; some definitions depend on their types.
        opsets: The model's operator sets.

    Returns:
        None if there is no definition, or none that is valid in the model's opset.
    """
    domain = own_domain(node.domain)
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return None
    call = ir.serde.serialize_node(node)
    function = _definition(schema, call, inputs, opsets.get("", 1))
    if function is None:
        return None
    graph = ir.serde.deserialize_graph(_graph(function, call, schema))
    if not _holds(graph, {o.domain: o.version for o in function.opset_import}, opsets):
        return None
    operands = dict(zip(function.input, inputs, strict=False))
    given = {value: found for value in graph.inputs if (found := operands[str(value.name)]) is not None}
    nodes = list(graph)
    graph.remove(nodes)
    results = graph.outputs[: len(node.outputs)]
    # An output without a name is not computed, so any value will do.
    named = [made if output.name else results[0] for output, made in zip(node.outputs, results, strict=True)]
    return Decomposition(nodes, named, given)


def _definition(
    schema: onnx.defs.OpSchema, call: onnx.NodeProto, inputs: Sequence[Operand | None], opset: int
) -> onnx.FunctionProto | None:
    """Return the newest definition that `opset` knows."""
    plain = [v for v in schema.function_opset_versions if v <= opset]  # type: ignore[attr-defined]
    by_context = [v for v in schema.context_dependent_function_opset_versions if v <= opset]  # type: ignore[attr-defined]
    if plain:
        body = schema.get_function_with_opset_version(max(plain))  # type: ignore[attr-defined]
    elif by_context:
        body = schema.get_context_dependent_function_with_opset_version(  # type: ignore[attr-defined]
            max(by_context), call.SerializeToString(), [_type_of(o) for o in inputs]
        )
    else:
        return None
    return onnx.FunctionProto.FromString(body)


def _type_of(operand: Operand | None) -> bytes:
    if operand is None:
        return b""
    return onnx.helper.make_tensor_type_proto(int(operand.dtype), operand.shape).SerializeToString()


def _holds(graph: ir.Graph, own: Mapping[str, int], opsets: Mapping[str, int]) -> bool:
    """Return whether every node of a definition means the same in the model's opset as in the definition's own."""
    return all(why_not(n, own.get(n.domain, 1), opsets.get(own_domain(n.domain), 1)) is None for n in graph)


def _graph(function: onnx.FunctionProto, call: onnx.NodeProto, schema: onnx.defs.OpSchema) -> onnx.GraphProto:
    """Return the definition as a graph for this call: with its attributes, and without the inputs it leaves out."""
    present = {name for name, given in zip(function.input, call.input, strict=False) if given}
    missing = set(function.input) - present
    graph = onnx.GraphProto(name=function.name)
    graph.input.extend(onnx.ValueInfoProto(name=n) for n in function.input if n in present)
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in function.output)
    attributes = _attributes(call, schema)
    for node in function.node:
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = ["" if n in missing else n for n in node.input]
        _fill_in(copy, attributes)
    return graph


def _attributes(call: onnx.NodeProto, schema: onnx.defs.OpSchema) -> Mapping[str, onnx.AttributeProto]:
    """Return the attributes of a call, with the operator's defaults for those it leaves out."""
    defaults = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    return {**defaults, **{a.name: a for a in call.attribute}}


def _fill_in(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> None:
    """Replace references to attributes of the function by their values; one without a value is left out."""
    written = list(node.attribute)
    del node.attribute[:]
    for attribute in written:
        if not attribute.ref_attr_name:
            node.attribute.add().CopyFrom(attribute)
        elif attribute.ref_attr_name in attributes:
            value = node.attribute.add()
            value.CopyFrom(attributes[attribute.ref_attr_name])
            value.name = attribute.name
