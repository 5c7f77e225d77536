"""Write the nodes of the rewritten graph, and move values from one form of their batch to another."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.layout import REST, Batch, Placed, Shape, reshape_target, scaled, symbolic
from builder.model import name_nodes
from builder.tensors import Array

Attribute = int | float | str | Sequence[int] | Sequence[float] | ir.Attr

EXPAND_SINCE = 8
"""The opset that added Expand; before it, Tile is used instead."""

TARGET_AS_INPUT = 5
"""The opset from which Reshape takes its target as an input."""

NOT_UTF8 = "surrogateescape"
"""How to decode and encode text so that bytes that are not UTF-8 are kept."""


def static_dims(tensor: ir.TensorProtocol) -> Shape:
    """Return the shape of a stored tensor."""
    return tuple(tensor.shape.numpy())


def stored(value: ir.Value) -> ir.TensorProtocol:
    """Return the tensor of a value that is stored in the graph."""
    if value.const_value is None:
        raise RuntimeError(f"value {value.name!r} is not stored in the graph")
    return value.const_value


class Emitter:
    """The rewritten graph as it is being written.

    Attributes:
        opset: The version of ONNX's own operator set.
        nodes: In order of execution.
        initializers: By name; a tensor of the original is shared, not copied.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._names: set[str] = set()
        self._times: Counter[str] = Counter()
        self._node_names: Counter[str] = Counter()
        self._taken_by_nodes: set[str] = set()
        self._constants: dict[tuple[str, Shape, bytes | tuple[bytes, ...]], ir.Value] = {}
        self._reshaped: dict[ir.Value, ir.Value] = {}
        self._forms: dict[ir.Value, tuple[ir.DataType, Shape]] = {}
        self._batch_source: ir.Value | None = None
        self._batch_size: ir.Value | None = None

    def fresh(self, name: str | None) -> str:
        """Return a name that no value has yet: `name` itself if it is free."""
        stem, found = name or "batched", name
        while not found or found in self._names:
            self._times[stem] += 1
            found = f"{stem}.{self._times[stem]}"
        self._names.add(found)
        return found

    def _node_name(self, name: str | None) -> str | None:
        """Return a node's name, with a number if it is taken already (a loop's body is written several times)."""
        if not name:
            return None
        self._node_names[name] += 1
        found = name
        while self._node_names[name] > 1 and (found := f"{name}.{self._node_names[name]}") in self._taken_by_nodes:
            self._node_names[name] += 1
        self._taken_by_nodes.add(found)
        return found

    def reserve(self, names: Iterable[str]) -> None:
        """Keep `names` for the graph's inputs and outputs: no other value gets one of them."""
        self._names.update(names)

    def reserve_for_nodes(self, names: Iterable[str]) -> None:
        """Keep `names` for the nodes of the original: no node that is made here gets one of them."""
        self._taken_by_nodes.update(names)

    def name_nodes(self) -> None:
        """Name the nodes that have no name yet."""
        name_nodes(self.nodes, self._taken_by_nodes)

    def value(
        self, name: str | None, dtype: ir.DataType | None = None, shape: Sequence[int | str] | None = None
    ) -> ir.Value:
        """Return a new value with a free name."""
        return ir.Value(
            name=self.fresh(name) if name != "" else "",
            type=ir.TensorType(dtype) if dtype is not None else None,
            shape=ir.Shape(shape) if shape is not None else None,
        )

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        outputs: Sequence[str | None] = (None,),
        domain: str = "",
        like: ir.Node | None = None,
    ) -> list[ir.Value]:
        """Append one node; returns its outputs. It gets the name and the metadata of `like`."""
        attrs = [
            v if isinstance(v, ir.Attr) else ir.convenience.convert_attribute(k, v)
            for k, v in (attributes or {}).items()
        ]
        results = [self.value(name) for name in outputs]
        made = ir.Node(domain, op_type, inputs, attrs, outputs=results)
        if like is not None:
            made.name, made.doc_string = self._node_name(like.name), like.doc_string
            made.metadata_props.update(like.metadata_props)
        self.nodes.append(made)
        return results

    def constant(self, array: Array, name: str | None = None) -> ir.Value:
        """Return an initializer with this value; there is one for all equal arrays."""
        array = np.asarray(array, order="C")
        texts = tuple(str(text).encode(errors=NOT_UTF8) for text in array.flat) if array.dtype.kind in "OUS" else None
        key = (array.dtype.str, array.shape, array.tobytes() if texts is None else texts)
        if key not in self._constants:
            value = self.value(name or "constant")
            if texts is None:
                value.const_value = ir.tensor(array, name=value.name)
            else:
                value.const_value = ir.StringTensor(texts, shape=ir.Shape(array.shape), name=value.name)
            value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
            self.initializers[str(value.name)] = value
            self._constants[key] = value
        return self._constants[key]

    def initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Return an initializer that shares the original's tensor."""
        value = self.value(name, tensor.dtype, static_dims(tensor))
        value.const_value = tensor
        self.initializers[str(value.name)] = value
        return value

    def declare(self, value: ir.Value, dtype: ir.DataType, shape: Shape) -> None:
        """Note the type and the rewritten shape of a value that holds samples, and declare them in the file.

        ONNX Runtime does not infer every multiple of N. It gives each value of unknown size a buffer of its own, and
        searches all unused buffers at every node, so loading takes time that grows with the square of the nodes.
        """
        if value not in self._forms:
            self._forms[value] = dtype, shape
            value.type, value.shape = ir.TensorType(dtype), ir.Shape(symbolic(shape))

    def reshape(self, value: ir.Value, target: Shape, name: str | None = None) -> ir.Value:
        """Append a Reshape. If its input is a reshape itself, it reshapes the input of that one.

        Args:
            value: The input.
            target: The rewritten shape; -1 may stand for any multiple of N.
            name: The name of the result.
        """
        source = self._reshaped.get(value, value)
        if source in self._forms:
            result = self._reshape_known(source, *self._forms[source], target, name)
        else:
            result = self._reshape_node(source, [max(size, REST) for size in target], name)
        self._reshaped[result] = source
        return result

    def _reshape_known(
        self, source: ir.Value, dtype: ir.DataType, shape: Shape, target: Shape, name: str | None
    ) -> ir.Value:
        """Append a Reshape of a value of this shape, and declare the result's."""
        target = scaled(target, math.prod(map(abs, shape)))
        written = reshape_target(shape, target)
        result = self._empty(dtype, target, name) if written is None else self._reshape_node(source, written, name)
        self.declare(result, dtype, target)
        return result

    def _reshape_node(self, source: ir.Value, target: Sequence[int], name: str | None) -> ir.Value:
        if self.opset < TARGET_AS_INPUT:
            return self.node("Reshape", [source], {"shape": target}, outputs=[name])[0]
        shape = self.constant(np.asarray(target, np.int64), "shape")
        return self.node("Reshape", [source, shape], outputs=[name])[0]

    def _empty(self, dtype: ir.DataType, shape: Shape, name: str | None) -> ir.Value:
        """Append a Tile that makes a value without elements: `[-3, 0]` is `[3, 0]`, N times."""
        block = self.constant(np.zeros(list(map(abs, shape)), dtype.numpy()), "empty")
        repeats = self.shape_with_batch([None if size < 0 else 1 for size in shape])
        return self.node("Tile", [block, repeats], outputs=[name])[0]

    def transpose(self, value: ir.Value, perm: Sequence[int], name: str | None = None) -> ir.Value:
        """Append a Transpose, unless nothing moves."""
        if list(perm) == sorted(perm):
            return value
        (result,) = self.node("Transpose", [value], {"perm": list(perm)}, outputs=[name])
        if value in self._forms:
            dtype, shape = self._forms[value]
            self.declare(result, dtype, tuple(shape[axis] for axis in perm))
        return result

    # ------------------------------------------------------------------ the batch of the call

    def measure_batch_on(self, graph_input: ir.Value) -> None:
        """Read N from axis 0 of this input, if it is ever needed."""
        self._batch_source = graph_input

    def batch_size(self) -> ir.Value:
        """Return N as `int64[1]`; it is computed once."""
        if self._batch_size is None:
            if self._batch_source is None:
                raise RuntimeError("no input was named to measure the batch on")
            (shape,) = self.node("Shape", [self._batch_source])
            (self._batch_size,) = self.node("Gather", [shape, self.constant(np.zeros(1, np.int64))], {"axis": 0})
        return self._batch_size

    def shape_with_batch(self, dims: Sequence[int | None]) -> ir.Value:
        """Return `dims` as `int64[rank]`, with N in place of the one that is None."""
        at = list(dims).index(None)
        before, after = ([int(d) for d in part if d is not None] for part in (dims[:at], dims[at + 1 :]))
        parts = [
            self.constant(np.asarray(before, np.int64)) if before else None,
            self.batch_size(),
            self.constant(np.asarray(after, np.int64)) if after else None,
        ]
        given = [p for p in parts if p is not None]
        return given[0] if len(given) == 1 else self.node("Concat", given, {"axis": 0})[0]

    # ------------------------------------------------------------------ from one form to another

    def move(self, value: ir.Value, shape: Shape, source: Batch, target: Batch) -> ir.Value:
        """Bring a value of static `shape` from one form or place of its batch to another, through the lifted form.

        Take static `[6, C]` with B = 1, and axis 0 as `2 * N * 3`. To the lifted form:

            Reshape    [2 * N * 3, C]  ->  [2, N, 3, C]
            Transpose  [2, N, 3, C]    ->  [N, 2, 3, C]
            Reshape    [N, 2, 3, C]    ->  [N, 6, C]

        From there to another place, axis 0 as `N * 6`, one Reshape to `[N * 6, C]` is left. Two places in one axis are
        reached from one another in this way, because the samples take turns in one and lie together in the other.
        """
        if source.lifted == target.lifted and (source.lifted or source.place == target.place):
            return value
        sample = source.sample_shape(shape)
        if not source.lifted:
            value = self._lift(value, sample, source)
        return value if target.lifted else self._lower(value, sample, target)

    def _lift(self, value: ir.Value, sample: Shape, source: Placed) -> ir.Value:
        """From in place to lifted: `[..., outer * N * inner, ...] -> [N, *sample]`."""
        axis = source.axis
        must_move = any(d != 1 for d in (*sample[:axis], source.outer))
        if must_move:
            rest = (*sample[:axis], source.outer, -1, source.inner, *sample[axis + 1 :])
            value = self.reshape(value, rest)
            order = list(range(len(rest)))
            order.insert(0, order.pop(axis + 1))
            value = self.transpose(value, order)
        return self.reshape(value, (-1, *sample))

    def _lower(self, value: ir.Value, sample: Shape, target: Placed) -> ir.Value:
        """From lifted to in place: `[N, *sample] -> [..., outer * N * inner, ...]`."""
        axis = target.axis
        if sample[axis] != target.rows:
            raise RuntimeError(f"a sample of {sample} has no {target.rows} rows on axis {axis}")
        must_move = any(d != 1 for d in (*sample[:axis], target.outer))
        if must_move:
            rest = (-1, *sample[:axis], target.outer, target.inner, *sample[axis + 1 :])
            value = self.reshape(value, rest)
            order = list(range(len(rest)))
            order.insert(axis + 1, order.pop(0))
            value = self.transpose(value, order)
        return self.reshape(value, (*sample[:axis], -target.rows, *sample[axis + 1 :]))

    def spread(self, value: ir.Value, sample: Shape, target: Batch) -> ir.Value:
        """Repeat a constant `[*sample]` for every sample, and bring it to `target`."""
        if not target.lifted and target.rows == 1:
            return self._repeat(value, sample, target.axis)
        lifted = self._repeat(value, (1, *sample), 0)
        return lifted if target.lifted else self._lower(lifted, sample, target)

    def _repeat(self, value: ir.Value, shape: Shape, axis: int) -> ir.Value:
        """Repeat a value N times along an axis of one."""
        dims = [None if i == axis else 1 for i in range(len(shape))]
        if self.opset >= EXPAND_SINCE:
            (result,) = self.node("Expand", [value, self.shape_with_batch(dims)])
        else:
            (result,) = self.node("Tile", [self.reshape(value, shape), self.shape_with_batch(dims)])
        if value.dtype is not None:
            self.declare(result, value.dtype, (*shape[:axis], -1, *shape[axis + 1 :]))
        return result
