"""Change the values that flow between the nodes of a graph: insert casts, and replace constants."""

from collections.abc import Sequence

import onnx_ir as ir

from builder.model import free_name, node_names, value_names
from builder.tensors import Array


class Edges:
    """Changes values between the nodes of one graph. A cast is placed right behind the node that makes its input."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._names = value_names(model)
        self._node_names = node_names(model)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return `value` in another type."""
        name = free_name(free_name(f"{value.name}_cast", self._names), self._node_names)
        node = ir.node("Cast", [value], {"to": dtype.value}, name=name)
        made = node.outputs[0]
        made.name, made.type, made.shape = self._named(value, dtype), ir.TensorType(dtype), value.shape
        producer = value.producer()
        if producer is not None and producer.graph is self._graph:
            self._graph.insert_after(producer, node)
        else:
            self._graph.insert_before(self._graph[0], node)
        return made

    def constant(self, value: ir.Value, array: Array) -> ir.Value:
        """Return a new constant of the shape of `value`, named after it."""
        tensor = ir.tensor(array, name=self._named(value, ir.DataType.from_numpy(array.dtype)))
        made = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=value.shape, const_value=tensor)
        self._graph.register_initializer(made)
        return made

    def replace(self, value: ir.Value, by: ir.Value, uses: Sequence[tuple[ir.Node, int]]) -> None:
        """Replace `value` in these uses, and as an output of the graph if it is one; the output keeps its name."""
        for node, position in uses:
            node.replace_input_with(position, by)
        for position, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[position] = by
                value.name, by.name = by.name, value.name

    def _named(self, value: ir.Value, dtype: ir.DataType) -> str:
        return free_name(f"{value.name}_{dtype.name.lower()}", self._names)
