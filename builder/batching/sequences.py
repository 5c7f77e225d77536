"""Sequences and optionals: the walk knows their members, so the nodes about them vanish."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from builder.batching.rule import Operand, Refusal, required
from builder.batching.steering import Results, Steer, alias, known, position, run, stack, value_of, walk_body

if TYPE_CHECKING:
    from builder.batching.walk import Walk


def _members(walk: Walk, node: ir.Node) -> tuple[Operand, ...]:
    items = walk.operand(required(node.inputs, 0)).items
    if items is None:
        raise Refusal("its input is no sequence")
    return items


def _sequence(node: ir.Node, items: Sequence[Operand], output: int = 0) -> Results:
    dtype = items[0].dtype if items else ir.DataType.UNDEFINED
    return [Operand(str(node.outputs[output].name), dtype, (), items=tuple(items))]


def sequence_empty(walk: Walk, node: ir.Node) -> Results:
    """SequenceEmpty: no members."""
    return _sequence(node, [])


def sequence_construct(walk: Walk, node: ir.Node) -> Results:
    """SequenceConstruct: the inputs are the members."""
    return _sequence(node, [walk.operand(v) for v in node.inputs if v is not None])


def sequence_insert(walk: Walk, node: ir.Node) -> Results:
    """SequenceInsert at a constant position, at the end by default."""
    items = list(_members(walk, node))
    inserted = walk.operand(required(node.inputs, 1))
    items.insert(position(walk, node, 2, len(items), default=len(items)), inserted)
    return _sequence(node, items)


def sequence_erase(walk: Walk, node: ir.Node) -> Results:
    """SequenceErase at a constant position, the last by default."""
    items = list(_members(walk, node))
    del items[position(walk, node, 1, len(items), default=len(items) - 1)]
    return _sequence(node, items)


def sequence_at(walk: Walk, node: ir.Node) -> Results:
    """SequenceAt a constant position."""
    items = _members(walk, node)
    return [items[position(walk, node, 1, len(items), default=0)]]


def sequence_length(walk: Walk, node: ir.Node) -> Results:
    """SequenceLength is a constant."""
    return [known(np.asarray(len(_members(walk, node)), np.int64), str(node.outputs[0].name))]


def concat_from_sequence(walk: Walk, node: ir.Node) -> Results:
    """ConcatFromSequence: a Concat of the members."""
    items = _members(walk, node)
    axis = int(node.attributes["axis"].value)
    fresh = node.attributes.get("new_axis")
    if fresh is not None and fresh.value:
        return [stack(walk, items, axis=axis)]
    return [run(walk, "Concat", [alias(walk, i) for i in items], axis=axis)]


def split_to_sequence(walk: Walk, node: ir.Node) -> Results:
    """SplitToSequence: slices of the input, of one each by default."""
    value = required(node.inputs, 0)
    operand = walk.operand(value)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    axis += operand.rank if axis < 0 else 0
    size = operand.shape[axis]
    given = value_of(walk, node.inputs[1] if len(node.inputs) > 1 else None, "how the input is split")
    keep = given is not None or "keepdims" not in node.attributes or bool(node.attributes["keepdims"].value)
    if given is None or not given.shape:
        step = 1 if given is None else int(given)
        sizes = [min(step, size - start) for start in range(0, size, max(step, 1))]
    else:
        sizes = given.tolist()
    items = []
    for start, length in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
        picked = np.arange(start, start + length) if keep else np.asarray(start)
        item = run(walk, "Gather", [value, alias(walk, known(picked.astype(np.int64), "rows"))], axis=axis)
        if item is None:
            return [None]
        items.append(item)
    return _sequence(node, items)


def sequence_map(walk: Walk, node: ir.Node) -> Results:
    """SequenceMap: its body on every member.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceMap.html
    """
    body = node.attributes["body"].as_graph()
    operands = [walk.operand(v) for v in node.inputs if v is not None]
    count = len(_members(walk, node))
    columns: list[list[Operand]] = [[] for _ in node.outputs]
    for i in range(count):
        given = [o if o.items is None else o.items[i] for o in operands]
        _, results = walk_body(walk, body, given)
        for column, result in zip(columns, results, strict=True):
            if result is None:
                return [None] * len(node.outputs)
            column.append(result)
    return [_sequence(node, column, k)[0] for k, column in enumerate(columns)]


def optional(walk: Walk, node: ir.Node) -> Results:
    """Optional, OptionalGetElement: the value itself."""
    if not node.inputs or node.inputs[0] is None:
        raise Refusal("an optional without a value has no rule")
    return [walk.operand(node.inputs[0])]


def optional_has_element(walk: Walk, node: ir.Node) -> Results:
    """OptionalHasElement: whether a value was given is known."""
    given = bool(node.inputs) and node.inputs[0] is not None
    return [known(np.asarray(given), str(node.outputs[0].name))]


STEERS: Mapping[tuple[str, str], Steer] = {
    ("", "ConcatFromSequence"): concat_from_sequence,
    ("", "Optional"): optional,
    ("", "OptionalGetElement"): optional,
    ("", "OptionalHasElement"): optional_has_element,
    ("", "SequenceAt"): sequence_at,
    ("", "SequenceConstruct"): sequence_construct,
    ("", "SequenceEmpty"): sequence_empty,
    ("", "SequenceErase"): sequence_erase,
    ("", "SequenceInsert"): sequence_insert,
    ("", "SequenceLength"): sequence_length,
    ("", "SequenceMap"): sequence_map,
    ("", "SplitToSequence"): split_to_sequence,
}
"""The steps over nodes that make or take sequences and optionals."""
