"""The table of docs/operators.md: what happens to every operator. `python -m builder.batching.operators` prints it."""

from collections.abc import Iterator

import onnx

from builder.batching.control_flow import CONTROL_FLOW
from builder.batching.rules import RULES
from builder.batching.rules.refused import REFUSED

Key = tuple[str, str]

INTRODUCTION = """# Operators

What happens to each operator that reads samples when a model gets its batch axis; one that reads none is a constant
and stays as it is. `N` is the batch of the call; shapes are of the rewritten graph. This page is made by
`python -m builder.batching.operators > docs/operators.md`.

- **rule**: carried by a rule of `builder/batching/rules`.
- **followed**: decides how the graph is walked; what it depends on is known in a static model.
- **by definition**: carried by the other operators that ONNX defines it by.
- **refused**: no batch can be carried through it. Run such a model with `--per-sample`, or publish it with `--static`.

A rule, too, refuses what mixes the samples: the message names the node and the axis. Operators that are in no table
here are refused with "there is no rule for this operator".
"""

DOMAINS = ("", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")


def page() -> str:
    """The whole of docs/operators.md."""
    return INTRODUCTION + "".join(f"\n## {domain or 'ai.onnx'}\n\n" + "".join(_table(domain)) for domain in DOMAINS)


def _table(domain: str) -> Iterator[str]:
    yield "| operator | state | how |\n|---|---|---|\n"
    for name in sorted(_names(domain)):
        state, how = describe((domain, name))
        yield f"| {name} | {state} | {how} |\n"


def _names(domain: str) -> set[str]:
    """The operators of a domain: those ONNX knows at its newest opset or knew before, and those with a rule."""
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == domain}
    return known | {name for table in (RULES, CONTROL_FLOW, REFUSED) for d, name in table if d == domain}


def describe(key: Key) -> tuple[str, str]:
    """The state of an operator, and how it is carried or why it is not."""
    if key in REFUSED:
        return "refused", REFUSED[key]
    if key in CONTROL_FLOW:
        return "followed", _summary(CONTROL_FLOW[key])
    if key in RULES:
        return "rule", _summary(RULES[key])
    schema = onnx.defs.get_schema(key[1], domain=key[0])
    if schema.all_function_opset_versions:  # type: ignore[attr-defined]
        return "by definition", ""
    return "refused", "there is no rule for this operator"


def _summary(function: object) -> str:
    """The first sentence of a docstring, fit for a cell."""
    text = (function.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
