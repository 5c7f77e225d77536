"""Turn the plan that a rule made for a node into nodes of the rewritten graph."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Attribute, Emitter
from builder.batching.layout import Batch, Dropped, View, scaled
from builder.batching.rule import Computed, Measured, Op, Operand, Plan, Refusal, Static, Wanted, per_sample
from builder.model import label
from builder.tensors import Array

COUNTING = (ir.DataType.INT32, ir.DataType.INT64)
"""The types of sizes."""

SMALL_BYTES = 4096
"""A constant whose value is known is stored as that value up to this size; a larger one as the node that makes it."""


class PlanWriter:
    """Writes plans, and the constants they read, into one graph.

    Attributes:
        emit: The rewritten graph so far.
        static_batch: How many samples the original runs on at once.
        sized: The values of all constants written so far that depend on a dynamic axis.
    """

    def __init__(self, emit: Emitter, static_batch: int) -> None:
        self.emit = emit
        self.static_batch = static_batch
        self.sized: dict[ir.Value, Array] = {}
        self._copied: dict[ir.Node, list[ir.Value]] = {}

    def write(self, op: Op, plan: Plan, static: Static) -> list[Operand]:
        """Write one plan; returns the operands of the node's outputs.

        Args:
            op: The node.
            plan: What its rule answered.
            static: The types and static shapes of its outputs.
        """
        self._measure(op)
        inputs = self._inputs(op, plan)
        values = plan.build(self.emit, inputs) if plan.build is not None else self._same_node(op, plan, inputs)
        return [self._result(op, k, static, values[k], batch) for k, batch in enumerate(plan.outputs)]

    def _measure(self, op: Op) -> None:
        """Write the sizes that a node reads. The plan may hold a number made from them, which `merging` replaces."""
        for operand in op.inputs:
            if operand is not None and operand.is_sized and operand.dtype in COUNTING:
                array = op.evaluate(operand)
                if array is not None and array.ndim <= 1:
                    self.sized[self.materialize(operand)] = array

    def _inputs(self, op: Op, plan: Plan) -> list[ir.Value | None]:
        count = max([len(op.inputs), *(i + 1 for i in plan.inputs)])
        inputs = [self._input(op, plan, index) for index in range(count)]
        while inputs and inputs[-1] is None:
            inputs.pop()
        return inputs

    def _input(self, op: Op, plan: Plan, index: int) -> ir.Value | None:
        if index in plan.inputs:
            return self._prepare(op, index, plan.inputs[index])
        operand = op.given(index)
        return None if operand is None else self.materialize(operand)

    def _prepare(self, op: Op, index: int, wanted: Wanted) -> ir.Value | None:
        """Give an input the form that the plan asks for."""
        if wanted is None:
            return None
        if isinstance(wanted, np.ndarray):
            given = op.given(index)
            if given is not None and given.is_sized and given.batch is None:
                found = self._same_values(op, given, wanted)
                if found is not None:
                    return found
            return self.emit.constant(wanted, given.name if given is not None else None)
        operand = op.operand(index)
        batch = wanted.batch if isinstance(wanted, View) else wanted
        source = operand.batch
        value = self.spread(op, operand, batch) if source is None else self._move(operand, source, batch)
        if isinstance(wanted, View) and wanted.shape != batch.target(operand.shape):
            value = self.emit.reshape(value, wanted.shape)
        return value

    def _same_values(self, op: Op, given: Operand, wanted: Array) -> ir.Value | None:
        """Return a constant that depends on a dynamic axis, if a plan wants its values, perhaps in another shape."""
        array = op.evaluate(given)
        if array is None or array.size != wanted.size or not np.array_equal(array.ravel(), wanted.ravel()):
            return None
        value = self.materialize(given)
        if array.dtype != wanted.dtype:
            (value,) = self.emit.node("Cast", [value], {"to": int(ir.DataType.from_numpy(wanted.dtype))})
        if array.shape == wanted.shape:
            return value
        longest = int(np.argmax(wanted.shape)) if wanted.ndim else 0
        return self.emit.reshape(value, tuple(-1 if axis == longest else d for axis, d in enumerate(wanted.shape)))

    def _same_node(self, op: Op, plan: Plan, inputs: Sequence[ir.Value | None]) -> list[ir.Value]:
        """Write the node itself, with the attributes that the plan changes."""
        node = op.node
        attributes: dict[str, Attribute] = {k: v for k, v in node.attributes.items() if k not in plan.attributes}
        attributes.update({k: v for k, v in plan.attributes.items() if v is not None})
        pairs = zip(node.outputs, plan.outputs, strict=True)
        names = [f"{v.name}.view" if v.name and isinstance(batch, View) else v.name for v, batch in pairs]
        return self.emit.node(node.op_type, inputs, attributes, outputs=names, domain=node.domain, like=node)

    def _result(self, op: Op, index: int, static: Static, value: ir.Value, batch: Batch | View | None) -> Operand:
        original = op.node.outputs[index]
        dtype, shape = static[index]
        if not original.name:
            value.name = ""
        is_declared = bool(original.name) and dtype != ir.DataType.UNDEFINED
        if isinstance(batch, View):
            if is_declared:
                self.emit.declare(value, dtype, scaled(batch.shape, math.prod(batch.batch.sample_shape(shape))))
            batch = batch.batch
            if original.name:
                value = self.emit.reshape(value, batch.target(shape), original.name)
        elif batch is not None and is_declared:
            self.emit.declare(value, dtype, batch.target(shape))
        dropped_by = _dropped_by(op) if isinstance(batch, Dropped) else None
        return Operand(str(original.name), dtype, shape, batch, value, dropped_by=dropped_by)

    def _move(self, operand: Operand, source: Batch, target: Batch) -> ir.Value:
        """Return the operand's value with its batch in another form or place."""
        same_shape = source.sample_shape(operand.shape) == target.sample_shape(operand.shape)
        if source.place != target.place and not same_shape:
            raise Refusal(f"the batch of {operand.name!r} is not on the axis where this operator needs it")
        return self.emit.move(operand.written, operand.shape, source, target)

    # ------------------------------------------------------------------ constants

    def spread(self, op: Op, operand: Operand, target: Batch) -> ir.Value:
        """Repeat a constant for every sample. One that spells out the static batch is first cut to one sample's rows.

        Raises:
            Refusal: It holds different rows for different samples.
        """
        sample = target.sample_shape(operand.shape)
        if isinstance(target, Dropped) or sample == operand.shape:
            value = self.materialize(operand)
        else:
            value = self.emit.constant(per_sample(op, operand, target.axis, target), operand.name)
        return self.emit.spread(value, sample, target)

    def materialize(self, operand: Operand) -> ir.Value:
        """Return the operand's value in the rewritten graph; a constant is written when it is first needed.

        What a constant node reads is written before it. This uses a stack, because such nodes can be nested deeper than
        Python can recurse.
        """
        stack = [operand]
        while stack:
            top = stack[-1]
            waiting = _unwritten_inputs(top)
            if waiting:
                stack.extend(waiting)
                continue
            if top.value is None:
                top.value = self._write(top)
            stack.pop()
        return operand.written

    def _write(self, operand: Operand) -> ir.Value:
        origin = operand.origin
        if isinstance(origin, Computed):
            return self._copy(operand, origin)
        if isinstance(origin, Measured):
            return self._read(operand, origin)
        if isinstance(origin, np.ndarray):
            return self.emit.constant(origin, operand.name)
        if origin is None:
            raise RuntimeError(f"{operand.name!r} is neither computed nor stored")
        return self.emit.initializer(operand.name, origin)

    def _copy(self, operand: Operand, origin: Computed) -> ir.Value:
        """Copy a constant node unchanged, or store its result if that is known and small."""
        is_stored = operand.computed is not None and operand.computed.nbytes <= SMALL_BYTES
        stays = operand.is_sized or operand.is_dequantized
        if is_stored and not stays and operand.computed is not None:
            return self.emit.constant(operand.computed, operand.name)
        node = origin.node
        if node not in self._copied:
            inputs = [o.value if o is not None else None for o in origin.inputs]
            names = [v.name for v in node.outputs]
            self._copied[node] = self.emit.node(
                node.op_type, inputs, dict(node.attributes), outputs=names, domain=node.domain, like=node
            )
        return self._copied[node][origin.index]

    def _read(self, operand: Operand, origin: Measured) -> ir.Value:
        """Read a shape at run time as the static model has it: `[N, S, D]`, lifted from `[1, S, D]`, gives 1, S, D."""
        samples = origin.operand
        (shape,) = self.emit.node("Shape", [samples.written])
        parts = [
            self._size(shape, samples, axis)
            if axis in origin.varying
            else self.emit.constant(np.asarray([samples.shape[axis]], np.int64), "size")
            for axis in origin.axes
        ]
        return self.emit.node("Concat", parts, {"axis": 0}, outputs=[operand.name])[0]

    def _size(self, shape: ir.Value, samples: Operand, axis: int) -> ir.Value:
        """Return the static model's size of one axis: of `N * S` rows, S for each sample, it has `B * S`."""
        batch = samples.batch
        is_lifted = batch is not None and batch.lifted
        index = self.emit.constant(np.asarray([axis + is_lifted], np.int64), "axis")
        (size,) = self.emit.node("Gather", [shape, index], {"axis": 0})
        if batch is None or not batch.is_on(axis):
            return size
        if not is_lifted:
            (size,) = self.emit.node("Div", [size, self.emit.batch_size()])
        return self.emit.node("Mul", [size, self.emit.constant(np.asarray([self.static_batch], np.int64))])[0]


def _unwritten_inputs(operand: Operand) -> list[Operand]:
    """Return what must be written before a constant that is not written yet."""
    if operand.value is not None or not isinstance(operand.origin, Computed):
        return []
    return [o for o in operand.origin.inputs if o is not None and o.value is None]


def _dropped_by(op: Op) -> str:
    """Name the node that dropped the batch's axis: one before this, or this one."""
    return next((o.dropped_by for o in op.inputs if o is not None and o.dropped_by), label(op.node))
