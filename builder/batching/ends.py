"""The inputs and outputs of the rewritten graph: `[N, *dims]`, wherever the original has its batch."""

from collections.abc import Sequence

import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, Placed, Shape
from builder.batching.plans import PlanWriter
from builder.batching.rule import Op, Operand, Refusal
from builder.batching.statics import evaluate

TIME_MAJOR = 3
"""The rank of a value in the order of recurrent networks: time, batch, features."""


def add_input(
    writer: PlanWriter, original: ir.Value, dtype: ir.DataType, shape: Shape, axis: int | None
) -> tuple[ir.Value, Operand]:
    """Make a graph input `[N, *dims]`, and the operand that holds the samples where the original has them.

    Args:
        writer: The writer of the rewritten graph.
        original: The input of the original graph.
        dtype: Its element type.
        shape: Its static shape.
        axis: Where its batch is; None when the whole input belongs to one sample.
    """
    dims = shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
    value = ir.Value(name=original.name)
    writer.emit.declare(value, dtype, (-1, *dims))
    value.meta.update(original.meta)
    if axis is None:
        return value, Operand(str(original.name), dtype, shape, DROPPED, value)
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]
    return value, Operand(str(original.name), dtype, shape, Placed(axis), writer.emit.transpose(value, order))


class Outputs:
    """Makes the outputs of the rewritten graph; no two of them may be the same value."""

    def __init__(self, writer: PlanWriter, static_batch: int) -> None:
        self.writer = writer
        self.static_batch = static_batch
        self._taken: set[ir.Value] = set()

    def add(self, original: ir.Value, operand: Operand) -> tuple[ir.Value, Batch]:
        """Make a graph output `[N, *dims]`; returns it, and where the original has the batch.

        Raises:
            Refusal: The original's output has no batch, or holds what only its static batch has.
        """
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
        result = self._named(result, str(original.name), operand.dtype, ("batch", *dims))
        result.meta.update(original.meta)
        return result, batch

    def _located(self, operand: Operand) -> tuple[ir.Value, Batch]:
        """Return the output's value, and the axis that must be its batch; only a constant may have none."""
        batch = operand.batch
        if batch is None:
            return self._constant(operand)
        if batch.certain:
            return operand.written, batch
        return self._settled(operand, batch)

    def _constant(self, operand: Operand) -> tuple[ir.Value, Batch]:
        """Repeat an output that is the same for every sample: its row for each, or all of it."""
        has_rows = operand.shape[:1] == (self.static_batch,)
        batch = Placed(0) if has_rows else DROPPED
        op = Op(ir.Node("", "Identity", []), 1, [operand], [operand.shape], self.static_batch, evaluate)
        return self.writer.spread(op, operand, batch), batch

    def _settled(self, operand: Operand, batch: Batch) -> tuple[ir.Value, Placed]:
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
