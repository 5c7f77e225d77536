"""What the original computes without looking at its samples: static shapes, and the values of constants."""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from builder.batching.emit import NOT_UTF8
from builder.batching.layout import Shape
from builder.batching.rule import Computed, Malformed, Measured, Operand, Refusal, Static, Undecided
from builder.model import RUNTIME_OPERATORS, operator
from builder.tensors import Array

LARGEST_BYTES = 256 * 2**20
"""A larger constant is never computed, only copied."""

SHAPE_INPUT_ELEMENTS = 1024
"""A constant input of up to this many elements may decide a shape (Reshape's target, Slice's ends ...)."""

NUMBERS = "iufb"
"""The kinds of arrays that may decide a shape: integers, floats and booleans."""

EVALUATION_ERRORS = (
    ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What ONNX's reference operators raise on inputs that they cannot process; their documentation names no error."""


# ---------------------------------------------------------------------- values


def evaluate(operand: Operand) -> Array | None:
    """Return the value of a constant; None when it is too large, or the reference operators cannot compute it.

    A constant may be computed from constants, nested deeper than Python can recurse: `Add(Mul(Shape(x), 2), 1)`. So a
    stack holds what is to be computed next. On top of `Add` comes `Mul`, on top of that `Shape`; each is computed, and
    taken off, once what it reads is there. Every value stays with its operand, so that none is computed twice.
    """
    stack = [operand]
    while stack:
        top = stack[-1]
        if top.computed is None:
            if not _can_compute(top):
                return None
            waiting = _uncomputed_inputs(top)
            if waiting:
                stack.extend(waiting)
                continue
            top.computed = _value(top)
            if top.computed is None:
                return None
        stack.pop()
    return operand.computed


def _can_compute(operand: Operand) -> bool:
    """Return whether an operand is a constant of a size that may be computed."""
    is_constant = operand.batch is None and operand.origin is not None
    return is_constant and _bytes(operand) <= LARGEST_BYTES


def _bytes(operand: Operand) -> float:
    has_size = operand.dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING)
    return float(math.prod(operand.shape) * (operand.dtype.itemsize if has_size else 1))


def _uncomputed_inputs(operand: Operand) -> list[Operand]:
    if not isinstance(operand.origin, Computed):
        return []
    return [i for i in operand.origin.inputs if i is not None and i.computed is None]


def _value(operand: Operand) -> Array | None:
    origin = operand.origin
    if isinstance(origin, Computed):
        return _run(origin)
    if isinstance(origin, Measured):
        return operand.computed
    if origin is None or isinstance(origin, np.ndarray):
        return origin
    array = origin.numpy()
    if origin.dtype != ir.DataType.STRING:
        return array
    return np.asarray([text.decode(errors=NOT_UTF8) for text in array.flat], object).reshape(array.shape)


class GatherElements(OpRun):
    """GatherElements, because the reference operator is limited.

    It takes no more than 32 elements along `axis`, and no fewer than the data has elsewhere.
    """

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        where = list(np.meshgrid(*(np.arange(d) for d in indices.shape), indexing="ij", sparse=True))
        where[axis] = indices % data.shape[axis]
        return (data[tuple(where)],)


DISTRUSTED = {"BatchNormalization": 15, "Hardmax": 13, "LogSoftmax": 13, "MaxUnpool": 1000, "Softmax": 13}
"""Reference operators that are wrong before some opset."""


MISSING = {"DequantizeLinear": 19, "QuantizeLinear": 19}
"""Reference operators that exist from some opset on, where they mean what they meant before."""


def is_quantizing(node: ir.Node) -> bool:
    """Return whether a node quantizes its input, or undoes that."""
    return operator(node)[1] in MISSING


def _run(origin: Computed) -> Array | None:
    """Run one node with ONNX's reference operators."""
    domain, op_type = operator(origin.node)
    if not domain and origin.opset < DISTRUSTED.get(op_type, 0):
        return None
    version = origin.opset if domain else max(origin.opset, MISSING.get(op_type, 0))
    proto = _renamed(origin.node, origin.inputs)
    feeds = {f"i{k}": o.computed for k, o in enumerate(origin.inputs) if o is not None}
    unknown = onnx.TypeProto()
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [onnx.helper.make_value_info(n, unknown) for n in feeds],
        [onnx.helper.make_value_info(f"o{origin.index}", unknown)],
    )
    opset = onnx.helper.make_opsetid(origin.node.domain, version)
    try:
        with np.errstate(all="ignore"):
            model = onnx.helper.make_model(graph, opset_imports=[opset])
            (result,) = ReferenceEvaluator(model, new_ops=[GatherElements]).run(None, feeds)
    except EVALUATION_ERRORS:
        return None
    return np.asarray(result) if isinstance(result, np.ndarray | np.generic) else None


def _renamed(node: ir.Node, inputs: Sequence[Operand | None]) -> onnx.NodeProto:
    """Return the node with inputs `i0, i1, ...` (none where it leaves one out) and outputs `o0, o1, ...`."""
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(f"i{k}" if o is not None else "" for k, o in enumerate(inputs))
    proto.output.extend(f"o{k}" for k in range(len(node.outputs)))
    return proto


# ---------------------------------------------------------------------- shapes


def infer(node: ir.Node, inputs: Sequence[Operand | None], opsets: Mapping[str, int]) -> Static:
    """Return static types and shapes of a node's outputs, by ONNX's own inference with the values of constants.

    Raises:
        Refusal: They cannot be inferred from the static inputs.
        Malformed: There are none: the inputs do not fit the node.
    """
    schema = _schema(node, opsets)
    types = {
        f"i{k}": onnx.helper.make_tensor_type_proto(int(o.dtype), o.shape)
        for k, o in enumerate(inputs)
        if o is not None
    }
    data = {f"i{k}": array for k, o in enumerate(inputs) if o is not None and (array := _shape_input(o)) is not None}
    imports = [onnx.helper.make_opsetid(d, v) for d, v in opsets.items()]
    proto = _renamed(node, inputs)
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError) as error:
        raise Malformed(f"shape inference fails: {str(error).strip().splitlines()[-1]}") from None
    return [
        _static(found.get(f"o{k}"), is_needed=bool(v.name) and (k == 0 or _is_read(v)))
        for k, v in enumerate(node.outputs)
    ]


def _schema(node: ir.Node, opsets: Mapping[str, int]) -> onnx.defs.OpSchema:
    domain, op_type = operator(node)
    # ONNX Runtime's optimizer uses some operators in models of older opsets than the one that added them.
    is_early = op_type in RUNTIME_OPERATORS and not domain
    opset = onnx.defs.onnx_opset_version() if is_early else opsets.get(domain, 1)
    schema = _schema_of(op_type, opset, domain)
    if schema is None:
        raise Undecided(f"operator {domain or 'ai.onnx'}::{op_type} is unknown at opset {opsets.get(domain)}")
    return schema


@cache
def _schema_of(op_type: str, opset: int, domain: str) -> onnx.defs.OpSchema | None:
    """Return a schema; ONNX copies it each time it is asked, and a model has many nodes of one operator."""
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


def _shape_input(operand: Operand) -> onnx.TensorProto | None:
    """Return the value of a small constant, which may decide a shape."""
    if operand.batch is not None or math.prod(operand.shape) > SHAPE_INPUT_ELEMENTS:
        return None
    array = evaluate(operand)
    if array is None or array.dtype.kind not in NUMBERS:
        return None
    return onnx.numpy_helper.from_array(array)


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _static(found: onnx.TypeProto | None, *, is_needed: bool) -> tuple[ir.DataType, Shape]:
    """Return the type and shape of one output; for an output that no node reads, they need not be known."""
    if found is not None and found.HasField("tensor_type"):
        tensor = found.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim if d.HasField("dim_value")]
        if tensor.HasField("shape") and len(dims) == len(tensor.shape.dim):
            return ir.DataType(tensor.elem_type), tuple(dims)
    if not is_needed:
        return ir.DataType.UNDEFINED, ()
    if found is None or not found.HasField("tensor_type"):
        raise Undecided("the type of its output cannot be inferred")
    raise Refusal("its output's shape depends on the samples")
