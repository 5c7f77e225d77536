"""Sequences and optionals: the walk knows their members, so these nodes vanish from the graph."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.control_flow.expansion import (
    alias,
    constant_input,
    picked,
    position,
    run,
    stack,
    walk_body,
)
from builder.batching.rule import Malformed, Operand, Refusal, given, required
from builder.batching.walk import Handler, Key, Walk


def _members(walk: Walk, node: ir.Node) -> tuple[Operand, ...]:
    items = walk.operand(required(node.inputs, 0)).items
    if items is None:
        raise Refusal("its input is not a sequence")
    return items


def _sequence(value: ir.Value, items: Sequence[Operand]) -> Operand:
    dtype = items[0].dtype if items else ir.DataType.UNDEFINED
    return Operand(str(value.name), dtype, (), items=tuple(items))


def sequence_empty(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """SequenceEmpty: no members."""
    return [_sequence(node.outputs[0], [])]


def sequence_construct(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """SequenceConstruct: the inputs are the members."""
    return [_sequence(node.outputs[0], [walk.operand(v) for v in node.inputs if v is not None])]


def sequence_insert(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """SequenceInsert: the sequence with a new member at a constant position, by default at the end."""
    items = list(_members(walk, node))
    inserted = walk.operand(required(node.inputs, 1))
    end = len(items)
    items.insert(position(walk, node, 2, end, default=end, last=end), inserted)
    return [_sequence(node.outputs[0], items)]


def sequence_erase(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """SequenceErase: the sequence without the member at a constant position, by default the last."""
    items = list(_members(walk, node))
    last = len(items) - 1
    del items[position(walk, node, 1, len(items), default=last, last=last)]
    return [_sequence(node.outputs[0], items)]


def sequence_at(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """SequenceAt: the member at a constant position."""
    items = _members(walk, node)
    return [items[position(walk, node, 1, len(items), default=0, last=len(items) - 1)]]


def sequence_length(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """SequenceLength: a constant."""
    return [Operand.known(np.asarray(len(_members(walk, node)), np.int64), str(node.outputs[0].name))]


def concat_from_sequence(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """ConcatFromSequence: a Concat of the members."""
    items = _members(walk, node)
    axis = node.attributes["axis"].as_int()
    new_axis = node.attributes.get("new_axis")
    if new_axis is not None and new_axis.as_int():
        return [stack(walk, items, axis=axis)]
    return [run(walk, "Concat", [alias(walk, i) for i in items], axis=axis)]


def split_to_sequence(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """SplitToSequence: slices of the input, by default of one element each."""
    value = required(node.inputs, 0)
    operand = walk.operand(value)
    axis = _int(node, "axis", 0) % max(operand.rank, 1)
    asked = constant_input(walk, node, 1, "how the input is split")
    size = operand.shape[axis]
    if asked is None or not asked.shape:
        step = 1 if asked is None else int(asked)
        sizes = [min(step, size - start) for start in range(0, size, max(step, 1))]
    else:
        sizes = asked.ravel().tolist()
    if min(sizes, default=0) < 0 or sum(sizes) != size:
        raise Malformed(f"it splits {size} elements into parts of {sizes}")
    keeps_axis = asked is not None or bool(_int(node, "keepdims", 1))
    items = []
    for start, length in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
        where = np.arange(start, start + length) if keeps_axis else np.asarray(start)
        items.append(picked(walk, value, axis, where, "rows"))
    return [_sequence(node.outputs[0], items)]


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def sequence_map(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """SequenceMap: its body, once for every member.

    Source: https://onnx.ai/onnx/operators/onnx__SequenceMap.html
    """
    body = node.attributes["body"].as_graph()
    operands = [walk.operand(v) for v in node.inputs if v is not None]
    columns: list[list[Operand]] = [[] for _ in node.outputs]
    for i in range(len(_members(walk, node))):
        members = [o if o.items is None else o.items[i] for o in operands]
        for column, result in zip(columns, walk_body(walk, body, members), strict=True):
            column.append(result)
    return [_sequence(value, column) for value, column in zip(node.outputs, columns, strict=True)]


def optional(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """Optional, OptionalGetElement: the value itself."""
    value = given(node.inputs, 0)
    if value is None:
        raise Refusal("there is no rule for an optional without a value")
    return [walk.operand(value)]


def optional_has_element(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """OptionalHasElement: a constant, because it is known whether there is a value."""
    has_value = given(node.inputs, 0) is not None
    return [Operand.known(np.asarray(has_value), str(node.outputs[0].name))]


HANDLERS: Mapping[Key, Handler] = {
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
