"""Operators on strings."""

import onnx_ir as ir

from builder.batching.layout import View
from builder.batching.rule import Op, Plan, Refusal, Static
from builder.batching.rules.axes import only_batched
from builder.batching.rules.elementwise import elementwise, same_shape
from builder.batching.rules.inference import Inputs, same_as_first
from builder.batching.rules.registry import ai_onnx, table


def string_normalizer(op: Op) -> Plan:
    """StringNormalizer, word by word: `[C] -> [C]` and `[1, C] -> [1, C]`, where it drops no words.

    Source: https://onnx.ai/onnx/operators/onnx__StringNormalizer.html
    """
    batch = only_batched(op, 0, role="input").lift()
    flat = (-1,)
    return Plan([View(batch, flat)], {0: View(batch, flat)})


def _words(node: ir.Node, inputs: Inputs) -> Static:
    """StringNormalizer: as many words as it gets, unless it drops some."""
    if "stopwords" in node.attributes:
        raise Refusal("it drops words, so how much it returns depends on the samples' values")
    return same_as_first(node, inputs)


OPERATORS = table(
    ai_onnx("RegexFullMatch", rule=same_shape),
    ai_onnx("StringConcat", rule=elementwise),
    ai_onnx("StringNormalizer", rule=string_normalizer, shape=_words),
)
