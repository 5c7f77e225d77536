"""Find outputs about which a proof says little, because the samples do not tell a right answer from a wrong one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from builder.proof.verification import VerifiedModel
from builder.tensors import Array


@dataclass(frozen=True, slots=True)
class Lost:
    """An output whose answers differ from row to row by no more than the error that a lower precision makes.

    Attributes:
        output: The output.
        spread: The largest difference between two rows of any of its values, in the original's answers.
        error: The largest error.
    """

    output: str
    spread: float
    error: float

    def __str__(self) -> str:
        """Say it in a clause."""
        return f"{self.output} differs by up to {self.spread:.1e} from row to row, and the error is {self.error:.1e}"


def lost_outputs(verified: VerifiedModel) -> Iterator[Lost]:
    """Yield the outputs whose answers differ from row to row by no more than their largest error.

    Example: inputs of 1e-30 all give the answer 1.8, which is the bias. int8 answers 1.82 to each, an error of 1%, and
    would do so whatever became of the weights.
    """
    for name, proof in verified.proof.outputs.items():
        error = proof.largest_difference or 0.0
        rows = verified.reference[f"output:{name}"]
        if error and len(rows) > 1 and rows.dtype.kind == "f" and (spread := _spread(rows)) <= error:
            yield Lost(name, spread, error)


def says_nothing(verified: VerifiedModel) -> bool:
    """Return whether the proof says little about every output."""
    known = {lost.output for lost in lost_outputs(verified)} | {*verified.constant_outputs}
    return bool(known) and known >= verified.proof.outputs.keys()


def _spread(rows: Array) -> float:
    """Return the largest difference between two rows of any value, of those that are finite in all rows."""
    values = rows.reshape(len(rows), -1).astype(np.float64)
    values = values[:, np.isfinite(values).all(axis=0)]
    return float(np.ptp(values, axis=0).max(initial=0.0))
