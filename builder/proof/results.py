"""Record what a proof found."""

from collections.abc import Mapping, Sequence
from typing import Literal

from builder.proof.comparison import Tolerance
from builder.proof.prover import Proven, count_rows
from builder.proof.session import onnxruntime_version
from builder.record import OutputProof, Proof
from builder.tensors import Arrays

Effort = Literal["sample", "full", "off"]

NOTHING_COMPARED = Proven({}, {}, frozenset())


def make_proof(
    sizes: Sequence[int],
    reference: Arrays,
    tolerances: Mapping[str, Tolerance],
    proven: Proven,
    *,
    effort: Effort = "sample",
    other_sizes: Sequence[Mapping[str, int]] = (),
    drawn: Mapping[str, str] | None = None,
) -> Proof:
    """Make the record of a proof for the manifest, its differences rounded to two digits."""
    outputs = {
        name: OutputProof(
            tolerance.rtol, tolerance.atol, _rounded(proven.largest.get(name)), _rounded(proven.mean.get(name))
        )
        for name, tolerance in tolerances.items()
    }
    rows, version = count_rows(reference), onnxruntime_version()
    return Proof(tuple(sizes), rows, version, outputs, effort, tuple(other_sizes), dict(drawn or {}))


def _rounded(difference: float | None) -> float | None:
    return None if difference is None else float(f"{difference:.1e}")
