"""Sequences of requests for a stateful model: the same correlation id, and flags on the first and the last step.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_sequence.md
"""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias

from loadtest.checking.requests import Encode, Request, make_request
from loadtest.checking.samples import Samples

WriteNumber: TypeAlias = Callable[[int], bytes]
"""Writes a number as it stands in an encoded request, always with the same number of bytes."""

_STAND_IN = 7_811_886_683_402_269_556
"""Stands where the id of each sequence will be written, in a request that is encoded once."""

_FIRST_ID = 1 << 30
_IDS = 1 << 24
_SHARES = 64


@dataclass(frozen=True, slots=True)
class Streams:
    """What the sequences send.

    Attributes:
        steps: For each stream its rows, each as samples and the number of the row in them.
        length: How many steps a sequence has; None for as many as its stream.
        variation: The share that a length may differ by, 0.2 for a fifth. Lengths are drawn between the two ends.
    """

    steps: tuple[tuple[tuple[Samples, int], ...], ...]
    length: int | None
    variation: float


def draw_ids(process: int) -> Iterator[int]:
    """Yield the correlation ids of one process of a run.

    No two processes use the same, up to 64 of them, and the start is random, so that a run hardly meets a sequence that
    an earlier one left behind. Process 0 has the 16,777,216 ids from 1,073,741,824 on; if it begins with number
    16,777,215 of them, the next one is number 0. All fit into the 31 bits that an INT32 has.
    """
    first, start = _FIRST_ID + process % _SHARES * _IDS, secrets.randbelow(_IDS)
    return (first + (start + turn) % _IDS for turn in count())


@dataclass(frozen=True, slots=True)
class _Template:
    """An encoded step, in two pieces: the id of its sequence goes between them."""

    request: Request
    before: bytes
    after: bytes


class Sequences:
    """Begins one sequence after the other, each with the next stream.

    Args:
        streams: What they send.
        encode: Encodes a request.
        write_number: Writes an id into it.
        rng: Decides on the order of the streams and on the lengths.
        ids: The correlation ids to use.
    """

    def __init__(
        self, streams: Streams, encode: Encode, write_number: WriteNumber, rng: random.Random, ids: Iterator[int]
    ) -> None:
        self._streams = streams
        self._encode = encode
        self._write_number = write_number
        self._rng = rng
        self._ids = ids
        self._order = self._shuffle_forever()
        self._templates: dict[tuple[int, int, bool, bool, bool], _Template] = {}

    def _shuffle_forever(self) -> Iterator[int]:
        while True:
            yield from self._rng.sample(range(len(self._streams.steps)), len(self._streams.steps))

    def begin(self) -> "OpenSequence":
        """Return a sequence of which no step was sent yet."""
        stream = next(self._order)
        return OpenSequence(self, next(self._ids), stream, self._draw_length(stream))

    def _draw_length(self, stream: int) -> int:
        length = self._streams.length
        if length is None:
            return len(self._streams.steps[stream])
        spread = length * self._streams.variation
        return max(round(self._rng.uniform(length - spread, length + spread)), 1)

    def encode_step(self, id: int, stream: int, step: int, *, is_last: bool) -> tuple[Request, bytes]:
        """Return a step's request and its bytes.

        A sequence that is longer than its stream begins again with the first row. Its state is then another, so that
        there is no right answer to these steps.
        """
        round, row = divmod(step, len(self._streams.steps[stream]))
        key = (stream, row, step == 0, is_last, round > 0)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = self._make_template(*key)
        return template.request, template.before + self._write_number(id) + template.after

    def _make_template(self, stream: int, row: int, is_first: bool, is_last: bool, is_repeated: bool) -> _Template:
        samples, number = self._streams.steps[stream][row]
        flags = {"sequence_id": _STAND_IN, "sequence_start": is_first, "sequence_end": is_last}
        request = make_request(
            replace(
                samples,
                parameters={**samples.parameters, **flags},
                reference=None if is_repeated else samples.reference,
            ),
            (number,),
            self._encode,
        )
        before, _, after = request.encoded.partition(self._write_number(_STAND_IN))
        return _Template(request, before, after)


class OpenSequence:
    """A sequence under way. One user at a time sends its steps, each after the answer to the one before.

    Attributes:
        step: How many steps were sent.
        sent_at: When the last one was sent, in seconds of `time.perf_counter`.
    """

    def __init__(self, sequences: Sequences, id: int, stream: int, length: int) -> None:
        self._sequences = sequences
        self._id = id
        self._stream = stream
        self._length = length
        self.step = 0
        self.sent_at = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the last step was sent."""
        return self.step >= self._length

    def next_step(self) -> tuple[Request, bytes]:
        """Return the next step, and count it as sent."""
        return self._send(is_last=self.step + 1 >= self._length)

    def last_step(self) -> tuple[Request, bytes]:
        """Return the next step with the flag that ends the sequence before its time."""
        return self._send(is_last=True)

    def _send(self, *, is_last: bool) -> tuple[Request, bytes]:
        made = self._sequences.encode_step(self._id, self._stream, self.step, is_last=is_last)
        self.step += 1
        self.sent_at = time.perf_counter()
        return made
