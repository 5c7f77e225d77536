"""Write sizes that are known only at run time: vectors for the targets of Reshape, Expand and Resize."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter
from builder.batching.sizes.dims import Dim, Symbol
from builder.model import free_name, node_names
from builder.tensors import Array


class SizeWriter:
    """Puts constants, and the few nodes that compute sizes, into a graph."""

    def __init__(self, model: ir.Model, emit: Emitter) -> None:
        self.graph = model.graph
        self.emit = emit
        self._node_names = node_names(model)
        self._runtime: dict[Symbol, ir.Value] = {}

    def constant(self, array: Array) -> ir.Value:
        """Return an initializer of the graph."""
        value = self.emit.constant(array)
        if value.graph is None:
            self.graph.register_initializer(value)
        return value

    def vector(self, node: ir.Node, parts: Sequence[int | Dim]) -> ir.Value:
        """Return numbers and dimensions as an `int64` vector, computed before `node` if it is not a constant."""
        if all(isinstance(p, int) for p in parts):
            return self.constant(np.asarray(parts, np.int64))
        inputs = [self.constant(np.asarray([p], np.int64)) if isinstance(p, int) else self._size(p) for p in parts]
        (joined,) = self.emit.node("Concat", inputs, {"axis": 0})
        made = self.emit.nodes[-1]
        self.graph.insert_before(node, made)
        self._keep_apart(made)
        return joined

    def _size(self, dim: Dim) -> ir.Value:
        number = math.prod(f for f in dim if isinstance(f, int))
        values = [self._size_of(f) for f in dim if isinstance(f, Symbol)]
        if number != 1:
            values.append(self.constant(np.asarray([number], np.int64)))
        product = values[0]
        for value in values[1:]:
            product = self._node("Mul", [product, value])
        return product

    def _size_of(self, symbol: Symbol) -> ir.Value:
        if symbol not in self._runtime:
            value, axis = symbol.source
            shape = self._node("Shape", [value])
            index = self.constant(np.asarray([axis], np.int64))
            self._runtime[symbol] = self._node("Gather", [shape, index], {"axis": 0})
        return self._runtime[symbol]

    def _node(self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int] | None = None) -> ir.Value:
        """Put a node behind the last of its inputs."""
        (value,) = self.emit.node(op_type, inputs, attributes)
        made = self.emit.nodes[-1]
        producers = [p for p in (v.producer() for v in inputs) if p is not None]
        if producers:
            self.graph.insert_after(max(producers, key=list(self.graph).index), made)
        else:
            self.graph.insert_before(self.graph[0], made)
        self._keep_apart(made)
        return value

    def _keep_apart(self, made: ir.Node) -> None:
        """Rename a node whose name, which is free in this graph, is taken in a graph inside a node or in a function."""
        made.name = free_name(str(made.name), self._node_names)
