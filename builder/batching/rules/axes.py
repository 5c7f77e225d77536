"""Which axes an operator does not mix, and where the batch is afterwards if it is on one of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from builder.batching.layout import DROPPED, Batch, Dropped, Placed, Shape
from builder.batching.rule import Mixing, Op, Plan, Wanted
from builder.tensors import Array


def only_batched(op: Op, index: int, *, role: str) -> Batch:
    """Return the batch of input `index`.

    Raises:
        Refusal: Another input, named by its `role`, holds samples too.
    """
    for i, operand, _ in op.batched():
        if i != index:
            op.refuse(f"its {role} (input {i}, {operand.name!r}) depends on the samples")
    return op.samples(index)[1]


def parallel(op: Op, batch: Batch, axes: Collection[int], verb: str) -> Batch:
    """Return a form of the batch for an operator that mixes the elements along `axes` and no others.

    Raises:
        Mixing: The batch is on one of them.
    """
    if isinstance(batch, Dropped) or batch.axis not in axes:
        return batch
    if op.static_batch == 1 and not batch.certain:
        return DROPPED
    raise Mixing(f"it {verb} axis {batch.axis}, which holds the batch")


def on_axes(
    op: Op,
    inputs: Mapping[int, int],
    outputs: Sequence[int],
    *,
    strict: Collection[int] = (0,),
    shared: Collection[int] = (),
) -> Plan:
    """Plan an operator that has its own axis for the batch: axis `inputs[i]` of input i, `outputs[k]` of output k.

    An LSTM, for one, has it on axis 1 of its input and of its states: `inputs` is `{0: 1, 5: 1, 6: 1}`. With a state
    that is a constant `[2, 1, 8]`, every sample gets a copy: `[2, N, 8]`.

    Args:
        op: The node.
        inputs: The axis of every input that has one; no other input may hold samples.
        outputs: The axis of every output.
        strict: Inputs that have other axes which the operator mixes, such as time. With a batch of 1 the samples of
            the other inputs may be on any axis, since there is only one.
        shared: Inputs that broadcast: a constant with length 1 on its axis stays as it is.

    Raises:
        Refusal: The batch is on another axis.
    """
    _refuse_other_axes(op, inputs, strict)
    taken = [i for i, axis in inputs.items() if _has_rows(op, i, axis, is_shared=i in shared)]
    for i in taken:
        if op.operand(i).rank <= inputs[i]:
            op.refuse(f"input {i} ({op.operand(i).name!r}) has no axis {inputs[i]}")
    batch = _on_first_axis(op, _rows_of_a_sample(op, {op.operand(i).shape[inputs[i]] for i in taken}))
    wants: dict[int, Wanted] = {i: batch.at(inputs[i]) for i in taken}
    return Plan([batch.at(axis) for axis in outputs[: len(op.outputs)]], wants)


def _refuse_other_axes(op: Op, inputs: Mapping[int, int], strict: Collection[int]) -> None:
    """Refuse a batch that is on another axis than the operator's."""
    for i, operand, batch in op.batched():
        if i not in inputs:
            op.refuse(f"its input {i} ({operand.name!r}) depends on the samples")
        is_elsewhere = isinstance(batch, Placed) and batch.axis != inputs[i]
        is_mixed = op.static_batch > 1 or (batch.certain and i in strict)
        if isinstance(batch, Placed) and is_elsewhere and is_mixed:
            op.refuse(f"it mixes axis {batch.axis} of {operand.name!r}, which holds the batch")


def _has_rows(op: Op, index: int, axis: int, *, is_shared: bool) -> bool:
    """Return whether an input has rows for the samples: it is there, and not a constant that broadcasts to them."""
    operand = op.given(index)
    if operand is None:
        return False
    return operand.batch is not None or not is_shared or operand.shape[axis] != 1


def _rows_of_a_sample(op: Op, sizes: set[int]) -> int:
    """Return how many rows of the batch's axis, of one of these `sizes`, belong to a sample.

    Raises:
        Refusal: The inputs disagree, or the rows cannot be shared out evenly.
    """
    if len(sizes) > 1 or any(size % op.static_batch for size in sizes):
        op.refuse(f"its inputs have batches of {sorted(sizes)}")
    return sizes.pop() // op.static_batch


def _on_first_axis(op: Op, rows: int) -> Placed:
    """Return how the samples, `rows` to each, are ordered in the axis; the caller says which axis that is."""
    batches = [b for *_, b in op.batched()]
    if op.static_batch > 1 and len({b.order for b in batches}) > 1:
        op.refuse("its inputs hold the samples in different orders")
    outer, inner = next((b.order for b in batches if isinstance(b, Placed) and b.rows == rows), (1, rows))
    return Placed(0, outer, inner, certain=all(b.certain for b in batches))


def settle(op: Op, batch: Placed, axis: int | None, shape: Shape) -> Batch:
    """Return the batch on `axis` of an output of static `shape`, or dropped where its rows are not there (B = 1)."""
    if axis is not None and 0 <= axis < len(shape) and shape[axis] == batch.rows * op.static_batch:
        return batch.at(axis)
    if op.static_batch > 1:
        op.refuse("it spreads the batch over several axes")
    return DROPPED


def normalized(axes: Sequence[int], rank: int) -> list[int]:
    """Count axes from the front."""
    return [int(a) + rank if a < 0 else int(a) for a in axes]


def sample_indices(op: Op, indices: Sequence[int], batch: Placed) -> tuple[list[int], Placed]:
    """Turn indices along the batch's axis into indices along one sample's rows.

    The static axis has `outer * B * inner` elements; element `(o * B + b) * inner + i` is row `o * inner + i` of sample
    b. A selection keeps the samples apart when it takes the same rows of every sample, all samples in order.

    With B = 2, outer = 3 and inner = 1 the six elements are, as (row, sample):

        index     0      1      2      3      4      5
        element  (0,0)  (0,1)  (1,0)  (1,1)  (2,0)  (2,1)

    `[2, 3, 4, 5]` takes rows 1 and 2 of both samples: the answer is `[1, 2]` with outer = 2 and inner = 1. `[2, 4]`
    takes rows of sample 0 alone and is refused. With outer = 1 and inner = 3 the elements are

        element  (0,0)  (1,0)  (2,0)  (0,1)  (1,1)  (2,1)

    and `[0, 2, 3, 5]` takes rows 0 and 2 of both: the answer is `[0, 2]` with outer = 1 and inner = 2. No indices at
    all take no rows of any sample.

    Returns:
        The rows taken of one sample's `outer * inner`, and where the batch is among them.

    Raises:
        Refusal: Some samples are left out, repeated or reordered.
    """
    taken = np.asarray(indices, np.int64).ravel()
    total = op.static_batch
    sample, rows = batch.locate(taken, total)
    inner = _rows_together(sample, batch, total)
    if not len(taken) and batch.rows > 1:
        return [], replace(batch, outer=0, inner=1)
    if not len(taken) or len(taken) % (total * inner):
        op.refuse("it takes only some of the samples of the batch")
    # Like the axis that they select from, the indices must form a grid [outer, sample, inner].
    split = (len(taken) // (total * inner), total, inner)
    row_grid, sample_grid = rows.reshape(split), sample.reshape(split)
    are_samples_in_order = np.array_equal(sample_grid, np.broadcast_to(np.arange(total)[:, None], split))
    are_rows_the_same = np.array_equal(row_grid, np.broadcast_to(row_grid[:, :1], split))
    if not (are_samples_in_order and are_rows_the_same):
        op.refuse("it picks or reorders samples of the batch")
    return row_grid[:, 0].ravel().tolist(), replace(batch, outer=split[0], inner=inner)


def _rows_together(sample: Array, batch: Placed, total: int) -> int:
    """Return how many of the rows taken lie together for each sample: the new `inner`."""
    if total > 1:
        different = np.flatnonzero(sample != sample[:1])
        return int(different[0]) if len(different) else len(sample)
    # If there is one sample, all its rows lie together, before or after the batch as they were.
    return len(sample) if batch.outer == 1 and batch.inner > 1 else 1
