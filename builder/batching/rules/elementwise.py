"""Operators that broadcast their inputs against each other, element by element."""

from collections.abc import Mapping

import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, Placed, View, padded
from builder.batching.rule import Decomposition, Op, Plan, Static, Wanted, per_sample, required
from builder.batching.rules.axes import only_batched
from builder.batching.rules.decompose import append
from builder.batching.rules.inference import Inputs, borrowed, broadcast, integer, same_as_first
from builder.batching.rules.registry import ai_onnx, microsoft, table

LEGACY_BROADCAST = 7
"""Before this opset, binary operators broadcast on request, along an axis they name."""


def elementwise(op: Op) -> Plan:
    """Element by element, broadcasting: `[N, *s], [N, *t], [*c] -> [N, *broadcast(s, t, c)]`.

    Source: https://onnx.ai/onnx/repo-docs/Broadcasting.html
    """
    if op.opset < LEGACY_BROADCAST and op.node.domain == "" and op.attribute("broadcast", 0):
        op.refuse("it broadcasts as operators did before opset 7; export with a newer one")
    return _in_place(op) or _lifted(op)


def _in_place(op: Op) -> Plan | None:
    """Every batched input has its batch on the same axis of the output: the node stays as it is."""
    shape = op.outputs[0]
    claims = _claims(op)
    first = claims[0]
    if first.lifted or any(b.lifted or b.place != first.place for b in claims):
        return None
    batch = first.certain_if(all(b.certain for b in claims))
    if shape[batch.axis] != batch.rows * op.static_batch:
        return None
    inputs: dict[int, Wanted] = {}
    for i, operand in enumerate(op.inputs):
        if operand is None or operand.batch is not None:
            continue
        at = batch.axis - (len(shape) - operand.rank)
        if at < 0 or operand.shape[at] == 1:
            continue
        if batch.rows > 1:
            return None
        inputs[i] = per_sample(op, operand, at, batch)
    return Plan([batch] * len(op.outputs), inputs, what=_what(op, inputs))


def _lifted(op: Op) -> Plan:
    """Lift every batched input, padded so that samples broadcast from the right."""
    shape = op.outputs[0]
    rank = len(shape)
    batch = _common(op)
    inputs: dict[int, Wanted] = {}
    for i, operand in enumerate(op.inputs):
        if operand is None:
            continue
        if operand.batch is not None:
            inputs[i] = padded(operand.batch, operand.shape, rank)
        elif op.static_batch > 1 and isinstance(batch, Placed):
            at = batch.axis - (rank - operand.rank)
            if at >= 0 and operand.shape[at] != 1:
                inputs[i] = per_sample(op, operand, at, batch)
    return Plan([batch.lift()] * len(op.outputs), inputs, what=_what(op, inputs))


def _common(op: Op) -> Batch:
    """Where the output's batch is, the inputs' being in different places or forms."""
    shape = op.outputs[0]
    claims = _claims(op)
    held = [b for b in claims if isinstance(b, Placed) and shape[b.axis] == b.rows * op.static_batch]
    different = {b.place for b in held}
    if op.static_batch > 1 and (len(different) > 1 or len(held) < len(claims)):
        op.refuse("it pairs every sample of the batch with every other")
    alone = {b.axis for b in held if b.rows == 1 and b.certain and shape[b.axis] == 1}
    if len(alone) > 1:
        op.refuse(f"it pairs every sample of the batch with every other (batch on axes {sorted(map(str, alone))})")
    if not held:
        return DROPPED
    return held[0].lift().certain_if(held[0].certain and len(different) == 1)


def _claims(op: Op) -> list[Batch]:
    """Where each input that holds samples has them, in axes of the output."""
    rank = len(op.outputs[0])
    return [_shifted(b, rank - operand.rank) for _, operand, b in op.batched()]


def _shifted(batch: Batch, by: int) -> Batch:
    return batch.moved(lambda axis: axis + by)


def _what(op: Op, inputs: Mapping[int, Wanted]) -> str:
    baked = [op.operand(i).name for i, w in inputs.items() if not isinstance(w, Batch | View) and w is not None]
    return f"constant {', '.join(map(repr, baked))} held every sample of the batch, now one" if baked else ""


def same_shape(op: Op) -> Plan:
    """Element by element: `[N, *s] -> [N, *s]`, in whatever form it comes."""
    index, _, batch = op.batched()[0]
    if len(op.batched()) > 1 or index != 0:
        return elementwise(op)
    return Plan([batch] * len(op.outputs))


def clip(op: Op) -> Plan | Decomposition:
    """Clip: its bounds are scalars; bounds that depend on the samples become `Min(Max(x, low), high)`.

    Source: https://onnx.ai/onnx/operators/onnx__Clip.html
    """
    if all(i == 0 for i, *_ in op.batched()):
        return same_shape(op)
    nodes: list[ir.Node] = []
    result = op.value(0)
    for index, op_type in ((1, "Max"), (2, "Min")):
        if op.given(index) is not None:
            result = append(nodes, op_type, [result, op.node.inputs[index]])
    return Decomposition(nodes, [result])


def cast_like(op: Op) -> Decomposition:
    """CastLike: a Cast; of its second input it reads the type only."""
    nodes: list[ir.Node] = []
    kept = {k: v for k, v in op.node.attributes.items() if k != "to"}
    to = {"to": int(op.operand(1).dtype)}
    return Decomposition(nodes, [append(nodes, "Cast", op.node.inputs[:1], attributes={**kept, **to})])


def dropout(op: Op) -> Plan:
    """Dropout at inference: the identity, with a mask of ones."""
    training = op.constant_or_none(2)
    if (training is not None and bool(training.item())) or (op.opset < 7 and not op.attribute("is_test", 0)):
        op.refuse("it drops values at random (training mode)")
    return Plan([only_batched(op, 0, role="ratio")] * len(op.outputs))


_BROADCASTING = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "Less",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "SwiGLU",
    "Where",
    "Xor",
]
_UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitCast",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]

_ORDERS = ["GreaterOrEqual", "LessOrEqual"]


def _hashed(node: ir.Node, inputs: Inputs) -> Static:
    """MurmurHash3: `[*s] -> [*s]`, of unsigned integers unless `positive` is 0."""
    dtype = ir.DataType.UINT32 if integer(node, "positive", 1) else ir.DataType.INT32
    return [(dtype, required(inputs, 0).shape)]


BROADCASTING = frozenset([*_BROADCASTING, *_ORDERS])
"""Operators of ai.onnx that broadcast all of their inputs."""

OPERATORS = table(
    ai_onnx(*_BROADCASTING, rule=elementwise),
    ai_onnx(*_ORDERS, rule=elementwise, shape=borrowed("Less", 0, 1)),
    ai_onnx(*_UNARY, rule=same_shape),
    ai_onnx("CastLike", rule=cast_like),
    ai_onnx("Clip", rule=clip),
    ai_onnx("Dropout", rule=dropout),
    microsoft("BiasGelu", rule=elementwise, shape=broadcast(1, 0)),
    microsoft("FastGelu", rule=elementwise, shape=same_as_first),
    microsoft("Gelu", "QuickGelu", rule=same_shape, shape=same_as_first),
    microsoft("MurmurHash3", rule=same_shape, shape=_hashed),
)
