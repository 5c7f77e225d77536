"""Prove a model at other sizes of the axes that were made dynamic, such as the length of a sequence.

The original has only one size, so it cannot be asked. Instead, the rows of a batch are compared with the same rows run
one at a time.
"""

from dataclasses import replace

import numpy as np

from builder.batching import BatchedModel
from builder.errors import VerificationError
from builder.proof.prover import Prover
from builder.proof.session import one_line, run_errors
from builder.samples import Sizes, draw
from builder.tensors import Array, Arrays

FRACTIONS = ((1, 2), (3, 2), (2, 1))
"""The sizes to try, as fractions of the original's size: half, one and a half times and twice."""

_ROWS = 4


def prove_other_sizes(batched: BatchedModel, prover: Prover, free: Sizes) -> tuple[dict[str, int], ...]:
    """Compare batches with single rows at other sizes of the dynamic axes.

    Example: the original has 16 positions on the axis `length`. Sizes 8, 24 and 32 are tried. If its table of
    positions has 16 entries, 24 and 32 cannot run and are skipped; the proof then covers size 8.

    Args:
        batched: The rewritten model.
        prover: Runs it; its reference is replaced.
        free: Sizes of the dimensions that are dynamic in the original too, by name.

    Returns:
        The sizes at which batches were compared, by the name of the axis; none if no axis was made dynamic.

    Raises:
        VerificationError: A row of a batch differs from the same row alone, or the model runs at none of the sizes.
    """
    static_sizes = _static_sizes(batched)
    if not static_sizes:
        return ()
    proven: list[dict[str, int]] = []
    failures = []
    for numerator, denominator in FRACTIONS:
        sizes = {name: max(1, size * numerator // denominator) for name, size in static_sizes.items()}
        inputs = next(draw(batched, rows=_ROWS, sizes={**free, **sizes}))
        try:
            reference = _answer_one_by_one(prover, inputs)
        except run_errors() as error:
            failures.append(f"{sizes}: {one_line(error)}")
            continue
        replace(prover, reference=reference, is_excused=lambda answer, output, row: False).prove((1, 2, 3))
        proven.append(sizes)
    if not proven:
        raise VerificationError(
            prover.where,
            f"the model runs only at the original's size, not at {'; '.join(failures)}",
            "publish without --dynamic, or export the model again with these axes dynamic",
        )
    return tuple(proven)


def _static_sizes(batched: BatchedModel) -> dict[str, int]:
    """Return the original's size of every axis that was made dynamic, by the axis' name."""
    return {
        dim: static
        for tensor in batched.inputs
        for dim, static in zip(tensor.dims, tensor.static_dims, strict=True)
        if isinstance(dim, str) and isinstance(static, int)
    }


def _answer_one_by_one(prover: Prover, inputs: Arrays) -> dict[str, Array]:
    """Run each row by itself, and return inputs and answers as a reference."""
    singles = [prover.run({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(_ROWS)]
    reference = {f"input:{name}": array for name, array in inputs.items()}
    return reference | {f"output:{name}": np.concatenate([s[name] for s in singles]) for name in singles[0]}
