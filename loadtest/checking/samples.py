"""The rows that a load test sends to a model: the samples of its reference, or random ones without a reference."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from loadtest.checking.reference import Reference
from loadtest.wire import DTYPES, FLOATS, Array, TensorSpec

_DRAWN_ROWS = 32


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows to send to a model.

    Attributes:
        model: The model's name.
        version: The version to ask for; empty lets the server choose.
        max_batch_size: 0 means that the model takes no batches: a row is a whole request.
        inputs: The tensors, in the order they are sent.
        outputs: The names of the outputs to ask for.
        arrays: Per input, `[rows, *dims]`.
        reference: Where the rows come from, None if they were drawn at random.
        binary: Whether the server takes tensors as raw bytes over HTTP. A server without that extension gets JSON.
    """

    model: str
    version: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    arrays: Mapping[str, Array]
    reference: Reference | None
    binary: bool = True

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.arrays[self.inputs[0].name])


def from_reference(reference: Reference, version: str, *, binary: bool = True) -> Samples:
    """Return the samples of a reference, to be sent to `version` (empty: the server's choice)."""
    return Samples(
        model=reference.model,
        version=version,
        max_batch_size=reference.max_batch_size,
        inputs=reference.inputs,
        outputs=tuple(spec.name for spec in reference.outputs),
        arrays=reference.samples,
        reference=reference,
        binary=binary,
    )


def draw(
    model: str,
    version: str,
    *,
    max_batch_size: int,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[str, ...],
    seed: int = 0,
    binary: bool = True,
) -> Samples:
    """Draw random rows for a model without a reference; dims of any size become 1, integers are 0 or 1."""
    rng = np.random.default_rng(seed)
    arrays = {
        spec.name: _draw(rng, spec.datatype, (_DRAWN_ROWS, *(max(dim, 1) for dim in spec.dims))) for spec in inputs
    }
    return Samples(model, version, max_batch_size, inputs, outputs, arrays, None, binary)


def _draw(rng: np.random.Generator, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype == "BYTES":
        return rng.integers(0, 1000, shape).astype(np.str_)
    if datatype == "BF16":
        return (rng.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if datatype in FLOATS:
        return rng.standard_normal(shape).astype(DTYPES[datatype])
    return rng.integers(0, 2, shape).astype(DTYPES[datatype])
