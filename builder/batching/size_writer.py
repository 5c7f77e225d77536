"""Write sizes that are known at run time only: vectors for targets of Reshape, Expand and Resize."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.dims import Dim, Symbol
from builder.batching.emit import Emitter
from builder.tensors import Array


class SizeWriter:
    """Puts constants, and the few nodes that compute sizes, into a graph."""

    def __init__(self, graph: ir.Graph, emit: Emitter) -> None:
        self.graph = graph
        self.emit = emit
        self._runtime: dict[Symbol, ir.Value] = {}

    def constant(self, array: Array) -> ir.Value:
        """An initializer of the graph."""
        value = self.emit.constant(array)
        if value.graph is None:
            self.graph.register_initializer(value)
        return value

    def sizes(self, node: ir.Node, parts: Sequence[int | Dim]) -> ir.Value:
        """An `int64` vector of numbers and dimensions, computed in front of `node`."""
        if all(isinstance(p, int) for p in parts):
            return self.constant(np.asarray(parts, np.int64))
        inputs = [self.constant(np.asarray([p], np.int64)) if isinstance(p, int) else self._size(p) for p in parts]
        (joined,) = self._put_before(node, self.emit.node("Concat", inputs, {"axis": 0}))
        return joined

    def _size(self, dim: Dim) -> ir.Value:
        numbers = math.prod(f for f in dim if isinstance(f, int))
        values = [self._size_of(f) for f in dim if isinstance(f, Symbol)]
        if numbers != 1:
            values.append(self.constant(np.asarray([numbers], np.int64)))
        product = values[0]
        for value in values[1:]:
            (product,) = self._put_after(product, value, self.emit.node("Mul", [product, value]))
        return product

    def _size_of(self, symbol: Symbol) -> ir.Value:
        if symbol not in self._runtime:
            value, axis = symbol.source
            (shape,) = self._put_after(value, value, self.emit.node("Shape", [value]))
            index = self.constant(np.asarray([axis], np.int64))
            (self._runtime[symbol],) = self._put_after(
                shape, shape, self.emit.node("Gather", [shape, index], {"axis": 0})
            )
        return self._runtime[symbol]

    def _put_before(self, node: ir.Node, values: Sequence[ir.Value]) -> Sequence[ir.Value]:
        self.graph.insert_before(node, [v.producer() for v in values if v.producer() is not None])  # type: ignore[misc]
        return values

    def _put_after(self, first: ir.Value, second: ir.Value, values: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Put a node behind the later of its inputs."""
        producers = [p for p in (first.producer(), second.producer()) if p is not None]
        made = values[0].producer()
        assert made is not None
        if not producers:
            self.graph.insert_before(self.graph[0], made)
        else:
            self.graph.insert_after(max(producers, key=list(self.graph).index), made)
        return values
