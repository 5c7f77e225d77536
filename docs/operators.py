"""Write docs/operators.md: what every table of the builder says about every operator.

`python docs/operators.py > docs/operators.md`. The tables are in several packages, each beside the code that uses it.
Only here are they read together, which shows missing entries.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from builder.batching import numbering, sizes, statics
from builder.batching.control_flow import CONTROL_FLOW
from builder.batching.rules import OPERATORS, REFUSED
from builder.batching.rules.elementwise import BROADCASTING
from builder.batching.rules.inference import has_schema, unknown
from builder.lowering import plan
from builder.proof.comparison import coarsest_precision
from builder.samples import constraints, domains, positions, uses
from builder.samples.reach import Reach, through

Key = tuple[str, str]
"""Domain and type of an operator."""

DOMAINS = ("", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")

INTRODUCTION = """# Operators

What the builder does with each operator. This page is generated: run
`python docs/operators.py > docs/operators.md` after a change. [CONTRIBUTING.md](../CONTRIBUTING.md) describes how to
add an operator.

**batch** says what happens to a node that reads samples when the batch of a model is made dynamic. A node that reads
none is a constant and stays as it is.

- **rule**: one of the rules in `builder/batching/rules` carries the batch through it. **how** is what the rule does.
  In shapes of the rewritten graph, `N` is the batch of the call, and `*s` is any number of axes. (B = 1) means that the
  batch that the exporter froze has to be 1. A rule refuses a node that mixes the samples,
  and its message names the node and the axis.
- **control flow**: the walk over the graph follows it (`builder/batching/control_flow`), because what it depends on is
  known if all shapes are static.
- **definition**: ONNX defines the operator as a function of others, and the batch is carried through those.
- **refused**: the batch cannot go through it. `publish` says which options work for such a model.

Operators that are not on this page are refused with "there is no rule for this operator".

The other columns show what other tables say about the operator. An empty cell means what is true of most operators:

"""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the tables.

    Attributes:
        title: Its heading.
        meaning: What its cells say, and where that is written.
        cell: The text for an operator.
    """

    title: str
    meaning: str
    cell: Callable[[Key], str]


def page() -> str:
    """Return the whole of docs/operators.md."""
    legend = [textwrap.fill(f"- **{c.title}**: {c.meaning}", 118, subsequent_indent="  ") for c in COLUMNS]
    return INTRODUCTION + "\n".join(legend) + "\n" + "".join(map(_section, DOMAINS))


def _section(domain: str) -> str:
    titles = ["operator", "batch", "how", *(column.title for column in COLUMNS)]
    rows = [titles, ["---"] * len(titles), *(_row((domain, name)) for name in sorted(_names(domain)))]
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return f"\n## {domain or 'ai.onnx'}\n\n" + "".join(lines)


def _row(operator: Key) -> Sequence[str]:
    state, how = batch(operator)
    return [operator[1], state, how, *(column.cell(operator) for column in COLUMNS)]


def _names(domain: str) -> set[str]:
    """Return the operators of a domain: those ONNX knows or once knew, and those in a table."""
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == domain}
    return known | {name for table in (OPERATORS, CONTROL_FLOW, REFUSED) for d, name in table if d == domain}


# ---------------------------------------------------------------------- batching


def batch(operator: Key) -> tuple[str, str]:
    """Return what happens to the batch at an operator, and how, or why it is refused."""
    if operator in REFUSED:
        return "refused", REFUSED[operator]
    if operator in CONTROL_FLOW:
        return "control flow", _first_sentence(CONTROL_FLOW[operator])
    if operator in OPERATORS:
        entry = OPERATORS[operator]
        since = f", opset {entry.since}" if entry.since > 1 else ""
        return f"rule{since}", _first_sentence(entry.rule)
    schema = onnx.defs.get_schema(operator[1], domain=operator[0])
    if schema.all_function_opset_versions:  # type: ignore[attr-defined]
        return "definition", ""
    return "refused", "there is no rule for this operator"


def _first_sentence(function: object) -> str:
    """Return the summary of a docstring, fit for a cell."""
    text = (function.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")


def _shape(operator: Key) -> str:
    shape = OPERATORS[operator].shape if operator in OPERATORS else None
    if shape is None:
        return ""
    return "**missing**" if shape is unknown else "own"


def _value(operator: Key) -> str:
    first = statics.DISTRUSTED.get(operator[1]) if not operator[0] else None
    newest = onnx.defs.onnx_opset_version()
    if first is None:
        return ""
    return "never" if first > newest else f"opset {first}"


def _offset(operator: Key) -> str:
    domain, op_type = operator
    if op_type in numbering.INDEXED:
        return f"index {numbering.INDEXED[op_type]}"
    if domain:
        return ""
    return "moved" if op_type in numbering.LINEAR else "ignored" if op_type in numbering.BLIND else ""


def _sizes(operator: Key) -> str:
    if operator in sizes.RULES:
        return "rule"
    if not has_schema(operator):
        return "no"
    return "broadcast" if not operator[0] and operator[1] in BROADCASTING else ""


# ---------------------------------------------------------------------- samples, precision, proof


def _followed(operator: Key) -> str:
    """Send an input's values through a node of the operator and a constant 2."""
    domain, op_type = operator
    two = ir.Value(name="two", const_value=ir.tensor([2.0]))
    node = ir.Node(domain, op_type, [ir.Value(name="x"), two])
    found = through(node, [{"x": Reach()}, {}]).get("x")
    if found is None:
        return ""
    return "kept" if found == Reach() else "computed"


def _meaning(operator: Key) -> str:
    tables = {"index": positions.INDEX_INPUTS, "length": positions.LENGTH_INPUTS, "mask": positions.MASK_INPUTS}
    said = {i: what for what, table in tables.items() for *key, i in table if tuple(key) == operator}
    parts = [f"{position}: {what}" for position, what in sorted(said.items())]
    groups = {
        "compared": uses.COMPARISONS,
        "summed": uses.SUMMING,
        "positive": domains.POSITIVE_ONLY,
    }
    return ", ".join([*parts, *(what for what, group in groups.items() if operator in group)])


def _precision(operator: Key) -> str:
    if operator in plan.QUANTIZERS or operator in plan.FULL_PRECISION:
        return "fp32"
    if not has_schema(operator):
        return ""
    schema = onnx.defs.get_schema(operator[1], domain=operator[0])
    taken = {name for constraint in schema.type_constraints for name in constraint.allowed_type_strs}
    types = [name for name, spelled in (("fp16", "float16"), ("bf16", "bfloat16")) if f"tensor({spelled})" in taken]
    return ", ".join([*types, *(["exact"] if operator in plan.EXACT_ARITHMETIC else [])])


def _proof(operator: Key) -> str:
    node = ir.Node(*operator, [], [ir.Attr("to", ir.AttributeType.INT, ir.DataType.FLOAT)])
    return "quantized" if coarsest_precision(ir.Graph([], [], nodes=[node])) == "QUANTIZED" else ""


COLUMNS = (
    Column(
        "shape",
        "`own` if its entry in `builder/batching/rules` gives the static shape of its output; empty if ONNX infers it.",
        _shape,
    ),
    Column(
        "value",
        "the first opset at which ONNX's reference implementation computes constants correctly "
        "(`builder/batching/statics.py`), or `never`; empty if it does in every opset.",
        _value,
    ),
    Column(
        "offset",
        "what the operator does with an index that counts over the whole static batch "
        "(`builder/batching/numbering.py`): it passes it on or computes with it (`moved`), reads it as an index in "
        "input 1 (`index 1`), or does not read values (`ignored`); empty if such an index is refused.",
        _offset,
    ),
    Column(
        "sizes",
        "how an axis that `--dynamic` makes dynamic goes through it (`builder/batching/sizes`): by its own rule, by "
        "broadcasting, or not at all, because ONNX has no schema for it (`no`); empty if ONNX infers it.",
        _sizes,
    ),
    Column(
        "samples",
        "whether the values of an input are followed through it, to find out which values the input may hold "
        "(`builder/samples/reach.py`): it keeps them (`kept`) or adds or multiplies a constant (`computed`); empty if "
        "the values lose their meaning there.",
        _followed,
    ),
    Column(
        "inputs",
        "what the operator shows about the values that reach an input of this number, from 0 "
        "(`builder/samples/domains.py`, `builder/samples/uses.py`): they are indices, lengths or a mask, are added up, "
        "must be positive, or are compared; empty if it shows nothing.",
        _meaning,
    ),
    Column(
        "equal",
        "`yes` if it shows which free dimensions of the inputs are equal, or can have one size only "
        "(`builder/samples/constraints.py`).",
        lambda operator: "yes" if operator in constraints.RULES else "",
    ),
    Column(
        "precision",
        "the types that it can compute in with `--precision`, by its newest schema; `fp32` if it always stays in fp32, "
        "and `exact` if it does so before an operator that needs all digits (`builder/lowering/plan.py`).",
        _precision,
    ),
    Column(
        "proof",
        "`quantized` if a model with this operator is compared with the tolerance for quantized models "
        "(`builder/proof/comparison.py`).",
        _proof,
    ),
)


if __name__ == "__main__":
    print(page(), end="")
