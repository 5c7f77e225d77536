"""Replace calls of functions by the functions' nodes, in time proportional to the number of nodes.

For every copy, the pass of onnx-ir tries the names `name`, `name_2`, `name_3` … from the start, which takes time that
grows with the square of the copies.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

Values = dict[ir.Value, ir.Value | None]
"""The value in the graph for each value of a function's body; None for an input that the call leaves out."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """What the values and attributes of a body stand for.

    Attributes:
        values: The values seen so far. Any other value stands for itself: it is in the graph around all calls.
        attributes: The function's attributes, each with the scope in which it was given.
        metadata: The metadata of the calls that led here.
    """

    values: Values
    attributes: Mapping[str, "tuple[ir.Attr, _Scope]"]
    metadata: Mapping[str, str]

    def get(self, value: ir.Value | None) -> ir.Value | None:
        """Return what stands for a value."""
        return None if value is None else self.values.get(value, value)


@dataclass(frozen=True, slots=True)
class _Body:
    """Nodes that are being copied: a function's, or those of a graph inside a node.

    Attributes:
        rest: The nodes that are not copied yet.
        scope: What their values and attributes stand for.
        call: The node that calls the function, and the scope it is in; None for a graph inside a node.
    """

    rest: Iterator[ir.Node]
    scope: _Scope
    call: tuple[ir.Node, _Scope] | None = None


class _Names:
    """Unused names: `name` itself, or else the first of `name_2`, `name_3` … that is unused."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._last: Counter[str] = Counter()

    def reserve(self, name: str | None) -> None:
        """Note that a name is used."""
        if name:
            self._taken.add(name)

    def fresh(self, name: str | None) -> str | None:
        """Return an unused name like this one, and note that it is used; a value without a name gets none."""
        if not name:
            return name
        found = name
        while found in self._taken:
            self._last[name] += 1
            found = f"{name}_{self._last[name] + 1}"
        self._taken.add(found)
        return found

    def numbered(self, stem: str) -> str:
        """Return the first unused name of `stem_0`, `stem_1` …, and note that it is used."""
        while (found := f"{stem}_{self._last[stem]}") in self._taken:
            self._last[stem] += 1
        self._taken.add(found)
        return found


def inline(model: ir.Model) -> None:
    """Replace every call of a function by copies of the function's nodes; the model has no functions afterwards.

    An attribute that refers to one of the function's gets the call's value or else the function's default, and is left
    out if there is neither. An input that the call leaves out is left out in the body too.
    """
    _Inliner(model).run()


class _Inliner:
    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._functions = model.functions
        self._values, self._nodes = _Names(), _Names()

    def run(self) -> None:
        graphs = [self._model.graph, *self._model.graph.subgraphs()]
        for graph in graphs:
            for value in (*graph.inputs, *graph.initializers.values()):
                self._values.reserve(value.name)
            for node in graph:
                self._nodes.reserve(node.name)
                for value in node.outputs:
                    self._values.reserve(value.name)
        for graph in graphs:
            for node in [n for n in graph if n.op_identifier() in self._functions]:
                self._replace(graph, node)
        self._functions.clear()

    def _replace(self, graph: ir.Graph, call: ir.Node) -> None:
        """Replace one call in a graph by copies of all the nodes it stands for."""
        scope = _Scope({}, {}, {})
        nodes = self._copies(self._entered(call, scope))
        graph.insert_before(call, nodes)
        for old in call.outputs:
            new = scope.get(old)
            if new is not None and new is not old:
                new.name, new.type, new.shape = old.name or new.name, old.type or new.type, old.shape or new.shape
                old.replace_all_uses_with(new, replace_graph_outputs=True)
        for node, index in [use for old in call.outputs for use in old.uses()]:
            node.replace_input_with(index, None)
        graph.remove(call, safe=True)

    def _entered(self, call: ir.Node, scope: _Scope) -> _Body:
        """Return the body of the function that a node calls, with its parameters bound."""
        function = self._functions[call.op_identifier()]
        given = [scope.get(v) for v in call.inputs]
        values: Values = {v: given[k] if k < len(given) else None for k, v in enumerate(function.inputs)}
        attributes = {name: (a, scope) for name, a in function.attributes.items() if a.value is not None}
        for name, attribute in call.attributes.items():
            if (bound := self._bound(attribute, scope)) is not None:
                attributes[name] = bound
        inner = _Scope(values, attributes, {**scope.metadata, **call.metadata_props})
        return _Body(iter(function), inner, (call, scope))

    def _bound(self, attribute: ir.Attr, scope: _Scope) -> tuple[ir.Attr, _Scope] | None:
        """Return what an attribute stands for, and the scope of the graphs in it; None if it was not given."""
        return scope.attributes.get(attribute.ref_attr_name or "") if attribute.is_ref() else (attribute, scope)

    def _copies(self, body: _Body) -> list[ir.Node]:
        """Return copies of all nodes of a body, and of the functions it calls.

        This uses a stack, because calls can be nested deeper than Python can recurse.
        """
        nodes: list[ir.Node] = []
        stack = [body]
        while stack:
            node = next(stack[-1].rest, None)
            if node is None:
                self._leave(stack.pop(), nodes)
            elif node.op_identifier() in self._functions:
                stack.append(self._entered(node, stack[-1].scope))
            else:
                nodes.append(self._copied(node, stack[-1].scope))
        return nodes

    def _leave(self, body: _Body, nodes: list[ir.Node]) -> None:
        """Bind the outputs of a call to what its function's outputs stand for.

        An output that is one of the function's inputs, or listed twice, is copied by an Identity, because one value
        cannot have two names.
        """
        if body.call is None:
            return
        call, scope = body.call
        function = self._functions[call.op_identifier()]
        taken = set(function.inputs)
        for outer, inner in zip(call.outputs, function.outputs, strict=False):
            value = body.scope.get(inner)
            if value is not None and inner in taken and outer.name:
                node = ir.Node("", "Identity", [value], name=self._nodes.numbered("node_Identity"))
                nodes.append(node)
                (value,) = node.outputs
            if value is not None and outer.name:
                value.name = self._values.fresh(outer.name)
            taken.add(inner)
            scope.values[outer] = value

    def _copied(self, node: ir.Node, scope: _Scope) -> ir.Node:
        attributes = []
        for name, attribute in node.attributes.items():
            bound = self._bound(attribute, scope)
            if bound is not None:
                attributes.append(self._attribute(name, *bound))
        copy = ir.Node(
            node.domain,
            node.op_type,
            [scope.get(v) for v in node.inputs],
            attributes,
            overload=node.overload,
            outputs=[self._value(v, scope) for v in node.outputs],
            version=node.version,
            name=self._nodes.fresh(node.name),
            doc_string=node.doc_string,
            metadata_props={**scope.metadata, **node.metadata_props},
        )
        copy.meta.update(node.meta)
        return copy

    def _attribute(self, name: str, attribute: ir.Attr, scope: _Scope) -> ir.Attr:
        """Return an attribute under this name; graphs in it are copied in the scope where it was given."""
        value = attribute.value
        if attribute.type == ir.AttributeType.GRAPH:
            value = self._graph(attribute.as_graph(), scope)
        elif attribute.type == ir.AttributeType.GRAPHS:
            value = [self._graph(graph, scope) for graph in attribute.as_graphs()]
        return ir.Attr(name, attribute.type, value, doc_string=attribute.doc_string)

    def _graph(self, graph: ir.Graph, scope: _Scope) -> ir.Graph:
        """Return a copy of a graph inside a node."""
        inputs = [self._value(v, scope) for v in graph.inputs]
        listed = set(graph.inputs)
        weights = [scope.values[v] if v in listed else self._value(v, scope) for v in graph.initializers.values()]
        nodes = self._copies(_Body(iter(graph), scope))
        return ir.Graph(
            inputs,
            [v for v in map(scope.get, graph.outputs) if v is not None],
            nodes=nodes,
            initializers=[v for v in weights if v is not None],
            doc_string=graph.doc_string,
            opset_imports=dict(graph.opset_imports),
            name=graph.name,
            metadata_props=dict(graph.metadata_props),
        )

    def _value(self, value: ir.Value, scope: _Scope) -> ir.Value:
        """Return a copy of a value that is not computed yet."""
        copy = ir.Value(
            name=self._values.fresh(value.name),
            type=value.type,
            shape=value.shape.copy() if value.shape is not None else None,
            doc_string=value.doc_string,
            const_value=value.const_value,
            metadata_props=dict(value.metadata_props),
        )
        copy.meta.update(value.meta)
        scope.values[value] = copy
        return copy
