"""Check how large a model is: its inputs and outputs, and its nodes with every call of a function written out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx

from builder.errors import ModelError
from builder.model.soundness import Operator, function_key, nodes_of, operator_key

MAX_NODES = 200_000
"""About ten times the largest exports. Without a limit, a small file of functions that call functions could ask for any
number of nodes."""

MOST_TENSORS = 4096
"""The most inputs, and the most outputs; models with a cache for each layer have a few hundred."""

MOST = 2**63
"""Counts stop here."""

_ITSELF = ""

Size = Counter[str]
"""How many nodes a body has by itself (under `""`), and how often each graph that its caller gives, by attribute.

Example: a function with three nodes, one of them an If whose branches are both the function's attribute `body`, has the
size `{"": 3, "body": 2}`. A call of it with a body of ten nodes stands for 23.
"""


def check_size(path: Path, proto: onnx.ModelProto) -> None:
    """Check that the model is not larger than `MAX_NODES`; this takes time proportional to the file.

    Raises:
        ModelError: It is larger, or a function calls itself.
    """
    sizes: dict[Operator, Size] = {}
    functions = {function_key(f): f for f in proto.functions}
    calls = {key: set(map(operator_key, _nodes_in(f))) for key, f in functions.items()}
    try:
        for key in TopologicalSorter(calls).static_order():
            if key in functions:
                sizes[key] = _of_function(functions[key], sizes)
    except CycleError as error:
        what = f"function {error.args[1][0][1]!r} calls itself"
        raise ModelError(path, what, "export the model without recursive functions") from error
    count = _of_nodes(proto.graph.node, sizes)[_ITSELF]
    if count > MAX_NODES:
        what = f"it has {count:,} nodes, counting a function's at every call; the limit is {MAX_NODES:,}"
        raise ModelError(path, what, "export loops as Loop or Scan instead of unrolling them")


def check_interface(path: Path, inputs: int, outputs: int) -> None:
    """Check that a graph has no more inputs and outputs than `MOST_TENSORS`.

    Raises:
        ModelError: It has more.
    """
    for kind, count in (("inputs", inputs), ("outputs", outputs)):
        if count > MOST_TENSORS:
            what = f"it has {count:,} {kind}; the limit is {MOST_TENSORS:,}"
            raise ModelError(path, what, f"export it with fewer {kind}, several joined into one")


def _nodes_in(function: onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    yield from nodes_of(function.node)
    for default in function.attribute_proto:
        yield from nodes_of(default.g.node)


def _of_function(function: onnx.FunctionProto, sizes: Mapping[Operator, Size]) -> Size:
    """Return the size of a function; a graph that it has by default counts like one that is given."""
    size = _of_nodes(function.node, sizes)
    for default in function.attribute_proto:
        if default.type == onnx.AttributeProto.GRAPH and default.name in size:
            size[_ITSELF] += size[default.name] * _of_nodes(default.g.node, sizes)[_ITSELF]
    return size


def _of_nodes(nodes: Iterable[onnx.NodeProto], sizes: Mapping[Operator, Size]) -> Size:
    total = Size()
    for node in nodes:
        graphs = {a.name: _of_attribute(a, sizes) for a in node.attribute if a.ref_attr_name or _has_graphs(a)}
        called = sizes.get(operator_key(node))
        total[_ITSELF] += 1 if called is None else called[_ITSELF]
        for name, graph in graphs.items():
            times = 1 if called is None else called[name]
            for part, count in graph.items():
                total[part] = min(MOST, total[part] + times * count)
    total[_ITSELF] = min(MOST, total[_ITSELF])
    return total


def _has_graphs(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("g") or bool(attribute.graphs)


def _of_attribute(attribute: onnx.AttributeProto, sizes: Mapping[Operator, Size]) -> Size:
    if attribute.ref_attr_name:
        return Size({attribute.ref_attr_name: 1})
    total = Size()
    for graph in (attribute.g, *attribute.graphs):
        total.update(_of_nodes(graph.node, sizes))
    return total
