"""What is known about the sizes in a graph while it is walked."""

from collections.abc import Sequence

import onnx_ir as ir

from builder.batching.batched import Rewrite
from builder.batching.emit import Emitter, static_dims, stored
from builder.batching.rule import given
from builder.batching.sizes.dims import Baked, Dim, Dims, fixed, is_fixed, static_size, text
from builder.batching.sizes.inference import UNKNOWN, Inference
from builder.batching.sizes.writer import SizeWriter
from builder.model import value_names
from builder.tensors import Array

LONGEST_VECTOR = 64
"""A constant vector of up to this many elements may be a shape."""


class Sizes:
    """The dimensions of every value seen so far.

    Attributes:
        dims: By value; constants are not in it.
        vectors: The elements of small integer tensors that are computed from shapes.
        write: Writes new constants and sizes into the graph.
        rewrites: The baked-in sizes that were replaced.
    """

    def __init__(self, model: ir.Model) -> None:
        emit = Emitter(model.opset_imports.get("", 1))
        emit.reserve(value_names(model))
        self.write = SizeWriter(model, emit)
        self.dims: dict[ir.Value, Dims] = {}
        self.vectors: dict[ir.Value, Dims] = {}
        self.rewrites: list[Rewrite] = []
        self._inference = Inference(model.opset_imports)

    def of(self, value: ir.Value) -> Dims:
        """Return the dimensions of a value."""
        if value in self.dims:
            return self.dims[value]
        return tuple(fixed(d) for d in static_dims(stored(value)))

    def is_known(self, value: ir.Value) -> bool:
        """Return whether the walk has reached a value; it has not if the node that computes it was refused."""
        return value in self.dims or is_constant(value)

    def is_fixed(self, value: ir.Value) -> bool:
        """Return whether a value has no named size, neither in its shape nor among its elements."""
        return is_constant(value) or (value not in self.vectors and all(map(is_fixed, self.dims[value])))

    def vector(self, value: ir.Value | None) -> Dims | None:
        """Return the elements of a small integer tensor, such as a target shape, where they are known."""
        if value is None:
            return None
        if value in self.vectors:
            return self.vectors[value]
        tensor = value.const_value
        if tensor is None or tensor.size > LONGEST_VECTOR or tensor.dtype != ir.DataType.INT64:
            return None
        return tuple((int(n),) for n in tensor.numpy().reshape(-1))

    def infer(self, node: ir.Node) -> list[Dims] | None:
        """Return the dimensions of a node's outputs by ONNX's inference; None if it does not find them all.

        Raises:
            Baked: Not even the static size of some dimension can be inferred.
        """
        found = self._inference.infer(node, self._inputs(node))
        known = [dims for dims in found if dims is not None]
        return known if len(known) == len(found) else None

    def required(self, node: ir.Node) -> list[Dims]:
        """Return the dimensions of a node's outputs by ONNX's inference.

        Raises:
            Baked: It does not find them.
        """
        found = self.infer(node)
        if found is None:
            raise Baked(UNKNOWN)
        return found

    def set_types(self, node: ir.Node) -> None:
        """Give the outputs of a node their types."""
        self._inference.infer_static(node, self._inputs(node))

    def _inputs(self, node: ir.Node) -> list[Dims | None]:
        return [None if v is None else self.of(v) for v in node.inputs]

    def note(self, node: ir.Node, what: str) -> None:
        """Add a replaced constant to the report."""
        self.rewrites.append(Rewrite(node.name or "", node.op_type, what))


def is_constant(value: ir.Value) -> bool:
    """Return whether a value is stored in the graph."""
    return value.const_value is not None


def constant_input(node: ir.Node, index: int) -> Array | None:
    """Return the value of an input that is stored in the graph; None where it is computed or left out."""
    value = given(node.inputs, index)
    return None if value is None or value.const_value is None else value.const_value.numpy()


def broadcast(shapes: Sequence[Dims]) -> Dims:
    """Return the dimensions of several shapes, broadcast; two named sizes with the same value count as one.

    Raises:
        Baked: One shape has a fixed size other than 1 where another has a named size.
    """
    rank = max(map(len, shapes))
    result: list[Dim] = []
    for axis in range(rank):
        column = along(shapes, axis, rank)
        wide = [d for d in column if static_size(d) != 1 or not is_fixed(d)]
        named = [d for d in wide if not is_fixed(d)]
        if named and any(is_fixed(d) for d in wide):
            raise Baked(f"it combines a fixed size of {static_size(named[0])} with {text(named[0])}")
        result.append((named or wide or [()])[0])
    return tuple(result)


def along(shapes: Sequence[Dims], axis: int, rank: int) -> list[Dim]:
    """Return the dimensions on an axis of the result, when shapes are broadcast to `rank` axes, aligned at the last."""
    return [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
