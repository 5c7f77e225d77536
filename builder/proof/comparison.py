"""When two answers count as the same, and by how much they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from builder.tensors import Array

_EXACT = (0.0, 0.0)
_RELATIVE: Mapping[str, tuple[float, float]] = {
    # The order in which a sum is accumulated depends on the batch size: other blocks, other vector lanes. Over
    # the layers of a network that moves float32 answers by some 1e-6 of their scale. A wrong row is off by far
    # more than ten times that.
    "DOUBLE": (1e-8, 1e-9),
    "FLOAT": (1e-4, 1e-5),
    # Eleven and eight bits of precision: single steps of 5e-4 and 4e-3, a few of them added up.
    "FLOAT16": (1e-2, 1e-2),
    "BFLOAT16": (2e-2, 2e-2),
    # A value near the edge between two quantized steps falls to the other side: one step is 1/127 of the range,
    # and a few layers add theirs.
    "QUANTIZED": (2e-2, 3e-2),
}
"""`rtol`, and `atol` as a part of the output's largest reference value, by the coarsest number in the graph."""

_COARSENESS = tuple(_RELATIVE)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`|answer - reference| <= atol + rtol * |reference|`; both 0 means equal."""

    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Wrong:
    """A row that differs by more than it may.

    Attributes:
        position: Its place in the batch.
        largest_error: The largest difference in it; infinite where a NaN or an infinity is on one side only.
        values: How many of its values are off, and of how many.
    """

    position: int
    largest_error: float
    values: tuple[int, int]


def coarsest_precision(graph: ir.Graph) -> str:
    """The coarsest kind of number that a value of the graph passes through: a key of the tolerances."""
    kinds = {value.dtype.name for value in (*graph.inputs, *graph.outputs) if value.dtype is not None}
    kinds |= {value.dtype.name for value in graph.initializers.values() if value.dtype is not None}
    for node in graph.all_nodes():
        if "Quantize" in node.op_type or "QLinear" in node.op_type or "Integer" in node.op_type:
            kinds.add("QUANTIZED")
        elif node.op_type == "Cast":
            kinds.add(ir.DataType(node.attributes["to"].as_int()).name)
    return max((kind for kind in kinds if kind in _RELATIVE), key=_COARSENESS.index, default="FLOAT")


def relative_tolerance(precision: str) -> float:
    """`rtol` of floats in a graph of this coarsest kind of number."""
    return _RELATIVE[precision][0]


def tolerance_for(reference: Array, precision: str, *, max_error: float | None = None) -> Tolerance:
    """How near an answer must come to `reference: float[rows, *dims]`; anything but floats must be equal.

    `max_error` stands in for `rtol` and for the part that `atol` is of the largest reference value.
    """
    if reference.dtype.kind != "f":
        return Tolerance(*_EXACT)
    rtol, atol = _RELATIVE[precision] if max_error is None else (max_error, max_error)
    finite = np.abs(reference[np.isfinite(reference)])
    scale = float(finite.max()) if finite.size else 0.0
    return Tolerance(rtol, float(f"{atol * (scale or 1.0):.1e}"))


def as_numbers(array: Array, *, is_bfloat16: bool) -> Array:
    """BF16, stored as its bits in uint16, as float32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else array


@dataclass(slots=True)
class Comparison:
    """One output of one batch beside the reference.

    Attributes:
        wrong: The rows that differ by more than they may.
        largest_difference: Over the rows that are right.
        mean_difference: Over all values of those rows.
    """

    wrong: list[Wrong]
    largest_difference: float
    mean_difference: float


def compare(answers: Array, reference: Array, rows: Sequence[int], tolerance: Tolerance) -> Comparison:
    """Compare `answers[i]` with `reference[rows[i]]`, each `[*dims]`, of equal shape and type."""
    found, means = Comparison([], 0.0, 0.0), []
    # Row by row, to bound the memory taken.
    for position, row in enumerate(rows):
        errors, is_wrong = differences(answers[position], reference[row], tolerance)
        largest = float(errors.max(initial=0.0))
        if is_wrong.any():
            found.wrong.append(Wrong(position, largest, (int(is_wrong.sum()), is_wrong.size)))
        else:
            found.largest_difference = max(found.largest_difference, largest)
            means.append(float(errors.mean()) if errors.size else 0.0)
    found.mean_difference = sum(means) / max(1, len(means))
    return found


def differences(answer: Array, wanted: Array, tolerance: Tolerance) -> tuple[Array, Array]:
    """Value by value: by how much an answer differs, and where that is more than it may."""
    if wanted.dtype.kind != "f":
        differs = np.asarray(answer != wanted)
        return differs.astype(np.float64), differs
    got, want = answer.astype(np.float64), wanted.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        errors = np.where(same, 0.0, np.abs(got - want))
        # Two infinities of the same sign are the same; any other pair with one is as far off as can be.
        errors = np.where(np.isfinite(errors) | same, errors, np.inf)
        limits = np.where(np.isfinite(want), tolerance.atol + tolerance.rtol * np.abs(want), 0.0)
    return errors, errors > limits
