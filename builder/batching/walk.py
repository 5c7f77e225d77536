"""Carry the batch through the graph: one walk in topological order, a rule for each node."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from builder.batching import numbering
from builder.batching.control_flow import STEERS
from builder.batching.emit import Emitter, static_dims
from builder.batching.functions import function_body
from builder.batching.layout import DROPPED, Batch, Dropped, Placed, Shape, View
from builder.batching.rule import (
    Computed,
    Decomposition,
    DifferentRows,
    Known,
    Malformed,
    Op,
    Operand,
    Plan,
    Refusal,
    Rule,
    Static,
    Wanted,
    per_sample,
)
from builder.batching.rules import RULES, SHAPES
from builder.batching.rules.refused import RANDOM, REFUSED
from builder.batching.statics import evaluate, infer
from builder.batching.steering import known
from builder.model import Dim

SMALL_BYTES = 4096
"""A constant the walk has computed anyway is stored as it is up to this size."""

TIME_MAJOR = 3
"""Axes of a value in the order of recurrent networks: time, batch, features."""

LARGEST_DECOMPOSITION = 64
"""Decompositions nested deeper than this are a rule that decomposes into itself."""


@dataclass(frozen=True, slots=True)
class Change:
    """A node whose baked batch was rewritten."""

    node: ir.Node
    what: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A node that cannot carry the batch, and why."""

    node: ir.Node
    reason: str


class Walk:
    """The state of one walk.

    Attributes:
        emit: The rewritten graph so far.
        operands: The operand of every value of the original met so far; None once it hangs on a refused node.
        changes: What had to be rewritten.
        refusals: Every node that refused; nodes after it are passed over.
    """

    def __init__(self, static_batch: int, opsets: Mapping[str, int]) -> None:
        self.static_batch = static_batch
        self.opsets = dict(opsets)
        self.emit = Emitter(self.opsets.get("", 1))
        self.operands: dict[ir.Value, Operand | None] = {}
        self.changes: list[Change] = []
        self.refusals: list[Refused] = []
        self.written_out = 0
        self._depth = 0
        self._outputs: set[ir.Value] = set()
        self._copied: dict[ir.Node, list[ir.Value]] = {}

    # ------------------------------------------------------------------ the walk itself

    def walk(self, nodes: Iterable[ir.Node]) -> None:
        """Carry over `nodes`, which are in topological order."""
        for node in nodes:
            if any(v is not None and self.operands.get(v, ...) is None for v in node.inputs):
                self._give_up(node)
                continue
            try:
                self._step(node)
            except Refusal as refusal:
                self.refusals.append(Refused(node, str(refusal)))
                self._give_up(node)

    def operand(self, value: ir.Value) -> Operand:
        """The operand of a value; initializers are met here first."""
        if value not in self.operands:
            tensor = value.const_value
            if tensor is None:
                raise Refusal(f"value {value.name!r} is read before it is computed")
            shape = static_dims(tensor)
            self.operands[value] = Operand(str(value.name), tensor.dtype, shape, origin=tensor)
        found = self.operands[value]
        if found is None:
            raise Refusal(f"value {value.name!r} hangs on a refused node")
        return found

    def _give_up(self, node: ir.Node) -> None:
        self.operands.update((v, None) for v in node.outputs)

    def _step(self, node: ir.Node) -> None:
        steer = STEERS.get((_domain(node), node.op_type))
        if steer is not None:
            results = steer(self, node)
        else:
            inputs = [None if v is None else self.operand(v) for v in node.inputs]
            if any(o is not None and o.items is not None for o in inputs):
                raise Refusal("it reads a sequence")
            if any(o is not None and o.batch is not None for o in inputs):
                results = self._carry(node, inputs)
            else:
                results = self._keep(node, inputs)
        self.operands.update(zip(node.outputs, results, strict=True))

    def _keep(self, node: ir.Node, inputs: Sequence[Operand | None]) -> list[Operand]:
        """A node that sees no sample is a constant: it is computed on demand, or copied when an operator needs it."""
        if not _domain(node) and node.op_type in RANDOM:
            raise Refusal(REFUSED["", node.op_type])
        results: list[Operand] = []
        for k, value in enumerate(node.outputs):
            origin = Computed(node, self.opsets.get(_domain(node), 1), tuple(inputs), k)
            results.append(Operand(str(value.name), ir.DataType.UNDEFINED, (), origin=origin))
        try:
            static = self._static(node, inputs)
        except Malformed:
            raise
        except Refusal:
            static = []
        for k, result in enumerate(results):
            if static:
                result.dtype, result.shape = static[k]
            elif node.outputs[k].name:
                array = evaluate(result)
                if array is None:
                    raise Refusal("its constant value cannot be computed")
                result.dtype, result.shape = ir.DataType.from_numpy(array.dtype), array.shape
        return results

    def _static(self, node: ir.Node, inputs: Sequence[Operand | None]) -> list[tuple[ir.DataType, Shape]]:
        shapes = SHAPES.get((_domain(node), node.op_type))
        return shapes(node, inputs) if shapes is not None else infer(node, inputs, self.opsets)

    def _carry(self, node: ir.Node, inputs: Sequence[Operand | None]) -> Sequence[Operand | None]:
        """A node that sees samples: ask its rule."""
        key = _domain(node), node.op_type
        if key in REFUSED:
            raise Refusal(REFUSED[key])
        numbering.check(node, inputs)
        rule = RULES.get(key)
        if rule is None:
            body = function_body(node, inputs, self)
            if body is None:
                raise Refusal("there is no rule for this operator")
            return self._decompose(node, body)
        static = self._static(node, inputs)
        while True:
            try:
                return self._by_rule(rule, node, inputs, static)
            except DifferentRows as found:
                inputs = numbering.apart(node, inputs, found)

    def _by_rule(
        self, rule: Rule, node: ir.Node, inputs: Sequence[Operand | None], static: Static
    ) -> Sequence[Operand | None]:
        opset = self.opsets.get(_domain(node), 1)
        op = Op(node, opset, inputs, [s for _, s in static], self.static_batch, evaluate)
        plan = rule(op)
        if isinstance(plan, Decomposition):
            return self._decompose(node, plan)
        if isinstance(plan, Known):
            pairs = zip(node.outputs, plan.outputs, strict=True)
            return [known(array, str(value.name)) for value, array in pairs]
        if plan.what and not self._depth:
            self.changes.append(Change(node, plan.what))
        results = self._apply(op, plan, static)
        numbering.follow(node, opset, inputs, results[0])
        return results

    def _decompose(self, node: ir.Node, body: Decomposition) -> Sequence[Operand | None]:
        """Walk a node's equivalent in its place; what is refused there is refused for this node."""
        if self._depth >= LARGEST_DECOMPOSITION:
            raise Refusal("its decomposition does not end")
        self._depth += 1
        try:
            for inner in body.nodes:
                self._step(inner)
        finally:
            self._depth -= 1
        return [self.operand(v) for v in body.outputs]

    # ------------------------------------------------------------------ a plan becomes nodes

    def _apply(self, op: Op, plan: Plan, static: Sequence[tuple[ir.DataType, Shape]]) -> list[Operand]:
        inputs: list[ir.Value | None] = []
        for index in range(max([len(op.inputs), *(i + 1 for i in plan.inputs)])):
            operand = op.given(index)
            if index in plan.inputs:
                inputs.append(self._prepare(op, index, plan.inputs[index]))
            else:
                inputs.append(None if operand is None else self.materialize(operand))
        while inputs and inputs[-1] is None:
            inputs.pop()
        raw = [isinstance(b, View) for b in plan.outputs]
        names = [v.name and (f"{v.name}.view" if r else v.name) for v, r in zip(op.node.outputs, raw, strict=True)]
        if plan.build is not None:
            values = list(plan.build(self.emit, inputs))
        else:
            attributes = {k: v for k, v in op.node.attributes.items() if k not in plan.attributes}
            attributes |= {k: v for k, v in plan.attributes.items() if v is not None}  # type: ignore[misc]
            node = op.node
            values = self.emit.node(node.op_type, inputs, attributes, outputs=names, domain=node.domain, like=node)
        return [self._finish(op, k, static[k], values[k], batch) for k, batch in enumerate(plan.outputs)]

    def _finish(
        self,
        op: Op,
        index: int,
        static: tuple[ir.DataType, Shape],
        value: ir.Value,
        batch: Batch | View | None,
    ) -> Operand:
        original = op.node.outputs[index]
        dtype, shape = static
        if not original.name:
            value.name = ""
        if isinstance(batch, View):
            batch = batch.batch
            if original.name:
                value = self.emit.reshape(value, batch.target(shape), original.name)
        lost = None
        if isinstance(batch, Dropped):
            lost = next((o.lost for o in op.inputs if o is not None and o.lost), None) or label(op.node)
        return Operand(str(original.name), dtype, shape, batch, value, lost=lost)

    def _prepare(self, op: Op, index: int, wanted: Wanted) -> ir.Value | None:
        """Feed an input as the plan wants it."""
        if wanted is None:
            return None
        if isinstance(wanted, np.ndarray):
            given = op.given(index)
            return self.emit.constant(wanted, given.name if given is not None else None)
        operand = op.operand(index)
        batch = wanted.batch if isinstance(wanted, View) else wanted
        source = operand.batch
        value = self._spread(op, operand, batch) if source is None else self.move(operand, source, batch)
        if isinstance(wanted, View) and wanted.shape != batch.target(operand.shape):
            value = self.emit.reshape(value, wanted.shape)
        return value

    def move(self, operand: Operand, source: Batch, batch: Batch) -> ir.Value:
        """The operand's value with its batch in another form or place."""
        if source.place != batch.place and source.sample_shape(operand.shape) != batch.sample_shape(operand.shape):
            raise Refusal(f"the batch of {operand.name!r} is not where it is needed")
        return self.emit.move(operand.written, operand.shape, source, batch)

    def _spread(self, op: Op, operand: Operand, batch: Batch) -> ir.Value:
        """An unbatched operand, repeated for every sample."""
        shape = batch.sample_shape(operand.shape)
        if isinstance(batch, Dropped) or shape == operand.shape:
            value = self.materialize(operand)
        else:
            value = self.emit.constant(per_sample(op, operand, batch.axis, batch), operand.name)
        return self.emit.spread(value, shape, batch)

    def materialize(self, operand: Operand) -> ir.Value:
        """The operand's value in the rewritten graph; constants are carried over when they are first needed."""
        if operand.value is not None:
            return operand.value
        stack = [operand]
        while stack:
            top = stack[-1]
            origin = top.origin
            if top.value is None:
                if isinstance(origin, Computed):
                    waiting = [o for o in origin.inputs if o is not None and o.value is None]
                    if waiting:
                        stack.extend(waiting)
                        continue
                    self._copy(top, origin)
                elif isinstance(origin, np.ndarray):
                    top.value = self.emit.constant(origin, top.name)
                elif origin is not None:
                    top.value = self.emit.initializer(top.name, origin)
            stack.pop()
        return operand.written

    def _copy(self, operand: Operand, origin: Computed) -> None:
        """A constant node as it stands; a small result instead where it is known."""
        if operand.computed is not None and operand.computed.nbytes <= SMALL_BYTES:
            operand.value = self.emit.constant(operand.computed, operand.name)
            return
        node = origin.node
        if node not in self._copied:
            inputs = [o.value if o is not None else None for o in origin.inputs]
            names = [v.name for v in node.outputs]
            self._copied[node] = self.emit.node(
                node.op_type, inputs, dict(node.attributes), outputs=names, domain=node.domain, like=node
            )
        operand.value = self._copied[node][origin.index]

    # ------------------------------------------------------------------ ends of the graph

    def add_input(self, original: ir.Value, dtype: ir.DataType, shape: Shape, axis: int | None) -> ir.Value:
        """A graph input: `[N, *dims]`, moved to where the original has its batch, if any. Returns the graph's value."""
        dims: tuple[Dim, ...] = ("batch", *(shape if axis is None else (*shape[:axis], *shape[axis + 1 :])))
        value = ir.Value(name=original.name, type=ir.TensorType(dtype), shape=ir.Shape(dims))
        value.meta.update(original.meta)
        inner, batch = value, DROPPED if axis is None else Placed(axis)
        if axis is not None:
            order = [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]
            inner = self.emit.transpose(value, order)
        self.operands[original] = Operand(str(original.name), dtype, shape, batch, inner)
        return value

    def add_output(self, original: ir.Value) -> tuple[ir.Value, Placed]:
        """A graph output brought to `[N, *dims]`, and where the original has its batch."""
        operand = self.operand(original)
        shape = operand.shape
        if operand.ahead is not None:
            raise Refusal(f"output {operand.name!r} holds the numbers that samples have in their batch")
        if operand.batch is None:
            batch, value = self._constant_output(operand)
        elif operand.batch.certain:
            batch, value = operand.batch, operand.written
        else:
            batch, value = self._settle(operand, operand.batch)
        lifted = self.emit.move(value, shape, batch, batch.lift()) if not _leads(batch) else value
        dims = batch.dims(shape)
        if lifted is not value or batch.lifted or batch.rows > 1:
            lifted = self.emit.reshape(lifted, (-1, *dims))
        result = self._output(lifted, str(original.name), operand.dtype, ("batch", *dims))
        result.meta.update(original.meta)
        return result, batch

    def _constant_output(self, operand: Operand) -> tuple[Placed, ir.Value]:
        """An output that is the same for every sample: repeated, where it has a row for each."""
        if not operand.shape or operand.shape[0] != self.static_batch:
            raise Refusal(f"output {operand.name!r} does not depend on the inputs and has no batch axis")
        batch = Placed(0)
        op = Op(ir.Node("", "Identity", []), 1, [operand], [operand.shape], self.static_batch, evaluate)
        return batch, self._spread(op, operand, batch)

    def _settle(self, operand: Operand, batch: Batch) -> tuple[Placed, ir.Value]:
        """An output whose batch was dropped or could be on several axes: a leading axis of one is the batch again.

        So is the only axis of one in `[T, 1, C]`, the order of recurrent networks, where none is left but it.
        """
        shape = operand.shape
        if shape[:1] == (self.static_batch,) and self.static_batch == 1:
            settled = Placed(0)
            lifted = self.emit.move(operand.written, shape, batch, batch.lift())
            return settled, self.emit.reshape(lifted, settled.target(shape))
        if isinstance(batch, Placed):
            return batch, operand.written
        if len(shape) == TIME_MAJOR and [i for i, d in enumerate(shape) if d == 1] == [1]:
            return Placed(1, lifted=True), operand.written
        where = f" (dropped by {operand.lost})" if operand.lost else ""
        raise Refusal(f"output {operand.name!r} {list(operand.shape)} has no batch axis{where}")

    def _output(self, value: ir.Value, name: str, dtype: ir.DataType, dims: Sequence[int | str]) -> ir.Value:
        """`value` under the output's own name; what is an input, a constant or another output is copied first."""
        if value.producer() is None and value.const_value is None and value.name == name and value not in self._outputs:
            self._outputs.add(value)
            return value
        if value.producer() is None or value in self._outputs:
            (value,) = self.emit.node("Identity", [value])
        self._outputs.add(value)
        value.name = name
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(dims)
        return value


def _leads(batch: Placed) -> bool:
    """The batch is in place on axis 0 with the samples' rows together."""
    return not batch.lifted and batch.axis == 0 and batch.outer == 1


def label(node: ir.Node) -> str:
    """A node as a user can find it: its type and name, or its first output's."""
    return f"{node.op_type} {node.name or node.outputs[0].name!r}"


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain
