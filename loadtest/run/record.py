"""The record of a run: its stages, and the windows that were measured in each."""

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from loadtest.errors import LoadTestError
from loadtest.printable import counted, was
from loadtest.run.steadiness import STABLE_WINDOWS, is_growing, is_stable
from loadtest.run.tallies import sum_tallies
from loadtest.run.windows import Figures, Window, join_windows
from loadtest.scenarios import LATE_SHARE, Counts, Stage, Trial, Verdict, describe_doubt, find_margin, judge
from loadtest.server import Seen, Snapshot, Summary, summarize
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
        counts: Of each of these windows, the requests that were late for the limit of a search, and all requests.
        earlier: All of these windows except the last three, joined, so that a long stage does not fill the memory.
        recent: The last three of them.
        late: Answers that came after the measured time to requests that were sent in it.
        discarded: Windows that the figures do not come from, joined: the warm-up, and those before the stable ones.
            Their answers were checked as well.
        stable: Whether the last three windows agree.
        snapshots: The server's counters before the first window and after each one.
        restarted: Whether the server was restarted during the stage.
        lost_workers: Processes that went away during the stage.
        trial: What it told the plan of the run; None before its end.
        complete: Whether it ran to its end.
        additions: How often answers were added to it after its end.
    """

    stage: Stage
    users: int = 0
    measured_from_s: float = 0.0
    begun: int = 0
    measured_from: int | None = None
    measured_until: int | None = None
    windows: list[Figures] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)
    earlier: Window = field(default_factory=Window)
    recent: list[Window] = field(default_factory=list)
    late: Window = field(default_factory=Window)
    discarded: Window = field(default_factory=Window)
    stable: bool = False
    snapshots: list[Snapshot] = field(default_factory=list)
    restarted: bool = False
    lost_workers: list[str] = field(default_factory=list)
    trial: Trial | None = None
    complete: bool = False
    additions: int = 0
    _measured: Window | None = field(default=None, repr=False, compare=False)

    def measures(self, number: int) -> bool:
        """Return whether requests that were sent in this round belong to its figures."""
        if self.measured_from is None or number < self.measured_from:
            return False
        return self.measured_until is None or number < self.measured_until

    @property
    def is_measuring(self) -> bool:
        """Whether its next window is measured: the server's counts before it are known, and its time is not over."""
        has_begun = self.measured_from is not None and self.measured_until is None
        return has_begun and len(self.snapshots) > len(self.windows)

    def note_lost(self, processes: Set[str]) -> None:
        """Note that these processes are gone; one that comes back is named all the same, as its load was missing."""
        self.lost_workers = sorted({*self.lost_workers, *processes})

    def add_late(self, number: int, window: Window) -> None:
        """Add answers to requests that were sent in an earlier round of this stage."""
        (self.late if self.measures(number) else self.discarded).add_counts(window)
        self.additions += 1
        self._measured = None

    def measure(self, window: Window) -> None:
        """Add the next measured window."""
        start_s = self.measured_from_s + sum(earlier.seconds for earlier in self.windows)
        self.windows.append(window.figures(start_s))
        self._measured = None
        if self.stage.sought_p99_us is not None:
            self.counts.append(window.count_late(self.stage.sought_p99_us))
        self.recent.append(window)
        self.stable = is_stable(self.recent)
        if len(self.recent) > STABLE_WINDOWS:
            self.earlier.append(self.recent.pop(0))

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add the server's counters after the newest window, and note a restart since the last known ones."""
        self.snapshots.append(snapshot)
        known = [number for number, one in enumerate(self.snapshots[:-1]) if not one.problem]
        if known:
            self.restarted |= self.on_server(known[-1]).restarted

    def on_server(self, first: int = 0, last: int | None = None) -> Summary:
        """Return what the server did in some windows, or in all of them, as far as its counters were read."""
        snapshots = self.snapshots[first : None if last is None else last + 1]
        windows = self.windows[first : first + max(len(snapshots) - 1, 0)]
        at_first = self.windows[first - 1].in_flight if first else self.discarded.in_flight
        starts = [at_first, *(window.in_flight for window in windows)]
        seen = [
            Seen(window.requests, window.failures, max(window.in_flight, at_start), window.seconds)
            for window, at_start in zip(windows, starts, strict=False)
        ]
        return summarize(snapshots, seen)

    def answered(self, last: int = 0) -> int:
        """Return how many requests were answered while it was measured, or only in its last windows."""
        return sum(window.requests for window in self.windows[-last:])

    def keep_stable(self) -> None:
        """Discard all windows except the last three, so that the figures come from stable windows alone."""
        self.discarded.append(self.earlier)
        self.earlier = Window()
        self._measured = None
        del self.windows[:-STABLE_WINDOWS]
        del self.snapshots[: -STABLE_WINDOWS - 1]

    def close(self) -> None:
        """Mark the stage as complete, and join windows that need not be kept separate any more."""
        self.earlier = join_windows((self.earlier, *self.recent))
        self.recent = []
        self.complete = True

    @property
    def p99_of_requests_us(self) -> float | None:
        """The p99 that a limit is about: that of all requests, see `Tally`."""
        return self.measured.total.p99_of_requests_us

    def keeps_p99(self, limits: Limits) -> bool | None:
        """Return whether 99 % of the requests were answered within the limit; None without a limit or 100 requests."""
        p99_us = self.p99_of_requests_us
        return None if limits.max_p99_ms is None or p99_us is None else p99_us <= limits.max_p99_ms * 1000

    def count_late(self, limits: Limits) -> Counts | None:
        """Return how many requests were not answered within the p99 limit, and how many there were.

        Without a limit, return None.
        """
        return None if limits.max_p99_ms is None else self.measured.count_late(limits.max_p99_ms * 1000)

    def find_goodput(self, limits: Limits) -> float | None:
        """Return the share of requests that got the right answer within the p99 limit; None without one.

        A histogram does not say how long the wrong answers took, so each of them is taken off: of 200 requests, 190
        were answered within the limit and 3 answers were wrong, which makes 187 / 200.
        """
        counts = self.count_late(limits)
        if counts is None or not counts[1]:
            return None
        late, requests = counts
        return max(requests - late - self.measured.total.wrong.total(), 0) / requests

    def evidence(self, limits: Limits) -> list[Counts]:
        """Return what the verdict on a stage of a search is made from: the counts of each window.

        What came after the last window is added to it, unless the stage was decided without it and p99 is still on the
        same side of the limit. Otherwise, the last answers of many users, which all come in one window, would make a
        verdict doubtful that ended the stage.
        """
        counts = self.count_late(limits)
        if counts is None or not self.counts:
            return []
        decided = judge(self.counts)
        if decided is not Verdict.UNDECIDED and (decided is Verdict.WITHIN) == (self.keeps_p99(limits) is True):
            return self.counts
        before = self.counts[:-1]
        late, requests = counts
        return [*before, (late - sum(late for late, _ in before), requests - sum(each for _, each in before))]

    def find_p99_interval_us(self, limits: Limits) -> tuple[float, float]:
        """Return the confidence interval of the p99 of a stage of a search; infinite where too few were answered.

        Of 10,000 requests, p99 is the 9,900th. With a margin of 0.26 %, it is between the 9,874th and the 9,926th.
        """
        _, requests = self.count_late(limits) or (0, 0)
        margin = min(find_margin(self.evidence(limits)), 1.0)
        low, high = (math.ceil(requests * (1 - LATE_SHARE + sign * margin)) for sign in (-1, 1))
        latencies = self.measured.total.latency_us
        return latencies.at_rank_us(max(low, 1)), latencies.at_rank_us(max(high, 1))

    def find_verdict(self, limits: Limits) -> Verdict:
        """Return whether a stage of a search kept its limits, as far as that can be told."""
        return Verdict.MISSED if self._failed_too_often(limits) else judge(self.evidence(limits))

    def is_decided(self, limits: Limits, least: int = 0) -> bool:
        """Return whether a stage of a search need not go on; to be within the limit, it needs `least` answers."""
        verdict = self.find_verdict(limits)
        if verdict is Verdict.WITHIN:
            return self.answered() >= least and not is_growing(self.windows)
        return verdict is Verdict.MISSED or self.has_wrong

    def to_trial(self, limits: Limits) -> Trial:
        """Return what this stage tells the plan of the run.

        If the stage could not decide within its time, its p99 decides, as it does in the stages of other scenarios.
        """
        p99_us = self.p99_of_requests_us
        within = self.keeps_p99(limits) is True and not self._failed_too_often(limits)
        return Trial(self.stage.load, within, math.inf if p99_us is None else p99_us, self.has_wrong)

    def describe(self, limits: Limits) -> str:
        """Return what a stage of a search found, as a line: `24 users: p99 18.2 ms, within the limit`."""
        trial, (late, requests) = self.to_trial(limits), self.count_late(limits) or (0, 0)
        verdict = self.find_verdict(limits)
        if trial.p99_us == math.inf and verdict is Verdict.UNDECIDED:
            return f"{self.stage.name}: too few requests to tell: {requests}"
        p99 = f"p99 {trial.p99_us / 1000:.1f} ms"
        if trial.p99_us == math.inf:
            p99 = f"{late:,} of {counted(requests, 'request')} {was(late)} late"
        side = "within the limit" if trial.within else "beyond the limit"
        if trial.wrong:
            side = "but there were wrong answers"
        elif self._failed_too_often(limits):
            side = "but too many requests failed"
        else:
            side += describe_doubt(verdict, requests)
        return f"{self.stage.name}: {p99}, {side}"

    @property
    def has_wrong(self) -> bool:
        """Whether an answer was wrong, in the warm-up or later."""
        return any(window.total.wrong for window in (self.discarded, self.measured))

    def _failed_too_often(self, limits: Limits) -> bool:
        total = sum_tallies((self.discarded.total, self.measured.total))
        failures = total.failures.total()
        return not limits.max_failures.allows(failures, total.requests + failures)

    @property
    def measured(self) -> Window:
        """All measured windows as one, with the answers that came later."""
        if self._measured is None:
            self._measured = join_windows((self.earlier, *self.recent))
            self._measured.add_counts(self.late)
        return self._measured


def pool(records: Sequence[StageRecord], limits: Limits) -> StageRecord:
    """Return several stages of a search that had the same load as one."""
    pooled = StageRecord(records[0].stage, complete=True)
    for record in records:
        pooled.windows += record.windows
        pooled.counts += record.evidence(limits)
        pooled.discarded.append(record.discarded)
        pooled.earlier.append(record.measured)
    return pooled


@dataclass
class Run:
    """A run in progress or finished: what was asked for, and the stages so far.

    Attributes:
        settings: What was asked for.
        started_at: Seconds since 1970.
        records: One for each stage that was begun.
        error: What ended the run early, if the user can fix it.
        complete: Whether every stage ran to its end.
        checked: Whether a process has right answers to all that it sends.
        notes: What the processes say about the check of the answers.
        lost_workers: Processes that went away before they said all that they had counted.
    """

    settings: Settings
    started_at: float
    records: list[StageRecord] = field(default_factory=list)
    error: LoadTestError | None = None
    complete: bool = False
    checked: bool = False
    notes: list[str] = field(default_factory=list)
    lost_workers: list[str] = field(default_factory=list)

    @property
    def requires_checked(self) -> bool:
        """Whether every answer must have been checked."""
        required = self.settings.limits.require_checked
        return self.checked if required is None else required

    @property
    def trials(self) -> list[Trial]:
        """What the stages so far told the plan of the run."""
        return [record.trial for record in self.records if record.trial is not None]

    def record_of(self, number: int) -> StageRecord:
        """Return the stage in which a round took place."""
        return next((record for record in reversed(self.records) if record.begun <= number), self.records[0])

    def all_windows(self) -> Iterator[Window]:
        """Yield everything that was seen, discarded windows included."""
        for record in self.records:
            yield record.discarded
            yield record.measured
