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
from builder.samples import Sizes, draw, never_varied, other_sizes
from builder.tensors import Array, Arrays

_ROWS = 4

_MOST_FAILURES = 3
"""How many of the sizes at which it does not run are listed."""


def prove_other_sizes(batched: BatchedModel, prover: Prover, free: Sizes) -> tuple[dict[str, int], ...]:
    """Compare batches with single rows at other sizes of the dynamic axes.

    Example: the original has 16 positions on the axis `length`. Sizes 8, 24 and 32 are tried. If its table of
    positions has 16 entries, 24 and 32 cannot run and are skipped; the proof then covers size 8. Axes that depend on
    each other keep their relation, as `other_sizes` finds it.

    Args:
        batched: The rewritten model.
        prover: Runs it; its reference is replaced.
        free: Sizes of the dimensions that are dynamic in the original too, by name.

    Returns:
        The sizes at which batches were compared, by the name of the axis; none if no axis was made dynamic.

    Raises:
        VerificationError: A row of a batch differs from the same row alone, or an axis works at no other size.
    """
    static_sizes = _static_sizes(batched)
    if not static_sizes:
        return ()
    references: list[tuple[dict[str, int], Arrays]] = []
    failures: list[str] = []

    def why_not(sizes: Sizes) -> str | None:
        inputs = next(draw(batched, rows=_ROWS, sizes={**free, **sizes}))
        try:
            references.append((dict(sizes), _answer_one_by_one(prover, inputs)))
        except run_errors() as error:
            failures.append(f"{named(sizes)}: {one_line(error)}")
            return one_line(error)
        return None

    proven = []
    for _ in other_sizes(static_sizes, why_not):
        sizes, reference = references[-1]
        replace(prover, reference=reference, is_excused=lambda answer, output, row: False).prove((1, 2, 3))
        proven.append(sizes)
    if fixed := never_varied(static_sizes, proven):
        size = named({name: static_sizes[name] for name in fixed})
        raise VerificationError(
            prover.where,
            f"the model runs only at the original's size, {size}, not with {'; '.join(failures[:_MOST_FAILURES])}",
            f"leave {', '.join(fixed)} out of --dynamic, or export the model again with these axes dynamic",
        )
    return tuple(proven)


def named(sizes: Sizes) -> str:
    """Return sizes as they are written on the command line."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


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
