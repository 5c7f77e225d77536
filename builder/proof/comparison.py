"""Decide whether two answers count as equal, and say by how much they differ.

An output may differ by `atol + rtol * |reference|`. Example: the graph computes in float32 and the output's largest
value is 20. Then `rtol` is 1e-4 and `atol` is 1e-5 * 20 = 2e-4. Where the original answers 10, the rewritten model may
answer 10 ± (2e-4 + 1e-4 * 10) = 10 ± 0.0012, and where it answers 0, 0 ± 0.0002. Rounding moves such values by about
2e-5. An answer that belongs to another row is off by much more than any of this.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from builder.tensors import Array, Arrays

_EXACT = (0.0, 0.0)
_RELATIVE: Mapping[str, tuple[float, float]] = {
    # The batch size changes the order in which sums are computed: other blocks, other vector lanes. Over the layers
    # of a network that moves float32 answers by about 1e-6 of their scale. A wrong row is off by far more than ten
    # times that.
    "DOUBLE": (1e-8, 1e-9),
    "FLOAT": (1e-4, 1e-5),
    # Eleven and eight bits of precision: one rounding is up to 5e-4 and 4e-3 of a value, and a few of them add up.
    "FLOAT16": (1e-2, 1e-2),
    "BFLOAT16": (2e-2, 2e-2),
    # A value near the border between two quantized steps can be rounded to the other one. A step is 1/127 of the
    # range, and a few layers add theirs.
    "QUANTIZED": (2e-2, 3e-2),
    # No type of ONNX has this name: a model that came with int8 tensors is QUANTIZED, or as precise as its floats.
    # The original is in fp32, so that every value is rounded to one of 255 steps, layer after layer. Trained networks
    # whose accuracy stays the same are off by up to 8 % of the largest value in their worst value, and by less than 1 %
    # in the mean, which `mean_limit` bounds. A wrong row is off by about the whole value.
    "LOWERED_TO_INT8": (1e-1, 1e-1),
}
"""By the least precise number type in the graph: `rtol`, and `atol` as a part of the output's largest value."""

_COARSENESS = tuple(_RELATIVE)

_ROUNDING: Mapping[str, tuple[float, float]] = {
    **_RELATIVE,
    # Two roundings. A mean over the batch that leaks in would be hidden by the tolerance above.
    "FLOAT16": (1e-3, 1e-3),
    "BFLOAT16": (8e-3, 8e-3),
}
"""The same for two answers of one graph to the same row. Quantized numbers need no larger tolerance here, because equal
sums give equal numbers."""


_MEAN: Mapping[str, float] = {"LOWERED_TO_INT8": 2e-2}
"""The mean error that is allowed too, as a part of the output's largest value.

Where all values are off by a little, and not a few by more, the model has lost something.
"""

_MEAN_PART = 0.2
"""The mean error that is allowed if the caller sets the largest, as a part of that."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The condition `|answer - reference| <= atol + rtol * |reference|`; with both 0 the values have to be equal."""

    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Wrong:
    """A row that differs by more than the tolerance.

    Attributes:
        position: Its position in the batch.
        largest_error: The largest difference of its values; infinite if only one side is NaN or infinite.
        values: How many of its values are wrong, and how many it has.
    """

    position: int
    largest_error: float
    values: tuple[int, int]


def coarsest_precision(graph: ir.Graph) -> str:
    """Return the least precise number type in the graph, such as `FLOAT16` or `QUANTIZED`."""
    return _coarsest(_kinds(graph))


def coarsest_float(graph: ir.Graph) -> str:
    """Return the least precise float type in the graph, such as `FLOAT16`; quantized numbers do not count."""
    return _coarsest(_kinds(graph) - {"QUANTIZED"})


def _coarsest(kinds: Set[str]) -> str:
    return max((kind for kind in kinds if kind in _RELATIVE), key=_COARSENESS.index, default="FLOAT")


def _kinds(graph: ir.Graph) -> set[str]:
    kinds = {value.dtype.name for value in (*graph.inputs, *graph.outputs) if value.dtype is not None}
    kinds |= {value.dtype.name for value in graph.initializers.values() if value.dtype is not None}
    for node in graph.all_nodes():
        if "Quantize" in node.op_type or "QLinear" in node.op_type or "Integer" in node.op_type:
            kinds.add("QUANTIZED")
        elif node.op_type == "Cast":
            kinds.add(ir.DataType(node.attributes["to"].as_int()).name)
    return kinds


def relative_tolerance(precision: str) -> float:
    """Return the `rtol` of floats in a graph whose least precise number type is this one."""
    return _RELATIVE[precision][0]


def tolerance_for(reference: Array, precision: str, *, max_error: float | None = None) -> Tolerance:
    """Return the tolerance for an output; values that are not floats have to be equal.

    Args:
        reference: The original's answers, `float[rows, *dims]`.
        precision: The least precise number type in the graph, as `coarsest_precision` names it.
        max_error: Replaces both `rtol` and the part that `atol` is of the largest value.
    """
    rtol, atol = _RELATIVE[precision] if max_error is None else (max_error, max_error)
    return _scaled(reference, rtol, atol)


def mean_limit(reference: Array, precision: str, *, max_error: float | None = None) -> float | None:
    """Return the mean error that is allowed in an output, or None if only the largest one counts."""
    if precision not in _MEAN or reference.dtype.kind != "f":
        return None
    part = _MEAN[precision] if max_error is None else _MEAN_PART * max_error
    return _scaled(reference, 0.0, part).atol


def _scaled(reference: Array, rtol: float, atol: float) -> Tolerance:
    if reference.dtype.kind != "f":
        return Tolerance(*_EXACT)
    finite = np.abs(reference[np.isfinite(reference)])
    scale = float(finite.max()) if finite.size else 0.0
    return Tolerance(rtol, float(f"{atol * (scale or 1.0):.1e}"))


def tolerances_for(
    reference: Arrays, bfloat16: frozenset[str], precision: str, *, max_error: float | None = None
) -> dict[str, Tolerance]:
    """Return the tolerance for each output of a reference; those in `bfloat16` are stored as bits."""
    outputs = {key.removeprefix("output:"): rows for key, rows in reference.items() if key.startswith("output:")}
    return {
        name: tolerance_for(as_numbers(rows, is_bfloat16=name in bfloat16), precision, max_error=max_error)
        for name, rows in outputs.items()
    }


def rounding_for(reference: Array, precision: str) -> Tolerance:
    """Return the tolerance between two answers of one graph to the same row.

    Args:
        reference: Answers, `float[rows, *dims]`.
        precision: The least precise float type in the graph, as `coarsest_float` names it.
    """
    return _scaled(reference, *_ROUNDING[precision])


def as_numbers(array: Array, *, is_bfloat16: bool) -> Array:
    """Return BF16 values, which are stored as their bits in uint16, as float32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else array


def allowed(tolerance: Tolerance, other: str) -> str:
    """Return in words how far an answer may be from a value that is called `other`."""
    if tolerance == Tolerance(*_EXACT):
        return "they have to be equal"
    return f"allowed: {tolerance.atol:g} + {tolerance.rtol:g} * |{other}|"


@dataclass(slots=True)
class Comparison:
    """One output of one batch, compared with the reference.

    Attributes:
        wrong: The rows that differ by more than the tolerance.
        largest_difference: The largest difference in the other rows.
        mean_difference: The mean difference of all values in the other rows.
    """

    wrong: list[Wrong]
    largest_difference: float
    mean_difference: float


def compare(answers: Array, reference: Array, rows: Sequence[int], tolerance: Tolerance) -> Comparison:
    """Compare `answers[i]` with `reference[rows[i]]`, each `[*dims]`, of equal shape and type."""
    found, means = Comparison([], 0.0, 0.0), []
    # Row by row, to limit how much memory is needed.
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
    """Return by how much each value differs, and whether that is more than the tolerance."""
    if wanted.dtype.kind != "f":
        differs = np.asarray(answer != wanted)
        return differs.astype(np.float64), differs
    got, want = answer.astype(np.float64), wanted.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        errors = np.where(same, 0.0, np.abs(got - want))
        # Two infinities of the same sign are equal. Any other pair with an infinity or a NaN is infinitely far apart.
        errors = np.where(np.isfinite(errors) | same, errors, np.inf)
        limits = np.where(np.isfinite(want), tolerance.atol + tolerance.rtol * np.abs(want), 0.0)
    return errors, errors > limits
