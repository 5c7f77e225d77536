"""The rules that carry the batch through the operators: one function for each operator or family of operators.

A family of operators has a module. Its rules are functions from `Op`, a node as the walk sees it, to an `Answer`; its
`OPERATORS`, at the end of the module, says which operators each of them is for:

    OPERATORS = table(
        ai_onnx("Softmax", "LogSoftmax", "Hardmax", rule=softmax),
        ai_onnx("Tile", rule=tile, since=6),
        microsoft("QGemm", rule=quantized_gemm, shape=_gemm),
    )

`OPERATORS` of this package joins these tables. `REFUSED` holds the operators that no batch can go through, each with
the reason.

To add an operator:

1. Find the rule. Most operators belong to a family that has one: element by element (`elementwise`), row by row along
   axis 0 (`rows`), along some axes (`along`), at indices (`indexing`, `nd`). If so, add the operator's name to the line
   of that rule.
2. If not, write the rule in the module of its family. The docstring states the shapes, the batch being `N`, and cites
   the operator's page; its first sentence is the operator's line in docs/operators.md. Call `op.refuse` for every node
   that would mix the samples of the batch.
3. Give `shape=` where ONNX cannot infer the shape of the output: always for operators of ONNX Runtime
   (`com.microsoft`). Give `since=` if the rule does not work for older opsets.
4. Add a `Case` for each way through the rule to tests/batching: one that it carries, and one for every refusal.
5. Run `python docs/operators.py > docs/operators.md`, and read the operator's line: it shows what the other tables of
   the builder say about the operator, and in which of them it is missing.

An operator that no batch can go through belongs in `refused`, with the reason, which users will read.
"""

from collections.abc import Mapping

from builder.batching.rules import (
    along,
    attention,
    channels,
    classical,
    einsum,
    elementwise,
    indexing,
    joining,
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
from builder.batching.rules.refused import RANDOM, REFUSED, SIZED_BY_VALUES, WITHOUT_RANDOM
from builder.batching.rules.registry import Entry, Key, table

__all__ = ["OPERATORS", "RANDOM", "REFUSED", "SIZED_BY_VALUES", "WITHOUT_RANDOM", "Entry", "Key"]

OPERATORS: Mapping[Key, Entry] = table(
    along.OPERATORS,
    attention.OPERATORS,
    channels.OPERATORS,
    classical.OPERATORS,
    einsum.OPERATORS,
    elementwise.OPERATORS,
    indexing.OPERATORS,
    joining.OPERATORS,
    linear.OPERATORS,
    microsoft.OPERATORS,
    nd.OPERATORS,
    quantized.OPERATORS,
    recurrent.OPERATORS,
    rows.OPERATORS,
    shape.OPERATORS,
    spatial.OPERATORS,
    text.OPERATORS,
)
"""What is known of each operator that the batch can go through."""

if OPERATORS.keys() & REFUSED.keys():
    raise TypeError(f"operators both registered and refused: {sorted(OPERATORS.keys() & REFUSED.keys())}")
