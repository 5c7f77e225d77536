"""Replay the stored reference through a running server and compare every row."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from builder.deployment.live_server import Answer, LiveServer
from builder.errors import HostError, VerificationError
from builder.proof.comparison import Tolerance, Wrong, as_numbers, compare
from builder.proof.prover import batches
from builder.record import Manifest, ServedTensor
from builder.tensors import Array, Arrays

IN_FLIGHT = 16
"""Requests under way at once when the server is to mix them."""


@dataclass(slots=True)
class Checked:
    """What was compared so far.

    Attributes:
        largest: The largest difference of each output.
    """

    requests: int = 0
    rows: int = 0
    largest: dict[str, float] = field(default_factory=dict)


class LiveCheck:
    """Asks a server what a version answered when it was published.

    Args:
        server: Serves the model.
        name: The model.
        version: That should answer requests which name no version.
        called: The version in messages.
        manifest: The version's; its tolerances apply.
        reference: `input:NAME` and `output:NAME`, each `[rows, *dims]`.
        max_batch_size: What the config says now: no larger batches are sent.
        slack: Multiplies the tolerances, for a server that rounds more coarsely than the one of the proof.
        checked: Is added to.
    """

    def __init__(
        self,
        server: LiveServer,
        name: str,
        version: int,
        manifest: Manifest,
        reference: Arrays,
        *,
        called: str,
        max_batch_size: int,
        slack: float,
        checked: Checked,
    ) -> None:
        self._checked = checked
        self._server = server
        self._name, self._version, self._called = name, version, called
        self._manifest = manifest
        self._tensors = {f"input:{tensor.name}": tensor for tensor in manifest.inputs}
        self._tensors |= {f"output:{tensor.name}": tensor for tensor in manifest.outputs}
        self._reference = {key: _as_numbers(self._tensors[key], array) for key, array in reference.items()}
        self._tolerances = {
            name: Tolerance(slack * proof.rtol, slack * proof.atol) for name, proof in manifest.proof.outputs.items()
        }
        self._batches = list(_batches(manifest, max_batch_size))

    def one_at_a_time(self) -> None:
        """Send every batch by itself, so that it is executed as it is.

        Raises:
            VerificationError: An answer is wrong, or refused.
            HostError: The server is gone, or another version answers.
        """
        for rows in self._batches:
            self._send([rows])

    def together(self) -> None:
        """Send all batches, so many at once that the server mixes them in its own.

        Raises:
            VerificationError: An answer is wrong, or refused.
            HostError: The server is gone, or another version answers.
        """
        rounds = -(-len(self._batches) // IN_FLIGHT)
        queue = itertools.islice(itertools.cycle(self._batches), rounds * IN_FLIGHT)
        for _ in range(rounds):
            self._send(list(itertools.islice(queue, IN_FLIGHT)))

    def _send(self, group: Sequence[Sequence[int]]) -> None:
        requests = [{t.name: self._rows(f"input:{t.name}", rows) for t in self._manifest.inputs} for rows in group]
        answers = self._server.ask(self._name, requests, self._manifest.inputs, self._manifest.outputs)
        how = f"in a request of {{}} among {len(group)} at once" if len(group) > 1 else "in a request of {} by itself"
        for rows, answer in zip(group, answers, strict=True):
            self._compare(rows, answer, how.format(f"{len(rows)} row{'s' if len(rows) > 1 else ''}"))

    def _rows(self, key: str, rows: Sequence[int]) -> Array:
        """The rows as they go over the wire; without a batch the one row is the whole tensor."""
        array: Array = self._reference[key][list(rows)]
        if self._manifest.max_batch_size == 0:
            array = array[0]
        elif not self._tensors[key].dims:
            array = array.reshape(len(rows), 1)
        return array

    def _compare(self, rows: Sequence[int], answer: Answer, how: str) -> None:
        if answer.refusal is not None:
            raise self._fault(f"{how} it is refused: {answer.refusal}")
        if answer.version != self._version:
            what = f"version {answer.version} of {self._name!r} answered, where {self._version} was deployed"
            raise HostError(self._server.address, what, "find out who else deploys there, then deploy again")
        for name, tolerance in self._tolerances.items():
            wanted, got = self._rows(f"output:{name}", rows), answer.outputs[name]
            if got.shape != wanted.shape or got.dtype.kind != wanted.dtype.kind:
                shapes = f"{got.dtype}{list(got.shape)}, the reference {wanted.dtype}{list(wanted.shape)}"
                raise self._fault(f"{how} output {name!r} is {shapes}")
            if self._manifest.max_batch_size == 0:
                wanted, got = wanted[np.newaxis], got[np.newaxis]
            found = compare(got, wanted, range(len(rows)), tolerance)
            if found.wrong:
                raise self._fault(f"{how} output {name!r} differs: {_describe(found.wrong, tolerance)}")
            self._checked.largest[name] = max(self._checked.largest.get(name, 0.0), found.largest_difference)
        self._checked.requests += 1
        self._checked.rows += len(rows)

    def _fault(self, what: str) -> VerificationError:
        fix = "verify the version here, and compare this server's release and device"
        return VerificationError(f"{self._server.address} {self._called}", what, fix)


def _batches(manifest: Manifest, max_batch_size: int) -> Iterator[list[int]]:
    sizes = [size for size in manifest.proof.batch_sizes if size <= max_batch_size]
    if manifest.max_batch_size == 0:
        sizes = []
    yield from batches(sizes, manifest.reference.rows)


def _as_numbers(tensor: ServedTensor, array: Array) -> Array:
    return as_numbers(array, is_bfloat16=tensor.data_type == "TYPE_BF16")


def _describe(wrong: Sequence[Wrong], tolerance: Tolerance) -> str:
    worst = max(wrong, key=lambda row: row.largest_error)
    off, total = worst.values
    limit = f"allowed {tolerance.atol:g} + {tolerance.rtol:g} * |reference|"
    allowed = limit if tolerance.rtol else "must be equal"
    rows = f"{len(wrong)} row{'s' if len(wrong) > 1 else ''}"
    return (
        f"in {rows}; row {worst.position} is worst: {off} of {total} values off, "
        f"largest error {worst.largest_error:.3g} ({allowed})"
    )
