"""Loops: their iterations, written one after the other."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from builder.batching.control_flow.expansion import constant_input, constant_of, picked, stack, walk_body
from builder.batching.rule import Malformed, Operand, Refusal
from builder.batching.walk import Handler, Key, Walk
from builder.tensors import Array

MOST_ITERATIONS = 4096
"""A loop that runs longer is refused."""

MOST_NODES = 200_000
"""The most nodes that all loops of a model together may be written out as."""

SCAN_WITHOUT_BATCH = 9
"""The opset in which Scan lost its own batch axis."""


def loop(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """Loop: its iterations, one after the other.

    Source: https://onnx.ai/onnx/operators/onnx__Loop.html
    """
    body = node.attributes["body"].as_graph()
    if not body.outputs:
        raise Malformed("its body does not say whether it goes on")
    trips = constant_input(walk, node, 0, "how often it runs")
    goes_on = constant_input(walk, node, 1, "whether it runs")
    carried = [walk.operand(v) for v in node.inputs[2:] if v is not None]
    scanned: list[list[Operand]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    for i in itertools.count():
        is_done = trips is not None and i >= int(trips.reshape(-1)[0])
        if is_done or (goes_on is not None and not _first(goes_on)):
            break
        _count(walk, i, body)
        counter = Operand.known(np.full(_declared_shape(body, 0), np.int64(i)), "loop")
        condition = Operand.known(np.full(_declared_shape(body, 1), np.bool_(True)), "loop")
        first, *results = walk_body(walk, body, [counter, condition, *carried])
        goes_on = constant_of(first, "whether it goes on")
        carried = _sorted_out(results, len(carried), scanned)
    return [*carried, *(stack(walk, rows, axis=0) for rows in scanned)]


def _first(array: Array) -> bool:
    return bool(array.reshape(-1)[0])


def _declared_shape(body: ir.Graph, index: int) -> tuple[int, ...]:
    """Return the shape a body declares its counter or condition with: a number, or a vector of one."""
    shape = body.inputs[index].shape if index < len(body.inputs) else None
    return (1,) * (0 if shape is None else len(shape))


def _sorted_out(results: list[Operand], count: int, scanned: list[list[Operand]]) -> list[Operand]:
    """Put the outputs of an iteration behind those before it; returns the first `count`, which the next one reads."""
    for rows, result in zip(scanned, results[count:], strict=True):
        rows.append(result)
    return results[:count]


def _count(walk: Walk, iteration: int, body: ir.Graph) -> None:
    """Count the nodes that loops are written out as.

    Raises:
        Refusal: There are too many.
    """
    walk.written_out += sum(1 for _ in body.all_nodes())
    if iteration >= MOST_ITERATIONS or walk.written_out > MOST_NODES:
        limits = f"{MOST_ITERATIONS} times or {MOST_NODES} nodes"
        raise Refusal(f"it runs too often to be written out (more than {limits})")


# ---------------------------------------------------------------------- Scan


@dataclass(frozen=True, slots=True)
class _Scanned:
    """An input of a Scan that is read step by step.

    Attributes:
        value: The whole input.
        axis: The axis of its steps.
        is_reversed: Whether the last step comes first.
    """

    value: ir.Value
    axis: int
    is_reversed: bool

    def step(self, walk: Walk, index: int, steps: int) -> Operand:
        """Return what one of the steps reads."""
        where = steps - 1 - index if self.is_reversed else index
        return picked(walk, self.value, self.axis, np.asarray(where), "step")


def scan(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """Scan: its steps, one after the other.

    Source: https://onnx.ai/onnx/operators/onnx__Scan.html
    """
    if walk.opset(node) < SCAN_WITHOUT_BATCH:
        raise Refusal(f"there is no rule for Scan before opset {SCAN_WITHOUT_BATCH}")
    body = node.attributes["body"].as_graph()
    values = [v for v in node.inputs if v is not None]
    count = node.attributes["num_scan_inputs"].as_int()
    if not 1 <= count <= len(values):
        raise Malformed(f"it has {len(values)} inputs, of which it scans {count}")
    first = len(values) - count
    inputs = _scan_inputs(walk, node, values[first:])
    carried = [walk.operand(v) for v in values[:first]]
    scanned: list[list[Operand]] = [[] for _ in range(len(body.outputs) - first)]
    steps = walk.operand(inputs[0].value).shape[inputs[0].axis]
    for i in range(steps):
        _count(walk, i, body)
        results = walk_body(walk, body, [*carried, *(given.step(walk, i, steps) for given in inputs)])
        carried = _sorted_out(results, first, scanned)
    return [*carried, *_scan_outputs(walk, node, scanned)]


def _scan_inputs(walk: Walk, node: ir.Node, values: Sequence[ir.Value]) -> list[_Scanned]:
    axes = _ints(node, "scan_input_axes", len(values))
    directions = _ints(node, "scan_input_directions", len(values))
    ranks = [walk.operand(v).rank for v in values]
    return [
        _Scanned(value, axis + rank if axis < 0 else axis, bool(direction))
        for value, axis, direction, rank in zip(values, axes, directions, ranks, strict=True)
    ]


def _scan_outputs(walk: Walk, node: ir.Node, scanned: Sequence[list[Operand]]) -> list[Operand]:
    axes = _ints(node, "scan_output_axes", len(scanned))
    directions = _ints(node, "scan_output_directions", len(scanned))
    return [
        stack(walk, rows[::-1] if direction else rows, axis=axis)
        for rows, axis, direction in zip(scanned, axes, directions, strict=True)
    ]


def _ints(node: ir.Node, name: str, count: int) -> Sequence[int]:
    """Return an attribute with a number for each input or output; zeros where it is left out."""
    attribute = node.attributes.get(name)
    return (attribute.as_ints() if attribute is not None else ()) or [0] * count


HANDLERS: Mapping[Key, Handler] = {("", "Loop"): loop, ("", "Scan"): scan}
