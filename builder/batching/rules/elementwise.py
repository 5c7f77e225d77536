"""Operators that broadcast their inputs against each other, element by element."""

from collections.abc import Mapping

import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, Placed, View, padded
from builder.batching.rule import Decomposition, Op, Plan, Static, Wanted, per_sample, required
from builder.batching.rules.axes import only_batched
from builder.batching.rules.decompose import append
from builder.batching.rules.inference import Inputs, borrowed, broadcast, integer, same_as_first
from builder.batching.rules.registry import ai_onnx, microsoft, table
from builder.model import own_domain

INPUTS_BROADCAST_SINCE = 7
"""Before this opset, operators with two inputs broadcast only on request, along an axis that they name."""

TEST_MODE_IS_DEFAULT_SINCE = 7
"""Before this opset Dropout drops values unless `is_test` is set."""


def elementwise(op: Op) -> Plan:
    """Element by element, with broadcasting: `[N, *s], [N, *t], [*c] -> [N, *broadcast(s, t, c)]`.

    Source: https://onnx.ai/onnx/repo-docs/Broadcasting.html
    """
    is_own = own_domain(op.node.domain) == ""
    if is_own and op.opset < INPUTS_BROADCAST_SINCE and op.attribute("broadcast", 0):
        op.refuse(f"it broadcasts in the way of opsets before {INPUTS_BROADCAST_SINCE}; export with a newer opset")
    return _in_place(op) or _lifted(op)


def _in_place(op: Op) -> Plan | None:
    """Keep the node as it is, if the samples of all inputs are in the same place on one axis of the output.

    `[N, 3, 4] + [4]` needs nothing more. A constant that has a row for every sample, `[B, 3, 4]`, becomes `[1, 3, 4]`.
    """
    claims = _claims(op)
    first = claims[0]
    if first.lifted or any(b.lifted or b.place != first.place for b in claims):
        return None
    batch = first.certain_if(all(b.certain for b in claims))
    if not _is_still_there(op, batch):
        return None
    constants = _constants_with_rows(op, batch)
    # The rows of one sample are then a single element, which broadcasts along the axis; several would not.
    if constants and batch.rows > 1:
        return None
    inputs: dict[int, Wanted] = {i: per_sample(op, op.operand(i), at, batch) for i, at in constants.items()}
    return Plan([batch] * len(op.outputs), inputs, what=_what(op, inputs))


def _lifted(op: Op) -> Plan:
    """Lift every input that holds samples, with axes of size 1 after N, so that samples broadcast from the right.

    `[N, 4] * [N, 3, 4]`, the output of one sample being `[3, 4]`, becomes `[N, 1, 4] * [N, 3, 4]`.
    """
    batch, rank = _common(op), len(op.outputs[0])
    inputs: dict[int, Wanted] = {i: padded(b, operand.shape, rank) for i, operand, b in op.batched()}
    if op.static_batch > 1 and isinstance(batch, Placed):
        inputs |= {i: per_sample(op, op.operand(i), at, batch) for i, at in _constants_with_rows(op, batch).items()}
    return Plan([batch.lift()] * len(op.outputs), inputs, what=_what(op, inputs))


def _constants_with_rows(op: Op, batch: Placed) -> dict[int, int]:
    """Return the inputs without samples that do not broadcast along the batch's axis, and which axis of them that is.

    With an output `[B, 3, 4]` and its batch on axis 0, `[B, 3, 4]` has rows on its axis 0; `[1, 3, 4]` and `[4]` have
    none.
    """
    found = {}
    for i, operand in enumerate(op.inputs):
        if operand is None or operand.batch is not None:
            continue
        at = batch.axis - (len(op.outputs[0]) - operand.rank)
        if at >= 0 and operand.shape[at] != 1:
            found[i] = at
    return found


def _common(op: Op) -> Batch:
    """Return where the output has its batch, when the inputs have theirs in different places or forms.

    An input's samples are still on their axis in the output unless it was broadcast along that axis: with B = 1,
    `[1, 4]` added to `[5, 4]` gives five rows of the one sample. If no input's are, the batch counts as dropped.

    When several are, on different axes, the output has one element for every pair of samples: with B = 3, `[3, 1]`
    (samples on axis 0) plus `[1, 3]` (samples on axis 1) gives `[3, 3]`, element (i, j) being sample i plus sample j.
    That is refused. With B = 1 the sum is `[1, 1]`. It is refused where both axes are the batch's for certain, because
    a model exported with a batch of 3 would pair its samples; otherwise one of the axes only looks like the batch, and
    the output is sample plus sample, lifted.
    """
    claims = _claims(op)
    held = [b for b in claims if isinstance(b, Placed) and _is_still_there(op, b)]
    places = {b.place for b in held}
    if op.static_batch > 1 and (len(places) > 1 or len(held) < len(claims)):
        op.refuse(PAIRS)
    certain_axes = {b.axis for b in held if b.rows == 1 and b.certain}
    if op.static_batch == 1 and len(certain_axes) > 1:
        op.refuse(f"{PAIRS} (they are on axes {sorted(certain_axes)})")
    if not held:
        return DROPPED
    return held[0].lift().certain_if(held[0].certain and len(places) == 1)


PAIRS = "it combines every sample of the batch with every other sample"


def _is_still_there(op: Op, batch: Placed) -> bool:
    """Return whether an axis of the output has the rows of all samples, no more."""
    return op.outputs[0][batch.axis] == batch.rows * op.static_batch


def _claims(op: Op) -> list[Batch]:
    """Return where each input that holds samples has them, in axes of the output: shapes are aligned at the right."""
    rank = len(op.outputs[0])
    return [_shifted(b, rank - operand.rank) for _, operand, b in op.batched()]


def _shifted(batch: Batch, by: int) -> Batch:
    return batch.moved(lambda axis: axis + by)


def _what(op: Op, inputs: Mapping[int, Wanted]) -> str:
    cut = [op.operand(i).name for i, w in inputs.items() if not isinstance(w, Batch | View) and w is not None]
    return f"constant {', '.join(map(repr, cut))} held every sample of the batch, now one" if cut else ""


def same_shape(op: Op) -> Plan:
    """Element by element: `[N, *s] -> [N, *s]`; the node stays as it is."""
    index, _, batch = op.batched()[0]
    if len(op.batched()) > 1 or index != 0:
        return elementwise(op)
    return Plan([batch] * len(op.outputs))


def clip(op: Op) -> Plan | Decomposition:
    """Clip: element by element; if the bounds depend on the samples, it becomes `Min(Max(x, low), high)`.

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
    """CastLike: a Cast to the type of its second input, whose values it never reads."""
    nodes: list[ir.Node] = []
    kept = {k: v for k, v in op.node.attributes.items() if k != "to"}
    to = {"to": int(op.operand(1).dtype)}
    return Decomposition(nodes, [append(nodes, "Cast", op.node.inputs[:1], attributes={**kept, **to})])


def dropout(op: Op) -> Plan:
    """Dropout in inference mode: the identity, with a mask of ones."""
    mode = op.constant_or_none(2)
    is_training = mode is not None and bool(mode.item())
    is_training_by_default = op.opset < TEST_MODE_IS_DEFAULT_SINCE and not op.attribute("is_test", 0)
    if is_training or is_training_by_default:
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
    """Infer the input's shape, of unsigned integers unless `positive` is 0."""
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
