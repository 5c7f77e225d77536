"""Make other axes than the batch dynamic: image heights and widths, sequence lengths.

A second walk, over the batched graph. Every dimension is a product of fixed numbers and named sizes in row-major
order, so that a Reshape is a regrouping of factors, and a target in which the exporter baked a size is made anew.
Operators without a shape in a constant follow by ONNX's own inference. A constant that spells out the old size
(a table of positions, a weight over all of them) cannot be stretched: it is refused, and named.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir

from builder.batching.batched import BatchedModel, BatchedTensor, Rewrite
from builder.batching.dims import BATCH_HINT, Baked, Dim, Symbol, fixed, hint, is_fixed, text
from builder.batching.emit import Emitter, static_dims, stored
from builder.batching.rule import required
from builder.batching.rules.elementwise import BROADCASTING
from builder.batching.size_rules import SPECIAL, constant_input
from builder.batching.size_writer import SizeWriter
from builder.errors import ModelError


def free_axes(batched: BatchedModel, axes: Mapping[str, Mapping[int, str]]) -> BatchedModel:
    """Make `axes` of the inputs symbolic, by input and axis of the original, each with a name.

    The graph of `batched` is changed in place: use only what is returned.

    Raises:
        ModelError: There is no such axis, or its size is baked into constants; every such node is listed.
    """
    walk = SizeWalk(batched, axes)
    walk.run()
    return walk.result()


class SizeWalk:
    """One walk; `dims` holds the dimensions of every value met so far."""

    def __init__(self, batched: BatchedModel, axes: Mapping[str, Mapping[int, str]]) -> None:
        self.batched = batched
        self.graph = batched.ir.graph
        self.opsets = dict(batched.ir.opset_imports)
        emit = Emitter(self.opsets.get("", 1))
        emit.reserve([v.name for v in _all_values(self.graph) if v.name])
        self.write = SizeWriter(self.graph, emit)
        self.dims: dict[ir.Value, tuple[Dim, ...]] = {}
        self.vectors: dict[ir.Value, tuple[Dim, ...]] = {}
        self.rewrites: list[Rewrite] = []
        self.baked: list[str] = []
        self._symbols: dict[str, Symbol] = {}
        self._by_text: dict[str, Dim] = {}
        self._read_inputs(axes)

    # ------------------------------------------------------------------ inputs and outputs

    def _read_inputs(self, axes: Mapping[str, Mapping[int, str]]) -> None:
        path = self.batched.original.path
        unknown = axes.keys() - {t.original for t in self.batched.inputs}
        if unknown:
            raise ModelError(path, f"--dynamic names {sorted(unknown)}, which are no inputs", "check the names")
        for value, tensor in zip(self.graph.inputs, self.batched.inputs, strict=True):
            asked = dict(axes.get(tensor.original, {}))
            dims: list[Dim] = [(self._symbol("batch", BATCH_HINT, value, 0),)]
            kept = [a for a in range(len(tensor.original_shape)) if a != tensor.batch_axis]
            for position, axis in enumerate(kept):
                size = tensor.original_shape[axis]
                name = asked.pop(axis, None)
                if not isinstance(size, int):
                    what = f"input {tensor.original!r} {list(tensor.original_shape)} has a symbolic axis: {size}"
                    raise ModelError(path, what, "leave out --dynamic, or export the model with all axes static")
                dims.append(fixed(size) if name is None else (self._symbol(name, size, value, position + 1),))
            if asked:
                raise ModelError(
                    path,
                    f"input {tensor.original!r} {list(tensor.original_shape)} has no other axis {sorted(asked)}",
                    "count axes of the file's shape from 0; the batch is dynamic already",
                )
            self.dims[value] = tuple(dims)
            value.shape = ir.Shape([self._label(d, f"{tensor.name}_{i}") for i, d in enumerate(dims)])

    def _symbol(self, name: str, size: int, value: ir.Value, axis: int) -> Symbol:
        """The symbol of that name; two axes of one name have one size."""
        found = self._symbols.setdefault(name, Symbol(name, size, (value, axis)))
        if found.hint != size:
            sizes = " and ".join("the batch" if n == BATCH_HINT else str(n) for n in (found.hint, size))
            raise ModelError(self.batched.original.path, f"{name!r} names axes of {sizes}", "use two names")
        return found

    def _label(self, dim: Dim, otherwise: str) -> int | str:
        if is_fixed(dim):
            return hint(dim)
        return dim[0].name if len(dim) == 1 and isinstance(dim[0], Symbol) else otherwise

    def result(self) -> BatchedModel:
        """The model with its new shapes.

        Raises:
            ModelError: Some size could not be freed.
        """
        if self.baked:
            listed = "\n".join(f"    {b}" for b in self.baked)
            raise ModelError(
                self.batched.original.path,
                f"its sizes cannot all be made dynamic:\n{listed}",
                "leave out --dynamic for these axes, or export again with them dynamic",
            )

        def reshaped(tensor: BatchedTensor, value: ir.Value) -> BatchedTensor:
            dims = [self._label(d, f"{tensor.name}_{i}") for i, d in enumerate(self.dims[value])]
            value.shape = ir.Shape(["batch", *dims[1:]])
            return replace(tensor, dims=tuple(dims[1:]))

        batched = self.batched
        inputs = tuple(reshaped(t, v) for t, v in zip(batched.inputs, self.graph.inputs, strict=True))
        outputs = tuple(reshaped(t, v) for t, v in zip(batched.outputs, self.graph.outputs, strict=True))
        return replace(batched, inputs=inputs, outputs=outputs, rewrites=(*batched.rewrites, *self.rewrites))

    # ------------------------------------------------------------------ the walk

    def run(self) -> None:
        """Follow the sizes through every node, and fix what bakes them."""
        for node in list(self.graph):
            if any(v is not None and v not in self.dims and not self._is_constant(v) for v in node.inputs):
                continue
            if all(v is None or self._is_fixed(v) for v in node.inputs) and self._keep(node):
                continue
            try:
                outputs = self._step(node)
            except Baked as baked:
                self.baked.append(f"{node.op_type} {node.name or node.outputs[0].name!r}: {baked}")
                continue
            self.dims.update(zip(node.outputs, outputs, strict=False))
            self._follow_vector(node)

    def _is_constant(self, value: ir.Value) -> bool:
        return value.const_value is not None

    def _is_fixed(self, value: ir.Value) -> bool:
        if self._is_constant(value):
            return True
        return value not in self.vectors and all(map(is_fixed, self.dims[value]))

    def vector(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """The elements of a small integer tensor, such as a target shape, where they are known."""
        if value is None:
            return None
        if value in self.vectors:
            return self.vectors[value]
        tensor = value.const_value
        if tensor is None or tensor.size > 64 or tensor.dtype != ir.DataType.INT64:
            return None
        return tuple((int(n),) for n in tensor.numpy().reshape(-1))

    def _follow_vector(self, node: ir.Node) -> None:
        """Shapes computed at run time: Shape, a Gather from one, a Concat of such."""
        parts = [self.vector(v) for v in node.inputs]
        result = node.outputs[0]
        if node.op_type == "Shape" and node.inputs[0] is not None:
            self.vectors[result] = self.of(node.inputs[0])
        elif node.op_type == "Gather" and parts[0] is not None and (index := constant_input(node, 1)) is not None:
            self.vectors[result] = tuple(parts[0][int(i)] for i in index.reshape(-1))
        elif node.op_type == "Concat" and all(p is not None for p in parts):
            self.vectors[result] = tuple(d for p in parts if p is not None for d in p)
        elif node.op_type in ("Reshape", "Cast", "Identity") and parts[0] is not None and len(parts[0]) <= 1:
            self.vectors[result] = parts[0]

    def _keep(self, node: ir.Node) -> bool:
        """A node that sees no named size: its outputs are what ONNX infers."""
        found = self.infer(node)
        if any(f is None for f in found):
            return False
        self.dims.update((v, f) for v, f in zip(node.outputs, found, strict=True) if f is not None)
        return True

    def _step(self, node: ir.Node) -> Sequence[tuple[Dim, ...]]:
        special = SPECIAL.get((node.domain, node.op_type))
        if special is not None:
            node.outputs[0].type = node.inputs[0].type if node.inputs[0] is not None else None
            return [special(self, node)]
        self._check_constants(node)
        if not node.domain and node.op_type in (*BROADCASTING, "Where", "PRelu"):
            self._infer_as(node, named=False)
            return [self.broadcast([self.of(v) for v in node.inputs if v is not None])]
        found = self.infer(node)
        if any(f is None for f in found):
            raise Baked("the shape of its output cannot be told")
        return [f for f in found if f is not None]

    def of(self, value: ir.Value) -> tuple[Dim, ...]:
        """The dimensions of a value."""
        if value in self.dims:
            return self.dims[value]
        return tuple(fixed(d) for d in static_dims(stored(value)))

    def broadcast(self, shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
        """Broadcast dimensions; two named sizes that were equal are taken for one."""
        rank = max(map(len, shapes))
        result: list[Dim] = []
        for i in range(rank):
            column = [s[i - rank + len(s)] for s in shapes if i - rank + len(s) >= 0]
            wide = [d for d in column if hint(d) != 1 or not is_fixed(d)]
            named = [d for d in wide if not is_fixed(d)]
            if named and any(is_fixed(d) for d in wide):
                raise Baked(f"a fixed size of {hint(named[0])} meets {text(named[0])}")
            result.append((named or wide or [()])[0])
        return tuple(result)

    def _check_constants(self, node: ir.Node) -> None:
        """Constants that spell out a size are cut to one where they repeat, and refused where they do not."""
        if node.op_type in ("MatMul", "Gemm"):
            self._check_product(node)
        elif node.op_type == "Split":
            self._check_split(node)
        elif node.op_type in (*BROADCASTING, "Where", "PRelu", "Concat"):
            rank = max(len(self.of(v)) for v in node.inputs if v is not None)
            for i, value in enumerate(node.inputs):
                if value is not None and self._is_constant(value) and value not in self.dims:
                    self._shrink(node, i, value, rank)

    def _shrink(self, node: ir.Node, index: int, value: ir.Value, rank: int) -> None:
        others = [self.of(v) for v in node.inputs if v is not None and v is not value]
        given = stored(value).numpy()
        array = given
        for axis in range(array.ndim):
            at = axis + rank - array.ndim
            meets = [s[at - rank + len(s)] for s in others if at - rank + len(s) >= 0]
            named = next((d for d in meets if not is_fixed(d)), None)
            if named is None or array.shape[axis] == 1:
                continue
            first = np.take(array, [0], axis=axis)
            if node.op_type == "Concat" or not np.array_equal(array, np.broadcast_to(first, array.shape)):
                raise Baked(f"constant {value.name!r} holds {array.shape[axis]} values for {text(named)}")
            array = first
        if array.shape != given.shape:
            node.replace_input_with(index, self.write.constant(array))

    def _check_product(self, node: ir.Node) -> None:
        left, right = (self.of(v) for v in node.inputs[:2] if v is not None)
        swap = [n in node.attributes and bool(node.attributes[n].value) for n in ("transA", "transB")]
        rows = right[-2] if len(right) > 1 else right[0]
        inner = (left[-2] if swap[0] else left[-1]), (right[-1] if swap[1] else rows)
        if is_fixed(inner[0]) != is_fixed(inner[1]):
            named = inner[0] if is_fixed(inner[1]) else inner[1]
            raise Baked(f"its weights are for {hint(named)} values of {text(named)}")

    def _check_split(self, node: ir.Node) -> None:
        dims = self.of(required(node.inputs, 0))
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if not is_fixed(dims[axis]):
            raise Baked(f"it splits {text(dims[axis])} into parts of fixed sizes")

    # ------------------------------------------------------------------ inference by ONNX

    def infer(self, node: ir.Node) -> list[tuple[Dim, ...] | None]:
        """Dimensions of the outputs by ONNX's inference, once with names and once with the static sizes."""
        named, static = self._infer_as(node, named=True), self._infer_as(node, named=False)
        results: list[tuple[Dim, ...] | None] = []
        for value, symbolic, numbers in zip(node.outputs, named, static, strict=True):
            if symbolic is None or numbers is None or len(symbolic) != len(numbers):
                results.append(None)
                continue
            dims = [self._read(value, axis, s, n) for axis, (s, n) in enumerate(zip(symbolic, numbers, strict=True))]
            results.append(tuple(dims))
        return results

    def _read(self, value: ir.Value, axis: int, symbolic: int | str | None, number: int | str | None) -> Dim:
        if isinstance(symbolic, int):
            return fixed(symbolic)
        if symbolic is not None and symbolic in self._by_text:
            return self._by_text[symbolic]
        if not isinstance(number, int):
            raise Baked("the shape of its output cannot be told")
        return (Symbol(f"{value.name}_{axis}", number, (value, axis)),)

    def _infer_as(self, node: ir.Node, *, named: bool) -> list[list[int | str | None] | None]:
        schema = onnx.defs.get_schema(node.op_type, self.opsets.get(node.domain, 1), node.domain)
        proto = ir.serde.serialize_node(node)
        types, data = {}, {}
        for value in node.inputs:
            if value is None:
                continue
            dims = [self._spell(d) if named else hint(d) for d in self.of(value)]
            types[str(value.name)] = onnx.helper.make_tensor_type_proto(int(value.dtype or 1), dims)
            if value.const_value is not None and value.const_value.size <= 1024:
                data[str(value.name)] = ir.serde.serialize_tensor(value.const_value)
        imports = [onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
            return [None] * len(node.outputs)
        return [self._take(value, found.get(str(value.name))) for value in node.outputs]

    def _take(self, value: ir.Value, found: onnx.TypeProto | None) -> list[int | str | None] | None:
        if found is None or not found.tensor_type.HasField("shape"):
            return None
        value.type = ir.TensorType(ir.DataType(found.tensor_type.elem_type))
        dims = found.tensor_type.shape.dim
        return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]

    def _spell(self, dim: Dim) -> int | str:
        if is_fixed(dim):
            return hint(dim)
        name = text(dim)
        return next(t for t in (name, f"{name}'") if self._by_text.setdefault(t, dim) == dim)

    def note(self, node: ir.Node, what: str) -> None:
        """Tell of a mended constant."""
        self.rewrites.append(Rewrite(node.name or "", node.op_type, what))


def _all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
