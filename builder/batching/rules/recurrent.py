"""LSTM, GRU and RNN: the batch is axis 1 of the input and of every state (axis 0 with `layout` 1)."""

from builder.batching.rule import Op, Plan
from builder.batching.rules.axes import on_axes
from builder.batching.rules.registry import ai_onnx, table

STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
LENGTHS = 4


def recurrent(op: Op) -> Plan:
    """LSTM, GRU, RNN: `X [T, N, I], initial states [D, N, H] -> Y [T, D, N, H], last states [D, N, H]`.

    Initial states that are constants, stored for the static batch, are repeated for every sample.

    Source: https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    axis, first = (0, 0) if op.attribute("layout", 0) else (1, 2)
    states = dict.fromkeys(STATES[op.node.op_type], axis)
    return on_axes(op, {0: axis, LENGTHS: 0, **states}, [first, axis, axis])


OPERATORS = table(ai_onnx(*STATES, rule=recurrent))
