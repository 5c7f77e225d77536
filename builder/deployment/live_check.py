"""Send the stored samples of a version to a running server, and compare every row of its answers."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from builder.deployment.goal import Proven
from builder.deployment.inference import Answer
from builder.deployment.live_server import LiveServer
from builder.errors import HostError, VerificationError
from builder.proof import Tolerance, Wrong, batches, compare
from builder.tensors import Array

IN_FLIGHT = 16
"""The number of requests sent at once, so that the server puts rows of several requests into one batch."""

BUSY_S = 30.0
"""How long a server may refuse every request because it is busy, in seconds."""

_PAUSE_S = 0.1
"""The time before a request that was refused alone is sent again."""


@dataclass(slots=True)
class Checked:
    """What has been compared so far.

    Attributes:
        requests: The number of requests.
        rows: The number of rows in them.
        refused: How often the server was busy, so that a request was sent again.
        largest: The largest difference, by output.
    """

    requests: int = 0
    rows: int = 0
    refused: int = 0
    largest: dict[str, float] = field(default_factory=dict)


class LiveCheck:
    """Compares the answers of a server with those that were stored when a version was published.

    Args:
        server: The server.
        name: The name of the model on it.
        proven: The version that should answer, with its stored samples and answers.
        label: What messages call the version.
        number: The number of the version on the server.
        by_number: Whether requests name the version. Otherwise they name none, as those of most clients.
        max_batch_size: The largest batch that the server takes; 0 without a batch.
        has_cache: Whether the server may answer a request that it has seen before from its cache. Then each request
            has another choice of rows, in another order.
        slack: A factor for the tolerances, for a server that rounds more coarsely than the machine of the proof.
        checked: The counts that each comparison is added to.
    """

    def __init__(
        self,
        server: LiveServer,
        name: str,
        proven: Proven,
        *,
        label: str,
        number: int,
        by_number: bool,
        max_batch_size: int,
        has_cache: bool,
        slack: float,
        checked: Checked,
    ) -> None:
        self._server = server
        self._name, self._label, self._number, self._by_number = name, label, number, by_number
        self._proven, self._checked = proven, checked
        self._has_batch = max_batch_size > 0
        proof = proven.manifest.proof
        self._tolerances = {
            name: Tolerance(slack * proof.outputs[name].rtol, slack * proof.outputs[name].atol)
            for name in proven.answers
            if name in proof.outputs
        }
        self._rows = proven.manifest.reference.rows
        self._sizes = _sizes(proof.batch_sizes, max_batch_size)
        self._random = np.random.default_rng() if has_cache and max_batch_size > 1 else None
        self._at_once = IN_FLIGHT

    def one_at_a_time(self) -> None:
        """Send every batch alone, so that the server executes it as it is.

        Raises:
            VerificationError: An answer is wrong or an error.
            HostError: The server does not respond, is too busy for a single request, or another version answers.
        """
        for rows in self._batches():
            self._send([rows])

    def together(self) -> None:
        """Send many batches at once, so that the server combines their rows into its own batches.

        Raises:
            VerificationError: An answer is wrong or an error.
            HostError: The server does not respond, is too busy for a single request, or another version answers.
        """
        found = self._batches()
        rounds = -(-len(found) // IN_FLIGHT)
        queue = itertools.islice(itertools.cycle(found), rounds * IN_FLIGHT)
        for _ in range(rounds):
            self._send(list(itertools.islice(queue, IN_FLIGHT)))

    def _batches(self) -> list[list[int]]:
        """Return the rows of each request."""
        found = list(batches(self._sizes, self._rows))
        if self._random is None:
            return found
        return [self._random.integers(self._rows, size=max(2, len(rows))).tolist() for rows in found]

    def _send(self, group: Sequence[Sequence[int]]) -> None:
        """Send a group of requests. Those that a busy server refuses are sent again, fewer at once."""
        waiting, answered_at = list(group), time.monotonic()
        while waiting:
            sent, waiting = waiting[: self._at_once], waiting[self._at_once :]
            requests = [{name: self._chosen(rows, of) for name, rows in self._proven.samples.items()} for of in sent]
            seen, version = self._proven.interface, self._number if self._by_number else None
            answers = self._server.ask(self._name, requests, seen.inputs, seen.outputs, version=version)
            how = f"sent together with {len(sent) - 1} others" if len(sent) > 1 else "sent alone"
            refused = []
            for rows, answer in zip(sent, answers, strict=True):
                if answer.is_busy:
                    refused.append(rows)
                else:
                    self._compare(rows, answer, f"for a request of {_count(len(rows))} {how}")
            if len(refused) < len(sent):
                answered_at = time.monotonic()
            if refused:
                self._be_patient(answers, len(sent), time.monotonic() - answered_at)
                waiting = refused + waiting

    def _be_patient(self, answers: Sequence[Answer], sent: int, waited_s: float) -> None:
        """Send less at once from now on, or wait.

        Raises:
            HostError: The server has answered nothing for too long.
        """
        self._checked.refused += sum(answer.is_busy for answer in answers)
        self._at_once = max(1, min(sent, self._at_once) // 2)
        if waited_s > BUSY_S:
            said = next(answer.refusal for answer in answers if answer.is_busy)
            what = f"for {BUSY_S:g} s it has refused every request of {self._label}, also a single one, as busy: {said}"
            fix = "deploy when clients send less, or allow a longer queue or more time in the config's queue policy"
            raise HostError(self._server.address, what, fix)
        if sent == 1:
            time.sleep(_PAUSE_S)

    def _chosen(self, stored: Array, rows: Sequence[int]) -> Array:
        """Return rows as they are sent. Without a batch, the single row is the whole tensor."""
        return stored[list(rows)] if self._has_batch else stored[rows[0]]

    def _compare(self, rows: Sequence[int], answer: Answer, how: str) -> None:
        if answer.refusal is not None:
            raise self._fault(f"{how}, the server returns an error: {answer.refusal}")
        if answer.version != self._number:
            what = f"version {answer.version} of {self._name!r} answered instead of version {self._number}"
            fix = "make sure that nobody else deploys this model now, then deploy again"
            raise HostError(self._server.address, what, fix)
        for name, tolerance in self._tolerances.items():
            if name not in answer.outputs:
                raise self._fault(f"{how}, output {name!r} is missing")
            wanted, got = self._chosen(self._proven.answers[name], rows), answer.outputs[name]
            if got.shape != wanted.shape or got.dtype.kind != wanted.dtype.kind:
                shapes = f"{got.dtype}{list(got.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
                raise self._fault(f"{how}, output {name!r} is {shapes}")
            if not self._has_batch:
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


def _sizes(proven: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the batch sizes to send, ascending: those of the proof that the server takes, and its largest.

    For example, sizes 1, 2 and 32 were proven. A server that takes up to 8 rows is sent 1, 2 and 8.
    """
    if most == 0:
        return ()
    largest = min(most, max(proven, default=most))
    return tuple(sorted({size for size in proven if size <= largest} | {largest}))


def _describe(wrong: Sequence[Wrong], tolerance: Tolerance) -> str:
    worst = max(wrong, key=lambda row: row.largest_error)
    off, total = worst.values
    limit = f"allowed {tolerance.atol:g} + {tolerance.rtol:g} * |reference|"
    allowed = limit if tolerance.rtol else "must be equal"
    return (
        f"in {_count(len(wrong))}; row {worst.position} is the worst, with {off} of {total} values off and "
        f"a largest error of {worst.largest_error:.3g} ({allowed})"
    )
