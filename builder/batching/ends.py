"""The inputs and outputs of the rewritten graph: `[N, *dims]`, wherever the original has its batch."""

from collections.abc import Sequence

import onnx_ir as ir

from builder.batching.batched import BatchedTensor
from builder.batching.layout import DROPPED, Batch, Placed, Shape
from builder.batching.plans import PlanWriter
from builder.batching.rule import Op, Operand, Refusal
from builder.batching.statics import evaluate
from builder.model import TensorSpec

TIME_MAJOR = 3
"""The rank of a value in the order of recurrent networks: time, batch, features."""


def add_input(
    writer: PlanWriter, spec: TensorSpec, original: ir.Value, shape: Shape, axis: int | None, static_batch: int
) -> tuple[ir.Value, Operand, BatchedTensor]:
    """Make a graph input `[N, *dims]`, and the operand that holds the samples where the original has them.

    Args:
        writer: The writer of the rewritten graph.
        spec: The input.
        original: Its value in the original graph.
        shape: Its static shape.
        axis: Where its batch is; None when the whole input belongs to one sample. If the axis is a multiple of the
            batch, the rows of each sample lie together there.
        static_batch: How many samples the original takes.
    """
    batch = DROPPED if axis is None else Placed(axis, inner=shape[axis] // static_batch, lifted=True)
    value = ir.Value(name=original.name)
    writer.emit.declare(value, spec.dtype, (-1, *batch.dims(shape)))
    value.meta.update(original.meta)
    tensor = _tensor(spec, shape, batch)
    if not isinstance(batch, Placed) or batch.rows > 1:
        return value, Operand(spec.name, spec.dtype, shape, batch, value), tensor
    order = [*range(1, batch.axis + 1), 0, *range(batch.axis + 1, len(shape))]
    in_place = writer.emit.transpose(value, order)
    return value, Operand(spec.name, spec.dtype, shape, batch.lower(), in_place), tensor


def _tensor(spec: TensorSpec, shape: Shape, batch: Batch) -> BatchedTensor:
    place = (batch.axis, batch.rows, batch.outer) if isinstance(batch, Placed) else (None,)
    return BatchedTensor(spec.name, spec.name, spec.dtype, batch.dims(shape), shape, *place)


class Outputs:
    """Makes the outputs of the rewritten graph; no two of them may be the same value.

    Args:
        writer: The writer of the rewritten graph.
        static_batch: How many samples the original takes.
        is_whole: Whether no input has a batch axis. Each output of the original then belongs to one sample.
    """

    def __init__(self, writer: PlanWriter, static_batch: int, *, is_whole: bool) -> None:
        self.writer = writer
        self.static_batch = static_batch
        self.is_whole = is_whole
        self._taken: set[ir.Value] = set()

    def add(self, spec: TensorSpec, original: ir.Value, operand: Operand) -> tuple[ir.Value, BatchedTensor]:
        """Make a graph output `[N, *dims]`.

        Raises:
            Refusal: The original's output has no batch, or holds what only its static batch has.
        """
        if operand.items is not None:
            raise Refusal(f"output {operand.name!r} is a sequence, but Triton serves only tensors")
        if operand.only is not None:
            raise Refusal(f"output {operand.name!r} takes only some of the samples of the batch")
        if operand.offset is not None:
            raise Refusal(f"output {operand.name!r} contains positions of the samples in the static batch")
        value, batch = self._located(operand)
        dims = batch.dims(operand.shape)
        result = value
        if isinstance(batch, Placed):
            is_in_front = not batch.lifted and batch.axis == 0 and batch.outer == 1
            if not is_in_front:
                result = self.writer.emit.move(value, operand.shape, batch, batch.lift())
            if result is not value or batch.lifted or batch.rows > 1:
                result = self.writer.emit.reshape(result, (-1, *dims))
        result = self._named(result, spec.name, operand.dtype, ("batch", *dims))
        result.meta.update(original.meta)
        return result, _tensor(spec, operand.shape, batch)

    def _located(self, operand: Operand) -> tuple[ir.Value, Batch]:
        """Return the output's value, and where its batch must be."""
        batch = operand.batch
        if batch is None:
            return self._constant(operand)
        if batch.certain:
            return operand.written, batch
        return self._settled(operand, batch)

    def _constant(self, operand: Operand) -> tuple[ir.Value, Batch]:
        """Repeat an output that is the same for every sample: one of its rows if it has a batch axis, or all of it."""
        has_rows = operand.shape[:1] == (self.static_batch,)
        batch = Placed(0) if has_rows else DROPPED
        op = Op(ir.Node("", "Identity", []), 1, [operand], [operand.shape], self.static_batch, evaluate)
        return self.writer.spread(op, operand, batch), batch

    def _settled(self, operand: Operand, batch: Batch) -> tuple[ir.Value, Batch]:
        """Settle which axis is the batch of an output that dropped it, or that could have it on several axes.

        A leading axis of one is the batch. So is the only axis of one in `[T, 1, C]`, the order of recurrent
        networks, where the batch was dropped.
        """
        emit, shape = self.writer.emit, operand.shape
        if self.static_batch == 1 and shape[:1] == (1,):
            lifted = emit.move(operand.written, shape, batch, batch.lift())
            return emit.reshape(lifted, Placed(0).target(shape)), Placed(0)
        if isinstance(batch, Placed):
            return operand.written, batch
        if self.is_whole:
            return operand.written, batch
        axes_of_one = [axis for axis, size in enumerate(shape) if size == 1]
        if len(shape) == TIME_MAJOR and axes_of_one == [1]:
            return operand.written, Placed(1, lifted=True)
        where = f" (dropped by {operand.dropped_by})" if operand.dropped_by else ""
        raise Refusal(f"output {operand.name!r} {list(shape)} has no batch axis{where}")

    def _named(self, value: ir.Value, name: str, dtype: ir.DataType, dims: Sequence[int | str]) -> ir.Value:
        """Give `value` the output's name; an input, a constant or another output is copied first."""
        is_input = value.producer() is None and value.const_value is None
        if is_input and value.name == name and value not in self._taken:
            self._taken.add(value)
            return value
        if value.producer() is None or value in self._taken:
            (value,) = self.writer.emit.node("Identity", [value])
        self._taken.add(value)
        value.name = name
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(dims)
        return value
