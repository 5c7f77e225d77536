"""Walk the graph once, in topological order, and carry the batch through every node.

A node that reads no samples is a constant: it is kept as it is and copied when something needs it. A node that reads
samples is handed to the rule of its operator. Nodes that decide how the walk continues (branches, loops, sequences)
have their own handlers, in a table that is passed to the walk.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from builder.batching import numbering, unrolled
from builder.batching.counting import check_counts, counts_of, counts_of_shape
from builder.batching.emit import Emitter, static_dims
from builder.batching.functions import function_body
from builder.batching.layout import Shape
from builder.batching.plans import PlanWriter
from builder.batching.rule import (
    Computed,
    Decomposition,
    DifferentRows,
    Known,
    Malformed,
    Measured,
    Op,
    Operand,
    Random,
    Refusal,
    Rule,
    SharedSteps,
    Static,
    Undecided,
)
from builder.batching.rules import OPERATORS, RANDOM, REFUSED
from builder.batching.statics import evaluate, infer, is_quantizing
from builder.bounded import focus
from builder.errors import BuilderError, bug
from builder.model import label, operator, own_domain

INPUTS_OF_GATHER = 2

DEEPEST_DECOMPOSITION = 64
"""Decompositions nested deeper than this come from a rule that decomposes into itself."""

Key = tuple[str, str]
"""The domain and type of an operator."""

FreeAxes = Callable[[ir.Value, Shape], frozenset[int]]
"""Returns which axes of a value with this static shape are dynamic."""

Handler = Callable[["Walk", ir.Node], Sequence[Operand]]
"""Walks a node of control flow; returns the operands of its outputs."""


class Skipped(Exception):  # noqa: N818 - not an error: the node it depends on is reported
    """A value is not available, because it depends on a node that was refused."""


@dataclass(frozen=True, slots=True)
class Change:
    """A node with a baked-in batch, and what replaced it."""

    node: ir.Node
    what: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A node that cannot carry the batch, and why."""

    node: ir.Node
    refusal: Refusal


def _described(node: ir.Node) -> str:
    return f"node {label(node)}"


class Walk:
    """One walk over a graph.

    Attributes:
        static_batch: How many samples the original runs on at once.
        opsets: The version of every operator set, by domain.
        writer: Writes the rewritten graph.
        operands: The operand of every value of the original seen so far.
        changes: Nodes with a baked-in batch that was replaced.
        refusals: Every node that was refused; nodes that depend on one are skipped.
        written_out: How many nodes the loops so far were written out as.
        free: The dynamic axes of each value, if any axis besides the batch is dynamic.
        has_free_batch: Whether the static batch stands for any batch size, so that no value may depend on it.
    """

    def __init__(
        self,
        static_batch: int,
        opsets: Mapping[str, int],
        control_flow: Mapping[Key, Handler],
        free: FreeAxes | None = None,
        *,
        has_free_batch: bool = False,
    ) -> None:
        self.static_batch = static_batch
        self.opsets = {own_domain(domain): version for domain, version in opsets.items()}
        self.writer = PlanWriter(Emitter(self.opsets.get("", 1)), static_batch)
        self.operands: dict[ir.Value, Operand] = {}
        self.changes: list[Change] = []
        self.refusals: list[Refused] = []
        self.written_out = 0
        self.free = free
        self.has_free_batch = has_free_batch
        self._control_flow = control_flow
        self._skipped: set[ir.Value] = set()
        self._depth = 0

    def walk(self, nodes: Iterable[ir.Node]) -> None:
        """Carry the batch through `nodes`, which are in topological order.

        Raises:
            BuilderError: A rule failed in a way that nobody expected; it names the node.
        """
        for node in nodes:
            try:
                if any(v in self._skipped for v in node.inputs):
                    raise Skipped
                self._step(node)
            except Skipped:
                self._skipped.update(node.outputs)
            except Refusal as refusal:
                self.refusals.append(Refused(node, refusal))
                self._skipped.update(node.outputs)
            except (BuilderError, ImportError, MemoryError, OSError):
                raise  # a bug that names an inner node already, or a problem of this machine
            except Exception as error:
                raise bug(label(node), error, is_node=True) from error

    def operand(self, value: ir.Value) -> Operand:
        """Return the operand of a value. Stored tensors are read here first.

        Raises:
            Skipped: The value depends on a node that was refused.
            Refusal: No node before this one computes it.
        """
        if value in self._skipped:
            raise Skipped
        if value not in self.operands:
            tensor = value.const_value
            if tensor is None:
                raise Refusal(f"value {value.name!r} is read before it is computed")
            self.operands[value] = Operand(str(value.name), tensor.dtype, static_dims(tensor), origin=tensor)
        return self.operands[value]

    def is_skipped(self, value: ir.Value) -> bool:
        """Return whether a value depends on a node that was refused."""
        return value in self._skipped

    def opset(self, node: ir.Node) -> int:
        """Return the version of the operator set that a node belongs to."""
        return self.opsets.get(own_domain(node.domain), 1)

    def _step(self, node: ir.Node) -> None:
        focus(_described, node)
        handler = self._control_flow.get(operator(node))
        results = self._results(node) if handler is None else handler(self, node)
        if len(results) != len(node.outputs):
            raise Malformed(f"it has {len(node.outputs)} outputs, but gives {len(results)}")
        self.operands.update(zip(node.outputs, results, strict=True))

    def _results(self, node: ir.Node) -> Sequence[Operand]:
        inputs = [None if v is None else self.operand(v) for v in node.inputs]
        given = [o for o in inputs if o is not None]
        if any(o.items is not None for o in given):
            raise Refusal("it reads a sequence, which only sequence operators can do")
        if any(o.batch is not None for o in given):
            return self._carry(node, inputs)
        return self._keep(node, inputs)

    # ------------------------------------------------------------------ nodes without samples

    def _keep(self, node: ir.Node, inputs: Sequence[Operand | None]) -> Sequence[Operand]:
        """Keep a node that reads no samples: it is a constant, computed or copied when something needs it."""
        domain, op_type = operator(node)
        if not domain and op_type in RANDOM:
            raise Random(REFUSED[domain, op_type])
        results = [
            Operand(str(value.name), ir.DataType.UNDEFINED, (), origin=Computed(node, self.opset(node), (*inputs,), k))
            for k, value in enumerate(node.outputs)
        ]
        static = self._static_if_known(node, inputs)
        is_sized = any(o is not None and o.is_sized for o in inputs) and not _picks_fixed(node, inputs)
        counts = counts_of(node, inputs) if self.has_free_batch else None
        for k, result in enumerate(results):
            result.is_sized, result.counts = is_sized, counts
            result.is_dequantized = is_quantizing(node) or any(o is not None and o.is_dequantized for o in inputs)
            if static:
                result.dtype, result.shape = static[k]
            elif node.outputs[k].name:
                _compute(result)
        return results

    def _static(self, node: ir.Node, inputs: Sequence[Operand | None]) -> Static:
        entry = OPERATORS.get(operator(node))
        if entry is None or entry.shape is None:
            return infer(node, inputs, self.opsets)
        return entry.shape(node, inputs)

    def _static_if_known(self, node: ir.Node, inputs: Sequence[Operand | None]) -> Static:
        try:
            return self._static(node, inputs)
        except Malformed:
            raise
        except Refusal:
            return []

    # ------------------------------------------------------------------ nodes that read samples

    def _carry(self, node: ir.Node, inputs: Sequence[Operand | None]) -> Sequence[Operand]:
        key = operator(node)
        if key in REFUSED:
            if key == ("com.microsoft", "DynamicQuantizeLSTM"):
                raise SharedSteps(REFUSED[key])
            is_random = not key[0] and key[1] in RANDOM
            raise (Random if is_random else Refusal)(REFUSED[key])
        numbering.check(node, inputs)
        check_counts(node, inputs)
        entry = OPERATORS.get(key)
        if entry is None:
            body = function_body(node, inputs, self.opsets)
            if body is None:
                raise Undecided("there is no rule for this operator")
            return self._decompose(body)
        entry.check_opset(self.opset(node))
        static = self._static(node, inputs)
        if node.op_type == "Concat" and unrolled.meet(inputs):
            return self._join(entry.rule, node, inputs, static)
        while True:
            try:
                return self._by_rule(entry.rule, node, inputs, static)
            except DifferentRows as found:
                inputs = numbering.split(node, inputs, found)

    def _by_rule(
        self, rule: Rule, node: ir.Node, inputs: Sequence[Operand | None], static: Static
    ) -> Sequence[Operand]:
        only = unrolled.only_sample(inputs)
        samples = self.static_batch if only is None else 1
        op = Op(node, self.opset(node), inputs, [shape for _, shape in static], samples, evaluate)
        answer = rule(op)
        if isinstance(answer, Decomposition):
            return self._decompose(answer)
        if isinstance(answer, Known) and self.free is not None:
            return [self._measured(node, inputs[0], answer)]
        if isinstance(answer, Known):
            pairs = zip(node.outputs, answer.outputs, strict=True)
            known = [Operand.known(array, str(value.name)) for value, array in pairs]
            known[0].counts = counts_of_shape(node, inputs[0]) if self.has_free_batch else None
            return known
        is_own_node = self._depth == 0
        if answer.what and is_own_node:
            self.changes.append(Change(node, answer.what))
        results = self.writer.write(op, answer, static)
        numbering.follow(op, results[0])
        for index, offset in answer.offsets.items():
            results[index].offset = offset
        for result in results:
            result.only = only
        return [_without_samples(result) if 0 in result.shape else result for result in results]

    def _join(self, rule: Rule, node: ir.Node, inputs: Sequence[Operand | None], static: Static) -> Sequence[Operand]:
        """Carry a Concat of values that hold single samples: what it is for one sample, it is for all."""
        ((dtype, shape),) = static
        axis = node.attributes["axis"].as_int() % len(shape)
        parts: Sequence[Operand] = unrolled.members(inputs, self.static_batch)
        size = sum(part.shape[axis] for part in parts)
        if len(parts) > 1:
            parts = self._by_rule(rule, node, parts, [(dtype, (*shape[:axis], size, *shape[axis + 1 :]))])
        return [unrolled.whole(self.writer.emit, parts[0], str(node.outputs[0].name), shape, axis)]

    def _measured(self, node: ir.Node, operand: Operand | None, answer: Known) -> Operand:
        """Return a shape that is known in the static model. If one of its axes is dynamic, it is read at run time.

        Raises:
            Refusal: Another operator than Shape depends on a dynamic axis.
        """
        (array,) = answer.outputs
        known = Operand.known(array, str(node.outputs[0].name))
        value = node.inputs[0]
        if self.free is None or operand is None or value is None:
            return known
        free = self.free(value, operand.shape)
        if node.op_type != "Shape":
            if free:
                raise Refusal("it depends on the size of a dynamic axis")
            return known
        full = list(range(operand.rank))
        end = node.attributes.get("end")
        axes = full[node.attributes.get_int("start", 0) : None if end is None else end.as_int()]
        varying = free.intersection(axes)
        if varying:
            known.computed, known.origin = array, Measured(operand, axes, varying)
            known.is_sized = True
        return known

    def _decompose(self, body: Decomposition) -> Sequence[Operand]:
        """Walk the nodes that replace this one; if one of them is refused, this node is."""
        if self._depth >= DEEPEST_DECOMPOSITION:
            raise Refusal("its definition by other operators never ends")
        self.operands.update(body.given)
        self._depth += 1
        try:
            for node in body.nodes:
                self._step(node)
        finally:
            self._depth -= 1
        return [self.operand(v) for v in body.outputs]


def _picks_fixed(node: ir.Node, inputs: Sequence[Operand | None]) -> bool:
    """Return whether a Gather reads only static sizes out of a shape that has dynamic axes."""
    if operator(node) != ("", "Gather") or len(inputs) < INPUTS_OF_GATHER:
        return False
    shape, index = inputs[:INPUTS_OF_GATHER]
    if shape is None or index is None or index.is_sized or not isinstance(shape.origin, Measured):
        return False
    picked = evaluate(index)
    axes = shape.origin.axes
    return picked is not None and not any(axes[int(k)] in shape.origin.varying for k in picked.ravel())


def _without_samples(operand: Operand) -> Operand:
    """Return a value without elements as a constant, because nothing in it depends on the samples.

    Such a value is an empty part of a sample: for example, the tokens of an expert that got none. In `[-1, 0, 4]`, a
    Reshape could not tell how many samples -1 stands for.
    """
    return Operand.known(np.zeros(operand.shape, operand.dtype.numpy()), operand.name)


def _compute(operand: Operand) -> None:
    """Give a constant whose shape cannot be inferred the type and shape of its value.

    Raises:
        Refusal: The value cannot be computed.
    """
    array = evaluate(operand)
    if array is None:
        raise Refusal("its value is a constant that cannot be computed")
    operand.dtype, operand.shape = ir.DataType.from_numpy(array.dtype), array.shape
