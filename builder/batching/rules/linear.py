"""Products of matrices: MatMul, Gemm and their fused kin."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, Shape, folded, padded
from builder.batching.rule import Decomposition, Op, Operand, Plan, Static, Wanted, per_sample
from builder.batching.rules.decompose import append, scaled
from builder.batching.rules.inference import Inputs, broadcast_shapes, integer, required
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
        if self.batch is None or self.batch.axis in (None, self.contracted):
            return None
        assert self.batch.axis is not None
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
    batched = [s for s in sides if s.batch is not None]
    if any(s.batch is None or s.batch.lifted or s.place(rank) is None for s in batched):
        return None
    first = batched[0].batch
    assert first is not None
    axis = batched[0].place(rank)
    assert axis is not None
    if len(batched) == 2 and (
        axis != batched[1].place(rank)
        or axis >= rank - 2
        or (second := sides[1].batch) is None
        or first.place[1:] != second.place[1:]
    ):
        return None
    if op.outputs[0][axis] != first.rows * op.static_batch:
        return None
    if len(batched) == 1 and axis < rank - 2:
        other = sides[1 - batched[0].index]
        at = axis - (rank - other.operand.rank)
        if at >= 0 and other.operand.shape[at] != 1:
            if first.rows > 1:
                return None
            constant = per_sample(op, other.operand, at, first)
            return Plan([first.at(axis)], {_input(op, other): constant}, what=_cut(other))
    certain = all(s.batch is not None and s.batch.certain for s in batched)
    return Plan([replace(first, axis=axis, certain=certain)] + [None] * (len(op.outputs) - 1))


def _input(op: Op, side: _Side) -> int:
    return next(i for i, o in enumerate(op.inputs) if o is side.operand)


def _cut(side: _Side) -> str:
    return f"constant {side.operand.name!r} held every sample of the batch, now one"


def _product_lifted(op: Op, sides: tuple[_Side, _Side], indices: tuple[int, int]) -> Plan:
    shape = op.outputs[0]
    rank = len(shape)
    batched = [s for s in sides if s.batch is not None]
    places = [s.place(rank) for s in batched]
    certain = [s.batch is not None and s.batch.certain and s.batch.rows == 1 for s in batched]
    if op.static_batch > 1 and (None in places or len(set(places)) > 1):
        op.refuse(_mixes(places))
    if len(batched) == 2 and all(certain) and len(set(places)) > 1:
        op.refuse(_mixes(places))
    if any(known and s.batch and s.batch.axis == s.contracted for known, s in zip(certain, batched, strict=True)):
        op.refuse("it sums over the samples of the batch")
    depth = max(s.operand.rank for s in sides)
    inputs: dict[int, Wanted] = {}
    for side, index in zip(sides, indices, strict=True):
        if side.batch is not None:
            inputs[index] = padded(side.batch, side.operand.shape, depth)
    axis = next((p for p in places if p is not None), None)
    first = batched[0].batch
    assert first is not None
    result = DROPPED
    if axis is not None and shape[axis] == first.rows * op.static_batch and len(set(places)) == 1:
        result = replace(first.lift(), axis=axis)
    if op.static_batch > 1:
        for side, index in zip(sides, indices, strict=True):
            at = -1 if axis is None else axis - (rank - side.operand.rank)
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
        value = op.node.inputs[index]
        assert value is not None
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
    rows = 1 if op.attribute("transA", 0) else 0
    if batch is not None and len(op.batched()) == 1 and not op.attribute("transA", 0):
        plain = bias is None or bias.rank < 2 or bias.shape[0] == 1
        if not batch.lifted and batch.axis == rows and plain:
            return Plan([batch.at(0)])
        if not batch.lifted and batch.axis == rows and batch.rows == 1:
            assert bias is not None
            return Plan(
                [batch.at(0)],
                {2: per_sample(op, bias, 0, batch)},
                what=f"bias {bias.name!r} held every sample",
            )
        if plain and (op.static_batch == 1 and (batch.axis != 0 or batch.lifted)):
            result = batch.lift() if batch.axis == 0 else DROPPED
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
        bias = op.node.inputs[2]
        assert bias is not None
        bias = scaled(nodes, bias, float(op.attribute("beta", 1.0)), dtype)
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
