"""Change what flows along the edges of a graph: casts, and other constants."""

from collections.abc import Sequence
from itertools import chain, count

import onnx_ir as ir

from builder.tensors import Array


class Edges:
    """Changes what flows along the edges of a graph; casts stand right behind what makes their value."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._names = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
        self._names |= {str(value.name) for node in graph.all_nodes() for value in node.outputs}

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in another type."""
        node = ir.node("Cast", [value], {"to": dtype.value}, name=self._unlike(f"{value.name}_cast"))
        made = node.outputs[0]
        made.name, made.type, made.shape = self._named(value, dtype), ir.TensorType(dtype), value.shape
        producer = value.producer()
        if producer is not None and producer.graph is self._graph:
            self._graph.insert_after(producer, node)
        else:
            self._graph.insert_before(self._graph[0], node)
        return made

    def constant(self, value: ir.Value, array: Array) -> ir.Value:
        """Another constant in place of `value`."""
        tensor = ir.tensor(array, name=self._named(value, ir.DataType.from_numpy(array.dtype)))
        made = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=value.shape, const_value=tensor)
        self._graph.register_initializer(made)
        return made

    def replace(self, value: ir.Value, by: ir.Value, uses: Sequence[tuple[ir.Node, int]]) -> None:
        """Let these uses of `value`, and the graph's output if it is one, be of another value."""
        for node, position in uses:
            node.replace_input_with(position, by)
        for position, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[position] = by
                value.name, by.name = by.name, value.name

    def _named(self, value: ir.Value, dtype: ir.DataType) -> str:
        return self._unlike(f"{value.name}_{dtype.name.lower()}")

    def _unlike(self, wanted: str) -> str:
        numbered = (f"{wanted}_{i}" for i in count(1))
        name = next(name for name in chain([wanted], numbered) if name not in self._names)
        self._names.add(name)
        return name
