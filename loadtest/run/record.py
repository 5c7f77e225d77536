"""The record of a run: its stages, and the windows that were measured in each."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from loadtest.errors import LoadTestError
from loadtest.run.windows import STABLE_WINDOWS, Figures, Window, is_stable, join_windows
from loadtest.scenarios import Stage
from loadtest.server import Seen, Snapshot, summarize
from loadtest.settings import Limits, Settings


@dataclass
class StageRecord:
    """One stage as it went.

    Attributes:
        stage: What was asked for.
        begun: The round in which it began, see `recorder`.
        measured_from: The round in which its measured time began; None during the warm-up.
        measured_until: The round in which its measured time ended; None before.
        users: How many users there really were at its end.
        measured_from_s: When its measured time began, in seconds since the run began.
        windows: Every window that its figures come from, in a few numbers each.
        earlier: All of these windows except the last three, joined, so that a long stage does not fill the memory.
        recent: The last three of them.
        late: Answers that came after the measured time to requests that were sent in it.
        discarded: Windows that the figures do not come from, joined: the warm-up, and those before the stable ones.
            Their answers were checked as well.
        stable: Whether the last three windows agree.
        snapshots: The server's counters before the first window and after each one.
        restarted: Whether the server was restarted during the stage.
        lost_workers: Processes that went away during the stage.
        complete: Whether it ran to its end.
    """

    stage: Stage
    users: int = 0
    measured_from_s: float = 0.0
    begun: int = 0
    measured_from: int | None = None
    measured_until: int | None = None
    windows: list[Figures] = field(default_factory=list)
    earlier: Window = field(default_factory=Window)
    recent: list[Window] = field(default_factory=list)
    late: Window = field(default_factory=Window)
    discarded: Window = field(default_factory=Window)
    stable: bool = False
    snapshots: list[Snapshot] = field(default_factory=list)
    restarted: bool = False
    lost_workers: list[str] = field(default_factory=list)
    complete: bool = False

    def measures(self, number: int) -> bool:
        """Return whether requests that were sent in this round belong to its figures."""
        if self.measured_from is None or number < self.measured_from:
            return False
        return self.measured_until is None or number < self.measured_until

    def add_late(self, number: int, window: Window) -> None:
        """Add answers to requests that were sent in an earlier round of this stage."""
        (self.late if self.measures(number) else self.discarded).add_counts(window)

    def measure(self, window: Window) -> None:
        """Add the next measured window."""
        start_s = self.measured_from_s + sum(earlier.seconds for earlier in self.windows)
        self.windows.append(window.figures(start_s))
        self.recent.append(window)
        self.stable = is_stable(self.recent)
        if len(self.recent) > STABLE_WINDOWS:
            self.earlier.append(self.recent.pop(0))

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add the server's counters after the newest window, and note a restart since the last known ones."""
        self.snapshots.append(snapshot)
        known = [number for number, one in enumerate(self.snapshots[:-1]) if not one.problem]
        if known and not snapshot.problem:
            self.restarted |= summarize(self.snapshots[known[-1] :], self.seen(known[-1])).restarted

    def seen(self, first: int = 0, last: int | None = None) -> Seen:
        """Return what the client saw in some of the measured windows, or in all of them."""
        windows = self.windows[first:last]
        return Seen(
            answered=sum(window.requests for window in windows),
            failed=sum(window.failures for window in windows),
            in_flight=max((window.in_flight for window in windows), default=0),
            seconds=sum(window.seconds for window in windows),
        )

    def answered(self, last: int = 0) -> int:
        """Return how many requests were answered while it was measured, or only in its last windows."""
        return sum(window.requests for window in self.windows[-last:])

    def keep_stable(self) -> None:
        """Discard all windows except the last three, so that the figures come from stable windows alone."""
        self.discarded.append(self.earlier)
        self.earlier = Window()
        del self.windows[:-STABLE_WINDOWS]
        del self.snapshots[: -STABLE_WINDOWS - 1]

    def close(self) -> None:
        """Mark the stage as complete, and join windows that need not be kept separate any more."""
        self.earlier = join_windows((self.earlier, *self.recent))
        self.recent = []
        self.complete = True

    def p99_of_requests_us(self, limits: Limits) -> float | None:
        """Return the p99 that a limit is about: that of all requests, not only of those with an answer.

        A request without an answer counts as slower than any limit. The result is infinite if there were more than 1 %
        of these, and None with fewer than 100 requests.
        """
        total = self.measured.total
        return total.latency_us.percentile_us(99, unanswered=total.failures.total())

    def keeps_p99(self, limits: Limits) -> bool | None:
        """Return whether 99 % of the requests were answered within the limit; None without a limit or 100 requests."""
        p99_us = self.p99_of_requests_us(limits)
        return None if limits.max_p99_ms is None or p99_us is None else p99_us <= limits.max_p99_ms * 1000

    @property
    def measured(self) -> Window:
        """All measured windows as one, with the answers that came later."""
        window = join_windows((self.earlier, *self.recent))
        window.add_counts(self.late)
        return window


@dataclass
class Run:
    """A run in progress or finished: what was asked for, and the stages so far.

    Attributes:
        settings: What was asked for.
        started_at: Seconds since 1970.
        records: One for each stage that was begun.
        error: What ended the run early, if the user can fix it.
        complete: Whether every stage ran to its end.
        checked: Whether there are right answers to all that is sent.
    """

    settings: Settings
    started_at: float
    records: list[StageRecord] = field(default_factory=list)
    error: LoadTestError | None = None
    complete: bool = False
    checked: bool = False

    @property
    def requires_checked(self) -> bool:
        """Whether every answer must have been checked."""
        required = self.settings.limits.require_checked
        return self.checked if required is None else required

    def record_of(self, number: int) -> StageRecord:
        """Return the stage in which a round took place."""
        return next((record for record in reversed(self.records) if record.begun <= number), self.records[0])

    def all_windows(self) -> Iterator[Window]:
        """Yield everything that was seen, discarded windows included."""
        for record in self.records:
            yield record.discarded
            yield record.measured
