"""Products of matrices: MatMul, Gemm and their fused kin."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, Placed, Shape, folded, padded
from builder.batching.rule import Decomposition, Op, Operand, Plan, Static, Wanted, per_sample, required
from builder.batching.rules.decompose import append, scaled
from builder.batching.rules.inference import Inputs, broadcast_shapes, integer
from builder.batching.rules.registry import ai_onnx, microsoft, table


@dataclass(frozen=True, slots=True)
class _Side:
    """One factor of a product."""

    index: int
    operand: Operand
    batch: Batch | None
    contracted: int
    kept: int | None

    def place(self, rank: int) -> int | None:
        """The axis of the output its batch is on; None when it is summed over or dropped."""
        if not isinstance(self.batch, Placed) or self.batch.axis == self.contracted:
            return None
        if self.batch.axis == self.kept:
            return rank - (2 if self.index == 0 else 1) if rank > 1 else 0
        return self.batch.axis + rank - self.operand.rank


def _sides(op: Op, left: int, right: int) -> tuple[_Side, _Side]:
    a, b = op.operand(left), op.operand(right)
    if a.rank < 2 or b.rank < 2:
        op.refuse("a product with a vector has no rule")
    return _Side(0, a, a.batch, a.rank - 1, a.rank - 2), _Side(1, b, b.batch, b.rank - 2, b.rank - 1)


def matmul(op: Op) -> "Plan | Decomposition":
    """MatMul: `[*b, M, K] @ [*b, K, n] -> [*b, M, n]`; the batch may be in b, in M or in n, never summed over.

    Source: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    if op.operand(0).rank == 1 or op.operand(1).rank == 1:
        return _with_vector(op)
    return product(op, 0, 1)


def product(op: Op, left: int, right: int) -> Plan:
    """A matrix product of inputs `left` and `right`; every other input must be without samples."""
    sides = _sides(op, left, right)
    for i, operand, _ in op.batched():
        if i not in (left, right):
            op.refuse(f"its input {i} ({operand.name!r}) depends on the samples")
    return _product_in_place(op, sides) or _product_lifted(op, sides, (left, right))


def _product_in_place(op: Op, sides: tuple[_Side, _Side]) -> Plan | None:
    rank = len(op.outputs[0])
    batched = _batched(sides)
    (side, first), axis = batched[0], batched[0][0].place(rank)
    if first.lifted or axis is None:
        return None
    for other, second in batched[1:]:
        if second.lifted or other.place(rank) != axis or axis >= rank - 2 or second.order != first.order:
            return None
    if op.outputs[0][axis] != first.rows * op.static_batch:
        return None
    if len(batched) == 1 and axis < rank - 2:
        other = sides[1 - side.index]
        at = axis - (rank - other.operand.rank)
        if at >= 0 and other.operand.shape[at] != 1:
            if first.rows > 1:
                return None
            constant = per_sample(op, other.operand, at, first)
            return Plan([first.at(axis)], {_input(op, other): constant}, what=_cut(other))
    certain = all(b.certain for _, b in batched)
    return Plan([replace(first, axis=axis, certain=certain)] + [None] * (len(op.outputs) - 1))


def _batched(sides: tuple[_Side, _Side]) -> list[tuple[_Side, Batch]]:
    """The factors that hold samples, and where."""
    return [(s, s.batch) for s in sides if s.batch is not None]


def _input(op: Op, side: _Side) -> int:
    return next(i for i, o in enumerate(op.inputs) if o is side.operand)


def _cut(side: _Side) -> str:
    return f"constant {side.operand.name!r} held every sample of the batch, now one"


def _product_lifted(op: Op, sides: tuple[_Side, _Side], indices: tuple[int, int]) -> Plan:
    shape = op.outputs[0]
    rank = len(shape)
    batched = _batched(sides)
    places = [s.place(rank) for s, _ in batched]
    certain = [(s, b) for s, b in batched if b.certain and b.rows == 1]
    if op.static_batch > 1 and (None in places or len(set(places)) > 1):
        op.refuse(_mixes(places))
    if len(certain) == 2 and len(set(places)) > 1:
        op.refuse(_mixes(places))
    if any(b.is_on(s.contracted) for s, b in certain):
        op.refuse("it sums over the samples of the batch")
    depth = max(s.operand.rank for s in sides)
    inputs: dict[int, Wanted] = {}
    for side, index in zip(sides, indices, strict=True):
        if side.batch is not None:
            inputs[index] = padded(side.batch, side.operand.shape, depth)
    axis = next((p for p in places if p is not None), None)
    first = batched[0][1]
    result: Batch = DROPPED
    if axis is not None and isinstance(first, Placed) and len(set(places)) == 1:
        result = first.lift().at(axis) if shape[axis] == first.rows * op.static_batch else DROPPED
    if op.static_batch > 1 and isinstance(result, Placed):
        for side, index in zip(sides, indices, strict=True):
            at = result.axis - (rank - side.operand.rank)
            if side.batch is None and 0 <= at < side.operand.rank - 2 and side.operand.shape[at] != 1:
                inputs[index] = per_sample(op, side.operand, at, result)
    return Plan([result], inputs)


def _mixes(places: Sequence[int | None]) -> str:
    if None in places:
        return "it sums over the axis that holds the batch"
    return "it multiplies every sample of the batch with every other"


def _with_vector(op: Op) -> Decomposition:
    """A product with a vector, as one with a matrix of one row or column."""
    nodes: list[ir.Node] = []
    values = []
    for index, axis in ((0, 0), (1, 1)):
        value = op.value(index)
        if op.operand(index).rank == 1:
            value = append(nodes, "Unsqueeze", [value], axes=[axis], opset=op.opset)
        values.append(value)
    result = append(nodes, "MatMul", values)
    rank = max(op.operand(0).rank, op.operand(1).rank, 2)
    dropped = [a for a, i in ((rank - 2, 0), (rank - 1, 1)) if op.operand(i).rank == 1]
    return Decomposition(nodes, [append(nodes, "Squeeze", [result], axes=dropped, opset=op.opset)])


def gemm(op: Op) -> "Plan | Decomposition":
    """Gemm: `alpha * A' @ B' + beta * C`. Rows of A stay rows; anything else is taken apart into MatMul, Mul and Add.

    Source: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """
    a = op.operand(0)
    batch = a.batch
    bias = op.given(2)
    if batch is not None and len(op.batched()) == 1 and not op.attribute("transA", 0):
        plain = bias is None or bias.rank < 2 or bias.shape[0] == 1
        if not batch.lifted and batch.axis == 0 and plain:
            return Plan([batch])
        if not batch.lifted and batch.axis == 0 and batch.rows == 1 and bias is not None:
            return Plan([batch], {2: per_sample(op, bias, 0, batch)}, what=f"bias {bias.name!r} held every sample")
        if plain and op.static_batch == 1 and (batch.lifted or batch.axis != 0):
            result = batch.lift() if batch.is_on(0) else DROPPED
            return Plan([folded(result, op.outputs[0])], {0: folded(batch, a.shape)})
    return _gemm_apart(op)


def _gemm_apart(op: Op) -> Decomposition:
    nodes: list[ir.Node] = []
    left, right = op.node.inputs[:2]
    if op.attribute("transA", 0):
        left = append(nodes, "Transpose", [left], attributes={"perm": [1, 0]})
    if op.attribute("transB", 0):
        right = append(nodes, "Transpose", [right], attributes={"perm": [1, 0]})
    result = append(nodes, "MatMul", [left, right])
    dtype = op.operand(0).dtype
    result = scaled(nodes, result, float(op.attribute("alpha", 1.0)), dtype)
    if op.given(2) is not None:
        bias = scaled(nodes, op.value(2), float(op.attribute("beta", 1.0)), dtype)
        result = append(nodes, "Add", [result, bias])
    return Decomposition(nodes, [result])


def fused_matmul(op: Op) -> Decomposition:
    """com.microsoft FusedMatMul: `alpha * A' @ B'`, each side's axes moved on request.

    First axis 0 to before the last (transBatch), then the last two are swapped (trans).
    """
    nodes: list[ir.Node] = []
    sides = []
    for index, name in ((0, "transA"), (1, "transB")):
        value = op.node.inputs[index]
        rank = op.operand(index).rank
        perm = list(range(rank))
        if op.attribute(name.replace("trans", "transBatch"), 0):
            perm = [*perm[1:-1], 0, *perm[-1:]]
        if op.attribute(name, 0) and rank > 1:
            perm[-2:] = perm[:-3:-1]
        if perm != sorted(perm):
            value = append(nodes, "Transpose", [value], attributes={"perm": perm})
        sides.append(value)
    result = append(nodes, "MatMul", sides)
    result = scaled(nodes, result, float(op.attribute("alpha", 1.0)), op.operand(0).dtype)
    return Decomposition(nodes, [result])


def fused_gemm(op: Op) -> Plan | Decomposition:
    """com.microsoft FusedGemm: as Gemm where the rows of A are the samples; else a Gemm and its activation."""
    batch = op.operand(0).batch
    bias = op.given(2)
    rows = batch is not None and len(op.batched()) == 1 and not batch.lifted and batch.axis == 0
    if rows and not op.attribute("transA", 0) and (bias is None or bias.rank < 2 or bias.shape[0] == 1):
        return Plan([batch])
    kept = {k: v for k, v in op.node.attributes.items() if not k.startswith("activation")}
    nodes: list[ir.Node] = []
    result = append(nodes, "Gemm", op.node.inputs, attributes=kept)
    return Decomposition(nodes, [activated(op, nodes, result)])


def activated(op: Op, nodes: list[ir.Node], value: ir.Value) -> ir.Value:
    """Append the activation that ONNX Runtime's optimizer fused into an operator."""
    name = op.attribute("activation")
    if not name:
        return value
    names = ("alpha", "beta", "gamma")
    given = {n: op.attribute(f"activation_{n}") for n in names}
    return append(nodes, str(name), [value], attributes={n: float(v) for n, v in given.items() if v is not None})


# ---------------------------------------------------------------------- static shapes


def product_shape(node: ir.Node, inputs: Inputs) -> Static:
    """`[*b, M, K] @ [*b, K, n] -> [*b, M, n]`, of the type of the first factor; the factors transposed on request."""
    left, right = _factor(node, inputs, 0, "A"), _factor(node, inputs, 1, "B")
    lead = broadcast_shapes(left[:-2], right[:-2])
    return [(required(inputs, 0).dtype, (*lead, *left[-2:-1], *right[-1:]))]


def _factor(node: ir.Node, inputs: Inputs, index: int, side: str) -> Shape:
    """`A -> A'`: axis 0 moved to before the last (transBatch), then the last two axes swapped (trans)."""
    shape = required(inputs, index).shape
    if integer(node, f"transBatch{side}"):
        shape = (*shape[1:-1], *shape[:1], *shape[-1:])
    return (*shape[:-2], *shape[:-3:-1]) if integer(node, f"trans{side}") else shape


OPERATORS = table(
    ai_onnx("MatMul", rule=matmul),
    ai_onnx("Gemm", rule=gemm),
    microsoft("FusedMatMul", "TransposeMatMul", rule=fused_matmul, shape=product_shape),
    microsoft("FusedGemm", rule=fused_gemm, shape=product_shape),
)
