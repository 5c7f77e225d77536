"""Send the stored samples of a version to a running server, and compare every row of its answers."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from builder.deployment.live_server import Answer, LiveServer
from builder.errors import HostError, VerificationError
from builder.proof import Tolerance, Wrong, as_numbers, batches, compare
from builder.record import Manifest, ServedTensor
from builder.tensors import Array, Arrays

IN_FLIGHT = 16
"""The number of requests sent at once, so that the server puts rows of several requests into one batch."""


@dataclass(slots=True)
class Checked:
    """What has been compared so far.

    Attributes:
        requests: The number of requests.
        rows: The number of rows in them.
        largest: The largest difference, by output.
    """

    requests: int = 0
    rows: int = 0
    largest: dict[str, float] = field(default_factory=dict)


class LiveCheck:
    """Compares the answers of a server with those that were stored when a version was published.

    Args:
        server: The server.
        name: The name of the model on it.
        version: The version that should answer when a request does not name one.
        label: What messages call the version.
        manifest: The version's manifest, with its tolerances.
        reference: The stored samples and answers, `input:NAME` and `output:NAME`, each `[rows, *dims]`.
        max_batch_size: The limit in the config that is served now. No larger batches are sent.
        slack: A factor for the tolerances, for a server that rounds more coarsely than the machine of the proof.
        checked: The counts that each comparison is added to.
    """

    def __init__(
        self,
        server: LiveServer,
        name: str,
        version: int,
        manifest: Manifest,
        reference: Arrays,
        *,
        label: str,
        max_batch_size: int,
        slack: float,
        checked: Checked,
    ) -> None:
        self._checked = checked
        self._server = server
        self._name, self._version, self._label = name, version, label
        self._manifest = manifest
        self._tensors = {f"input:{tensor.name}": tensor for tensor in manifest.inputs}
        self._tensors |= {f"output:{tensor.name}": tensor for tensor in manifest.outputs}
        self._reference = {key: _as_numbers(self._tensors[key], array) for key, array in reference.items()}
        self._tolerances = {
            name: Tolerance(slack * proof.rtol, slack * proof.atol) for name, proof in manifest.proof.outputs.items()
        }
        self._batches = list(_batches(manifest, max_batch_size))

    def one_at_a_time(self) -> None:
        """Send every batch alone, so that the server executes it as it is.

        Raises:
            VerificationError: An answer is wrong or an error.
            HostError: The server does not respond, or another version answers.
        """
        for rows in self._batches:
            self._send([rows])

    def together(self) -> None:
        """Send many batches at once, so that the server combines their rows into its own batches.

        Raises:
            VerificationError: An answer is wrong or an error.
            HostError: The server does not respond, or another version answers.
        """
        rounds = -(-len(self._batches) // IN_FLIGHT)
        queue = itertools.islice(itertools.cycle(self._batches), rounds * IN_FLIGHT)
        for _ in range(rounds):
            self._send(list(itertools.islice(queue, IN_FLIGHT)))

    def _send(self, group: Sequence[Sequence[int]]) -> None:
        requests = [{t.name: self._rows(f"input:{t.name}", rows) for t in self._manifest.inputs} for rows in group]
        answers = self._server.ask(self._name, requests, self._manifest.inputs, self._manifest.outputs)
        how = f"sent together with {len(group) - 1} others" if len(group) > 1 else "sent alone"
        for rows, answer in zip(group, answers, strict=True):
            self._compare(rows, answer, f"for a request of {_count(len(rows))} {how}")

    def _rows(self, key: str, rows: Sequence[int]) -> Array:
        """Return the rows as they are sent. Without a batch, the single row is the whole tensor."""
        array: Array = self._reference[key][list(rows)]
        if self._manifest.max_batch_size == 0:
            array = array[0]
        elif not self._tensors[key].dims:
            array = array.reshape(len(rows), 1)
        return array

    def _compare(self, rows: Sequence[int], answer: Answer, how: str) -> None:
        if answer.refusal is not None:
            raise self._fault(f"{how}, the server returns an error: {answer.refusal}")
        if answer.version != self._version:
            what = f"version {answer.version} of {self._name!r} answered instead of version {self._version}"
            fix = "make sure that nobody else deploys this model now, then deploy again"
            raise HostError(self._server.address, what, fix)
        for name, tolerance in self._tolerances.items():
            wanted, got = self._rows(f"output:{name}", rows), answer.outputs[name]
            if got.shape != wanted.shape or got.dtype.kind != wanted.dtype.kind:
                shapes = f"{got.dtype}{list(got.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
                raise self._fault(f"{how}, output {name!r} is {shapes}")
            if self._manifest.max_batch_size == 0:
                wanted, got = wanted[np.newaxis], got[np.newaxis]
            found = compare(got, wanted, range(len(rows)), tolerance)
            if found.wrong:
                raise self._fault(
                    f"{how}, output {name!r} differs from the reference {_describe(found.wrong, tolerance)}"
                )
            self._checked.largest[name] = max(self._checked.largest.get(name, 0.0), found.largest_difference)
        self._checked.requests += 1
        self._checked.rows += len(rows)

    def _fault(self, what: str) -> VerificationError:
        fix = "run verify on this version; if the server only rounds more coarsely, allow for it with --slack"
        return VerificationError(f"{self._server.address} {self._label}", what, fix)


def _count(rows: int) -> str:
    return f"{rows} row{'s' if rows > 1 else ''}"


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
    return (
        f"in {_count(len(wrong))}; row {worst.position} is the worst, with {off} of {total} values off and "
        f"a largest error of {worst.largest_error:.3g} ({allowed})"
    )
