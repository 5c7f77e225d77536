"""What users send: requests encoded once, each knowing the right answer of every version that may reply."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TypeAlias

import numpy as np

from loadtest.checking.answers import Expected, take_rows
from loadtest.checking.reference import Reference, Tensor
from loadtest.wire.tensors import DTYPES, FLOATS, Array

POOL_SIZE = 256
POOL_BYTES = 64 << 20
DECK_SIZE = 2048
DECK_LIMIT = 1 << 17
_DRAWN_ROWS = 32

References: TypeAlias = Callable[[str, int], "Reference | None"]
"""Finds the reference of a model's version, None when it has none."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows to send to a model.

    Attributes:
        model: The model's name.
        version: The version to ask for; empty lets the server choose.
        max_batch_size: 0 means that a row is a whole request.
        inputs: The tensors, in the order they are sent.
        outputs: The names asked for.
        arrays: Per input, `[rows, *dims]`.
        reference: Where the rows come from, None when they were drawn at random.
        binary: Whether the server takes tensors as bytes over HTTP; one without that extension takes JSON.
    """

    model: str
    version: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    arrays: Mapping[str, Array]
    reference: Reference | None
    binary: bool = True

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.arrays[self.inputs[0].name])


def from_reference(reference: Reference, version: str, *, binary: bool = True) -> Samples:
    """The reference's own samples."""
    return Samples(
        model=reference.model,
        version=version,
        max_batch_size=reference.max_batch_size,
        inputs=reference.inputs,
        outputs=tuple(tensor.name for tensor in reference.outputs),
        arrays=reference.samples,
        reference=reference,
        binary=binary,
    )


def draw(
    model: str,
    version: str,
    *,
    max_batch_size: int,
    inputs: tuple[Tensor, ...],
    outputs: tuple[str, ...],
    seed: int = 0,
    binary: bool = True,
) -> Samples:
    """Random rows for a model without a reference; free dims become 1, integers are 0 or 1."""
    rng = np.random.default_rng(seed)
    arrays = {
        tensor.name: _draw(rng, tensor.datatype, (_DRAWN_ROWS, *(max(dim, 1) for dim in tensor.dims)))
        for tensor in inputs
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


@dataclass(slots=True, eq=False)
class Request:
    """One encoded request.

    Attributes:
        samples: Where its rows come from.
        group: The rows of `samples` it carries.
        wire: The bytes to send, as the protocol's encoder laid them out.
        expected: By version (empty: the answer said none), the right answer; None where that version has no
            reference for these rows.
    """

    samples: Samples
    group: tuple[int, ...]
    wire: bytes
    expected: dict[str, Expected | None] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows it carries."""
        return len(self.group)

    def inputs(self) -> dict[str, Array]:
        """The tensors it carries: `[rows, *dims]` each."""
        samples = self.samples
        return {name: take_rows(array, self.group, samples.max_batch_size) for name, array in samples.arrays.items()}

    def expect(self, version: str, references: References) -> Expected | None:
        """The right answer of `version` to these rows, looked up once."""
        if version not in self.expected:
            self.expected[version] = self._find(version, references)
        return self.expected[version]

    def _find(self, version: str, references: References) -> Expected | None:
        own = self.samples.reference
        if own is None or not (version.isdecimal() or version == ""):
            return None
        reference = own if version == "" or int(version) == own.version else references(own.model, int(version))
        if reference is None:
            return None
        if reference is own:
            return Expected(own, self.group)
        rows = [reference.row_of_inputs.get(own.input_bytes(row)) for row in self.group]
        found = tuple(row for row in rows if row is not None)
        return Expected(reference, found) if len(found) == len(rows) else None


Encode: TypeAlias = Callable[[Samples, Mapping[str, Array]], bytes]
"""Lays out one request's inputs for the wire."""


def make_pool(samples: Samples, rows: int, encode: Encode, rng: random.Random) -> list[Request]:
    """Encode requests of `rows` rows each: every sample once, or random groups that cover all of them."""
    pool: list[Request] = []
    spent = 0
    for group in _groups(samples.rows, rows, rng):
        request = Request(samples, group, b"")
        request.wire = encode(samples, request.inputs())
        pool.append(request)
        spent += len(request.wire)
        if spent > POOL_BYTES:
            break
    return pool


def _groups(total: int, rows: int, rng: random.Random) -> Iterator[tuple[int, ...]]:
    """Deal `total` samples out in hands of `rows`, shuffled anew whenever all were dealt."""
    everyone = cycle(range(total)) if rows == 1 else _shuffled_for_ever(total, rng)
    hands = total if rows == 1 else max(POOL_SIZE, -(-total // rows))
    return (tuple(islice(everyone, rows)) for _ in range(hands))


def _shuffled_for_ever(total: int, rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(range(total), total)


def make_deck(pools: Sequence[tuple[float, list[Request]]], rng: random.Random) -> list[Request]:
    """Shuffle pools into one deck: each has its weight's share of the cards, and all its requests are there."""
    total = sum(weight for weight, _ in pools)
    size = max(DECK_SIZE, *(math.ceil(len(pool) * total / weight) for weight, pool in pools))
    deck: list[Request] = []
    for weight, pool in pools:
        cards = max(round(min(size, DECK_LIMIT) * weight / total), 1)
        turns = max(round(cards / len(pool)), 1) if len(pools) == 1 else cards / len(pool)
        deck += islice(cycle(rng.sample(pool, len(pool))), round(turns * len(pool)))
    rng.shuffle(deck)
    return deck
