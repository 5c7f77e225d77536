"""Constants and branches: only the branch that is taken stays, or both do and each sample chooses one."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.control_flow.expansion import alias, constant_of, reshaped, run
from builder.batching.emit import static_dims
from builder.batching.rule import Mixing, Operand, Refusal, given
from builder.batching.walk import Handler, Key, Walk

NUMBERS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
"""The element type of a constant, by the attribute that holds its value."""


def constant(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """Constant: the tensor in one of its attributes."""
    if len(node.attributes) != 1:
        raise Refusal(f"it must have one attribute, its value, and has {len(node.attributes)}")
    (attribute,) = node.attributes.values()
    name = str(node.outputs[0].name)
    if attribute.name == "value":
        tensor = attribute.value
        return [Operand(name, tensor.dtype, static_dims(tensor), origin=tensor)]
    if attribute.name == "sparse_value":
        raise Refusal("there is no rule for sparse constants")
    return [Operand.known(np.asarray(attribute.value, NUMBERS.get(attribute.name, np.object_)), name)]


def if_(walk: Walk, node: ir.Node) -> Sequence[Operand]:
    """If: only the branch that is taken stays; if the samples decide (B = 1), both stay and each sample chooses one.

    Source: https://onnx.ai/onnx/operators/onnx__If.html
    """
    asked = given(node.inputs, 0)
    if asked is None:
        raise Refusal("it has no condition")
    condition = walk.operand(asked)
    if condition.batch is not None and walk.static_batch == 1:
        if walk.free is not None:
            raise Refusal(
                "which branch is taken depends on the sample, and with dynamic axes the other branch may not run at all"
            )
        return _choice(walk, node, condition)
    if condition.counts is not None:
        raise Mixing("which branch is taken depends on the size of the batch")
    is_true = bool(constant_of(condition, "which branch is taken").reshape(-1)[0])
    return _side(walk, node, "then_branch" if is_true else "else_branch")


def _side(walk: Walk, node: ir.Node, name: str) -> Sequence[Operand]:
    graph = node.attributes[name].as_graph()
    walk.walk(graph)
    return [walk.operand(v) for v in graph.outputs]


def _choice(walk: Walk, node: ir.Node, asked: Operand) -> Sequence[Operand]:
    """Walk both sides, and let every sample choose."""
    condition = reshaped(walk, asked, ())
    pairs = zip(_side(walk, node, "then_branch"), _side(walk, node, "else_branch"), strict=True)
    return [_chosen(walk, condition, yes, no) for yes, no in pairs]


def _chosen(walk: Walk, condition: Operand, yes: Operand, no: Operand) -> Operand:
    if yes.items is not None or no.items is not None or yes.shape != no.shape:
        raise Refusal("which branch is taken depends on the sample, and the branches give different shapes")
    return run(walk, "Where", [alias(walk, o) for o in (condition, yes, no)])


HANDLERS: Mapping[Key, Handler] = {("", "Constant"): constant, ("", "If"): if_}
