"""How a module of rules lists its operators: `OPERATORS = table(ai_onnx("Relu", rule=...), ...)`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from builder.batching.rule import Infer, Rule, Undecided
from builder.batching.rules.inference import has_schema, unknown

Key = tuple[str, str]
"""The domain and the type of an operator, `""` for ONNX's own domain."""

ML, MICROSOFT = "ai.onnx.ml", "com.microsoft"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one operator.

    Attributes:
        rule: How the batch goes through it.
        shape: The types and static shapes of its outputs. Needed if ONNX cannot infer them: it has no schema for the
            operator, no shape inference, or a wrong one.
        since: The first opset of its domain that the rule is written for.
    """

    rule: Rule
    shape: Infer | None = None
    since: int = 1

    def check_opset(self, opset: int) -> None:
        """Check that the rule is written for this opset.

        Raises:
            Undecided: It is too old.
        """
        if opset < self.since:
            raise Undecided(f"its rule needs opset {self.since} or newer, and the model has opset {opset}")


Entries = Mapping[Key, Entry]


def ai_onnx(*op_types: str, rule: Rule, shape: Infer | None = None, since: int = 1) -> Entries:
    """Make one entry for several operators of ONNX's own domain."""
    return _entries("", op_types, Entry(rule, shape, since))


def ai_onnx_ml(*op_types: str, rule: Rule, shape: Infer | None = None, since: int = 1) -> Entries:
    """Make one entry for several operators of ONNX's domain of classical models."""
    return _entries(ML, op_types, Entry(rule, shape, since))


def microsoft(*op_types: str, rule: Rule, shape: Infer) -> Entries:
    """Make one entry for several operators of ONNX Runtime; ONNX has no schema for them, so the shape is required."""
    return _entries(MICROSOFT, op_types, Entry(rule, shape))


def _entries(domain: str, op_types: tuple[str, ...], entry: Entry) -> Entries:
    """Make the entries. If neither ONNX nor the entry gives the shape of the output, inferring it is refused."""
    keys = [(domain, op_type) for op_type in op_types]
    return {key: entry if entry.shape or has_schema(key) else replace(entry, shape=unknown) for key in keys}


def table(*parts: Entries) -> Entries:
    """Join entries.

    Raises:
        TypeError: Two of them are for the same operator.
    """
    joined: dict[Key, Entry] = {}
    for part in parts:
        twice = sorted(joined.keys() & part.keys())
        if twice:
            raise TypeError(f"operators registered twice: {twice}")
        joined.update(part)
    return joined
