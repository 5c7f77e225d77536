"""Shapes that the graph computes at run time, with Shape, Gather and Concat.

The elements of such a vector are dimensions. With x of `[N, 3, h, w]`, `Shape(x)` is the vector `(N, 3, h, w)`,
`Gather(Shape(x), [2, 3])` is `(h, w)`, and a Concat of that with a constant `[-1, 3]` in front is `(-1, 3, h, w)`.
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from builder.batching.rule import required
from builder.batching.sizes.dims import Dims
from builder.batching.sizes.known import Sizes, constant_input


def follow(sizes: Sizes, node: ir.Node) -> None:
    """Note the elements of a node's output, if the node computes a shape."""
    find = FOLLOWED.get(node.op_type)
    found = None if find is None else find(sizes, node)
    if found is not None:
        sizes.vectors[node.outputs[0]] = found


def _shape(sizes: Sizes, node: ir.Node) -> Dims | None:
    return sizes.of(required(node.inputs, 0))


def _gathered(sizes: Sizes, node: ir.Node) -> Dims | None:
    elements, indices = sizes.vector(node.inputs[0]), constant_input(node, 1)
    if elements is None or indices is None:
        return None
    return tuple(elements[int(i)] for i in indices.reshape(-1))


def _joined(sizes: Sizes, node: ir.Node) -> Dims | None:
    parts = [sizes.vector(v) for v in node.inputs]
    known = [p for p in parts if p is not None]
    return tuple(d for part in known for d in part) if len(known) == len(parts) else None


def _same(sizes: Sizes, node: ir.Node) -> Dims | None:
    """A single number stays one, whatever its shape."""
    elements = sizes.vector(node.inputs[0])
    return elements if elements is not None and len(elements) <= 1 else None


FOLLOWED: Mapping[str, Callable[[Sizes, ir.Node], Dims | None]] = {
    "Cast": _same,
    "Concat": _joined,
    "Gather": _gathered,
    "Identity": _same,
    "Reshape": _same,
    "Shape": _shape,
}
