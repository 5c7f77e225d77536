"""Follow the sizes through every node of a graph, in order."""

from collections.abc import Sequence

import onnx_ir as ir

from builder.batching.rule import given
from builder.batching.sizes import vectors
from builder.batching.sizes.constants import ELEMENTWISE, check_constants
from builder.batching.sizes.dims import Baked, Dims
from builder.batching.sizes.known import Sizes, broadcast
from builder.batching.sizes.rules import RULES
from builder.model import label, operator


def follow_sizes(sizes: Sizes, graph: ir.Graph) -> list[str]:
    """Find the dimensions of every value, and replace baked-in sizes.

    Returns:
        The nodes whose size cannot be replaced, each with the reason. Nodes that depend on one are skipped.
    """
    problems = []
    for node in list(graph):
        if not all(v is None or sizes.is_known(v) for v in node.inputs):
            continue
        if _is_constant(sizes, node):
            continue
        try:
            outputs = _outputs(sizes, node)
        except Baked as baked:
            problems.append(f"{label(node)}: {baked}")
            continue
        sizes.dims.update(zip(node.outputs, outputs, strict=False))
        vectors.follow(sizes, node)
    return problems


def _is_constant(sizes: Sizes, node: ir.Node) -> bool:
    """Return whether a node sees no named size and ONNX infers its outputs, which are then noted."""
    if not all(v is None or sizes.is_fixed(v) for v in node.inputs):
        return False
    found = sizes.infer(node)
    if found is None:
        return False
    sizes.dims.update(zip(node.outputs, found, strict=True))
    return True


def _outputs(sizes: Sizes, node: ir.Node) -> Sequence[Dims]:
    rule = RULES.get(operator(node))
    if rule is not None:
        first = given(node.inputs, 0)
        node.outputs[0].type = first.type if first is not None else None
        return [rule(sizes, node)]
    check_constants(sizes, node)
    domain, op_type = operator(node)
    if not domain and op_type in ELEMENTWISE:
        sizes.set_types(node)
        return [broadcast([sizes.of(v) for v in node.inputs if v is not None])]
    return sizes.required(node)
