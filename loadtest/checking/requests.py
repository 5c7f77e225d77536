"""Requests, encoded once, each with the right answers of all versions that may reply; and the order to send them in."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TypeAlias

from loadtest.checking.expected import Expected, take_rows
from loadtest.checking.reference import Reference
from loadtest.checking.samples import Samples
from loadtest.wire import Array, InferRequest, Input, is_version

POOL_SIZE = 256
POOL_BYTES = 64 << 20
ORDER_SIZE = 2048
ORDER_LIMIT = 1 << 17
VERSIONS_LIMIT = 32
"""The most versions whose right answers are kept for reuse. When there are more, they are forgotten."""

FindReference: TypeAlias = Callable[[str, int], "Reference | None"]
"""Finds the reference of a model's version; None if that version has none."""

Encode: TypeAlias = Callable[[InferRequest], bytes]
"""Encodes a request as a protocol sends it."""


@dataclass(slots=True, eq=False)
class Request:
    """One encoded request.

    Attributes:
        samples: Where its rows come from.
        group: The rows of `samples` that it carries.
        encoded: The bytes to send.
        expected: The right answer by version (empty: the answer named no version); None for a version that has no
            reference for these rows.
    """

    samples: Samples
    group: tuple[int, ...]
    encoded: bytes
    expected: dict[str, Expected | None] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows it carries."""
        return len(self.group)

    def inputs(self) -> dict[str, Array]:
        """Return the tensors it carries: `[rows, *dims]`, or without batching `[*dims]`."""
        return take_inputs(self.samples, self.group)

    def expect(self, version: str, find_reference: FindReference) -> Expected | None:
        """Return the right answer of `version` to these rows; it is looked up once, unless there are many versions."""
        if version not in self.expected:
            if len(self.expected) >= VERSIONS_LIMIT:
                self.expected.clear()
            self.expected[version] = self._find(version, find_reference)
        return self.expected[version]

    def _find(self, version: str, find_reference: FindReference) -> Expected | None:
        own, asked = self.samples.reference, self.samples.version
        if own is None:
            return None
        if own.version is None or asked or version in ("", str(own.version)):
            return Expected(own, self.group, asked)
        if not is_version(version):
            return None
        other = find_reference(own.model, int(version))
        return None if other is None else _expect_from(other, own, self.group)


def _expect_from(other: Reference, own: Reference, group: tuple[int, ...]) -> Expected | None:
    """Return what `other` expects for rows of `own`; None unless it has samples with the same inputs."""
    rows = [other.row_by_inputs.get(own.input_bytes(row)) for row in group]
    found = tuple(row for row in rows if row is not None)
    return Expected(other, found) if len(found) == len(rows) else None


def take_inputs(samples: Samples, group: tuple[int, ...]) -> dict[str, Array]:
    """Return the inputs of a request for the rows of `group`."""
    return {name: take_rows(array, group, samples.max_batch_size) for name, array in samples.arrays.items()}


def make_request(samples: Samples, group: tuple[int, ...], encode: Encode) -> Request:
    """Encode one request for the rows of `group`."""
    arrays = take_inputs(samples, group)
    inputs = tuple(Input(spec.name, spec.datatype, arrays[spec.name]) for spec in samples.inputs)
    parameters = samples.parameters
    request = InferRequest(samples.model, samples.version, inputs, samples.outputs, samples.binary, parameters)
    return Request(samples, group, encode(request))


def make_pool(samples: Samples, rows: int, encode: Encode, rng: random.Random) -> list[Request]:
    """Encode requests of `rows` rows each: one for every sample, or random groups that cover all of them."""
    pool: list[Request] = []
    total_bytes = 0
    for group in _groups(samples.rows, rows, rng):
        request = make_request(samples, group, encode)
        pool.append(request)
        total_bytes += len(request.encoded)
        if total_bytes > POOL_BYTES:
            break
    return pool


def _groups(total: int, rows: int, rng: random.Random) -> Iterator[tuple[int, ...]]:
    """Cut a stream of sample numbers into groups of `rows`.

    With one row per request, that is every sample once. Otherwise all samples are shuffled again and again: 10 samples
    in groups of 4 may give (3, 0, 7, 1), (9, 2, 5, 8), (6, 4, 2, 0)…, where the third group begins a new shuffle.
    """
    stream = cycle(range(total)) if rows == 1 else _shuffle_forever(total, rng)
    count = total if rows == 1 else max(POOL_SIZE, -(-total // rows))
    return (tuple(islice(stream, rows)) for _ in range(count))


def _shuffle_forever(total: int, rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(range(total), total)


def make_order(pools: Sequence[tuple[float, list[Request]]], rng: random.Random) -> list[Request]:
    """Mix pools into one shuffled list to send from. Each pool has its weight's share, and each request occurs.

    The list is long enough for the pool that needs the most room. Pools of 50 requests with weight 3 and of 900 with
    weight 1: for all 900 to fit into a quarter of the list it must have 3,600 places, of which the first pool gets
    2,700 (each of its requests 54 times) and the second 900.
    """
    total = sum(weight for weight, _ in pools)
    size = max(ORDER_SIZE, *(math.ceil(len(pool) * total / weight) for weight, pool in pools))
    order: list[Request] = []
    for weight, pool in pools:
        places = max(round(min(size, ORDER_LIMIT) * weight / total), 1)
        if len(pools) == 1:
            places = max(round(places / len(pool)), 1) * len(pool)  # complete rounds: every request equally often
        order += islice(cycle(rng.sample(pool, len(pool))), places)
    rng.shuffle(order)
    return order
