"""ONNX's own shape inference, on dimensions that are products of named sizes."""

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from builder.batching.sizes.dims import Baked, Dim, Dims, Symbol, fixed, is_fixed, static_size, text

SHAPE_INPUT_ELEMENTS = 1024
"""A constant input of up to this many elements may decide a shape, so inference gets its values."""

UNKNOWN = "the shape of its output cannot be inferred"

Inferred = int | str | None
"""A dimension as ONNX infers it: a number, a name, or unknown."""


class Inference:
    """Infers twice: with names, to see which sizes go through, and with static sizes, to know what a new one is."""

    def __init__(self, opsets: Mapping[str, int]) -> None:
        self._opsets = dict(opsets)
        self._named: dict[str, Dim] = {}

    def infer(self, node: ir.Node, inputs: Sequence[Dims | None]) -> list[Dims | None]:
        """Return the dimensions of a node's outputs; None for an output of unknown rank.

        Raises:
            Baked: Not even the static size of some dimension can be inferred.
        """
        named = self._run(node, [None if dims is None else [self._spell(d) for d in dims] for dims in inputs])
        static = self.infer_static(node, inputs)
        return [
            None if symbolic is None or numbers is None else self._dims(value, symbolic, numbers)
            for value, symbolic, numbers in zip(node.outputs, named, static, strict=True)
        ]

    def infer_static(self, node: ir.Node, inputs: Sequence[Dims | None]) -> list[list[Inferred] | None]:
        """Infer with the static sizes, and give the outputs their types."""
        return self._run(node, [None if dims is None else [static_size(d) for d in dims] for dims in inputs])

    def _dims(self, value: ir.Value, symbolic: list[Inferred], numbers: list[Inferred]) -> Dims | None:
        if len(symbolic) != len(numbers):
            return None
        pairs = zip(symbolic, numbers, strict=True)
        return tuple(self._dim(value, axis, name, number) for axis, (name, number) in enumerate(pairs))

    def _dim(self, value: ir.Value, axis: int, symbolic: Inferred, number: Inferred) -> Dim:
        """Return one dimension: a number, a known name, or else a new size that is this axis of the output."""
        if isinstance(symbolic, int):
            return fixed(symbolic)
        if symbolic is not None and symbolic in self._named:
            return self._named[symbolic]
        if not isinstance(number, int):
            raise Baked(UNKNOWN)
        return (Symbol(f"{value.name}_{axis}", number, (value, axis)),)

    def _spell(self, dim: Dim) -> int | str:
        """Return a dimension in the form for inference. Two symbols with the same name are spelled differently."""
        if is_fixed(dim):
            return static_size(dim)
        name = text(dim)
        return next(t for t in (name, f"{name}'") if self._named.setdefault(t, dim) == dim)

    def _run(self, node: ir.Node, shapes: Sequence[Sequence[int | str] | None]) -> list[list[Inferred] | None]:
        if not onnx.defs.has(node.op_type, self._opsets.get(node.domain, 1), node.domain):
            return [None] * len(node.outputs)
        schema = onnx.defs.get_schema(node.op_type, self._opsets.get(node.domain, 1), node.domain)
        types, data = {}, {}
        for value, dims in zip(node.inputs, shapes, strict=True):
            if value is None or dims is None:
                continue
            types[str(value.name)] = onnx.helper.make_tensor_type_proto(int(value.dtype or 1), dims)
            if value.const_value is not None and value.const_value.size <= SHAPE_INPUT_ELEMENTS:
                data[str(value.name)] = ir.serde.serialize_tensor(value.const_value)
        imports = [onnx.helper.make_opsetid(d, v) for d, v in self._opsets.items()]
        proto = ir.serde.serialize_node(node)
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
            return [None] * len(node.outputs)
        return [_read(value, found.get(str(value.name))) for value in node.outputs]


def _read(value: ir.Value, found: onnx.TypeProto | None) -> list[Inferred] | None:
    """Return the inferred shape, and give the value the inferred type."""
    if found is None or not found.tensor_type.HasField("shape"):
        return None
    value.type = ir.TensorType(ir.DataType(found.tensor_type.elem_type))
    dims = found.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]
