"""Sort the nodes of a file so that each comes after those it reads from, as ONNX Runtime does."""

import heapq
from collections.abc import Sequence
from pathlib import Path

import onnx

from builder.errors import ModelError
from builder.model.soundness import graphs_of


def sort_nodes(path: Path, graph: onnx.GraphProto) -> None:
    """Sort the nodes of a file's graph in place, so that each comes after those whose outputs it reads.

    Nodes that are sorted already keep their places. Otherwise, the node that comes next is the first one in the file
    that can. Subgraphs and functions stay as they are: ONNX Runtime refuses them if they are not sorted (seen with
    1.31.1).

    Raises:
        ModelError: Nodes read each other's outputs, directly or through others.
    """
    nodes = graph.node
    needs = _needs(nodes)
    if all(needed < index for index, found in enumerate(needs) for needed in found):
        return
    order = _order(needs)
    if len(order) < len(nodes):
        node = nodes[_in_cycle(needs, set(range(len(nodes))).difference(order))]
        what = f"{node.op_type} {node.name or node.output[0]!r} needs its own output: the nodes form a cycle"
        raise ModelError(path, what, "export the model again")
    sorted_nodes = [onnx.NodeProto.FromString(nodes[index].SerializeToString()) for index in order]
    del nodes[:]
    nodes.extend(sorted_nodes)


def _needs(nodes: Sequence[onnx.NodeProto]) -> list[set[int]]:
    """Return for each node which others it reads from, including those that only its subgraphs read."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    return [{makers[name] for name in _reads(node) if name in makers} for node in nodes]


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return what a node reads; of what its subgraphs read, only what comes from outside them."""
    names = set(node.input)
    for graph in graphs_of(node):
        made = {value.name for value in graph.input}.union(*(inner.output for inner in graph.node))
        names |= set[str]().union(*map(_reads, graph.node)) - made
    return names


def _order(needs: Sequence[set[int]]) -> list[int]:
    """Return the indices in order, without nodes in a cycle and those that need them."""
    readers: list[list[int]] = [[] for _ in needs]
    waiting = [len(found) for found in needs]
    for index, found in enumerate(needs):
        for needed in found:
            readers[needed].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def _in_cycle(needs: Sequence[set[int]], stuck: set[int]) -> int:
    """Return a node of a cycle. Each stuck node needs another one, so going back far enough leads into a cycle."""
    index = min(stuck)
    for _ in stuck:
        index = min(needs[index] & stuck)
    return index
