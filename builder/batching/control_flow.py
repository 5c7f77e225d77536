"""Branches, loops and constants: nodes that steer the walk instead of being rewritten.

What a branch or a loop depends on is known in a static model, unless it looks at the samples. So a branch is replaced
by the side it takes, and a loop by its iterations. A branch that looks at a sample becomes both sides and a choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from builder.batching import sequences
from builder.batching.emit import static_dims
from builder.batching.rule import Operand, Refusal
from builder.batching.steering import (
    Results,
    Steer,
    alias,
    constant_of,
    known,
    reshaped,
    run,
    stack,
    value_of,
    walk_body,
)

if TYPE_CHECKING:
    from builder.batching.walk import Walk

MOST_ITERATIONS = 4096
"""A loop that runs longer is refused instead of written out."""

MOST_NODES = 200_000
"""Loops are written out up to this many nodes in all."""


def constant(walk: Walk, node: ir.Node) -> Results:
    """Constant: the tensor in one of its attributes."""
    if len(node.attributes) != 1:
        raise Refusal("it has not one value")
    (attr,) = node.attributes.values()
    if attr.name == "value":
        tensor = attr.value
        shape = static_dims(tensor)
        return [Operand(str(node.outputs[0].name), tensor.dtype, shape, origin=tensor)]
    if attr.name == "sparse_value":
        raise Refusal("a sparse constant has no rule")
    kinds = {
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    return [known(np.asarray(attr.value, kinds.get(attr.name, np.object_)), str(node.outputs[0].name))]


# ---------------------------------------------------------------------- branches and loops


def if_(walk: Walk, node: ir.Node) -> Results:
    """If: only the side that is taken remains; both, where each sample takes its own (B = 1).

    Source: https://onnx.ai/onnx/operators/onnx__If.html
    """
    if node.inputs[0] is None:
        raise Refusal("it has no condition")
    asked = walk.operand(node.inputs[0])
    if asked.batch is not None and walk.static_batch == 1:
        return _either(walk, node, asked)
    condition = constant_of(asked, "which branch is taken")
    return _side(walk, node, "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")


def _side(walk: Walk, node: ir.Node, name: str) -> Results:
    graph = node.attributes[name].as_graph()
    walk.walk(graph)
    return [walk.operands[v] if v in walk.operands else walk.operand(v) for v in graph.outputs]


def _either(walk: Walk, node: ir.Node, asked: Operand) -> Results:
    """Both sides, of which each sample takes one."""
    condition = reshaped(walk, asked, ())
    results: list[Operand | None] = []
    for yes, no in zip(_side(walk, node, "then_branch"), _side(walk, node, "else_branch"), strict=True):
        if condition is None or yes is None or no is None:
            results.append(None)
            continue
        if yes.items is not None or no.items is not None or yes.shape != no.shape:
            raise Refusal("which branch is taken depends on the sample, and the branches give different shapes")
        results.append(run(walk, "Where", [alias(walk, o) for o in (condition, yes, no)]))
    return results


def loop(walk: Walk, node: ir.Node) -> Results:
    """Loop: its iterations, one after the other.

    Source: https://onnx.ai/onnx/operators/onnx__Loop.html
    """
    body = node.attributes["body"].as_graph()
    trips = value_of(walk, node.inputs[0], "how often it runs")
    go = value_of(walk, node.inputs[1] if len(node.inputs) > 1 else None, "whether it runs")
    carried: list[Operand | None] = [walk.operand(v) for v in node.inputs[2:] if v is not None]
    scanned: list[list[Operand | None]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    for i in itertools.count():
        if (trips is not None and i >= int(trips.reshape(-1)[0])) or (go is not None and not bool(go.reshape(-1)[0])):
            break
        _limit(walk, i, len(body))
        head = [known(np.full(_ones(body, k), v), "loop") for k, v in enumerate((np.int64(i), np.bool_(True)))]
        outputs, results = walk_body(walk, body, [*head, *carried])
        if any(r is None for r in results):
            return [None] * len(node.outputs)
        go = value_of(walk, outputs[0], "whether it goes on")
        carried = results[1 : 1 + len(carried)]
        for rows, result in zip(scanned, results[1 + len(carried) :], strict=True):
            rows.append(result)
    return [*carried, *(stack(walk, rows, axis=0) for rows in scanned)]


def _ones(body: ir.Graph, index: int) -> tuple[int, ...]:
    """The shape a loop's counter or condition is declared with: a number, or a vector of one."""
    shape = body.inputs[index].shape if index < len(body.inputs) else None
    return (1,) * (0 if shape is None else len(shape))


def scan(walk: Walk, node: ir.Node) -> Results:
    """Scan: its steps, one after the other.

    Source: https://onnx.ai/onnx/operators/onnx__Scan.html
    """
    if walk.opsets.get("", 1) < 9:
        raise Refusal("Scan before opset 9 has no rule")
    body = node.attributes["body"].as_graph()
    count = int(node.attributes["num_scan_inputs"].value)
    operands = [walk.operand(v) for v in node.inputs if v is not None]
    carried: list[Operand | None] = list(operands[: len(operands) - count])
    sequences = [v for v in node.inputs if v is not None][len(carried) :]
    axes = _axes(node, "scan_input_axes", [walk.operand(v).rank for v in sequences])
    backwards = list(_ints(node, "scan_input_directions") or [0] * count)
    steps = walk.operand(sequences[0]).shape[axes[0]]
    outputs = len(body.outputs) - len(carried)
    scanned: list[list[Operand | None]] = [[] for _ in range(outputs)]
    for i in range(steps):
        _limit(walk, i, len(body))
        now = []
        for value, axis, back in zip(sequences, axes, backwards, strict=True):
            now.append(_pick(walk, value, axis, steps - 1 - i if back else i))
        _, results = walk_body(walk, body, [*carried, *now])
        carried = results[: len(carried)]
        for rows, result in zip(scanned, results[len(carried) :], strict=True):
            rows.append(result)
    stacked = []
    out_axes = _ints(node, "scan_output_axes") or [0] * outputs
    directions = _ints(node, "scan_output_directions") or [0] * outputs
    for rows, axis, back in zip(scanned, out_axes, directions, strict=True):
        stacked.append(stack(walk, rows[::-1] if back else rows, axis=axis))
    return [*carried, *stacked]


def _ints(node: ir.Node, name: str) -> Sequence[int]:
    attr = node.attributes.get(name)
    return attr.as_ints() if attr is not None else ()


def _axes(node: ir.Node, name: str, ranks: Sequence[int]) -> list[int]:
    given = _ints(node, name) or [0] * len(ranks)
    return [a + r if a < 0 else a for a, r in zip(given, ranks, strict=True)]


def _limit(walk: Walk, iteration: int, nodes: int) -> None:
    walk.written_out += nodes
    if iteration >= MOST_ITERATIONS or walk.written_out > MOST_NODES:
        raise Refusal(f"it runs too often to be written out (over {MOST_ITERATIONS} times or {MOST_NODES} nodes)")


def _pick(walk: Walk, value: ir.Value, axis: int, index: int) -> Operand | None:
    return run(walk, "Gather", [value, alias(walk, known(np.asarray(index, np.int64), "step"))], axis=axis)


STEERS: Mapping[tuple[str, str], Steer] = {
    ("", "Constant"): constant,
    ("", "If"): if_,
    ("", "Loop"): loop,
    ("", "Scan"): scan,
    **sequences.STEERS,
}
"""What decides for itself how the walk goes on."""
