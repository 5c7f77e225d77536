"""The server's share of a stage's figures, and whether what it counted are the client's requests at all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadtest.printable import counted
from loadtest.server.meter import Key, Models, Snapshot
from loadtest.server.metrics import GAUGES
from loadtest.server.statistics import SPLIT, Counts

_FEW_REQUESTS = 10


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client saw between two snapshots.

    Attributes:
        answered: How many answers came.
        failed: How many requests got none; the server may have counted them all the same.
        in_flight: The most requests in flight at either end.
        seconds: How long it was.
    """

    answered: int = 0
    failed: int = 0
    in_flight: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What can be said about the server.

    Attributes:
        figures: The values for the result; None if there are none.
        reason: Why there are none; empty if there are, or if it is too early to know.
        restarted: Whether the server or a model was restarted.
        foreign: Whether the counts are not those of one server, or not of this client's requests.
    """

    figures: dict[str, Any] | None
    reason: str = ""
    restarted: bool = False
    foreign: bool = False


def summarize(snapshots: Sequence[Snapshot], seen: Sequence[Seen]) -> Summary:
    """Return what the server did between the first and the last snapshot.

    The counts of client and server must agree. They are not read at the same moment, and requests are in flight
    meanwhile. For example, the client got 8,000 answers in 4 s, 2,000 a second, with 8 requests in flight. The first
    snapshot was read at most 10 ms after the client's figures, the last one at most 15 ms after them. In 25 ms there
    may be 50 answers; twice that, and 2 x 8 + 10, make 126. A server that counted from 7,874 to 8,126 requests was
    asked by this client, and by nobody else. If it counted fewer, other servers answered the rest. If it counted more,
    it has other clients, or the two snapshots are of two servers.

    Counts start again from 0 with the server, and with a model that is loaded again. So a count that fell shows a
    restart, after which all of it was counted, unless it is more than the client can have caused. A server that is back
    soon may have counted more at the next snapshot than before: then its counts only seem too few, see
    `_hide_a_restart`.

    Args:
        snapshots: The servers at several moments.
        seen: What the client saw from each of them to the next.
    """
    known = [number for number, snapshot in enumerate(snapshots) if not snapshot.problem]
    if len(known) < 2:
        return Summary(None, next((one.problem for one in snapshots if one.problem), ""))
    intervals = [
        _Interval(snapshots[a], snapshots[b], _add_up(seen[a:b]), is_silent=b - a > 1) for a, b in pairwise(known)
    ]
    gained, all_seen = _gained(intervals), _add_up([one.seen for one in intervals])
    if gained > all_seen.answered + all_seen.failed + _slack(intervals):
        return _disagree(gained, all_seen, "it has other clients, or several servers are behind its address")
    steady = [one for one in intervals if not one.fell]
    if _are_short(steady):
        if _hide_a_restart(steady):
            return Summary(None, "the server was restarted", restarted=True)
        return _disagree(gained, all_seen, "other servers share the load")
    read = [snapshots[number] for number in known]
    return Summary(_figures(intervals, read), restarted=len(steady) < len(intervals))


def settle(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries of a run's stages; if one shows that several servers answer, no stage shows a restart.

    A count that fell from 5,000 to 300 looks like a restart, but in the next stage it may be 5,500.
    """
    foreign = next((summary for summary in summaries if summary.foreign), None)
    if foreign is None:
        return [*summaries]
    return [Summary(None, foreign.reason, foreign=True) if one.restarted else one for one in summaries]


class _Interval:
    """The time from one snapshot that was read to the next.

    Attributes:
        first, last: The two snapshots.
        seen: What the client saw in between.
        is_silent: Whether the server was asked in between, and did not answer.
        gains: What each server and model counted.
        gained: The requests among it that the client may have sent.
        gained_anew: As many, if one of the servers began to count from 0 in between; more than `gained`.
        fell: Whether a count fell.
    """

    def __init__(self, first: Snapshot, last: Snapshot, seen: Seen, *, is_silent: bool) -> None:
        self.first, self.last, self.seen, self.is_silent = first, last, seen, is_silent
        asked = last.models.asked
        self.gains: dict[Key, Counts] = {}
        self.fell = False
        more = Counter[str]()
        for key, now in last.counts.items():
            before = first.counts.get(key, Counts())
            is_below = now.is_below(before)
            self.fell |= is_below
            self.gains[key] = now if is_below else now.minus(before)
            if key[1] in asked:
                more[key[0]] += now.requests - self.gains[key].requests
        self.gained = sum(gain.requests for key, gain in self.gains.items() if key[1] in asked)
        self.gained_anew = self.gained + min(more.values(), default=0)


def _add_up(several: Sequence[Seen]) -> Seen:
    return Seen(
        sum(one.answered for one in several),
        sum(one.failed for one in several),
        max((one.in_flight for one in several), default=0),
        sum(one.seconds for one in several),
    )


def _gained(intervals: Sequence[_Interval]) -> int:
    return sum(one.gained for one in intervals)


def _slack(intervals: Sequence[_Interval]) -> float:
    """Return by how many requests the counts of client and server may differ."""
    seen = _add_up([one.seen for one in intervals])
    gaps = [(a.last, b.first) for a, b in pairwise(intervals) if a.last is not b.first]
    ends = [(intervals[0].first, intervals[-1].last), *gaps]
    lag_s = sum(one.lag_s + other.lag_s for one, other in ends)
    rate = seen.answered / seen.seconds if seen.seconds else 0.0
    return 2 * rate * lag_s + len(ends) * 2 * seen.in_flight + _FEW_REQUESTS


def _are_short(intervals: Sequence[_Interval]) -> bool:
    """Return whether the server counted fewer requests than the client got answers."""
    if not intervals:
        return False
    return _gained(intervals) < sum(one.seen.answered for one in intervals) - _slack(intervals)


def _hide_a_restart(intervals: Sequence[_Interval]) -> bool:
    """Return whether a restart explains why the server counted too few requests, although no count fell.

    For example, the server was killed when it had counted 2,600 requests, and was soon back. In the 2 s between two
    snapshots the client got 3,000 answers. The second snapshot says 2,700, as if 100 had been counted; but all 2,700
    may be of these 2 s. It was a restart if the server was silent or requests failed meanwhile, or if all other counts
    fit. Where other servers share the load, counts are too low at any time.
    """
    for one in intervals:
        if one.gained_anew <= one.seen.answered + one.seen.failed + _slack([one]):
            rest = [other for other in intervals if other is not one]
            is_evident = one.is_silent or one.seen.failed > 0
            if not _are_short(rest) and (is_evident or _would_be_short(rest)):
                return True
    return False


def _would_be_short(intervals: Sequence[_Interval]) -> bool:
    """Return whether half of the answers would have been too few to fit, so that the counts prove something."""
    return bool(intervals) and sum(one.seen.answered for one in intervals) / 2 > _slack(intervals)


def _disagree(gained: int, seen: Seen, why: str) -> Summary:
    fix = "name the metrics of every server in --server-metrics"
    found = f"the server counted {counted(gained, 'request')} and the client {counted(seen.answered, 'answer')}"
    return Summary(None, f"{found}: {why}; {fix}", foreign=True)


def _figures(intervals: Sequence[_Interval], known: Sequence[Snapshot]) -> dict[str, Any]:
    models = known[-1].models
    gains: dict[Key, Counts] = {}
    for one in intervals:
        for key, gain in one.gains.items():
            gains[key] = gains.get(key, Counts()).plus(gain)
    asked = _sum(counts for key, counts in gains.items() if key[1] in models.asked)
    executed = _sum(counts for key, counts in gains.items() if key[1] in models.executed)
    return {
        **_describe(executed, asked.requests),
        "requests": asked.requests,
        "failed": asked.failed,
        "inferences": asked.inferences,
        "models": _by_model(gains, models),
        **_summarize_gauges(known),
    }


def _describe(executed: Counts, requests: int) -> dict[str, Any]:
    """Return the mean times per request, in microseconds, and how the rows were batched.

    An ensemble waits in the queues of its models, and computes what they compute: its time is the sum of theirs.
    """
    times = {
        f"{part}_us": round(executed.nanoseconds[part] / max(requests, 1) / 1000, 1)
        if part in executed.nanoseconds
        else None
        for part in SPLIT
    }
    return {
        **times,
        "executions": executed.executions,
        "mean_batch": round(executed.inferences / executed.executions, 3) if executed.executions else 0.0,
        "batch_sizes": {str(size): executed.batch_sizes[size] for size in sorted(executed.batch_sizes)},
        "batch_times_us": {
            str(size): round(executed.batch_nanoseconds[size] / count / 1000, 1)
            for size, count in sorted(executed.batch_sizes.items())
            if count
        },
    }


def _by_model(gains: Mapping[Key, Counts], models: Models) -> list[dict[str, Any]]:
    """Return the figures of each version of each model that executed something, if there are several models."""
    if len(models.all) < 2:
        return []
    by_version: dict[tuple[str, str], Counts] = {}
    for (_, model, version), counts in gains.items():
        by_version[model, version] = by_version.get((model, version), Counts()).plus(counts)
    return [
        {
            "name": model,
            "version": version,
            **_describe(counts, counts.requests),
            "requests": counts.requests,
            "failed": counts.failed,
            "inferences": counts.inferences,
        }
        for (model, version), counts in by_version.items()
        if model in models.executed and (counts.requests or counts.failed)
    ]


def _sum(several: Iterable[Counts]) -> Counts:
    total = Counts()
    for counts in several:
        total = total.plus(counts)
    return total


def _summarize_gauges(snapshots: Sequence[Snapshot]) -> dict[str, float]:
    """Return means of utilization and power, and the highest use of memory."""
    figures: dict[str, float] = {}
    for name in GAUGES:
        values = [snapshot.gauges[name] for snapshot in snapshots[1:] if name in snapshot.gauges]
        if values:
            figures[name] = max(values) if name.endswith("bytes") else round(sum(values) / len(values), 3)
    return figures
