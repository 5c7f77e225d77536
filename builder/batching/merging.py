"""Merge walks at different sizes into one graph that works at every size.

A model with `ids [1, seq]` is walked with `seq` pinned to a number, and so the rewritten graph has that number in it,
in the targets of reshapes for instance. Walked again with another number, it has the same nodes and other constants:

    seq = 64     Reshape(y, [0, 64, 2, 3])        Slice(mask, ends = [64])
    seq = 96     Reshape(y, [0, 96, 2, 3])        Slice(mask, ends = [96])
    seq = 160    Reshape(y, [0, 160, 2, 3])       Slice(mask, ends = [160])

What is equal in all of them is a constant of the model. What differs is a size, and is read at run time: from what the
original computes for that node, or from the shape of a value before it. A constant that differs in any other way
holds values for one size only, and is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from builder.batching.attempt import Attempt
from builder.batching.layout import COPY, REST, Shape
from builder.batching.rule import Refusal
from builder.batching.shapes import shapes_of
from builder.batching.walk import Refused
from builder.model import Dim, TensorSpec
from builder.tensors import Array

Column = tuple[int, ...]
"""A size, as it is in each of the walks: `(64, 96, 160)`."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a size is read at run time.

    Attributes:
        value: A value of the merged graph.
        index: The axis of the value that has this size, or the element of the value that is this size.
        is_axis: Whether `index` is an axis.
    """

    value: ir.Value
    index: int
    is_axis: bool


class Sources:
    """The sizes that can be read at one place of the graph.

    Attributes:
        found: Where each size is read.
    """

    def __init__(self) -> None:
        self.found: dict[Column, Source] = {}

    def add(self, column: Column, source: Source) -> None:
        """Add a size that differs from walk to walk, unless it has a source already."""
        if len(set(column)) > 1:
            self.found.setdefault(column, source)

    def add_all(self, others: "Sources") -> None:
        """Add all sizes that have no source here."""
        for column, source in others.found.items():
            self.add(column, source)

    def find(self, column: Column) -> "Formula | None":
        """Return how to compute a size; None if it follows from none of the sizes here."""
        if column in self.found:
            return Formula((self.found[column],))
        return next(self._products(column), None) or next(self._quotients(column), None)

    def _products(self, column: Column) -> Iterator["Formula"]:
        """Yield the ways to write a size as a product of two sizes, or of a size and a constant."""
        for known, source in self.found.items():
            if all(part and not size % part for size, part in zip(column, known, strict=True)):
                rest = tuple(size // part for size, part in zip(column, known, strict=True))
                if rest in self.found:
                    yield Formula((source, self.found[rest]))
                if len(set(rest)) == 1:
                    yield Formula((source,), times=rest[0])

    def _quotients(self, column: Column) -> Iterator["Formula"]:
        """Yield the ways to write a size as another size, divided by a constant without a remainder.

        Nothing is rounded: half of a length, rounded down, would be right for the even lengths that were walked, and
        wrong for a model that rounds up.
        """
        for known, source in self.found.items():
            factor, rest = divmod(known[0], column[0]) if column[0] else (0, 1)
            if not rest and factor > 1 and tuple(size * factor for size in column) == known:
                yield Formula((source,), over=factor)


@dataclass(frozen=True, slots=True)
class Formula:
    """`product of sources * times // over`."""

    sources: tuple[Source, ...]
    times: int = 1
    over: int = 1


def merge(attempts: Sequence[Attempt]) -> list[Refused]:
    """Make the first attempt's graph work at every size; it is changed in place.

    Args:
        attempts: Walks of one model with the same batch and different sizes, none with a problem.

    Returns:
        The nodes that work at one size only; empty if there are none.
    """
    return _Merging(attempts).run()


class _Merging:
    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self._attempts = attempts
        self._emits = [a.walk.writer.emit for a in attempts]
        self._shapes = [shapes_of(a) for a in attempts]
        self._known = Sources()
        self._nodes: list[ir.Node] = []
        self._made: set[ir.Value] = set()
        self._read: dict[tuple[ir.Value, int, bool], ir.Value] = {}

    def run(self) -> list[Refused]:
        """Merge the graphs; returns the nodes that work at one size only."""
        rows = list(zip(*(emit.nodes for emit in self._emits), strict=False))
        different = next((row[0] for row in rows if not _is_same(row)), None)
        if different is None and len({len(emit.nodes) for emit in self._emits}) > 1:
            different = rows[-1][0]
        if different is not None:
            return [Refused(different, Refusal("what it is rewritten to depends on the size of a dynamic axis"))]
        for values in zip(*(a.graph_inputs for a in self._attempts), strict=True):
            self._add_dims(self._known, values)
        sized = self._sized()
        refused = []
        for row in rows:
            try:
                self._merge_node(row, sized)
            except Refusal as refusal:
                refused.append(Refused(row[0], refusal))
            self._append(row)
        self._emits[0].nodes[:] = self._nodes
        return refused

    def _append(self, row: Sequence[ir.Node]) -> None:
        self._nodes.append(row[0])
        self._made.update(row[0].outputs)
        for values in zip(*(node.outputs for node in row), strict=True):
            _free(values)
            self._add_dims(self._known, values)

    def _sized(self) -> dict[ir.Value, list[Array]]:
        """Return the values of the constants that depend on a dynamic axis, in each walk; they are read at run time."""
        each = [list(a.walk.writer.sized.items()) for a in self._attempts]
        return {
            items[0][0]: [array for _, array in items]
            for items in zip(*each, strict=False)
            if len({array.shape for _, array in items}) == 1
        }

    def _merge_node(self, row: Sequence[ir.Node], sized: Mapping[ir.Value, list[Array]]) -> None:
        """Replace the constants of a node that differ from walk to walk.

        Raises:
            Refusal: One of them, or an attribute, is right for one size only.
        """
        node = row[0]
        _check_attributes(row)
        sources: Sources | None = None
        for index, value in enumerate(node.inputs):
            arrays = self._arrays([n.inputs[index] for n in row])
            if value is None or arrays is None or all(np.array_equal(arrays[0], a) for a in arrays[1:]):
                continue
            if not _are_sizes(arrays):
                raise Refusal(f"constant {value.name!r} has values for one size of a dynamic axis only")
            sources = sources or self._sources_at(row, sized)
            columns = list(zip(*(a.ravel().tolist() for a in arrays), strict=True))
            if node.op_type == "Reshape" and index == 1:
                columns = self._target(row, columns)
            node.replace_input_with(index, self._vector(columns, arrays[0], sources))

    def _arrays(self, values: Sequence[ir.Value | None]) -> list[Array] | None:
        """Return a constant as it is in each walk; None if it is no constant, or the file's own in all walks."""
        tensors = [None if v is None else v.const_value for v in values]
        if any(t is None for t in tensors) or all(t is tensors[0] for t in tensors):
            return None
        return [t.numpy() for t in tensors if t is not None]

    def _sources_at(self, row: Sequence[ir.Node], sized: Mapping[ir.Value, list[Array]]) -> Sources:
        """Return the sizes that can be read where a node is: those of its inputs come first, then all before it."""
        sources = Sources()
        for values in zip(*(n.inputs for n in row), strict=True):
            given = [v for v in values if v is not None and v.const_value is None]
            if len(given) == len(row):
                self._add_dims(sources, given)
        for value, arrays in sized.items():
            if value in self._made:
                _add_elements(sources, value, arrays)
        sources.add_all(self._known)
        return sources

    def _add_dims(self, sources: Sources, values: Sequence[ir.Value]) -> None:
        shapes = [known.get(v) for known, v in zip(self._shapes, values, strict=True)]
        if any(s is None for s in shapes) or len({len(s) for s in shapes if s is not None}) > 1:
            return
        for axis, column in enumerate(zip(*(s for s in shapes if s is not None), strict=True)):
            sources.add(column, Source(values[0], axis, is_axis=True))

    # ------------------------------------------------------------------ writing

    def _target(self, row: Sequence[ir.Node], columns: Sequence[Column]) -> list[Column]:
        """Return a Reshape's target, with COPY or REST in place of sizes where that says the same.

        With seq = 64 and 96, `[-1, 64, 6]` to `[0, 64, 2, 3]` and `[-1, 96, 6]` to `[0, 96, 2, 3]` becomes
        `[COPY, COPY, 2, 3]`.
        """
        shapes = [known.get(n.inputs[0]) for known, n in zip(self._shapes, row, strict=True) if n.inputs[0] is not None]
        source = list(zip(*(s for s in shapes if s is not None), strict=False)) if None not in shapes else []
        target = list(columns)
        for axis, c in enumerate(columns):
            if len(set(c)) > 1 and source[axis : axis + 1] == [c]:
                target[axis] = (COPY,)
            elif set(c) == {COPY, REST}:
                target[axis] = (REST,)
        differing = [axis for axis, c in enumerate(target) if len(set(c)) > 1]
        if len(differing) == 1 and all(REST not in c for c in target):
            target[differing[0]] = (REST,)
        return target

    def _vector(self, columns: Sequence[Column], like: Array, sources: Sources) -> ir.Value:
        """Write a vector of sizes, of the type and rank of `like`.

        Raises:
            Refusal: One of them follows from nothing that is known here.
        """
        if all(len(set(c)) == 1 for c in columns):
            return self._emits[0].constant(np.asarray([c[0] for c in columns], like.dtype), "shape")
        parts = [self._part(column, sources) for column in columns]
        vector = self._node("Concat", parts, {"axis": 0})
        if like.dtype != np.int64:
            vector = self._node("Cast", [vector], {"to": int(ir.DataType.from_numpy(like.dtype))})
        return vector if like.ndim else self._node("ReduceMax", [vector], {"keepdims": 0})

    def _part(self, column: Column, sources: Sources) -> ir.Value:
        if len(set(column)) == 1:
            return self._number(column[0])
        formula = sources.find(column)
        if formula is None:
            raise Refusal(f"it has the sizes {list(column)} of a dynamic axis, which follow from no other size")
        size, *others = (self._size(source) for source in formula.sources)
        for other in others:
            size = self._node("Mul", [size, other])
        if formula.times > 1:
            size = self._node("Mul", [size, self._number(formula.times)])
        return self._node("Div", [size, self._number(formula.over)]) if formula.over > 1 else size

    def _size(self, source: Source) -> ir.Value:
        """Return a size as `int64[1]`; each is read once."""
        key = (source.value, source.index, source.is_axis)
        if key not in self._read:
            vector = self._node("Shape", [source.value]) if source.is_axis else self._flat(source.value)
            self._read[key] = self._node("Gather", [vector, self._number(source.index)], {"axis": 0})
        return self._read[key]

    def _flat(self, value: ir.Value) -> ir.Value:
        cast = self._node("Cast", [value], {"to": int(ir.DataType.INT64)})
        return self._node("Reshape", [cast, self._number(-1)])

    def _number(self, number: int) -> ir.Value:
        return self._emits[0].constant(np.asarray([number], np.int64), "size")

    def _node(self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int] | None = None) -> ir.Value:
        emit = self._emits[0]
        (result,) = emit.node(op_type, inputs, attributes)
        self._nodes.append(emit.nodes.pop())  # from the end of the graph to the place that is being merged
        return result


def _free(values: Sequence[ir.Value]) -> None:
    """Make the axes that differ from walk to walk dynamic in the shape that the file declares for a value."""
    shapes = [value.shape for value in values]
    if any(shape is None or len(shape) != len(shapes[0] or ()) for shape in shapes):
        values[0].shape = None
        return
    columns = zip(*(shape for shape in shapes if shape is not None), strict=True)
    values[0].shape = ir.Shape([column[0] if len(set(column)) == 1 else None for column in columns])


def _add_elements(sources: Sources, value: ir.Value, arrays: Sequence[Array]) -> None:
    for k, column in enumerate(zip(*(a.ravel().tolist() for a in arrays), strict=True)):
        sources.add(column, Source(value, k, is_axis=False))


def _are_sizes(arrays: Sequence[Array]) -> bool:
    """Return whether a constant is a number or a vector of them, of the same length in each walk."""
    return arrays[0].dtype.kind == "i" and arrays[0].ndim <= 1 and len({a.shape for a in arrays}) == 1


def _check_attributes(row: Sequence[ir.Node]) -> None:
    """Check that a node has the same attributes in each walk.

    Raises:
        Refusal: One of them differs.
    """
    for name, attribute in row[0].attributes.items():
        others = [n.attributes.get(name) for n in row[1:]]
        if attribute.type != ir.AttributeType.GRAPH and any(o is None or not _equal(o, attribute) for o in others):
            raise Refusal(f"its attribute {name!r} depends on the size of a dynamic axis")


def _is_same(row: Sequence[ir.Node]) -> bool:
    """Return whether the nodes of all walks are the same operator with as many inputs."""
    return all(
        (a.domain, a.op_type, len(a.inputs), len(a.outputs)) == (b.domain, b.op_type, len(b.inputs), len(b.outputs))
        for a, b in pairwise(row)
    )


def _equal(one: ir.Attr, other: ir.Attr) -> bool:
    if one is other:
        return True
    if one.type == ir.AttributeType.TENSOR and other.type == ir.AttributeType.TENSOR:
        return np.array_equal(one.as_tensor().numpy(), other.as_tensor().numpy())
    return bool(one.value == other.value)


def named_shape(shapes: Sequence[Shape], names: Mapping[Column, str], spec: TensorSpec) -> list[Dim]:
    """Return a shape in which the axes that differ from walk to walk have names.

    Args:
        shapes: The shape in each walk.
        names: The names of the file, by their sizes in each walk.
        spec: The tensor; its own name for an axis is used if the sizes have none.
    """
    declared = [dim if isinstance(dim, str) else "" for dim in spec.shape]
    declared += [""] * max(0, len(shapes[0]) - len(declared))
    return [
        column[0] if len(set(column)) == 1 else names.get(column) or declared[axis] or f"{spec.name}_{axis}"
        for axis, column in enumerate(zip(*shapes, strict=True))
    ]
