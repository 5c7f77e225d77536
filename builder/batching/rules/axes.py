"""What several families of rules share: which axes an operator treats as parallel, and index sets along the batch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from builder.batching.layout import DROPPED, Batch, Dropped, Placed, Shape
from builder.batching.rule import Op, Plan, Wanted


def only_batched(op: Op, index: int, *, role: str) -> Batch:
    """The batch of input `index`, when no other input holds samples."""
    for i, operand, _ in op.batched():
        if i != index:
            op.refuse(f"its {role} (input {i}, {operand.name!r}) depends on the samples")
    return op.samples(index)[1]


def parallel(op: Op, batch: Batch, axes: Collection[int], verb: str) -> Batch:
    """A form of the batch that the operator's `axes` do not touch.

    Raises:
        Refusal: The batch is on one of them, so that samples would be mixed.
    """
    if isinstance(batch, Dropped) or batch.axis not in axes:
        return batch
    if op.static_batch == 1 and not batch.certain:
        return DROPPED
    op.refuse(f"it {verb} axis {batch.axis}, which holds the batch")


def on_axes(
    op: Op,
    inputs: Mapping[int, int],
    outputs: Sequence[int],
    *,
    strict: Collection[int] = (0,),
    shared: Collection[int] = (),
) -> Plan:
    """The plan for an operator that has an axis for the batch: `inputs[i]` of input i, `outputs[k]` of output k.

    Args:
        op: The node.
        inputs: The axis of every input that has one; no other input may hold samples.
        outputs: The axis of every output.
        strict: Inputs with another axis, like time, that the operator mixes.
        shared: Inputs that broadcast: without samples and of length one they stay as they are.

    Raises:
        Refusal: The batch is somewhere else.
    """
    found = op.batched()
    for i, operand, b in found:
        if i not in inputs:
            op.refuse(f"its input {i} ({operand.name!r}) depends on the samples")
        if isinstance(b, Placed) and b.axis != inputs[i] and (op.static_batch > 1 or (b.certain and i in strict)):
            op.refuse(f"it mixes axis {b.axis} of {operand.name!r}, which holds the batch")
    given = {i: o for i, o in enumerate(op.inputs) if i in inputs and o is not None}
    taken = [i for i, o in given.items() if o.batch is not None or i not in shared or o.shape[inputs[i]] != 1]
    sizes = {given[i].shape[inputs[i]] for i in taken}
    if len(sizes) > 1 or any(s % op.static_batch for s in sizes):
        op.refuse(f"its inputs have batches of {sorted(sizes)}")
    rows = sizes.pop() // op.static_batch
    if op.static_batch > 1 and len({b.order for *_, b in found}) > 1:
        op.refuse("its inputs hold the samples in different orders")
    outer, inner = next((b.order for *_, b in found if isinstance(b, Placed) and b.rows == rows), (1, rows))
    batch = Placed(0, outer, inner, certain=all(b.certain for *_, b in found))
    wants: dict[int, Wanted] = {i: batch.at(inputs[i]) for i in taken}
    return Plan([batch.at(axis) for axis in outputs[: len(op.outputs)]], wants)


def settle(op: Op, batch: Placed, axis: int | None, shape: Shape) -> Batch:
    """The batch on `axis` of an output of static `shape`, or dropped where its rows are no longer there (B = 1)."""
    if axis is not None and 0 <= axis < len(shape) and shape[axis] == batch.rows * op.static_batch:
        return batch.at(axis)
    if op.static_batch > 1:
        op.refuse("it spreads the batch over other elements")
    return DROPPED


def normalized(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front."""
    return [int(a) + rank if a < 0 else int(a) for a in axes]


def sample_indices(op: Op, indices: Sequence[int], batch: Placed) -> tuple[list[int], Placed]:
    """Indices along the batch's axis as indices along one sample's rows.

    The static axis is `outer * B * inner`. A selection keeps the samples apart when it takes the same rows of every
    sample, all samples in order.

    Returns:
        The rows taken of one sample's `outer * inner`, and where the batch is among them.

    Raises:
        Refusal: Some samples are dropped, repeated or reordered.
    """
    taken = np.asarray(indices, np.int64).ravel()
    total = op.static_batch
    rows = (taken // (total * batch.inner)) * batch.inner + taken % batch.inner
    sample = (taken // batch.inner) % total
    inner = _run_length(sample) if total > 1 else (len(taken) if batch.outer == 1 and batch.inner > 1 else 1)
    if not len(taken) or len(taken) % (total * inner):
        op.refuse("it takes some samples of the batch and not others")
    split = (len(taken) // (total * inner), total, inner)
    grid, who = rows.reshape(split), sample.reshape(split)
    if not np.array_equal(who, np.broadcast_to(np.arange(total)[:, None], split)) or (grid != grid[:, :1]).any():
        op.refuse("it takes or reorders single samples of the batch")
    return grid[:, 0].ravel().tolist(), replace(batch, outer=split[0], inner=inner)


def _run_length(values: np.ndarray) -> int:  # type: ignore[type-arg]
    """How often the first value stands at the start."""
    different = np.flatnonzero(values != values[:1])
    return int(different[0]) if len(different) else len(values)
