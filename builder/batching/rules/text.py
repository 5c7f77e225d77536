"""Operators on strings."""

from builder.batching.layout import View
from builder.batching.rule import Op, Plan, Rule
from builder.batching.rules.axes import only_batched
from builder.batching.rules.elementwise import elementwise, same_shape


def string_normalizer(op: Op) -> Plan:
    """StringNormalizer, word by word: `[C] -> [C]` and `[1, C] -> [1, C]`, where it drops no words.

    Source: https://onnx.ai/onnx/operators/onnx__StringNormalizer.html
    """
    batch = only_batched(op, 0, role="input").lift()
    flat = (-1,)
    return Plan([View(batch, flat)], {0: View(batch, flat)})


RULES: dict[tuple[str, str], Rule] = {
    ("", "RegexFullMatch"): same_shape,
    ("", "StringConcat"): elementwise,
    ("", "StringNormalizer"): string_normalizer,
}
