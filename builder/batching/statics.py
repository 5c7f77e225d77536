"""What the original computes without looking at its samples: static shapes, and values of constants."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from builder.batching.layout import Shape
from builder.batching.rule import Computed, Malformed, Operand, Refusal
from builder.model.soundness import RUNTIME_OPERATORS
from builder.tensors import Array

LARGEST_BYTES = 256 * 2**20
"""A constant beyond this is never computed, only carried over."""

SHAPE_INPUT_ELEMENTS = 1024
"""A constant input up to this size may decide a shape (Reshape's target, Slice's ends ...)."""

EVALUATION_ERRORS = (
    ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What ONNX's reference operators raise on inputs they cannot take; they document no error of their own."""


def evaluate(operand: Operand) -> Array | None:
    """The value of an unbatched operand; None when it is too large or the reference operators cannot give it."""
    if operand.computed is not None:
        return operand.computed
    stack = [operand]
    while stack:
        top = stack[-1]
        origin = top.origin
        if isinstance(origin, Computed):
            waiting = [i for i in origin.inputs if i is not None and i.computed is None]
            if any(i.batch is not None or i.origin is None for i in waiting) or _bytes(top) > LARGEST_BYTES:
                return None
            if waiting:
                stack.extend(waiting)
                continue
            top.computed = _run(origin)
        elif origin is None or _bytes(top) > LARGEST_BYTES:
            return None
        else:
            top.computed = origin if isinstance(origin, np.ndarray) else origin.numpy()
        if top.computed is None:
            return None
        stack.pop()
    return operand.computed


def _bytes(operand: Operand) -> float:
    known = operand.dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING)
    return float(math.prod(operand.shape) * (operand.dtype.itemsize if known else 1))


class GatherElements(OpRun):
    """The reference operator takes no more than 32 elements along `axis`, and no fewer than the data elsewhere."""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        where = list(np.meshgrid(*(np.arange(d) for d in indices.shape), indexing="ij", sparse=True))
        where[axis] = indices % data.shape[axis]
        return (data[tuple(where)],)


DISTRUSTED = {"BatchNormalization": 15, "Hardmax": 13, "LogSoftmax": 13, "MaxUnpool": 1000, "Softmax": 13}
"""Reference operators that are wrong before some opset."""


def _run(origin: Computed) -> Array | None:
    """Run one node with ONNX's reference operators."""
    node = origin.node
    if not node.domain and origin.opset < DISTRUSTED.get(node.op_type, 0):
        return None
    names = [f"i{k}" if operand is not None else "" for k, operand in enumerate(origin.inputs)]
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(f"o{k}" for k in range(len(node.outputs)))
    feeds = {n: o.computed for n, o in zip(names, origin.inputs, strict=True) if o is not None}
    unknown = onnx.TypeProto()
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [onnx.helper.make_value_info(n, unknown) for n in feeds],
        [onnx.helper.make_value_info(f"o{origin.index}", unknown)],
    )
    opset = onnx.helper.make_opsetid(node.domain, origin.opset)
    try:
        with np.errstate(all="ignore"):
            model = onnx.helper.make_model(graph, opset_imports=[opset])
            (result,) = ReferenceEvaluator(model, new_ops=[GatherElements]).run(None, feeds)
    except EVALUATION_ERRORS:
        return None
    return np.asarray(result) if isinstance(result, np.ndarray | np.generic) else None


def infer(
    node: ir.Node, inputs: Sequence[Operand | None], opsets: Mapping[str, int]
) -> list[tuple[ir.DataType, Shape]]:
    """Static types and shapes of a node's outputs, by ONNX's own inference with constant inputs known.

    Raises:
        Refusal: They cannot be told from the static inputs.
        Malformed: There are none: the inputs do not fit the node.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    early = node.op_type in RUNTIME_OPERATORS and not domain
    try:
        schema = onnx.defs.get_schema(
            node.op_type, onnx.defs.onnx_opset_version() if early else opsets.get(domain, 1), domain
        )
    except onnx.defs.SchemaError:
        raise Refusal(
            f"operator {domain or 'ai.onnx'}::{node.op_type} is unknown at opset {opsets.get(domain)}"
        ) from None
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(f"i{k}" if o is not None else "" for k, o in enumerate(inputs))
    proto.output.extend(f"o{k}" for k in range(len(node.outputs)))
    types, data = {}, {}
    for k, operand in enumerate(inputs):
        if operand is None:
            continue
        types[f"i{k}"] = onnx.helper.make_tensor_type_proto(int(operand.dtype), operand.shape)
        if operand.batch is None and math.prod(operand.shape) <= SHAPE_INPUT_ELEMENTS:
            array = evaluate(operand)
            if array is not None and array.dtype.kind in "iufb":
                data[f"i{k}"] = onnx.numpy_helper.from_array(array)
    imports = [onnx.helper.make_opsetid(d, v) for d, v in opsets.items()]
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError) as error:
        raise Malformed(f"shape inference fails: {str(error).strip().splitlines()[-1]}") from None
    unread = [k > 0 and not (v.uses() or v.is_graph_output()) for k, v in enumerate(node.outputs)]
    return [
        _static(found.get(f"o{k}"), optional=skip or not v.name)
        for k, (v, skip) in enumerate(zip(node.outputs, unread, strict=True))
    ]


def _static(found: onnx.TypeProto | None, *, optional: bool) -> tuple[ir.DataType, Shape]:
    """One output's type and shape; those of an output that nobody reads are not needed."""
    if optional:
        return ir.DataType.UNDEFINED, ()
    if found is None or not found.HasField("tensor_type"):
        raise Refusal("its output's type cannot be told")
    tensor = found.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if not tensor.HasField("shape") or any(d is None for d in dims):
        raise Refusal("its output's shape depends on the samples")
    return ir.DataType(tensor.elem_type), tuple(d for d in dims if d is not None)
