"""Unrolled loops over the samples of a static batch: `stack([f(x[0]), f(x[1])])`.

An exporter that traces such a loop writes the nodes of `f` once for every sample. A node that takes rows of one sample
only, `x[1]`, gives an operand that holds that sample alone. From there on, the walk treats it like a static batch of 1:
where the original has `f` of one sample, the rewritten graph has `f` of all samples of the call.

Where values of different samples meet, they must be joined in order, sample 0 first, and the rewritten graph must have
computed them in the same way. Then the value of sample 0 stands for all: with B = 2, `Concat(f(x[0]), f(x[1]))` is `f`
of all samples, and the nodes that were written for sample 1 are removed because nothing reads them. If the computations
differ, the join is refused.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter
from builder.batching.layout import Placed, Shape
from builder.batching.rule import Operand, Refusal
from builder.tensors import Array


def sample_of(indices: Array, batch: Placed, static_batch: int) -> tuple[int, Array] | None:
    """Return the one sample that indices along the batch's axis take rows from, and which of its rows.

    None if they take rows from several samples, or none, or if the static batch is 1. With B = 2 and 3 rows to a
    sample, `[3, 5]` takes rows 0 and 2 of sample 1.
    """
    samples, rows = batch.locate(indices, static_batch)
    if static_batch == 1 or not indices.size or (samples != samples.flat[0]).any():
        return None
    return int(samples.flat[0]), rows


def alone(operand: Operand, sample: int) -> Operand:
    """Return one sample of an operand that holds all of them. Its static shape has the rows of that sample only.

    Raises:
        Refusal: It holds positions in the static batch.
    """
    if operand.batch is None or operand.offset is not None:
        raise Refusal("it takes a sample out of positions of the samples in the static batch")
    return replace(operand, shape=operand.sample, batch=operand.batch.certain_if(False), only=sample, computed=None)


def only_sample(inputs: Sequence[Operand | None]) -> int | None:
    """Return the sample that the inputs of a node hold, if it is one alone; None if they hold all samples.

    Raises:
        Refusal: They hold different ones.
    """
    found = {operand.only for operand in inputs if operand is not None and operand.batch is not None}
    if len(found) > 1:
        raise Refusal("it combines single samples of the batch with others")
    return found.pop()


def meet(inputs: Sequence[Operand | None]) -> bool:
    """Return whether inputs hold single samples, and not all the same one."""
    found = {operand.only for operand in inputs if operand is not None and operand.batch is not None}
    return len(found) > 1 and None not in found


def members(inputs: Sequence[Operand | None], static_batch: int) -> list[Operand]:
    """Return the inputs of a Concat that come from sample 0, after checking that the others are computed like them.

    Raises:
        Refusal: Samples are missing or out of order, or were computed differently.
    """
    given = [operand for operand in inputs if operand is not None]
    count = len(given) // static_batch
    samples = [operand.only for operand in given]
    if samples != [k for k in range(static_batch) for _ in range(count)]:
        raise Refusal("it takes only some of the samples of the batch, or joins them in another order")
    first = given[:count]
    for k, operand in enumerate(given[count:]):
        twin = first[k % count]
        have_one_form = (operand.shape, operand.batch) == (twin.shape, twin.batch)
        if not have_one_form or not _are_the_same(operand.written, twin.written):
            raise Refusal("it joins samples of the batch that were not all computed in the same way")
    return first


def whole(emit: Emitter, part: Operand, name: str, shape: Shape, axis: int) -> Operand:
    """Return all samples, joined along `axis` to a static `shape`; `part` is one of them."""
    if part.batch is None:
        raise RuntimeError(f"{part.name!r} holds no sample")
    value = emit.move(part.written, part.shape, part.batch, part.batch.lift())
    return Operand(name, part.dtype, shape, Placed(axis, 1, part.shape[axis], lifted=True), value)


# ---------------------------------------------------------------------- values of the rewritten graph


def _are_the_same(one: ir.Value, other: ir.Value) -> bool:
    """Return whether two values are computed from the same values by the same nodes."""
    stack, seen = [(one, other)], set()
    while stack:
        pair = stack.pop()
        if pair[0] is pair[1] or pair in seen:
            continue
        seen.add(pair)
        inputs = _to_compare(*pair)
        if inputs is None:
            return False
        stack.extend(inputs)
    return True


def _to_compare(one: ir.Value, other: ir.Value) -> list[tuple[ir.Value, ir.Value]] | None:
    """Return the pairs of inputs that must be the same for two values to be the same; None if these cannot be."""
    if one.const_value is not None and other.const_value is not None:
        return [] if _equal(one.const_value, other.const_value) else None
    by, by_other = one.producer(), other.producer()
    if by is None or by_other is None or one.index() != other.index() or _kind(by) != _kind(by_other):
        return None
    pairs = list(zip(by.inputs, by_other.inputs, strict=True))
    if any((a is None) != (b is None) for a, b in pairs):
        return None
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _kind(node: ir.Node) -> tuple[object, ...]:
    """Return what a node does, apart from its inputs' values."""
    attributes = {name: ir.to_proto(a).SerializeToString(deterministic=True) for name, a in node.attributes.items()}
    return node.domain, node.op_type, len(node.inputs), len(node.outputs), attributes


def _equal(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    if one is other:
        return True
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return np.array_equal(_bits(one), _bits(other))


def _bits(tensor: ir.TensorProtocol) -> Array:
    """Return a tensor's values; numbers as bytes, so that NaN equals NaN, and 0 does not equal -0."""
    array: Array = tensor.numpy()
    return array if array.dtype.kind == "O" else np.frombuffer(array.tobytes(), np.uint8)
