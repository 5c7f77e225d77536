"""Products of matrices: MatMul, Gemm and their fused forms."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, Placed, Shape, folded, padded
from builder.batching.rule import Decomposition, Op, Operand, Plan, Static, Wanted, per_sample, required
from builder.batching.rules.decompose import append, scaled
from builder.batching.rules.inference import Inputs, broadcast_shapes, integer
from builder.batching.rules.registry import ai_onnx, microsoft, table


@dataclass(frozen=True, slots=True)
class _Factor:
    """One factor of a product `[*b, M, K] @ [*b, K, n] -> [*b, M, n]`.

    Attributes:
        index: Which input of the node it is.
        operand: Its value.
        batch: Where its samples are; None for weights.
        summed: The axis that is summed over: the left factor's last, the right one's last but one.
        kept: The axis that stays one of the last two of the product: M or n.
        from_end: Which of them that is, counted from the end: 2 for M, 1 for n.
    """

    index: int
    operand: Operand
    batch: Batch | None
    summed: int
    kept: int
    from_end: int

    def place(self, rank: int) -> int | None:
        """Return the axis of a product of `rank` axes that the batch is on; None when it is summed over or dropped."""
        if not isinstance(self.batch, Placed) or self.batch.axis == self.summed:
            return None
        if self.batch.axis == self.kept:
            return rank - self.from_end
        return self.batch.axis + rank - self.operand.rank

    def axis_with_rows(self, axis: int, rank: int) -> int | None:
        """Return which axis of weights meets `axis` of the product, one of `*b`; None where they broadcast along it."""
        at = axis - (rank - self.operand.rank)
        return at if 0 <= at < self.operand.rank - 2 and self.operand.shape[at] != 1 else None


def _factors(op: Op, left: int, right: int) -> tuple[_Factor, _Factor]:
    a, b = op.operand(left), op.operand(right)
    if a.rank < 2 or b.rank < 2:
        op.refuse("there is no rule for a product of it with a vector")
    return (
        _Factor(left, a, a.batch, summed=a.rank - 1, kept=a.rank - 2, from_end=2),
        _Factor(right, b, b.batch, summed=b.rank - 2, kept=b.rank - 1, from_end=1),
    )


def matmul(op: Op) -> Plan | Decomposition:
    """MatMul: `[*b, M, K] @ [*b, K, n] -> [*b, M, n]`; the batch may be in b, M or n, but not in K.

    Source: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    if op.operand(0).rank == 1 or op.operand(1).rank == 1:
        return _with_vector(op)
    return product(op, 0, 1)


def product(op: Op, left: int, right: int) -> Plan:
    """Multiply inputs `left` and `right` as matrices; every other input must be without samples."""
    for i, operand, _ in op.batched():
        if i not in (left, right):
            op.refuse(f"its input {i} ({operand.name!r}) depends on the samples")
    factors = _factors(op, left, right)
    return _product_in_place(op, factors) or _product_lifted(op, factors)


def _product_in_place(op: Op, factors: tuple[_Factor, _Factor]) -> Plan | None:
    """Keep the node as it is, if the samples are on one axis of the product, one of `*b` where both factors hold them.

    `[N, 4, 5] @ [5, 3]` needs nothing more, nor does `[N, 4, 5] @ [N, 5, 3]`. Weights that have a row for every sample,
    `[B, 5, 3]`, become `[1, 5, 3]`.
    """
    rank = len(op.outputs[0])
    batched = _batched(factors)
    (factor, first), axis = batched[0], batched[0][0].place(rank)
    if first.lifted or axis is None or op.outputs[0][axis] != first.rows * op.static_batch:
        return None
    if len(batched) == 2:
        other, second = batched[1]
        are_together = other.place(rank) == axis and second.order == first.order and not second.lifted
        if not are_together or axis >= rank - 2:
            return None
    else:
        weights = factors[1] if factor is factors[0] else factors[0]
        at = weights.axis_with_rows(axis, rank) if axis < rank - 2 else None
        if at is not None:
            # The rows of one sample are then a single matrix, which broadcasts along the axis; several would not.
            return _with_one_matrix(op, weights, at, first.at(axis)) if first.rows == 1 else None
    result = replace(first, axis=axis, certain=all(b.certain for _, b in batched))
    return Plan([result] + [None] * (len(op.outputs) - 1))


def _batched(factors: tuple[_Factor, _Factor]) -> list[tuple[_Factor, Batch]]:
    """Return the factors that hold samples, and where."""
    return [(factor, factor.batch) for factor in factors if factor.batch is not None]


def _with_one_matrix(op: Op, weights: _Factor, at: int, batch: Placed) -> Plan:
    """Plan a product whose weights spell out the batch on axis `at`, and hold the same for every sample."""
    what = f"constant {weights.operand.name!r} held every sample of the batch, now one"
    return Plan([batch], {weights.index: per_sample(op, weights.operand, at, batch)}, what=what)


def _product_lifted(op: Op, factors: tuple[_Factor, _Factor]) -> Plan:
    """Lift the factors that hold samples, with axes of size 1 after N, so that samples broadcast from the right.

    Two matrices whose batch was dropped, `[N, 4, 5] @ [N, 5, 3]` for a static `[4, 5] @ [5, 3]`, are multiplied sample
    by sample. Of samples `[N, 5, 3]` and weights `[2, 4, 5]`, the samples become `[N, 1, 5, 3]`, and the product is
    `[N, 2, 4, 3]`.
    """
    _refuse_mixing(op, factors)
    depth = max(factor.operand.rank for factor in factors)
    inputs: dict[int, Wanted] = {f.index: padded(b, f.operand.shape, depth) for f, b in _batched(factors)}
    result = _result(op, factors)
    if op.static_batch > 1 and isinstance(result, Placed):
        for weights in (factor for factor in factors if factor.batch is None):
            at = weights.axis_with_rows(result.axis, len(op.outputs[0]))
            if at is not None:
                inputs[weights.index] = per_sample(op, weights.operand, at, result)
    return Plan([result], inputs)


def _refuse_mixing(op: Op, factors: tuple[_Factor, _Factor]) -> None:
    """Refuse a product in which samples meet each other.

    With B = 3, samples `[3, 5]` times their own transpose `[5, 3]` are `[3, 3]`, element (i, j) being the product of
    sample i and sample j: the factors have the batch on different axes of the product. Their transpose times them,
    `[5, 3] @ [3, 5]`, sums over the samples. With B = 1 the same products are `[1, 1]` and `[5, 5]`, and they are
    refused where the axis of one is the batch's for certain.
    """
    rank = len(op.outputs[0])
    batched = _batched(factors)
    places = {factor.place(rank) for factor, _ in batched}
    certain = [(factor, b) for factor, b in batched if b.certain and b.rows == 1]
    are_apart = len(places) > 1
    if op.static_batch > 1 and (None in places or are_apart):
        op.refuse(SUMS if None in places else PAIRS)
    if len(certain) == 2 and are_apart:
        op.refuse(SUMS if None in places else PAIRS)
    if any(b.is_on(factor.summed) for factor, b in certain):
        op.refuse("it sums over the samples of the batch")


SUMS = "it sums over the axis that holds the batch"
PAIRS = "it multiplies every sample of the batch with every other sample"


def _result(op: Op, factors: tuple[_Factor, _Factor]) -> Batch:
    """Return where a lifted product has its batch: where all factors have theirs, if all samples are still there."""
    shape = op.outputs[0]
    batched = _batched(factors)
    places, first = {factor.place(len(shape)) for factor, _ in batched}, batched[0][1]
    (axis, *others) = places
    if axis is None or others or not isinstance(first, Placed) or shape[axis] != first.rows * op.static_batch:
        return DROPPED
    return first.lift().at(axis)


def _with_vector(op: Op) -> Decomposition:
    """Make a vector a matrix of one row or column, and take that axis out of the product."""
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


def gemm(op: Op) -> Plan | Decomposition:
    """Gemm, `alpha * A' @ B' + beta * C`, row by row of A; otherwise split into Transpose, MatMul, Mul and Add.

    Source: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """
    return _row_by_row(op) or _in_parts(op)


def _row_by_row(op: Op) -> Plan | None:
    """Keep the Gemm, if the samples are in the rows of A alone: `[N * M, K] @ [K, n] + [n] -> [N * M, n]`."""
    a, batch, bias = op.operand(0), op.operand(0).batch, op.given(2)
    if batch is None or len(op.batched()) > 1 or op.attribute("transA", 0):
        return None
    has_bias_for_all_rows = bias is None or bias.rank < 2 or bias.shape[0] == 1
    if batch.lifted or batch.axis != 0:
        if op.static_batch > 1 or not has_bias_for_all_rows:
            return None
        result = batch.lift() if batch.is_on(0) else DROPPED
        return Plan([folded(result, op.outputs[0])], {0: folded(batch, a.shape)})
    if has_bias_for_all_rows or bias is None:
        return Plan([batch])
    if batch.rows > 1:
        return None
    return Plan([batch], {2: per_sample(op, bias, 0, batch)}, what=f"bias {bias.name!r} held every sample")


def _in_parts(op: Op) -> Decomposition:
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
    """FusedMatMul, `alpha * A' @ B'`, is split into Transpose, MatMul and Mul.

    Each factor's axis 0 is first moved to before the last (transBatch); then its last two axes are swapped (trans).
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
    """FusedGemm, a Gemm and an activation, row by row of A; otherwise split into the two."""
    batch, bias = op.operand(0).batch, op.given(2)
    are_rows_of_a = batch is not None and len(op.batched()) == 1 and not batch.lifted and batch.axis == 0
    has_bias_for_all_rows = bias is None or bias.rank < 2 or bias.shape[0] == 1
    if are_rows_of_a and not op.attribute("transA", 0) and has_bias_for_all_rows:
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
    """Infer `[*b, M, K] @ [*b, K, n] -> [*b, M, n]`, of the type of the first factor, transposed as the node says."""
    left, right = _turned(node, inputs, 0, "A"), _turned(node, inputs, 1, "B")
    lead = broadcast_shapes(left[:-2], right[:-2])
    return [(required(inputs, 0).dtype, (*lead, *left[-2:-1], *right[-1:]))]


def _turned(node: ir.Node, inputs: Inputs, index: int, side: str) -> Shape:
    """Return the shape of a factor with axis 0 moved to before the last (transBatch), the last two swapped (trans)."""
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
