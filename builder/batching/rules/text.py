"""Operators on strings."""

import onnx_ir as ir

from builder.batching.layout import View
from builder.batching.rule import Op, Plan, Refusal, Static
from builder.batching.rules.axes import only_batched
from builder.batching.rules.elementwise import elementwise, same_shape
from builder.batching.rules.inference import Inputs, same_as_first
from builder.batching.rules.registry import ai_onnx, table


def string_normalizer(op: Op) -> Plan:
    """StringNormalizer word by word, if it drops no words: `[N, C] -> [N, C]`.

    Source: https://onnx.ai/onnx/operators/onnx__StringNormalizer.html
    """
    batch = only_batched(op, 0, role="input").lift()
    flat = (-1,)
    return Plan([View(batch, flat)], {0: View(batch, flat)})


def _words(node: ir.Node, inputs: Inputs) -> Static:
    """Infer the shape: as many words as there are, unless it drops some."""
    if "stopwords" in node.attributes:
        raise Refusal("it drops words, so the size of its output depends on the values of the samples")
    return same_as_first(node, inputs)


OPERATORS = table(
    ai_onnx("RegexFullMatch", rule=same_shape),
    ai_onnx("StringConcat", rule=elementwise),
    ai_onnx("StringNormalizer", rule=string_normalizer, shape=_words),
)
