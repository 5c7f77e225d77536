"""Say which nodes stay in fp32, and why."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from builder.errors import Listing, ModelError
from builder.lowering.int8.sensitivity import Kept

KEPT, SLOW, SENSITIVE = "kept in fp32", "slower in int8", "too large an error"


def counted_by_reason(graph: ir.Graph, reasons: Mapping[ir.Node, str]) -> dict[str, dict[str, int]]:
    """Return how many nodes of each operator stay in fp32, by reason."""
    counts: dict[str, Counter[str]] = {}
    for node in graph:
        if node in reasons:
            counts.setdefault(reasons[node], Counter())[node.op_type] += 1
    return {reason: dict(found) for reason, found in counts.items()}


def in_words(counts: Mapping[str, Mapping[str, int]]) -> str:
    """List the nodes that stay in fp32: `2 MatMul (has no weights); 1 Conv (slower in int8)`."""
    return "; ".join(
        f"{', '.join(f'{n} {op_type}' for op_type, n in found.items())} ({reason})" for reason, found in counts.items()
    )


def _times(error: float) -> str:
    return f"{error:.1f} times" if math.isfinite(error) else "infinitely many times"


def too_little(
    where: Path, what: str, counts: Mapping[str, Mapping[str, int]], kept: Kept | None = None, *, ways: str
) -> ModelError:
    """Return the error for a model of which too little can be in int8.

    Args:
        where: The model.
        what: How much of it can be.
        counts: The nodes that stay in fp32.
        kept: Those among them whose error is too large, with the errors.
        ways: What else the user can do.
    """
    errors = sorted((kept.errors if kept is not None else {}).items(), key=lambda item: -item[1])[:10]
    listed = [f"{name}: {_times(error)} the allowed error by itself" for name, error in errors]
    said = f"{what}: {in_words(counts) or 'it has no products of matrices and no convolutions with constant weights'}"
    fix = f"allow larger errors with --max-error PART, {ways}" if counts.get(SENSITIVE) else ways
    return ModelError(where, Listing(f"{said}; the worst:", listed) if listed else said, fix)
