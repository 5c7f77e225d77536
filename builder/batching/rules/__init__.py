"""The rules: one function for each operator or family, in one table keyed by (domain, op_type).

To add an operator: write a function from `Op` to `Plan` in the module of its family, put it into that module's
`RULES`, and give it a case in tests/test_batching_*.py. An operator that ONNX has no schema for needs its static
shapes too, in `SHAPES`.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import TypeVar

from builder.batching.rule import Infer, Rule
from builder.batching.rules import (
    along,
    attention,
    channels,
    classical,
    einsum,
    elementwise,
    indexing,
    linear,
    microsoft,
    nd,
    quantized,
    recurrent,
    rows,
    shape,
    spatial,
    static_shapes,
    text,
)
from builder.batching.rules.refused import REFUSED

Key = tuple[str, str]
Entry = TypeVar("Entry")


def _merged(name: str, *modules: ModuleType) -> Mapping[Key, Entry]:
    """The tables of that name in one.

    Raises:
        TypeError: Two modules speak of one operator.
    """
    table: dict[Key, Entry] = {}
    for module in modules:
        own: Mapping[Key, Entry] = getattr(module, name)
        twice = table.keys() & own.keys()
        if twice:
            raise TypeError(f"{module.__name__} speaks of {sorted(twice)} a second time")
        table.update(own)
    return table


_FAMILIES = (
    along,
    attention,
    channels,
    classical,
    einsum,
    elementwise,
    indexing,
    linear,
    microsoft,
    nd,
    quantized,
    recurrent,
    rows,
    shape,
    spatial,
    text,
)

RULES: Mapping[Key, Rule] = _merged("RULES", *_FAMILIES)
"""What carries the batch through each operator."""

SHAPES: Mapping[Key, Infer] = _merged("SHAPES", attention, classical, indexing, static_shapes)
"""Static shapes of operators that ONNX has no schema for, or no inference."""

if RULES.keys() & REFUSED.keys():
    raise TypeError(f"{sorted(RULES.keys() & REFUSED.keys())} have a rule and are refused")
