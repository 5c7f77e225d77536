"""Names for what is put into a graph: free in the whole model, also in the graphs inside its nodes and its functions.

onnx-ir names a node without a name when it is put into a graph: `node_Transpose_0`, unless a node before it has that
name. A node after it may have it too, because `torch.export` names its nodes in the same way, and ONNX Runtime does not
load a graph with two nodes of one name. So nodes are named here first: in the same way, where that name is free.
"""

from collections.abc import Iterable, Iterator

import onnx_ir as ir


def node_names(model: ir.Model) -> set[str]:
    """Return the names of all nodes of a model."""
    return {node.name for graph in _graphs(model) for node in graph if node.name}


def value_names(model: ir.Model) -> set[str]:
    """Return the names of all values of a model: inputs, initializers, and what nodes compute."""
    return {value.name for graph in _graphs(model) for value in values_of(graph) if value.name}


def inner_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of the graphs inside a graph's nodes."""
    for inner in graph.subgraphs():
        yield from values_of(inner)


def values_of(graph: ir.Graph | ir.Function) -> Iterator[ir.Value]:
    """Yield the values of one graph, without those of the graphs inside its nodes; an input may come twice."""
    yield from graph.inputs
    if isinstance(graph, ir.Graph):
        yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def free_name(wanted: str, taken: set[str], spelling: str = "{}_{}") -> str:
    """Return a name that is not taken, and note that it is now: the one that is wanted, or the same with a number.

    Args:
        wanted: The name.
        taken: The names that are taken; the one that is returned is added.
        spelling: How to add the number, which starts at 1.
    """
    found, number = wanted, 0
    while found in taken:
        number += 1
        found = spelling.format(wanted, number)
    taken.add(found)
    return found


def name_nodes(nodes: Iterable[ir.Node], taken: set[str]) -> None:
    """Give nodes without a name the ones that onnx-ir would give them in a graph, without those that are taken.

    Args:
        nodes: The nodes, in the order in which they are put into the graph.
        taken: The names that are taken; the new ones are added.
    """
    number = 0
    for node in nodes:
        if node.name is None:
            while (name := f"node_{node.op_type}_{number}") in taken:
                number += 1
            number += 1
            node.name = name
            taken.add(name)


def keep_inner_apart(graph: ir.Graph) -> None:
    """Rename values of the graphs inside nodes that have the name of a value around them, which ONNX does not allow."""
    inner = list(dict.fromkeys(inner_values(graph)))
    if not inner:
        return
    outer = {value.name for value in values_of(graph) if value.name}
    taken = outer | {value.name for value in inner if value.name}
    for value in inner:
        if value.name in outer:
            value.name = free_name(value.name, taken)


def _graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    yield from model.graphs()
    yield from model.functions.values()
    for function in model.functions.values():
        yield from function.subgraphs()
